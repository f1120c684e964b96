// SPDX-License-Identifier: Apache-2.0
//! `ctr leases`.
use std::time::{Duration, SystemTime};

use clap::Subcommand;
use records::{Delete, Lease};
use types::{Filters, Result, labels::GC_EXPIRE};

use crate::{
    connection::Connection,
    labels,
    output::{self, say},
    table::Table,
    units,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List leases
    #[command(visible_alias = "ls")]
    List {
        /// Print the ids only
        #[arg(long, short)]
        quiet: bool,
        /// Filters, such as id==x
        filters: Vec<String>,
    },
    /// Create a lease
    Create {
        /// Its id; one is made up where none is given
        #[arg(long)]
        id: Option<String>,
        /// How long it lives (0 is for ever)
        #[arg(long, short = 'x', default_value = "24h", value_parser = units::duration)]
        expires: Duration,
        /// Labels, key=value
        labels: Vec<String>,
    },
    /// Delete leases
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete {
        /// Wait until what they alone held has been collected
        #[arg(long)]
        sync: bool,
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let leases = connection.client().await?.leases;
        match self {
            Self::List { quiet, filters } => {
                print(&leases.list(&Filters::parse(filters)?).await?, quiet);
            }
            Self::Create { id, expires, labels } => {
                let lease = new_lease(id, expires, &labels);
                say!("{}", leases.create(lease).await?.id);
            }
            Self::Delete { sync, ids } => {
                for id in ids {
                    leases.delete(&id, Delete { sync, target: None }).await?;
                    say!("{id}");
                }
            }
        }
        Ok(())
    }
}

fn new_lease(id: Option<String>, expires: Duration, labels: &[String]) -> Lease {
    let now = SystemTime::now();
    let mut labels = labels::parse(labels);
    if !expires.is_zero() {
        labels.insert(GC_EXPIRE.into(), units::time(now + expires));
    }
    let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
    let id = id.unwrap_or_else(|| format!("{nanos}-{:x}", std::process::id()));
    Lease { id, created_at: now, labels }
}

fn print(leases: &[Lease], quiet: bool) {
    if quiet {
        return output::lines(leases.iter().map(|lease| &lease.id));
    }
    let mut table = Table::new(["ID", "CREATED AT", "LABELS"]);
    for lease in leases {
        table.row([lease.id.clone(), units::time(lease.created_at), labels::cell(&lease.labels)]);
    }
    table.print();
}
