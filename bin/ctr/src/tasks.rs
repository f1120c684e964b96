// SPDX-License-Identifier: Apache-2.0
//! `ctr tasks`.
mod checkpoint;
mod exec;
mod metrics;
mod start;

use std::process::ExitCode;

use clap::Subcommand;
use client::{Client, NewTask};
use images::labels::STOP_SIGNAL;
use types::{Error, Result};

use crate::{
    connection::Connection,
    follow::{self, Follower},
    network::Network,
    output, run, signals,
    stdio::Listeners,
    table::Table,
};

pub(crate) use start::Start;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take over the input and output of a running task
    Attach {
        /// The container's name
        id: String,
    },
    /// Save a task as an image that it can be restored from
    Checkpoint(checkpoint::Checkpoint),
    /// Delete tasks that have ended
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Kill what runs
        #[arg(long, short)]
        force: bool,
        /// Delete a process that was executed in the task, and not the task
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        exec_id: String,
        /// The containers' names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Execute a further process in a running task
    Exec(exec::Exec),
    /// List tasks
    #[command(visible_alias = "ls")]
    List {
        /// Print the names only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Send a signal to a task
    Kill {
        /// The signal, by name or number; the image's stop signal or SIGTERM where none is given
        #[arg(long, short, value_parser = signals::parse)]
        signal: Option<u32>,
        /// Send it to a process that was executed in the task
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        exec_id: String,
        /// Send it to all processes of the task
        #[arg(long, short, conflicts_with = "exec_id")]
        all: bool,
        /// The container's name
        id: String,
    },
    /// Print statistics of a task
    #[command(visible_alias = "metric")]
    Metrics(metrics::Metrics),
    /// Freeze a task
    Pause {
        /// The container's name
        id: String,
    },
    /// List the processes of a task
    #[command(visible_alias = "pids")]
    Ps {
        /// The container's name
        id: String,
    },
    /// Thaw a task
    Resume {
        /// The container's name
        id: String,
    },
    /// Start a container that was created
    Start {
        #[command(flatten)]
        start: Start,
        /// Change the root without `pivot_root`
        #[arg(long)]
        no_pivot: bool,
        /// The container's name
        id: String,
    },
    /// Wait for a task to end, and end as it did
    #[command(hide = true)]
    Wait {
        /// Wait for a process that was executed in the task
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        exec_id: String,
        /// The container's name
        id: String,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<ExitCode> {
        let client = connection.client().await?;
        let done = match self {
            Self::Attach { id } => return attach(&client, &id).await,
            Self::Exec(exec) => return exec.run(&client).await,
            Self::Start { start, no_pivot, id } => {
                let container = client.containers.get(&id).await?;
                let options = no_pivot.then(|| run::without_pivot(&container.runtime));
                let options = options.transpose()?;
                let new = NewTask { options, ..NewTask::default() };
                return start.run(&client, &container, connection.namespace(), new).await;
            }
            Self::Wait { exec_id, id } => {
                return client.tasks.wait(&id, &exec_id).await.map(|exit| follow::code(Some(exit)));
            }
            Self::Delete { force, exec_id, ids } if !exec_id.is_empty() => {
                return delete_process(&client, &ids, &exec_id, force).await;
            }
            Self::Delete { force, ids, .. } => {
                delete(&client, connection.namespace(), &ids, force).await
            }
            Self::List { quiet } => list(&client, quiet).await,
            Self::Kill { signal, exec_id, all, id } => {
                kill(&client, &id, &exec_id, signal, all).await
            }
            Self::Metrics(metrics) => metrics.run(&client).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(&client).await,
            Self::Pause { id } => client.tasks.pause(&id).await,
            Self::Resume { id } => client.tasks.resume(&id).await,
            Self::Ps { id } => ps(&client, &id).await,
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

async fn attach(client: &Client, id: &str) -> Result<ExitCode> {
    client.containers.get(id).await?;
    let found = client.tasks.get(id, "").await?;
    let listeners = Listeners::default();
    let mut follower = Follower::new(found.stdio.terminal, listeners.clone())?;
    let process = client.attach(id, "", Some(listeners.streams())).await?;
    let exit = follower.follow(&process).await?;
    if exit.is_some() {
        process.delete().await?;
    }
    Ok(follow::code(exit))
}

/// Deletes what it can, and fails with the first failure in the end.
async fn delete(client: &Client, namespace: &str, ids: &[String], force: bool) -> Result<()> {
    let mut outcome = Ok(());
    for id in ids {
        let deleted = delete_one(client, id, "", force).await;
        if deleted.is_ok() {
            disconnect(client, namespace, id).await?;
        }
        match deleted {
            Ok(exit) if exit.status != 0 => {
                eprintln!("ctr: task {id} exit with non-zero exit code {}", exit.status);
            }
            Ok(_) => {}
            Err(error) => {
                outcome = outcome.and(Err(error.context(format!("unable to delete {id}"))));
            }
        }
    }
    outcome
}

/// Removes the network of a container whose task is gone.
async fn disconnect(client: &Client, namespace: &str, id: &str) -> Result<()> {
    let container = match client.containers.get(id).await {
        Err(error) if error.is_not_found() => return Ok(()),
        container => container?,
    };
    match Network::of(&container, namespace)? {
        Some(network) => network.remove().await,
        None => Ok(()),
    }
}

async fn delete_process(
    client: &Client,
    ids: &[String],
    exec_id: &str,
    force: bool,
) -> Result<ExitCode> {
    let [id] = ids else {
        return Err(Error::invalid("--exec-id is for a process of one container"));
    };
    delete_one(client, id, exec_id, force).await.map(|exit| follow::code(Some(exit)))
}

async fn delete_one(
    client: &Client,
    id: &str,
    exec_id: &str,
    force: bool,
) -> Result<runtime::Exit> {
    let process = client.attach(id, exec_id, None).await?;
    if force {
        process.end().await?;
    }
    process.delete().await
}

async fn list(client: &Client, quiet: bool) -> Result<()> {
    let mut tasks = client.tasks.list().await?;
    tasks.sort_by(|a, b| a.id.cmp(&b.id));
    if quiet {
        output::lines(tasks.iter().map(|task| &task.id));
        return Ok(());
    }
    let mut table = Table::new(["TASK", "PID", "STATUS"]);
    for task in tasks {
        table.row([task.id, task.pid.to_string(), task.status.name().to_owned()]);
    }
    table.print();
    Ok(())
}

async fn kill(
    client: &Client,
    id: &str,
    exec_id: &str,
    signal: Option<u32>,
    all: bool,
) -> Result<()> {
    let container = client.containers.get(id).await?;
    let signal = match (signal, container.labels.get(STOP_SIGNAL)) {
        (Some(signal), _) => signal,
        (None, Some(stop)) => signals::parse(stop).map_err(Error::invalid)?,
        (None, None) => signals::TERM,
    };
    client.tasks.kill(id, exec_id, signal, all).await
}

async fn ps(client: &Client, id: &str) -> Result<()> {
    let mut table = Table::new(["PID", "INFO"]);
    for pid in client.tasks.pids(id).await? {
        let info = pid.info.as_ref().map_or_else(|| "-".to_owned(), describe);
        table.row([pid.pid.to_string(), info]);
    }
    table.print();
    Ok(())
}

/// What the runtime tells of a process: which executed one it is.
fn describe(info: &types::Any) -> String {
    let any = prost_types::Any { type_url: info.type_url.clone(), value: info.value.to_vec() };
    match api::unpack::<api::containerd::runc::v1::ProcessDetails>(&any) {
        Some(Ok(details)) => format!("exec_id:{:?}", details.exec_id),
        _ => info.type_url.clone(),
    }
}
