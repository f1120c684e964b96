// SPDX-License-Identifier: Apache-2.0
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{self, Stdio},
    time::Duration,
};

use rustix::{
    fs::{MemfdFlags, Mode, memfd_create},
    io::fcntl_dupfd_cloexec,
    process::{Pid, Signal},
};

use crate::{Output, child::Child, oom_score, reaper::Spawning};

/// A program to be run, with what `std` cannot say of it.
///
/// It is the way to run anything in a process that reaps all its children: a [`Child`] learns how it
/// ended even when [`reap`](crate::reaper::reap) was faster. Children start with no signal blocked
/// and with `SIGPIPE` at its default, whatever this process does with its own.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// let output = sys::Command::new("runc").args(["--version"]).output()?;
/// assert!(output.exit.success());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Command {
    inner: process::Command,
    setup: Setup,
    fds: Moves,
}

/// Files, and the numbers that they shall have in the child.
type Moves = Vec<(OwnedFd, RawFd)>;

/// What the child does between fork and exec. Plain data, because it may not allocate there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Setup {
    session: bool,
    terminal: bool,
    parent_death: Option<(Signal, Option<Pid>)>,
    umask: Option<Mode>,
    oom_score: Option<oom_score::Text>,
    core_scheduling: bool,
}

impl Command {
    /// A program by its path, or by its name in `$PATH`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self { inner: process::Command::new(program), setup: Setup::default(), fds: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Removes a variable from what is inherited.
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.inner.env_remove(key);
        self
    }

    /// Inherits nothing of the environment.
    pub fn env_clear(mut self) -> Self {
        self.inner.env_clear();
        self
    }

    /// Starts in this directory.
    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// Sets standard input; inherited unless set.
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.inner.stdin(stdin);
        self
    }

    /// Sets standard output; inherited unless set.
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.inner.stdout(stdout);
        self
    }

    /// Sets standard error; inherited unless set.
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.inner.stderr(stderr);
        self
    }

    /// Makes the child the leader of a process group of its own, so that signals of the terminal and
    /// to our group do not reach it.
    pub fn process_group(mut self) -> Self {
        self.inner.process_group(0);
        self
    }

    /// Makes the child the leader of a new session, and so of a new process group without a terminal.
    pub fn session(mut self) -> Self {
        self.setup.session = true;
        self
    }

    /// Makes the child's standard input its controlling terminal, in a new session.
    pub fn controlling_terminal(mut self) -> Self {
        self.setup.terminal = true;
        self.session()
    }

    /// Has the kernel send `signal` when the thread that spawned the child ends.
    ///
    /// It is the *thread*, not the process: do not use it from a pool whose threads come and go.
    pub fn parent_death_signal(mut self, signal: Signal) -> Self {
        self.setup.parent_death = Some((signal, None));
        self
    }

    /// Sets the file mode creation mask.
    pub fn umask(mut self, mask: u32) -> Self {
        self.setup.umask = Some(Mode::from_raw_mode(mask));
        self
    }

    /// Sets the child's `oom_score_adj`, as far as the kernel lets us: to lower it takes a capability
    /// that may be missing, and that is no reason not to run.
    pub fn oom_score_adj(mut self, score: i32) -> Self {
        self.setup.oom_score = Some(oom_score::Text::new(score));
        self
    }

    /// Has the child share processor cores only with what it starts itself: no other process runs on
    /// a sibling thread of a core meanwhile (kernel documentation, `hw-vuln/core-scheduling`).
    ///
    /// Where the kernel cannot, or has no cores with threads, the child does not start.
    pub fn core_scheduling(mut self) -> Self {
        self.setup.core_scheduling = true;
        self
    }

    /// Hands the child an open file under the given number, which is 3 or more. A child of ours
    /// picks it up with [`inherited::take`](crate::inherited::take).
    pub fn pass_fd(mut self, fd: impl Into<OwnedFd>, number: RawFd) -> Self {
        self.fds.push((fd.into(), number));
        self
    }

    /// Starts the program. The child can be waited for, or left to the reaper.
    pub fn spawn(mut self) -> io::Result<Child> {
        let _reserved = self.prepare()?;
        let spawning = Spawning::begin();
        let child = self.inner.spawn()?;
        Child::claim(child, spawning)
    }

    /// Runs the program to its end and collects what it wrote. Input is empty unless set before.
    pub fn output(mut self) -> io::Result<Output> {
        self.inner.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn()?.output()
    }

    /// Runs the program to its end and collects both streams into one, as they came.
    pub fn combined_output(mut self) -> io::Result<Output> {
        let (reader, writer) = io::pipe()?;
        self.inner.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = self.spawn()?;
        child.stdout = Some(OwnedFd::from(reader).into());
        child.output()
    }

    /// Runs the program to its end, with the input set before, and collects both streams into one, as
    /// they came. One that takes longer than `patience` is killed, and `TimedOut`.
    pub fn output_within(mut self, patience: Duration) -> io::Result<Output> {
        let mut said = File::from(memfd_create("said", MemfdFlags::CLOEXEC)?);
        self.inner.stdout(said.try_clone()?).stderr(said.try_clone()?);
        let mut child = self.spawn()?;
        let Some(exit) = child.wait_timeout(patience)? else {
            child.kill(9)?;
            child.wait()?;
            let text = format!("the program did not end within {patience:?}");
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        };
        let mut stdout = Vec::new();
        said.rewind()?;
        said.read_to_end(&mut stdout)?;
        Ok(Output { exit, stdout, stderr: Vec::new() })
    }

    /// Arms the child's side of things. What it returns must live until the child runs.
    fn prepare(&mut self) -> io::Result<Vec<OwnedFd>> {
        if let Some((_, parent)) = &mut self.setup.parent_death {
            *parent = Some(rustix::process::getpid());
        }
        let (moves, reserved) = self.plan_fds()?;
        if self.setup != Setup::default() || !moves.is_empty() {
            let setup = self.setup;
            let run = move || {
                setup.apply()?;
                moves.iter().try_for_each(|(from, to)| move_fd(from.as_raw_fd(), *to))
            };
            // SAFETY: `run` only makes system calls on data made before the fork: it neither
            // allocates nor takes a lock, so it is safe in the child of a process with threads.
            unsafe { self.inner.pre_exec(run) };
        }
        Ok(reserved)
    }

    /// Copies the files out of the way of the numbers they shall get, and reserves those numbers
    /// here, so that the pipe over which `std` learns of a failed exec does not land on one of them.
    fn plan_fds(&self) -> io::Result<(Moves, Vec<OwnedFd>)> {
        let Some(last) = self.fds.iter().map(|(_, number)| *number).max() else {
            return Ok((Vec::new(), Vec::new()));
        };
        if self.fds.iter().any(|(_, number)| *number < 3) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "standard streams have methods",
            ));
        }
        let mut moves = Vec::with_capacity(self.fds.len());
        for (fd, number) in &self.fds {
            moves.push((fcntl_dupfd_cloexec(fd.as_fd(), last + 1)?, *number));
        }
        let mut reserved = Vec::with_capacity(self.fds.len());
        for (fd, number) in &self.fds {
            reserved.push(fcntl_dupfd_cloexec(fd.as_fd(), *number)?);
        }
        Ok((moves, reserved))
    }
}

