// SPDX-License-Identifier: Apache-2.0
//! Driving runc: its command lines, and what it says when it fails.
//!
//! A call is one program that runs while everything else goes on. What it says when it fails is in
//! its log, and what it printed is asked only if the log is silent.
use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::containerd::runc::v1::Options;
use rustix::process::Signal;
use shim::{finished, stdio::Ends};
use sys::{Command, Exit};
use tokio::{sync::Notify, time::sleep};
use types::{Error, Kind, Result};

use crate::memory_file::MemoryFile;

mod args;
mod log;

pub(crate) use args::{Checkpoint, Create, Exec, Restore};

/// Where runc keeps its state unless told otherwise (containerd
/// `cmd/containerd-shim-runc-v2/process/utils.go`).
const ROOT: &str = "/run/containerd/runc";
/// The file of a bundle with the number of a container's first process.
pub(crate) const INIT_PID: &str = "init.pid";

/// How long runc may take for what is done in an instant.
const SHORT: Duration = Duration::from_mins(1);
/// How long it may take when it has hung already.
const BRIEF: Duration = Duration::from_secs(3);
/// How long it may take where hooks are run, which may be anything.
const LONG: Duration = Duration::from_mins(10);

/// A runc, for one container.
#[derive(Clone, Debug)]
pub(crate) struct Runc {
    program: String,
    root: PathBuf,
    bundle: PathBuf,
    systemd_cgroup: bool,
    /// Ends the calls that run.
    interrupt: Arc<Notify>,
}

/// A call that did not do what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The last error of the log.
    logged: Result<String, String>,
    /// What Go's library would say: how it ended and what it printed.
    said: String,
    /// Whether it ended by itself, and so had a chance to undo what it had begun.
    is_orderly: bool,
}

impl Failure {
    /// The error as clients know it: `OCI runtime create failed: ...`.
    pub(crate) fn named(&self, what: &str) -> Error {
        let text = match &self.logged {
            Ok(logged) if !logged.is_empty() => format!("{what}: {logged}"),
            Ok(_) => format!("{what}: {}", self.said),
            Err(unread) => {
                format!("{what}: unable to retrieve OCI runtime error ({unread}): {}", self.said)
            }
        };
        Error::said(Kind::Unknown, text)
    }

    /// The error of a call whose log is not asked.
    pub(crate) fn plain(&self) -> Error {
        Error::said(Kind::Unknown, self.said.clone())
    }

    /// The error of a signal that could not be sent (containerd
    /// `cmd/containerd-shim-runc-v2/process/utils.go`, `checkKillError`).
    pub(crate) fn of_kill(&self) -> Error {
        let gone = ["os: process already finished", "container not running", "no such process"];
        if gone.iter().any(|text| self.mentions(text)) {
            return Error::not_found("process already finished");
        }
        if self.is_not_found() {
            return Error::not_found("no such container");
        }
        Error::said(Kind::Unknown, format!("unknown error after kill: {}", self.said))
    }

    /// Whether something may be left of what was begun.
    pub(crate) fn leaves_remains(&self) -> bool {
        !self.is_orderly
    }

    /// Whether runc knows no such container.
    pub(crate) fn is_not_found(&self) -> bool {
        self.mentions("does not exist")
    }

    /// A success if runc knows no such container: what should be gone is.
    pub(crate) fn unless_gone(self) -> Result<(), Self> {
        if self.is_not_found() { Ok(()) } else { Err(self) }
    }

    /// A success if runc says that it is so already: a call before was killed when it had done its
    /// work.
    pub(crate) fn unless_done(self) -> Result<(), Self> {
        let done = ["cannot start an already running container", "container not paused"];
        if done.iter().any(|text| self.mentions(text)) { Ok(()) } else { Err(self) }
    }

    fn mentions(&self, text: &str) -> bool {
        let logged = self.logged.as_deref().unwrap_or_default();
        self.said.to_lowercase().contains(text) || logged.to_lowercase().contains(text)
    }
}

type Called<T = ()> = Result<T, Failure>;

/// What a call is given besides its arguments.
#[derive(Default)]
struct Given {
    ends: Option<Ends>,
    stdin: Option<MemoryFile>,
    /// A log of its own, for calls that may run at the same time.
    log: Option<PathBuf>,
}

impl Runc {
    pub(crate) fn new(options: &Options, bundle: &Path, namespace: &str) -> Self {
        let or = |value: &str, default: &str| {
            if value.is_empty() { default.to_owned() } else { value.to_owned() }
        };
        Self {
            program: or(&options.binary_name, "runc"),
            root: Path::new(&or(&options.root, ROOT)).join(namespace),
            bundle: bundle.to_owned(),
            systemd_cgroup: options.systemd_cgroup,
            interrupt: Arc::default(),
        }
    }

    /// Kills all calls that run, which then have failed.
    pub(crate) fn interrupt(&self) {
        self.interrupt.notify_waiters();
    }

    /// Creates the container. Its first process waits to be started.
    pub(crate) async fn create(&self, id: &str, create: &Create<'_>, ends: Option<Ends>) -> Called {
        let given = Given { ends, ..Given::default() };
        self.call(create.args(&self.bundle, id), LONG, given).await.map(drop)
    }

