// SPDX-License-Identifier: Apache-2.0
//! `ctr`: a bare tool to debug a containerd daemon with, and to develop against it.
//!
//! One file per group of commands, with the words and flags of Go's `ctr`. Everything goes through
//! the daemon's API: there is no way around it.
mod access;
mod checkpoints;
mod connection;
mod containers;
mod content;
mod deprecations;
mod events;
mod follow;
mod images;
mod info;
mod json;
mod labels;
mod leases;
mod namespaces;
mod network;
mod oci;
mod output;
mod plugins;
mod progress;
mod run;
mod sandboxes;
mod shim;
mod signals;
mod snapshots;
mod stdio;
mod store;
mod table;
mod tasks;
mod terminal;
mod units;
mod version;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;
use types::Result;

use connection::Connection;

/// Debug a containerd daemon.
///
/// ctr is an unsupported debug and administrative client for interacting with the containerd
/// daemon. Its commands and options are not guaranteed to stay as they are.
#[derive(Debug, Parser)]
#[command(name = "ctr", version = version::LINE, disable_help_subcommand = true)]
#[command(max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Which daemon, and on whose behalf.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Enable debug output
    #[arg(long)]
    debug: bool,
    /// Address of the daemon's socket
    #[arg(long, short, value_name = "PATH", env = "CONTAINERD_ADDRESS", hide_env_values = true)]
    #[arg(default_value = "/run/containerd/containerd.sock")]
    address: PathBuf,
    /// Total time that the command may take (0 is for ever)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    timeout: std::time::Duration,
    /// Time to connect within (0 is a default of 10 seconds)
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = units::duration)]
    connect_timeout: std::time::Duration,
    /// Namespace to work in
    #[arg(
        long,
        short,
        value_name = "NAME",
        default_value = "default",
        env = "CONTAINERD_NAMESPACE"
    )]
    namespace: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the versions of the client and of the daemon
    Version,
    /// Print what the daemon says of itself
    Info,
    /// See what the daemon is made of
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugins::Command),
    /// Manage namespaces
    #[command(subcommand, visible_aliases = ["namespace", "ns"])]
    Namespaces(namespaces::Command),
    /// Manage content
    #[command(subcommand)]
    Content(content::Command),
    /// Manage images
    #[command(subcommand, visible_aliases = ["image", "i"])]
    Images(images::Command),
    /// Manage containers
    #[command(subcommand, visible_aliases = ["c", "container"])]
    Containers(containers::Command),
    /// Run a container
    Run(Box<run::Command>),
    /// Manage snapshots
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshots::Command),
    /// Manage tasks
    #[command(subcommand, visible_aliases = ["t", "task"])]
    Tasks(tasks::Command),
    /// Manage leases
    #[command(subcommand)]
    Leases(leases::Command),
    /// Manage sandboxes
    #[command(subcommand, visible_aliases = ["sandbox", "sb", "s"])]
    Sandboxes(sandboxes::Command),
    /// See what is on the disk, in all namespaces, and why
    #[command(subcommand)]
    Store(store::Command),
    /// See which deprecated things are used
    #[command(subcommand)]
    Deprecations(deprecations::Command),
    /// See what containerd would make of OCI's documents
    #[command(subcommand)]
    Oci(oci::Command),
    /// Speak to a shim itself, and not to the daemon
    Shim(shim::Shim),
    /// Print events as they happen
    #[command(visible_aliases = ["event", "e"])]
    Events(events::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr(cli.global.debug);
    match block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ctr: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What libraries have to say goes to the standard error: warnings, or everything.
fn log_to_stderr(debug: bool) {
    let level = if debug { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let lines = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    lines.without_time().with_target(debug).init();
}

fn block_on(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(work);
    // Somebody may still be waiting for a line from the standard input: not for us.
    runtime.shutdown_background();
    outcome
}

/// Runs the command, for at most as long as it was given.
async fn run(cli: Cli) -> Result<ExitCode> {
    let timeout = cli.global.timeout;
    let work = dispatch(cli);
    if timeout.is_zero() {
        return work.await;
    }
    let elapsed = |_| types::Error::deadline(format!("the command took longer than {timeout:?}"));
    tokio::time::timeout(timeout, work).await.map_err(elapsed)?
}

async fn dispatch(cli: Cli) -> Result<ExitCode> {
    let connection = Connection::new(cli.global);
    let done = match cli.command {
        Command::Version => version::run(&connection).await,
        Command::Info => info::run(&connection).await,
        Command::Plugins(command) => command.run(&connection).await,
        Command::Namespaces(command) => command.run(&connection).await,
        Command::Content(command) => command.run(&connection).await,
        Command::Run(command) => return command.run(&connection).await,
        Command::Tasks(command) => return command.run(&connection).await,
        Command::Images(command) => command.run(&connection).await,
        Command::Containers(command) => return command.run(&connection).await,
        Command::Snapshots(command) => command.run(&connection).await,
        Command::Leases(command) => command.run(&connection).await,
        Command::Sandboxes(command) => command.run(&connection).await,
        Command::Store(command) => command.run(&connection).await,
        Command::Deprecations(command) => command.run(&connection).await,
        Command::Oci(command) => command.run(&connection),
        Command::Shim(command) => command.run(&connection).await,
        Command::Events(command) => command.run(&connection).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_command_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_words_of_go_are_known() {
        for line in [
            "images ls -q",
            "i pull --plain-http --all-platforms r.io/a:1",
            "image rm --sync a b",
            "content fetch r.io/a:1",
            "content prune references --async --dry",
            "i import --base-name a --digests --skip-digest-for-named --index-name b --no-unpack -",
            "i import --local --compress-blobs --discard-unpacked-layers --all-platforms x.tar",
            "i export --platform linux/arm64 --skip-manifest-json --skip-non-distributable x.tar a b",
            "i convert --oci --uncompress --all-platforms a b",
            "i package --directory / --cmd sh --cmd -c --source-date-epoch 1 a",
            "c create --label a=b r.io/a:1 x sh",
            "containers del x",
            "run -d --null-io r.io/a:1 x sh -c true",
            "t exec --exec-id e -t x sh",
            "task kill -s 9 -a x",
            "tasks metric x",
            "t rm -f x y",
            "t start --no-pivot -d x",
            "t checkpoint --exit --image-path /i --work-path /w x",
            "c checkpoint --rw --image --task x r.io/a:1",
            "c restore --rw --live x r.io/a:1",
            "leases del x",
            "snapshots unpack --snapshotter native sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
            "oci spec --platform linux/amd64",
            "snapshots --snapshotter native ls",
            "ns c x a=b",
            "leases create --id x",
            "plugins ls -d",
            "plugins inspect-runtime --runtime io.containerd.runc.v2",
            "sandbox run --runtime io.containerd.runc.v2 x",
            "sb rm -f x",
            "deprecations list --format json",
            "store check --all",
            "store explain sha256:",
            "event topic==/x",
        ] {
            let words = ["ctr"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
    }
}
