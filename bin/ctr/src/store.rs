// SPDX-License-Identifier: Apache-2.0
//! `ctr store`: what there is on the disk, in all namespaces, and why.
use std::{collections::BTreeMap, path::PathBuf};

use clap::Subcommand;
use records::{
    State,
    audit::{Look, Repaired, Thing},
};
use services::store;
use types::{Error, Result};

use crate::{connection::Connection, output::say, table::Table, units};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look for what nobody knows and for what is missing, and fail if there is any
    Check {
        /// List everything, also what is as it should be
        #[arg(long, short)]
        all: bool,
        /// Read every blob too, and compare it with its name
        #[arg(long)]
        digests: bool,
    },
    /// Sum up what takes how much room
    Du,
    /// Tell why something is there, up to what stays on its own account
    Explain {
        /// A digest, a key, a path, or a part of one
        name: String,
    },
    /// Remove what nothing refers to now, known or not, and wait until it is gone
    Prune,
    /// Remove what nobody knows, also from the host, and put what is broken aside, so that it is
    /// fetched and unpacked again
    Repair,
    /// Have the next start of the daemon make the database of metadata anew; where the daemon does
    /// not start any more, `containerd rebuild` does the same
    Rebuild,
    /// Copy the database of metadata into a new file on the daemon's host
    Backup {
        /// The file, which must not exist
        file: PathBuf,
    },
}

const SIZES: Look = Look { sizes: true, digests: false };

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let auditor = store::connect(connection.peer().await?);
        match self {
            Self::Check { all, digests } => {
                check(&auditor.check(Look { digests, ..Look::default() }).await?, all)
            }
            Self::Du => {
                sum_up(&auditor.check(SIZES).await?);
                Ok(())
            }
            Self::Explain { name } => explain(&auditor.check(SIZES).await?, &name),
            Self::Repair => {
                let Repaired { deeds, failures } = auditor.repair().await?;
                for deed in &deeds {
                    say!("{deed}");
                }
                say!("{} things done", deeds.len());
                done_unless("could not be done", &failures)
            }
            Self::Rebuild => {
                auditor.rebuild().await?;
                say!("the metadata is made anew when the daemon starts next");
                Ok(())
            }
            Self::Prune => {
                let pruned = auditor.prune().await?;
                say!("{} records removed", pruned.records);
                done_unless("could not be removed", &pruned.failures)
            }
            Self::Backup { file } => auditor.back_up(std::path::absolute(file)?).await,
        }
    }
}

fn check(things: &[Thing], all: bool) -> Result<()> {
    let mut table = Table::new(["STATE", "KIND", "NAMESPACE", "NAME", "SINCE", "KEPT BY"]);
    let shown = things.iter().filter(|thing| all || thing.state.is_wrong());
    let mut count = 0;
    for thing in shown {
        count += 1;
        let since = thing.since.map_or_else(|| "-".into(), units::time);
        table.row([
            thing.state.name().to_owned(),
            thing.kind.clone(),
            or_dash(&thing.namespace),
            thing.name.clone(),
            since,
            thing.owners.first().cloned().unwrap_or_else(|| "-".into()),
        ]);
    }
    if count > 0 {
        table.print();
    }
    let wrong = things.iter().filter(|thing| thing.state.is_wrong()).count();
    say!("{} things, {wrong} of them orphaned, missing or broken", things.len());
    if wrong == 0 { Ok(()) } else { Err(Error::failed_precondition("not all is as it should be")) }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Each blob is counted once, however many namespaces have it.
fn sum_up(things: &[Thing]) {
    let mut rooms = BTreeMap::<(&str, State), (usize, u64)>::new();
    let mut seen = std::collections::BTreeSet::new();
    for thing in things {
        let is_shared = thing.kind == "blob";
        if is_shared && !seen.insert(&thing.name) {
            continue;
        }
        let (count, size) = rooms.entry((&thing.kind, thing.state)).or_default();
        *count += 1;
        *size += thing.size;
    }
    let mut table = Table::new(["KIND", "STATE", "COUNT", "SIZE"]);
    for ((kind, state), (count, size)) in rooms {
        table.row([kind, state.name(), &count.to_string(), &units::bytes(size)]);
    }
    table.print();
}

fn explain(things: &[Thing], name: &str) -> Result<()> {
    let mut found = things.iter().filter(|thing| thing.name.contains(name)).peekable();
    if found.peek().is_none() {
        return Err(Error::not_found(name.to_owned()));
    }
    for thing in found {
        let of = if thing.namespace.is_empty() { "" } else { " in namespace " };
        say!("{} {}{of}{}: {}", thing.kind, thing.name, thing.namespace, thing.state.name());
        if thing.size > 0 {
            say!("  takes {}", units::bytes(thing.size));
        }
        if let Some(since) = thing.since {
            say!("  since {} ({} ago)", units::time(since), units::ago(since));
        }
        for owner in &thing.owners {
            say!("  kept by {owner}");
        }
    }
    Ok(())
}

fn done_unless(what: &str, failures: &[String]) -> Result<()> {
    match failures {
        [] => Ok(()),
        failures => Err(Error::failed_precondition(format!("{what}: {}", failures.join("; ")))),
    }
}
