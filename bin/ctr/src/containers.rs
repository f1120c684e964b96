// SPDX-License-Identifier: Apache-2.0
//! `ctr containers`.
mod checkpoint;
mod restore;

use std::process::ExitCode;

use clap::Subcommand;
use records::{Container, Delete};
use serde_json::{Value, json};
use types::{Error, Filters, Result};

use crate::{
    connection::Connection,
    labels,
    output::{self, say},
    run,
    table::Table,
    units,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a container
    Create(Box<run::Create>),
    /// Save a container as an image that it can be restored from
    Checkpoint(checkpoint::Checkpoint),
    /// Make a container as a checkpoint says, and start it
    Restore(restore::Restore),
    /// Delete containers that have no task
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Keep the snapshot
        #[arg(long)]
        keep_snapshot: bool,
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Print what is known of a container
    Info {
        /// Print the spec only
        #[arg(long)]
        spec: bool,
        /// Its id
        id: String,
    },
    /// List containers
    #[command(visible_alias = "ls")]
    List {
        /// Print the ids only
        #[arg(long, short)]
        quiet: bool,
        /// Filters, such as labels.x==y
        filters: Vec<String>,
    },
    /// Set or clear labels of a container
    #[command(visible_alias = "setlabels")]
    Label {
        /// Its id
        id: String,
        /// Labels, key=value; an empty value clears
        labels: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<ExitCode> {
        if let Self::Restore(restore) = self {
            return restore.run(connection).await;
        }
        self.act(connection).await.map(|()| ExitCode::SUCCESS)
    }

    async fn act(self, connection: &Connection) -> Result<()> {
        match self {
            Self::Restore(restore) => restore.run(connection).await.map(drop),
            Self::Create(create) => create.run(connection).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(connection).await,
            Self::Delete { keep_snapshot, ids } => delete(connection, &ids, keep_snapshot).await,
            Self::Info { spec, id } => info(connection, &id, spec).await,
            Self::List { quiet, filters } => {
                list(connection, quiet, &Filters::parse(filters)?).await
            }
            Self::Label { id, labels } => label(connection, &id, &labels).await,
        }
    }
}

/// Deletes what it can, and fails with the first failure in the end.
async fn delete(connection: &Connection, ids: &[String], keep_snapshot: bool) -> Result<()> {
    let client = connection.client().await?;
    let mut outcome = Ok(());
    for id in ids {
        let deleted = delete_one(&client, id, keep_snapshot).await;
        outcome = outcome.and(deleted.map_err(|e| e.context(format!("delete container {id}"))));
    }
    outcome
}

/// The snapshot goes before the record, so that the collector never sees it without an owner.
pub(crate) async fn delete_one(
    client: &client::Client,
    id: &str,
    keep_snapshot: bool,
) -> Result<()> {
    let container = client.containers.get(id).await?;
    match client.tasks.get(id, "").await {
        Ok(task) if task.status != runtime::Status::Stopped => {
            let message = format!("cannot delete a non stopped container: {}", task.status.name());
            return Err(Error::failed_precondition(message));
        }
        Ok(_) => drop(client.tasks.delete(id).await?),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    if !keep_snapshot && !container.snapshot_key.is_empty() {
        let snapshotter = (client.snapshotters)(&container.snapshotter)?;
        match snapshotter.remove(&container.snapshot_key).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    client.containers.delete(id, Delete::default()).await
}

async fn info(connection: &Connection, id: &str, spec_only: bool) -> Result<()> {
    let container = connection.client().await?.containers.get(id).await?;
    let spec: Value = container
        .spec
        .as_ref()
        .and_then(|spec| serde_json::from_slice(&spec.value).ok())
        .unwrap_or_default();
    if spec_only {
        say!("{spec:#}");
    } else {
        say!("{:#}", json_of(&container, &spec));
    }
    Ok(())
}

/// A container in the words of Go's `ctr`, which prints its struct.
fn json_of(container: &Container, spec: &Value) -> Value {
    let options = container.runtime.options.as_ref();
    json!({
        "ID": container.id,
        "Labels": container.labels,
        "Image": container.image,
        "Runtime": {
            "Name": container.runtime.name,
            "Options": options.map(|options| json!({ "type_url": options.type_url })),
        },
        "SnapshotKey": container.snapshot_key,
        "Snapshotter": container.snapshotter,
        "CreatedAt": units::time(container.created_at),
        "UpdatedAt": units::time(container.updated_at),
        "Extensions": container.extensions.keys().collect::<Vec<_>>(),
        "SandboxID": container.sandbox,
        "Spec": spec,
    })
}

async fn list(connection: &Connection, quiet: bool, filters: &Filters) -> Result<()> {
    let containers = connection.client().await?.containers.list(filters).await?;
    if quiet {
        output::lines(containers.iter().map(|container| &container.id));
        return Ok(());
    }
    let mut table = Table::new(["CONTAINER", "IMAGE", "RUNTIME"]);
    for Container { id, image, runtime, .. } in containers {
        let image = if image.is_empty() { "-".to_owned() } else { image };
        table.row([id, image, runtime.name]);
    }
    table.print();
    Ok(())
}

async fn label(connection: &Connection, id: &str, pairs: &[String]) -> Result<()> {
    let containers = connection.client().await?.containers;
    let labels = labels::parse(pairs);
    let mask = labels::mask(&labels);
    let container = Container { labels, ..containers.get(id).await? };
    say!("{}", labels::cell(&containers.update(container, &mask).await?.labels));
    Ok(())
}
