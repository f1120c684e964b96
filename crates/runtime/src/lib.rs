// SPDX-License-Identifier: Apache-2.0
//! Tasks: the processes of containers, each behind a shim.
//!
//! A shim is a process of its own, one for a container or a pod, which the daemon starts, speaks
//! ttrpc to, and finds again after a restart. What a shim says of its task is the truth; the daemon
//! keeps no state of its own that could disagree.
//!
//! ```text
//! Tasks (contract) --- Shims (here) --bundle, bootstrap--> containerd-shim-runc-v2 --> runc
//!                          |   <---------- events ----------'
//!                          `- one owner task per shim: a peer that hangs delays only its own
//! ```
mod binary;
mod bootstrap;
mod bundle;
mod channel;
mod checkpoints;
mod info;
mod load;
mod log;
mod rootfs;
pub mod sandbox;
mod shim;
mod shims;
mod silence;
mod table;
mod tasks;
mod usage;

use std::time::SystemTime;

pub use channel::{Call, Channel, Connector};
pub use checkpoints::Checkpoints;
pub use info::RuntimeInfo;
pub use sandbox::Endpoint;
pub use shims::{Config, FindSandbox, Shims, Timeouts};
pub use usage::Usage;

use async_trait::async_trait;
use mount::Mount;
use types::{Any, Descriptor, Filters, Labels, Result};

/// Where a process reads and writes: paths of fifos, or URIs such as `binary://` and `file://`.
/// An empty string is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stdio {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Whether the process has a terminal, which merges output and error.
    pub terminal: bool,
}

/// Asks for a task.
#[derive(Clone, Debug, Default)]
pub struct Create {
    /// The container it is made from.
    pub id: String,
    /// The mounts that make its root filesystem; none when the spec names a directory.
    pub rootfs: Vec<Mount>,
    /// Where its first process reads and writes.
    pub stdio: Stdio,
    /// A checkpoint to restore from.
    pub checkpoint: Option<Descriptor>,
    /// Options for the runtime, in place of the container's.
    pub options: Option<Any>,
    /// The shim to use, in place of the one that the container's runtime names; empty for that one.
    pub runtime_path: String,
    /// Who serves the task in place of a shim of its own, such as the container's sandbox; where
    /// that is known from the container, nothing need be said.
    pub endpoint: Option<Endpoint>,
}

/// Asks for another process in a task.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    /// The task.
    pub id: String,
    /// The name of the new process.
    pub exec_id: String,
    /// The OCI process spec.
    pub spec: Any,
    /// Where it reads and writes.
    pub stdio: Stdio,
}

/// What a process is doing. The numbers are those of `containerd.v1.types.Status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Status {
    /// Nobody can tell: its shim does not answer.
    #[default]
    Unknown = 0,
    /// Made, not started.
    Created = 1,
    /// Running.
    Running = 2,
    /// Ended.
    Stopped = 3,
    /// Frozen.
    Paused = 4,
    /// Being frozen.
    Pausing = 5,
}

impl Status {
    /// The word of the command line: `RUNNING`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "UNKNOWN",
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
            Self::Paused => "PAUSED",
            Self::Pausing => "PAUSING",
        }
    }
}

/// What is known of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The task's name.
    pub id: String,
    /// The name of an exec'd process; empty for the first one.
    pub exec_id: String,
    /// Its pid on the host, 0 when it has none.
    pub pid: u32,
    /// What it is doing.
    pub status: Status,
    /// Where it reads and writes.
    pub stdio: Stdio,
    /// How it ended.
    pub exit: Option<Exit>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its pid while it ran.
    pub pid: u32,
    /// Its exit status; 128 and the signal's number when one killed it.
    pub status: u32,
    /// When.
    pub at: SystemTime,
}

/// A process seen inside a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pid {
    /// Its pid on the host.
    pub pid: u32,
    /// What the runtime tells about it.
    pub info: Option<Any>,
}

/// Statistics of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The task.
    pub id: String,
    /// When they were read.
    pub at: SystemTime,
    /// The statistics, `io.containerd.cgroups.v1.Metrics` or `io.containerd.cgroups.v2.Metrics`.
    pub data: Any,
}

/// The tasks of one namespace.
///
/// An `exec_id` of `""` means a task's first process. Errors, for every implementation: a task or
/// process that does not exist is `NotFound`; a task that exists already is `AlreadyExists`; what a
/// process's status does not allow is `FailedPrecondition`; a shim that does not answer in time is
/// `DeadlineExceeded` or `Unavailable`. What a runtime says comes through in its own words.
#[async_trait]
pub trait Tasks: Send + Sync + 'static {
    /// Makes a task and returns its pid. Nothing of the container runs yet.
    async fn create(&self, create: Create) -> Result<u32>;

    /// Starts a process and returns its pid.
    async fn start(&self, id: &str, exec_id: &str) -> Result<u32>;

    /// Deletes a stopped task, and its shim with it.
    async fn delete(&self, id: &str) -> Result<Exit>;

    /// Deletes a stopped exec'd process.
    async fn delete_process(&self, id: &str, exec_id: &str) -> Result<Exit>;

    /// Tells what is known of a process.
    async fn get(&self, id: &str, exec_id: &str) -> Result<Process>;

    /// The tasks' first processes. One whose shim does not answer is there as `Unknown`.
    async fn list(&self) -> Result<Vec<Process>>;

    /// Sends a signal to a process, or to `all` of a task's.
    async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()>;

    /// Adds a process to a task, to be started.
    async fn exec(&self, exec: Exec) -> Result<()>;

    /// Tells a process's terminal its size.
    async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<()>;

    /// Closes a process's standard input.
    async fn close_io(&self, id: &str, exec_id: &str, stdin: bool) -> Result<()>;

    /// Freezes a task.
    async fn pause(&self, id: &str) -> Result<()>;

    /// Thaws a task.
    async fn resume(&self, id: &str) -> Result<()>;

    /// The processes of a task.
    async fn pids(&self, id: &str) -> Result<Vec<Pid>>;

    /// Writes a running task down.
    async fn checkpoint(&self, id: &str, options: Option<Any>) -> Result<Vec<Descriptor>>;

    /// Changes a task's limits.
    async fn update(&self, id: &str, resources: Option<Any>, annotations: Labels) -> Result<()>;

    /// Statistics of the tasks that match; those whose shim does not answer are left out.
    async fn metrics(&self, filters: &Filters) -> Result<Vec<Metric>>;

    /// Waits for a process to end, however long that takes.
    async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit>;
}
