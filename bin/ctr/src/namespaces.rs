// SPDX-License-Identifier: Apache-2.0
//! `ctr namespaces`.
use clap::Subcommand;
use records::{Delete, Namespace};
use types::{Error, Filters, Result};

use crate::{
    connection::Connection,
    labels,
    output::{self, say},
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a namespace
    #[command(visible_alias = "c")]
    Create {
        /// Its name
        name: String,
        /// Labels, key=value
        labels: Vec<String>,
    },
    /// List namespaces
    #[command(visible_alias = "ls")]
    List {
        /// Print the names only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove namespaces, which must be empty
    #[command(visible_aliases = ["rm", "delete"])]
    Remove {
        /// Remove the cgroup of the namespace too
        #[arg(long, short)]
        cgroup: bool,
        /// Their names
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Set or clear labels of a namespace
    Label {
        /// Its name
        name: String,
        /// Labels, key=value; an empty value clears
        #[arg(required = true)]
        labels: Vec<String>,
    },
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let namespaces = connection.client().await?.namespaces;
        match self {
            Self::Create { name, labels } => {
                let labels = labels::parse(&labels);
                namespaces.create(Namespace { name, labels }).await?;
            }
            Self::List { quiet } => {
                let found = namespaces.list(&Filters::default()).await?;
                print(&found, quiet);
            }
            Self::Remove { cgroup: true, .. } => {
                return Err(Error::unimplemented("removal of a namespace's cgroup"));
            }
            Self::Remove { names, cgroup: false } => {
                for name in names {
                    namespaces.delete(&name, Delete::default()).await?;
                    say!("{name}");
                }
            }
            Self::Label { name, labels } => {
                let labels = labels::parse(&labels);
                let mask = labels::mask(&labels);
                namespaces.update(Namespace { name, labels }, &mask).await?;
            }
        }
        Ok(())
    }
}

fn print(namespaces: &[Namespace], quiet: bool) {
    if quiet {
        return output::lines(namespaces.iter().map(|namespace| &namespace.name));
    }
    let mut table = Table::new(["NAME", "LABELS"]);
    for Namespace { name, labels } in namespaces {
        let labels = if labels.is_empty() { String::new() } else { labels::cell(labels) };
        table.row([name.clone(), labels]);
    }
    table.print();
}
