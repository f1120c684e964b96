// SPDX-License-Identifier: Apache-2.0
//! One process of a container: what is known of it, and what it is connected to.
use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use prost_types::Timestamp;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use shim::{
    Exited,
    stdio::{ConsoleSocket, Ends, Handing, Io, Owner, Stdio},
};
use tokio::sync::watch;
use types::{Context, Error, Result};

use crate::{
    container::Call,
    state::{Action, Role, State},
};

/// Seconds before 1970 at which Go's zero time is.
const GO_ZERO: i64 = -62_135_596_800;

/// What anybody may know of a process, at any time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) state: State,
    /// Its number, or 0 before it has one.
    pub(crate) pid: u32,
    pub(crate) exit: Option<Exit>,
    /// It could not be started: there is nothing to wait for.
    pub(crate) failed: bool,
}

/// How a process ended, as it is told on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) status: u32,
    pub(crate) at: SystemTime,
}

impl Facts {
    pub(crate) fn exit_status(&self) -> u32 {
        self.exit.map_or(0, |exit| exit.status)
    }

    /// Compat: without an exit this is Go's zero time, and not nothing.
    pub(crate) fn exited_at(&self) -> Timestamp {
        let zero = Timestamp { seconds: GO_ZERO, nanos: 0 };
        self.exit.map_or(zero, |exit| exit.at.into())
    }
}

impl From<Exited> for Exit {
    fn from(exited: Exited) -> Self {
        Self { status: exited.exit.code() as u32, at: exited.at }
    }
}

/// A process, for whom its owner is responsible.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) role: Role,
    pub(crate) stdio: Stdio,
    /// Its specification, if it was added.
    pub(crate) spec: Vec<u8>,
    pub(crate) io: Io,
    /// What was asked while it was being started.
    pub(crate) waiting: VecDeque<Call>,
    facts: watch::Sender<Facts>,
    target: Target,
}

/// A process that signals can be sent to, by whoever knows it. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Target(Arc<Mutex<Option<OwnedFd>>>);

impl Target {
    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: u32) -> Result<()> {
        let gone = || Error::not_found("process already finished");
        match sys::kill::by_fd(self.lock().as_ref().ok_or_else(gone)?, signal as i32) {
            Err(error) if error.raw_os_error() == Some(NO_SUCH_PROCESS) => Err(gone()),
            sent => sent.context(|| "unknown error after kill"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    pub(crate) fn new(role: Role, state: State, stdio: Stdio) -> Self {
        Self {
            role,
            stdio,
            spec: Vec::new(),
            io: Io::default(),
            waiting: VecDeque::new(),
            facts: watch::Sender::new(Facts { state, ..Facts::default() }),
            target: Target::default(),
        }
    }

    pub(crate) fn facts(&self) -> Facts {
        *self.facts.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Facts> {
        self.facts.subscribe()
    }

    pub(crate) fn state(&self) -> State {
        self.facts().state
    }

    pub(crate) fn allow(&self, action: Action) -> Result<()> {
        self.state().allow(self.role, action)
    }

    pub(crate) fn enter(&self, state: State) {
        self.facts.send_modify(|facts| facts.state = state);
    }

    /// Takes note that it has a number, which from now on stands for this process and no other.
    pub(crate) fn born(&mut self, pid: u32) {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
        // If it is gone already, there is nobody to send a signal to.
        *self.target.lock() = number.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.facts.send_modify(|facts| facts.pid = pid);
    }

    /// Takes note that it could not be started.
    pub(crate) fn stillborn(&self) {
        self.facts.send_modify(|facts| {
            facts.state = State::Created;
            facts.failed = true;
        });
    }

    /// Takes note that it has ended.
    pub(crate) fn ended(&mut self, exit: Exit) {
        self.facts.send_modify(|facts| {
            facts.state = State::Stopped;
            facts.exit = Some(exit);
        });
        *self.target.lock() = None;
        self.io.process_gone();
    }

    /// Whom signals are sent to.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }
}

const NO_SUCH_PROCESS: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// The streams of a process that is about to be started.
#[derive(Debug)]
pub(crate) enum Streams {
    /// The runtime will make a terminal, and send it here.
    Terminal(ConsoleSocket),
    Plain(Io, Option<Ends>),
}

impl Streams {
    pub(crate) async fn prepare(
        stdio: &Stdio,
        handing: Handing,
        owner: &Owner,
        bundle: &Path,
    ) -> Result<Self> {
        if stdio.terminal {
            return ConsoleSocket::bind(bundle, &format!("{}.pty", owner.id)).map(Self::Terminal);
        }
        let opened = Io::open(stdio, handing, owner).await;
        let (io, ends) = opened.context(|| "failed to create init process I/O")?;
        Ok(Self::Plain(io, Some(ends)))
    }

    pub(crate) fn console(&self) -> Option<&Path> {
        match self {
            Self::Terminal(socket) => Some(socket.path()),
            Self::Plain(..) => None,
        }
    }

    /// What the runtime is to be given, once.
    pub(crate) fn ends(&mut self) -> Option<Ends> {
        match self {
            Self::Terminal(_) => None,
            Self::Plain(_, ends) => ends.take(),
        }
    }

    /// Our side of them, now that the runtime has done its work.
    pub(crate) async fn connect(self, stdio: &Stdio, owner: &Owner) -> Result<Io> {
        match self {
            Self::Plain(mut io, _) => {
                io.begin().context(|| "failed to start io pipe copy")?;
                Ok(io)
            }
            Self::Terminal(socket) => {
                let master = socket.receive().await?;
                let io = Io::open_terminal(stdio, master, owner).await;
                io.context(|| "failed to start console copy")
            }
        }
    }
}

/// Reads the number that the runtime has left.
pub(crate) fn read_pid(file: &str) -> Result<u32> {
    let failed = || "failed to retrieve OCI runtime container pid";
    let text = fs_err::read_to_string(file).context(failed)?;
    let pid =
        text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    pid.map_err(Error::from).context(failed)
}

/// How long a container that is being removed may still have an exit to tell.
pub(crate) const LAST_EXIT: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use sys::Command;
    use types::Kind;

    use super::*;

    fn process() -> Process {
        Process::new(Role::Exec, State::Created, Stdio::default())
    }

    #[test]
    fn a_signal_reaches_the_process_and_then_nobody() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let mut process = process();
        process.born(child.pid());
        process.target().signal(9).unwrap();
        assert_eq!(child.wait().unwrap(), sys::Exit::Signal(9));
        let error = process.target().signal(9).unwrap_err();
        assert_eq!(error.to_string(), "process already finished: not found");
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn what_has_not_ended_ended_at_go_s_zero_time() {
        let process = process();
        assert_eq!(process.facts().exited_at().seconds, GO_ZERO);
        assert_eq!(process.facts().exit_status(), 0);
    }

    #[test]
    fn a_pid_file_holds_a_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid").display().to_string();
        read_pid(&file).unwrap_err();
        fs_err::write(&file, "17\n").unwrap();
        assert_eq!(read_pid(&file).unwrap(), 17);
        fs_err::write(&file, "x").unwrap();
        read_pid(&file).unwrap_err();
    }
}
