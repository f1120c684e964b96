// SPDX-License-Identifier: Apache-2.0
//! Which process ended how, told to whoever waits for it, however early it ended.
//!
//! A container's process may be dead before the program that started it has told us its number.
//! So while something is being started ([`Exits::expect`]), the exits of strangers are kept:
//!
//! ```text
//! expect() ---- runc create ----> pid ---- watch(pid) ---> at once, if it is dead already
//!    `-- reaper: an unknown pid ended: kept --------'
//! ```
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use sys::{
    Exit,
    reaper::{Reaped, Reaper},
};
use tracing::error;

use crate::Ready;

/// How and when a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// How.
    pub exit: Exit,
    /// When we learned of it.
    pub at: SystemTime,
}

/// The exits of all processes that are left to this one. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Exits {
    table: Arc<Mutex<Table>>,
}

type Watcher = Box<dyn FnOnce(Exited) + Send>;

#[derive(Default)]
struct Table {
    watched: BTreeMap<u32, Watcher>,
    early: BTreeMap<u32, Exited>,
    expecting: usize,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("watched", &self.watched.keys()).finish_non_exhaustive()
    }
}

/// While this lives, something is being started.
#[derive(Debug)]
pub struct Expecting {
    exits: Exits,
}

impl Exits {
    /// Announces that a process will be watched whose number is not known yet.
    pub fn expect(&self) -> Expecting {
        self.lock().expecting += 1;
        Expecting { exits: self.clone() }
    }

    /// Has `then` called once the process has ended, which may be now.
    pub fn watch(&self, pid: u32, then: impl FnOnce(Exited) + Send + 'static) {
        let early = {
            let mut table = self.lock();
            match table.early.remove(&pid).filter(|_| !is_child(pid)) {
                Some(exited) => exited,
                None => return drop(table.watched.insert(pid, Box::new(then))),
            }
        };
        then(early);
    }

    /// Passes exits on for as long as this process lives.
    pub(crate) async fn follow(self, reaper: Reaper) {
        let reaper = match Ready::to_read(reaper) {
            Ok(reaper) => reaper,
            Err(error) => return error!(%error, "reaper"),
        };
        loop {
            if let Err(error) = reaper.readable().await {
                return error!(%error, "reaper");
            }
            match reaper.file().reap() {
                Ok(reaped) => reaped.into_iter().for_each(|one| self.deliver(one)),
                Err(error) => error!(%error, "reap exit status"),
            }
        }
    }

    fn deliver(&self, Reaped { pid, exit }: Reaped) {
        let exited = Exited { exit, at: SystemTime::now() };
        let watcher = {
            let mut table = self.lock();
            let watcher = table.watched.remove(&pid);
            if watcher.is_none() && table.expecting > 0 {
                table.early.insert(pid, exited);
            }
            watcher
        };
        if let Some(then) = watcher {
            then(exited);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut table = self.exits.lock();
        table.expecting -= 1;
        if table.expecting == 0 {
            table.early.clear();
        }
    }
}

/// Whether a process of this number lives and is ours: then the exit that was kept is of one that
/// had the number before.
fn is_child(pid: u32) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), options), Ok(None)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PID: u32 = 4_000_000;

    fn reaped(code: i32) -> Reaped {
        Reaped { pid: PID, exit: Exit::Code(code) }
    }

    fn watch(exits: &Exits) -> mpsc::Receiver<Exit> {
        let (sender, receiver) = mpsc::channel();
        exits.watch(PID, move |exited| sender.send(exited.exit).unwrap());
        receiver
    }

    #[test]
    fn an_exit_is_told_to_its_watcher_once() {
        let exits = Exits::default();
        let told = watch(&exits);
        exits.deliver(reaped(3));
        exits.deliver(reaped(4));
        assert_eq!(told.iter().collect::<Vec<_>>(), [Exit::Code(3)]);
    }

    #[test]
    fn an_exit_before_the_watch_is_kept_while_expected() {
        let exits = Exits::default();
        let expecting = exits.expect();
        exits.deliver(reaped(5));
        assert_eq!(watch(&exits).try_recv(), Ok(Exit::Code(5)));
        exits.deliver(reaped(6));
        drop(expecting);
        assert!(watch(&exits).try_recv().is_err(), "an exit of old was told");
    }

    #[test]
    fn a_living_child_has_not_ended_though_one_of_its_number_had() {
        let mut child = sys::Command::new("sleep").arg("100").spawn().unwrap();
        let exits = Exits::default();
        let _expecting = exits.expect();
        exits.deliver(Reaped { pid: child.pid(), exit: Exit::Code(0) });
        let (sender, receiver) = mpsc::channel();
        exits.watch(child.pid(), move |exited| sender.send(exited).unwrap());
        assert!(receiver.try_recv().is_err());
        child.kill(9).unwrap();
        child.wait().unwrap();
    }
}