impl Setup {
    /// Runs in the child, between fork and exec.
    fn apply(&self) -> io::Result<()> {
        if let Some(mask) = self.umask {
            rustix::process::umask(mask);
        }
        if let Some(score) = &self.oom_score {
            score.apply_to_self();
        }
        if self.session {
            rustix::process::setsid()?;
        }
        if self.terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        if self.core_scheduling {
            new_core_cookie()?;
        }
        self.parent_death.map_or(Ok(()), |(signal, parent)| die_with_parent(signal, parent))
    }
}

fn new_core_cookie() -> io::Result<()> {
    // The kernel takes all of them as long numbers.
    let long = |number: i32| number as libc::c_ulong;
    let create = long(libc::PR_SCHED_CORE_CREATE);
    let scope = long(libc::PR_SCHED_CORE_SCOPE_THREAD_GROUP);
    // SAFETY: the call takes plain numbers, and writes nothing for this operation.
    let made = unsafe { libc::prctl(libc::PR_SCHED_CORE, create, long(0), scope, long(0)) };
    if made == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for the signal, then looks whether the parent was faster: nobody would send it any more.
fn die_with_parent(signal: Signal, parent: Option<Pid>) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(signal))?;
    if rustix::process::getppid() != parent {
        rustix::process::kill_process(rustix::process::getpid(), signal)?;
    }
    Ok(())
}

/// Gives an open file another number, under which exec keeps it open.
fn move_fd(from: RawFd, to: RawFd) -> io::Result<()> {
    // SAFETY: both numbers are plain integers to the kernel; whatever stood under `to` is closed
    // in the child only, where nothing else uses it.
    match unsafe { libc::dup2(from, to) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
