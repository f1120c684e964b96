// SPDX-License-Identifier: Apache-2.0
//! Collecting every child that ended, including those that were left to us.
//!
//! A process that is a subreaper inherits orphans, and must wait for whatever comes. That would
//! steal the exit of a child from whoever waits for that one. So children of
//! [`Command`](crate::Command) are *claimed*: [`reap`] reports them all, and keeps the exit of a
//! claimed one for its [`Child`](crate::Child) as well.
//!
//! ```text
//! Spawning (lock) -- fork, exec, claim(pid) --.
//! reap()   (lock) -- waitpid(-1) ... keep ----+--> CLAIMS: pid -> exit --> Child::wait
//! ```
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    io::Errno,
    process::{Signal, WaitOptions, getpid, set_child_subreaper, wait},
};

use crate::{Exit, Signals};

/// Claimed children, and how they ended once the reaper knows.
static CLAIMS: Mutex<BTreeMap<u32, Option<Exit>>> = Mutex::new(BTreeMap::new());

/// A child that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    /// Its process id, free to be used again.
    pub pid: u32,
    /// How it ended.
    pub exit: Exit,
}

/// A source of the children that end, ours and those left to us.
///
/// Its descriptor is readable when it is worth calling [`Reaper::reap`].
#[derive(Debug)]
pub struct Reaper {
    signals: Signals,
}

impl Reaper {
    /// Becomes the parent of orphaned descendants, and blocks `SIGCHLD` to read it as data.
    ///
    /// Call it before the process has other threads: they inherit the signal mask of their maker,
    /// and one that does not block the signal would swallow it.
    pub fn adopt() -> io::Result<Self> {
        become_subreaper()?;
        Ok(Self { signals: Signals::block(&[Signal::CHILD])? })
    }

    /// All that ended since the last call.
    pub fn reap(&self) -> io::Result<Vec<Reaped>> {
        while self.signals.next()?.is_some() {}
        reap()
    }
}

impl AsFd for Reaper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// Has the kernel give us the orphans among our descendants.
pub fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(getpid()))?)
}

/// Collects every child that ended, without waiting for one that has not.
pub fn reap() -> io::Result<Vec<Reaped>> {
    let mut claims = claims();
    let mut reaped = Vec::new();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get().unsigned_abs();
                let Some(exit) = Exit::from_wait(status) else { continue };
                if let Some(claim) = claims.get_mut(&pid) {
                    *claim = Some(exit);
                }
                reaped.push(Reaped { pid, exit });
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(reaped),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The time between fork and claim, in which nothing may be reaped: the child is not claimed yet,
/// and `std` itself waits for one whose exec failed.
pub(crate) struct Spawning(MutexGuard<'static, BTreeMap<u32, Option<Exit>>>);

impl Spawning {
    pub(crate) fn begin() -> Self {
        Self(claims())
    }

    /// Ends the time: the exit of this child is kept from now on.
    pub(crate) fn claim(mut self, pid: u32) {
        self.0.insert(pid, None);
    }
}

/// How a claimed child ended, if the reaper was faster than its owner.
pub(crate) fn claimed(pid: u32) -> Option<Exit> {
    claims().get(&pid).copied().flatten()
}

/// Gives up a claim.
pub(crate) fn disclaim(pid: u32) {
    claims().remove(&pid);
}

fn claims() -> MutexGuard<'static, BTreeMap<u32, Option<Exit>>> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}
