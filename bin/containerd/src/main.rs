// SPDX-License-Identifier: Apache-2.0
//! The containerd daemon.
use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgAction, Parser, Subcommand};
use containerd::{Config, Daemon, Publish, Warning, version_line};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    prelude::*,
};
use types::{Context, Error, Result};

/// Where the config is unless it is said (containerd `defaults/defaults_unix.go`).
const CONFIG: &str = "/etc/containerd/config.toml";

/// Manage images and containers on this host.
#[derive(Debug, Parser)]
#[command(name = "containerd", disable_version_flag = true)]
struct Flags {
    /// Config file
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What is logged: trace, debug, info, warn, error, fatal or panic
    #[arg(long, short, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Address of the gRPC socket
    #[arg(long, short, value_name = "PATH")]
    address: Option<String>,
    /// Directory of what outlives a reboot
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of what does not
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Print the version
    #[arg(long, short, action = ArgAction::SetTrue)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What else the program does than be the daemon.
#[derive(Debug, Subcommand)]
enum Command {
    Publish(Publish),
    /// Information on the containerd config
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make the database of metadata anew from what is on the disk, while no daemon runs on the root
    Rebuild,
    /// Run a program as an OCI hook, with the container's state put into its arguments
    OciHook {
        /// The program and its arguments: {{id}}, {{pid}}, {{rootfs}}, {{bundle}}, {{annotation "x"}}
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum ConfigCommand {
    /// See the output of the default config
    Default,
    /// See the output of the final main config with imported in subconfig files
    Dump,
    /// Migrate the current configuration file to the latest version (does not migrate subconfig
    /// files)
    Migrate,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.version {
        println!("{}", version_line());
        return ExitCode::SUCCESS;
    }
    match act(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("containerd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn publish_at(address: Option<String>, publish: Publish) -> Result<()> {
    let address = address.unwrap_or_else(|| Config::default().grpc.address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context(|| "start the runtime")?;
    runtime.block_on(publish.run(&address, std::io::stdin().lock()))
}

fn act(mut flags: Flags) -> Result<()> {
    match flags.command.take() {
        None => start(flags),
        Some(Command::Publish(publish)) => publish_at(flags.address, publish),
        Some(Command::Rebuild) => rebuild(flags),
        Some(Command::Config(command)) => show(command, flags.config.as_deref()),
        Some(Command::OciHook { args }) => {
            let mut input = String::new();
            std::io::stdin().read_to_string(&mut input)?;
            Err(containerd::oci_hook(&args, &input))
        }
    }
}

/// Prints a config. A file that is not there is as good as an empty one (containerd
/// `cmd/containerd/command/config.go`).
fn show(command: ConfigCommand, path: Option<&Path>) -> Result<()> {
    let path = path.unwrap_or(CONFIG.as_ref());
    let told = match command {
        ConfigCommand::Default => Ok(containerd::default_text()),
        ConfigCommand::Dump => containerd::dump(path),
        ConfigCommand::Migrate => containerd::migrate(path),
    };
    let text = match told {
        Err(error) if error.is_not_found() && !path.exists() => containerd::default_text(),
        told => told?,
    };
    print!("{text}");
    Ok(())
}

fn rebuild(flags: Flags) -> Result<()> {
    let (config, _warnings) = config(flags)?;
    log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context(|| "start the runtime")?;
    let rebuilt = runtime.block_on(Daemon::new(config).rebuild())?;
    println!("{rebuilt}");
    Ok(())
}

fn start(flags: Flags) -> Result<()> {
    let (config, warnings) = config(flags)?;
    log(&config)?;
    for Warning(message) in warnings {
        tracing::warn!("{message}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers())
        .max_blocking_threads(64)
        .enable_all()
        .build()
        .context(|| "start the runtime")?;
    runtime.block_on(async { Daemon::new(config).run(terminated()?).await })
}

/// Two to four threads: requests are short, and what is long runs on blocking threads.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 4))
}

/// The config file, with what the flags say in place of what it says.
fn config(flags: Flags) -> Result<(Config, Vec<Warning>)> {
    let (mut config, warnings) = match &flags.config {
        Some(path) => Config::read(path)?,
        None => match Config::read(CONFIG.as_ref()) {
            Err(error) if error.is_not_found() => (Config::default(), Vec::new()),
            read => read?,
        },
    };
    let Flags { root, state, address, log_level, .. } = flags;
    config.root = root.unwrap_or(config.root);
    config.state = state.unwrap_or(config.state);
    config.level = log_level.unwrap_or(config.level);
    config.grpc.address = address.unwrap_or(config.grpc.address);
    Ok((config, warnings))
}

/// Logs to the standard error, as text or as JSON.
fn log(config: &Config) -> Result<()> {
    let level = match config.level.as_str() {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "info" | "" => LevelFilter::INFO,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        other => return Err(Error::invalid(format!("unknown log level: {other}"))),
    };
    // What libraries say below this is about frames and packets.
    let libraries = ["h2", "hyper", "hyper_util", "tonic", "tower", "rustls"];
    let quiet = libraries.map(|name| (name, level.min(LevelFilter::INFO)));
    let targets = Targets::new().with_default(level).with_targets(quiet);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry();
    match config.format.as_str() {
        "json" => registry.with(lines.json().with_filter(targets)).init(),
        _ => registry.with(lines.with_ansi(false).with_filter(targets)).init(),
    }
    Ok(())
}

/// Ends when the daemon is told to end.
fn terminated() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
