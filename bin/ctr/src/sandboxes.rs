// SPDX-License-Identifier: Apache-2.0
//! `ctr sandboxes`: what containers of a pod share.
use std::time::SystemTime;

use clap::Subcommand;
use records::{Delete, Runtime, Sandbox};
use runtime::sandbox::Create;
use serde_json::{Value, json};
use services::{sandboxers, sandboxes};
use types::{Any, Context as _, Error, Filters, Result};

use crate::{
    connection::Connection,
    labels,
    output::{self, say},
    table::Table,
    units,
};

/// What OCI specs are called on the wire (containerd `core/runtime/typeurl.go`).
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a sandbox
    #[command(visible_aliases = ["create", "c", "r"])]
    Run {
        /// The runtime, or the path of a shim
        #[arg(long, value_name = "NAME", default_value = "io.containerd.runc.v2")]
        runtime: String,
        /// Who runs it, such as shim or podsandbox; the daemon's choice where nothing is said
        #[arg(long, value_name = "NAME", default_value = "")]
        sandboxer: String,
        /// A spec for it
        #[arg(long, value_name = "FILE")]
        config: Option<std::path::PathBuf>,
        /// A network namespace to join
        #[arg(long, value_name = "PATH", default_value = "")]
        netns: String,
        /// Labels of the sandbox, key=value
        #[arg(long, value_name = "LABEL")]
        label: Vec<String>,
        /// Its name
        id: String,
    },
    /// List sandboxes
    #[command(visible_alias = "ls")]
    List {
        /// Print the ids only
        #[arg(long, short)]
        quiet: bool,
        /// Filters, such as id==x
        #[arg(long)]
        filters: Vec<String>,
    },
    /// Stop sandboxes and remove them
    #[command(visible_alias = "rm")]
    Remove {
        /// Remove them even if they cannot be stopped
        #[arg(long, short)]
        force: bool,
        /// Their names
        #[arg(required = true)]
        ids: Vec<String>,
    },
    /// Print what is known of a sandbox
    Info {
        /// Its name
        id: String,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        match self {
            Self::Run { runtime, sandboxer, config, netns, label, id } => {
                let spec = match config {
                    Some(path) => fs_err::read(path)?,
                    None => b"{}".to_vec(),
                };
                let now = SystemTime::now();
                let sandbox = Sandbox {
                    id,
                    runtime: Runtime { name: runtime, options: None },
                    spec: Some(Any::new(SPEC, spec)),
                    labels: labels::parse(&label),
                    created_at: now,
                    updated_at: now,
                    extensions: Default::default(),
                    sandboxer,
                };
                run(connection, Create { netns_path: netns, ..Create::new(sandbox) }).await
            }
            Self::List { quiet, filters } => {
                let store = sandboxes::connect(connection.peer().await?);
                print(&store.list(&Filters::parse(filters)?).await?, quiet);
                Ok(())
            }
            Self::Remove { force, ids } => remove(connection, &ids, force).await,
            Self::Info { id } => info(connection, &id).await,
        }
    }
}

/// Makes the record and then what it stands for. If that fails, the record goes too.
async fn run(connection: &Connection, create: Create) -> Result<()> {
    let peer = connection.peer().await?;
    let store = sandboxes::connect(peer.clone());
    let controller = sandboxers::connect(peer, &*create.sandbox.sandboxer);
    let id = create.sandbox.id.clone();
    let kept = store.create(create.sandbox.clone()).await;
    kept.context(|| "failed to create new sandbox")?;
    let started = match controller.create(create).await {
        Ok(()) => controller.start(&id).await.context(|| "failed to start"),
        Err(error) => Err(error.context("failed to create new sandbox")),
    };
    if let Err(error) = started {
        // Neither may be there: what failed says more than that.
        drop(controller.shutdown(&id).await);
        drop(store.delete(&id, Delete::default()).await);
        return Err(error);
    }
    say!("{id}");
    Ok(())
}

async fn remove(connection: &Connection, ids: &[String], force: bool) -> Result<()> {
    let peer = connection.peer().await?;
    let store = sandboxes::connect(peer.clone());
    let mut failed = None;
    for id in ids {
        let removed = async {
            let sandbox = store.get(id).await?;
            let controller = sandboxers::connect(peer.clone(), &*sandbox.sandboxer);
            match controller.stop(id, None).await {
                Err(error) if !error.is_not_found() && !force => {
                    return Err(error.context("failed to stop sandbox"));
                }
                _ => {}
            }
            match controller.shutdown(id).await {
                Err(error) if !error.is_not_found() && !force => {
                    return Err(error.context("failed to shutdown sandbox"));
                }
                _ => {}
            }
            store.delete(id, Delete::default()).await
        };
        match removed.await {
            Ok(()) => say!("{id}"),
            Err(error) => failed = Some(note(failed, error.context(format!("sandbox {id}")))),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Keeps the last error, and tells of those before it.
fn note(before: Option<Error>, error: Error) -> Error {
    if let Some(before) = before {
        eprintln!("ctr: {before}");
    }
    error
}

async fn info(connection: &Connection, id: &str) -> Result<()> {
    let peer = connection.peer().await?;
    let sandbox = sandboxes::connect(peer.clone()).get(id).await?;
    let controller = sandboxers::connect(peer, &*sandbox.sandboxer);
    let status = controller.status(id, false).await?;
    let spec: Option<Value> =
        sandbox.spec.as_ref().and_then(|spec| serde_json::from_slice(&spec.value).ok());
    let time = |at: Option<SystemTime>| at.map(units::time);
    let told = json!({
        "ID": sandbox.id,
        "Labels": sandbox.labels,
        "Runtime": sandbox.runtime.name,
        "Sandboxer": sandbox.sandboxer,
        "CreatedAt": units::time(sandbox.created_at),
        "UpdatedAt": units::time(sandbox.updated_at),
        "Spec": spec,
        "Status": {
            "State": status.state,
            "Pid": status.pid,
            "CreatedAt": time(status.created_at),
            "ExitedAt": time(status.exited_at),
            "Address": status.endpoint.address,
            "Version": status.endpoint.version,
            "Info": status.info,
        },
    });
    say!("{told:#}");
    Ok(())
}

fn print(sandboxes: &[Sandbox], quiet: bool) {
    if quiet {
        return output::lines(sandboxes.iter().map(|sandbox| &sandbox.id));
    }
    let mut table = Table::new(["ID", "CREATED", "RUNTIME", "SANDBOXER"]);
    for sandbox in sandboxes {
        let created = units::time(sandbox.created_at);
        let Sandbox { id, runtime, sandboxer, .. } = sandbox;
        table.row([id.clone(), created, runtime.name.clone(), sandboxer.clone()]);
    }
    table.print();
}
