// SPDX-License-Identifier: Apache-2.0
//! Whose programs play: the distribution's, written in Go, or ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Output, run, run_aloud};
use crate::{Context, Failure, Outcome};

/// Who made a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Debian's package `containerd`: the reference.
    Go,
    /// This workspace.
    Ours,
}

/// Who plays which part in a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The client.
    pub ctr: Make,
    /// The daemon.
    pub daemon: Make,
    /// The shim.
    pub shim: Make,
}

impl Parts {
    /// All from the distribution: what every scenario must pass first.
    pub const REFERENCE: Self = Self { ctr: Make::Go, daemon: Make::Go, shim: Make::Go };
    /// Their client does not notice.
    pub const GO_CTR: Self = Self { ctr: Make::Go, daemon: Make::Ours, shim: Make::Ours };
    /// All ours.
    pub const OURS: Self = Self { ctr: Make::Ours, daemon: Make::Ours, shim: Make::Ours };
    /// Their shim under our daemon.
    pub const GO_SHIM: Self = Self { ctr: Make::Go, daemon: Make::Ours, shim: Make::Go };
    /// Our shim under their daemon.
    pub const OUR_SHIM: Self = Self { ctr: Make::Go, daemon: Make::Go, shim: Make::Ours };
}

/// How ours are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Quickly, for tests.
    Dev,
    /// As they are shipped, for the demo and for figures.
    Release,
}

/// The three programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The client.
    pub ctr: PathBuf,
    /// The daemon.
    pub daemon: PathBuf,
    /// The shim.
    pub shim: PathBuf,
}

impl Programs {
    /// Finds the programs for these parts, and builds those of ours that take part.
    pub fn find(parts: Parts, profile: Profile) -> Outcome<Self> {
        let one = |make, name| match make {
            Make::Go => tool(name),
            Make::Ours => ours(name, profile),
        };
        Ok(Self {
            ctr: one(parts.ctr, "ctr")?,
            daemon: one(parts.daemon, "containerd")?,
            shim: one(parts.shim, SHIM)?,
        })
    }
}

pub(crate) const SHIM: &str = "containerd-shim-runc-v2";

/// Where a distribution puts programs, and so where ours never are.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The Debian package that a tool comes in.
pub fn package(name: &str) -> &str {
    match name {
        "ctr" | SHIM => "containerd",
        "busybox" => "busybox-static",
        "docker" | "dockerd" => "docker.io",
        other => other,
    }
}

/// Names a folder whose programs take the place of the distribution's: other releases of them.
pub const OTHER_TOOLS: &str = "CONTAINERD_E2E_TOOLS";

/// That folder, where somebody named one.
pub fn other_tools() -> Option<PathBuf> {
    std::env::var_os(OTHER_TOOLS).filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

/// Where programs that are not ours are looked for, as a PATH.
pub fn search_path() -> String {
    other_tools()
        .map_or_else(|| SYSTEM_PATH.to_owned(), |dir| format!("{}:{SYSTEM_PATH}", dir.display()))
}

/// Finds a program of the distribution. That it is missing is a failure, not a reason to skip.
pub fn tool(name: &str) -> Outcome<PathBuf> {
    let found =
        search_path().split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
    found.context(format!(
        "this machine lacks {name}: `cargo xtask test` installs it, or `apt-get install {}`",
        package(name)
    ))
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Longer than anything takes to build from nothing on two cores.
const LIMIT: Duration = Duration::from_mins(40);

/// The program that drives a daemon over its API (`tests/examples/drive.rs`), built as it measures.
pub fn driver(profile: Profile) -> Outcome<PathBuf> {
    let mut command = cargo("build");
    command.args(["-p", "e2e", "--example", "drive"]);
    if profile == Profile::Release {
        command.arg("--release");
    }
    let (paths, said) = made(run_aloud(&mut command, LIMIT)?);
    let found = paths.into_iter().find(|path| path.file_name().is_some_and(|it| it == "drive"));
    found.context(format!("cargo could not build the driver\n{said}"))
}

/// What cargo made, and what it said.
type Built = Result<(Vec<PathBuf>, String), String>;

/// One of our programs, as cargo says where it is. They are built together, once per process.
fn ours(name: &str, profile: Profile) -> Outcome<PathBuf> {
    static BUILT: [OnceLock<Built>; 2] = [const { OnceLock::new() }; 2];
    let built = BUILT[profile as usize]
        .get_or_init(|| build(profile).map_err(|failure| failure.to_string()));
    let (paths, said) = built.as_ref().map_err(|words| Failure::new(words.clone()))?;
    let mut named = paths.iter().filter(|path| path.file_name().is_some_and(|file| file == name));
    named.next().cloned().context(format!("cargo could not build {name}\n{said}"))
}

/// Builds our programs and gives the paths of those that could be built.
fn build(profile: Profile) -> Outcome<(Vec<PathBuf>, String)> {
    let mut command = cargo("build");
    command.args(["--keep-going", "-p", "containerd", "-p", "ctr", "-p", SHIM]);
    // A test captures what it says, but a person who waits for minutes wants to see why.
    let output = match profile {
        Profile::Dev => run(&mut command, LIMIT)?,
        Profile::Release => run_aloud(command.arg("--release"), LIMIT)?,
    };
    Ok(made(output))
}

/// A command of cargo that tells what it makes. The output folder is left to it (and so to
/// `CARGO_TARGET_DIR`): its messages tell it.
fn cargo(task: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace()).arg(task).arg("--message-format=json-render-diagnostics");
    command
}

/// The paths of the programs that cargo has told of, and what else it said.
fn made(output: Output) -> (Vec<PathBuf>, String) {
    let messages = output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok());
    let executables =
        messages.filter_map(|message: Value| Some(message["executable"].as_str()?.into()));
    (executables.collect(), output.stderr)
}

/// Fails unless the process may do what containers need.
pub fn require_root() -> Outcome {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::new("containers need root: run this as root"))
}
