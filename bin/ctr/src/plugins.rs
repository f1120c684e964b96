// SPDX-License-Identifier: Apache-2.0
//! `ctr plugins`: what the daemon is made of.
use clap::Subcommand;
use services::introspection::{self, Plugin};
use types::{Filters, Kind, Platform, Result};

use crate::{
    connection::Connection,
    output::{self, say},
    run::RuntimeFlags,
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the daemon's parts
    #[command(visible_alias = "ls")]
    List {
        /// Print the ids only
        #[arg(long, short)]
        quiet: bool,
        /// Print everything that is known of each
        #[arg(long, short)]
        detailed: bool,
        /// Filters, such as type==io.containerd.snapshotter.v1
        filters: Vec<String>,
    },
    /// Print what a runtime can do
    InspectRuntime(RuntimeFlags),
}

impl Command {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let (quiet, detailed, filters) = match self {
            Self::List { quiet, detailed, filters } => (quiet, detailed, filters),
            Self::InspectRuntime(flags) => return inspect_runtime(connection, &flags).await,
        };
        let filters = Filters::parse(filters)?;
        let plugins = introspection::plugins(connection.peer().await?, &filters).await?;
        match (quiet, detailed) {
            (true, _) => output::lines(plugins.iter().map(|plugin| &plugin.id)),
            (_, true) => plugins.iter().for_each(print_all),
            _ => print_table(&plugins),
        }
        Ok(())
    }
}

/// Prints what a runtime says of itself (the fields of containerd
/// `api/types/introspection.proto`, `RuntimeInfo`).
async fn inspect_runtime(connection: &Connection, flags: &RuntimeFlags) -> Result<()> {
    let (runtime, options) = (flags.name().to_owned(), flags.told(false)?);
    let info = introspection::runtime(connection.peer().await?, runtime, options).await?;
    let features = info.features.as_ref().map(|features| {
        serde_json::from_slice::<serde_json::Value>(&features.value).unwrap_or_default()
    });
    let told = serde_json::json!({
        "Name": info.name,
        "Version": { "Version": info.version, "Revision": info.revision },
        "Options": info.options.map(|options| options.type_url),
        "Features": features,
        "Annotations": info.annotations,
    });
    say!("{told:#}");
    Ok(())
}

fn print_table(plugins: &[Plugin]) {
    let mut table = Table::new(["TYPE", "ID", "PLATFORMS", "STATUS"]);
    for plugin in plugins {
        let platforms = platforms(&plugin.platforms);
        let platforms = if platforms.is_empty() { "-".into() } else { platforms };
        table.row([&plugin.kind, &plugin.id, &platforms, &status(plugin).to_owned()]);
    }
    table.print();
}

fn print_all(plugin: &Plugin) {
    say!("Type:          {}", plugin.kind);
    say!("ID:            {}", plugin.id);
    if !plugin.platforms.is_empty() {
        say!("Platforms:     {}", platforms(&plugin.platforms));
    }
    for (key, value) in &plugin.exports {
        say!("Exports:       {key}: {value}");
    }
    if !plugin.capabilities.is_empty() {
        say!("Capabilities:  {}", plugin.capabilities.join(","));
    }
    if let Some((kind, message)) = &plugin.fault {
        say!("Error:         {kind:?}: {message}");
    }
    say!();
}

fn platforms(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(Platform::to_string).collect();
    names.join(",")
}

fn status(plugin: &Plugin) -> &'static str {
    match &plugin.fault {
        None => "ok",
        Some((Kind::Unimplemented, _)) => "skip",
        Some((_, why)) if why.contains("skip plugin") => "skip",
        Some(_) => "error",
    }
}