    /// Creates and starts the container from a checkpoint.
    pub(crate) async fn restore(
        &self,
        id: &str,
        restore: &Restore<'_>,
        ends: Option<Ends>,
    ) -> Called {
        let given = Given { ends, ..Given::default() };
        self.call(restore.args(&self.bundle, id), LONG, given).await.map(drop)
    }

    /// Starts the first process.
    pub(crate) async fn start(&self, id: &str) -> Called {
        self.simple(["start", id], LONG).await
    }

    /// Adds a process, and starts it.
    pub(crate) async fn exec(&self, id: &str, exec: &Exec<'_>, ends: Option<Ends>) -> Called {
        let log = self.bundle.join(format!("{}.log.json", exec.name));
        let given = Given { ends, log: Some(log.clone()), ..Given::default() };
        let called = self.call(exec.args(id), LONG, given).await.map(drop);
        // It has been read; if it is missing, runc had nothing to say.
        drop(fs_err::remove_file(log));
        called
    }

    /// Sends a signal to the first process or to all.
    pub(crate) async fn kill(&self, id: &str, signal: u32, all: bool) -> Called {
        let signal = signal.to_string();
        let args = if all { vec!["kill", "--all", id, &signal] } else { vec!["kill", id, &signal] };
        self.simple(args, SHORT).await
    }

    /// Removes the container, which has ended; by force if it has not.
    pub(crate) async fn delete(&self, id: &str, force: bool) -> Called {
        let args = if force { vec!["delete", "--force", id] } else { vec!["delete", id] };
        self.simple(args, SHORT).await
    }

    /// Removes the container by force, in a process that does nothing else.
    pub(crate) fn delete_now(&self, id: &str) -> Result<()> {
        let args = ["delete", "--force", id].map(OsString::from);
        let output = self.command(args, &self.log()).combined_output()?;
        if output.exit.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout);
        Err(Error::said(Kind::Unknown, format!("{}: {}", output.exit, said.trim())))
    }

    /// Stops all processes where they are.
    pub(crate) async fn pause(&self, id: &str) -> Called {
        self.simple(["pause", id], SHORT).await
    }

    /// Lets them go on.
    pub(crate) async fn resume(&self, id: &str) -> Called {
        self.simple(["resume", id], SHORT).await
    }

    /// Lets them go on after a call that hung: it may hang again, and is not waited for as long.
    pub(crate) async fn resume_if_it_answers(&self, id: &str) -> Called {
        self.simple(["resume", id], BRIEF).await
    }

    /// Changes limits: `resources` is the JSON of the specification's.
    pub(crate) async fn update(&self, id: &str, resources: &[u8]) -> Called {
        let stdin = MemoryFile::with(resources).map_err(|error| Failure::ours(&error))?;
        let given = Given { stdin: Some(stdin), ..Given::default() };
        let args = ["update", "--resources", "-", id].map(OsString::from);
        self.call(args.into(), SHORT, given).await.map(drop)
    }

    /// Lists processes.
    pub(crate) async fn processes(&self, id: &str) -> Called<Vec<u32>> {
        let args = ["ps", "--format", "json", id].map(OsString::from);
        let output = self.call(args.into(), SHORT, Given::default()).await?;
        // Compat: with nothing to list, Go programs print null.
        let pids = serde_json::from_str::<Option<_>>(&output).map(Option::unwrap_or_default);
        pids.map_err(|error| Failure { said: error.to_string(), ..Failure::default() })
    }

    /// Saves the container.
    pub(crate) async fn checkpoint(&self, id: &str, checkpoint: &Checkpoint<'_>) -> Called {
        self.call(checkpoint.args(id), LONG, Given::default()).await.map(drop)
    }

    /// Whether the container's processes are the kernel's own, so that the kernel can signal them. A
    /// runtime that is not known may run them in a machine of its own.
    pub(crate) fn has_plain_processes(&self) -> bool {
        let name = Path::new(&self.program).file_name().unwrap_or_default();
        ["runc", "crun", "youki"].iter().any(|known| name == *known)
    }

    /// Whether there may be such a container: what is known of runc's own kind is where they keep
    /// their state.
    pub(crate) fn may_know(&self, id: &str) -> bool {
        !self.has_plain_processes() || self.has_state(id)
    }

    /// Whether state of such a container is where it is kept.
    pub(crate) fn has_state(&self, id: &str) -> bool {
        self.root.join(id).exists()
    }

    async fn simple<S: Into<OsString>>(
        &self,
        args: impl IntoIterator<Item = S>,
        limit: Duration,
    ) -> Called {
        let args = args.into_iter().map(Into::into).collect();
        self.call(args, limit, Given::default()).await.map(drop)
    }

    /// Runs runc and returns what it printed.
    async fn call(&self, args: Vec<OsString>, limit: Duration, given: Given) -> Called<String> {
        let log = given.log.clone().unwrap_or_else(|| self.log());
        let already = log::length(&log);
        let (exit, output) = match self.run(args, &log, limit, given).await {
            Ok(ended) => ended,
            Err(error) => return Err(Failure::ours(&error)),
        };
        if exit.success() {
            return Ok(output);
        }
        let said = match output.trim() {
            "" => format!("{} did not terminate successfully: {exit}", self.program),
            printed => format!("{exit}: {printed}"),
        };
        let is_orderly = matches!(exit, Exit::Code(_));
        Err(Failure { logged: log::last_error(&log, already), said, is_orderly })
    }

    async fn run(
        &self,
        args: Vec<OsString>,
        log: &Path,
        limit: Duration,
        given: Given,
    ) -> Result<(Exit, String)> {
        let printed = MemoryFile::empty()?;
        let ends = match given.ends {
            Some(ends) => ends,
            None => Ends {
                stdin: given
                    .stdin
                    .map_or_else(|| Ok(std::process::Stdio::null()), |f| f.stdio())?,
                stdout: printed.stdio()?,
                stderr: printed.stdio()?,
            },
        };
        let command = self.command(args, log);
        let command = command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
        // The one thread of a shim lives as long as the shim.
        let mut child = command
            .parent_death_signal(Signal::KILL)
            .spawn()
            .map_err(|error| not_started(&self.program, &error))?;
        let (program, interrupt) = (&self.program, self.interrupt.notified());
        let error = tokio::select! {
            exit = finished(&mut child) => return Ok((exit?, printed.text()?)),
            () = sleep(limit) => Error::deadline(format!("{program} did not end within {limit:?}")),
            () = interrupt => Error::said(Kind::Unknown, format!("{program} was interrupted")),
        };
        child.kill(Signal::KILL.as_raw())?;
        finished(&mut child).await?;
        Err(error)
    }

    fn command(&self, args: impl IntoIterator<Item = OsString>, log: &Path) -> Command {
        let mut command = Command::new(&self.program)
            .arg("--root")
            .arg(&self.root)
            .arg("--log")
            .arg(log)
            .args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command = command.arg("--systemd-cgroup");
        }
        // It would have runc wait for systemd (go-runc, `command_linux.go`).
        command.args(args).env_remove("NOTIFY_SOCKET")
    }

    fn log(&self) -> PathBuf {
        self.bundle.join("log.json")
    }
}

