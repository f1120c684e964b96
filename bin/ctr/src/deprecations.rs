// SPDX-License-Identifier: Apache-2.0
//! `ctr deprecations`: what is used of the daemon that will not be there for ever.
use clap::{Subcommand, ValueEnum};
use serde_json::json;
use services::introspection::{self, Deprecation};
use types::Result;

use crate::{connection::Connection, output::say, table::Table, units};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the warnings
    #[command(visible_alias = "ls")]
    List {
        /// How to print them
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let Self::List { format } = self;
        let warnings = introspection::identity(connection.peer().await?).await?.deprecations;
        match format {
            Format::Text => print_table(&warnings),
            Format::Json => print_json(&warnings),
        }
        Ok(())
    }
}

fn print_table(warnings: &[Deprecation]) {
    let mut table = Table::new(["ID", "LAST OCCURRENCE", "MESSAGE"]);
    for warning in warnings {
        let last = units::time(warning.last);
        table.row([warning.id.clone(), last, warning.message.clone()]);
    }
    table.print();
}

fn print_json(warnings: &[Deprecation]) {
    let all = warnings.iter().map(|warning| {
        json!({
            "id": warning.id,
            "message": warning.message,
            "last_occurrence": units::time(warning.last),
        })
    });
    say!("{:#}", json!(all.collect::<Vec<_>>()));
}
