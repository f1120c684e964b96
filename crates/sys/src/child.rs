// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{self, ChildStderr, ChildStdin, ChildStdout},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid},
};

use crate::{Exit, kill, reaper, reaper::Spawning};

/// A process that we started.
///
/// Dropping it neither ends the process nor waits for it: then the reaper alone learns how it ends.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
    exit: Option<Exit>,
    /// The writing end of its input, if that is a pipe.
    pub stdin: Option<ChildStdin>,
    /// The reading end of its output, if that is a pipe.
    pub stdout: Option<ChildStdout>,
    /// The reading end of its errors, if that is a pipe.
    pub stderr: Option<ChildStderr>,
}

/// What a program left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

impl Child {
    /// Registers a new child, so that its exit is kept for us whoever reaps it.
    pub(crate) fn claim(mut child: process::Child, spawning: Spawning) -> io::Result<Self> {
        let pid = child.id();
        let pidfd = pidfd_open(to_pid(pid), PidfdFlags::empty())?;
        spawning.claim(pid);
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        Ok(Self { pid, pidfd, exit: None, stdin, stdout, stderr })
    }

    /// Its process id. It may be another process's once this one was waited for.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor of the process itself. It becomes readable when the process ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends a signal to this process and to no other, however its number was used again.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        kill::by_fd(&self.pidfd, signal)
    }

    /// Waits for the process to end. Its standard input is closed first, lest it wait for us.
    pub fn wait(&mut self) -> io::Result<Exit> {
        self.stdin = None;
        match self.collect(WaitIdOptions::EXITED)? {
            Some(exit) => Ok(exit),
            None => Err(Errno::CHILD.into()),
        }
    }

    /// How the process ended, if it did.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        self.collect(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    /// Waits for the process to end, but no longer than this.
    pub fn wait_timeout(&mut self, timeout: Duration) -> io::Result<Option<Exit>> {
        self.stdin = None;
        let deadline = Instant::now() + timeout;
        while self.exit.is_none() && self.try_wait()?.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let left =
                Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.exit)
    }

    /// Reads both streams to their ends and waits.
    pub fn output(mut self) -> io::Result<Output> {
        self.stdin = None;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        match (self.stdout.take(), self.stderr.take()) {
            (Some(mut out), None) => _ = out.read_to_end(&mut stdout)?,
            (None, Some(mut err)) => _ = err.read_to_end(&mut stderr)?,
            (Some(out), Some(err)) => read_both((out, &mut stdout), (err, &mut stderr))?,
            (None, None) => {}
        }
        Ok(Output { exit: self.wait()?, stdout, stderr })
    }

    fn collect(&mut self, options: WaitIdOptions) -> io::Result<Option<Exit>> {
        if self.exit.is_none() {
            self.exit = match self.wait_once(options) {
                Ok(exit) => exit,
                Err(Errno::CHILD) => Some(reaper::claimed(self.pid).ok_or(Errno::CHILD)?),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(self.exit)
    }

    fn wait_once(&self, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                status => return Ok(status?.as_ref().and_then(Exit::from_waitid)),
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        reaper::disclaim(self.pid);
    }
}

/// Reads two streams at once, so that the writer never blocks on the one we are not looking at.
fn read_both(
    (mut out, stdout): (ChildStdout, &mut Vec<u8>),
    (mut err, stderr): (ChildStderr, &mut Vec<u8>),
) -> io::Result<()> {
    let (mut out_open, mut err_open) = (true, true);
    while out_open && err_open {
        let mut fds = [PollFd::new(&out, PollFlags::IN), PollFd::new(&err, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let [out_ready, err_ready] = fds.map(|fd| !fd.revents().is_empty());
        if out_ready {
            out_open = read_some(&mut out, stdout)?;
        }
        if err_ready {
            err_open = read_some(&mut err, stderr)?;
        }
    }
    out.read_to_end(stdout)?;
    err.read_to_end(stderr)?;
    Ok(())
}

fn read_some(from: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let mut buffer = [0; 8 << 10];
    match from.read(&mut buffer) {
        Ok(read) => {
            into.extend_from_slice(&buffer[..read]);
            Ok(read > 0)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

fn to_pid(pid: u32) -> Pid {
    Pid::from_raw(pid as i32).expect("a child's process id is not zero")
}