impl Failure {
    /// A failure before runc could say anything.
    fn ours(error: &Error) -> Self {
        Self { said: error.to_string(), ..Self::default() }
    }
}

impl Default for Failure {
    fn default() -> Self {
        Self { logged: Ok(String::new()), said: String::new(), is_orderly: false }
    }
}

/// Why a program did not start, in the words of Go's `os/exec`.
fn not_started(program: &str, error: &io::Error) -> Error {
    let text = sys::errno::text(error);
    let text = match error.kind() {
        io::ErrorKind::NotFound if !program.contains('/') => {
            format!("exec: {program:?}: executable file not found in $PATH")
        }
        _ => format!("fork/exec {program}: {text}"),
    };
    Error::said(Kind::Unknown, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(logged: Result<&str, &str>, said: &str) -> Failure {
        let logged = logged.map(str::to_owned).map_err(str::to_owned);
        Failure { logged, said: said.into(), is_orderly: true }
    }

    #[test]
    fn a_failure_is_told_as_the_log_tells_it() {
        let what = "OCI runtime create failed";
        let told = |failure: Failure| failure.named(what).to_string();
        let logged = failure(Ok("runc create failed: no rootfs"), "exit status 1");
        assert_eq!(told(logged), "OCI runtime create failed: runc create failed: no rootfs");
        let silent = failure(Ok(""), "exit status 1");
        assert_eq!(told(silent), "OCI runtime create failed: exit status 1");
        let unread = failure(Err("open /b/log.json: no such file or directory"), "exit status 1");
        assert_eq!(
            told(unread),
            "OCI runtime create failed: unable to retrieve OCI runtime error \
             (open /b/log.json: no such file or directory): exit status 1"
        );
    }

    #[test]
    fn a_signal_to_what_is_gone_is_not_found() {
        let told = |said: &str| failure(Ok(""), said).of_kill();
        let error = told("exit status 1: container not running");
        assert_eq!(error.to_string(), "process already finished: not found");
        let error = told("exit status 1: container \"a\" does not exist");
        assert_eq!(
            (error.to_string().as_str(), error.kind()),
            ("no such container: not found", Kind::NotFound)
        );
        let error = told("exit status 1: permission denied");
        assert_eq!(error.to_string(), "unknown error after kill: exit status 1: permission denied");
    }

    #[tokio::test]
    async fn a_program_that_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (binary_name, want) in [
            ("no-such", "x: exec: \"no-such\": executable file not found in $PATH"),
            ("/no/such", "x: fork/exec /no/such: no such file or directory"),
        ] {
            let options = Options { binary_name: binary_name.into(), ..Default::default() };
            let runc = Runc::new(&options, dir.path(), "n");
            let failure = runc.start("a").await.unwrap_err();
            assert_eq!(failure.named("x").to_string(), want);
        }
    }
}
