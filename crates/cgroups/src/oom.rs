// SPDX-License-Identifier: Apache-2.0
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::inotify,
};
use types::{Context, Error, Result};

use crate::values::Table;

/// A watch over a cgroup that may run out of memory.
///
/// Its descriptor is readable when it is worth calling [`OomWatch::check`]; it never blocks.
#[derive(Debug)]
pub struct OomWatch {
    events: File,
    dir: PathBuf,
    unified: bool,
    kills: u64,
}

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OomReport {
    /// Memory ran out.
    pub oom: bool,
    /// The cgroup is gone, or has no process any more: nothing will happen again.
    pub gone: bool,
}

impl OomWatch {
    pub(crate) fn start(dir: &Path, unified: bool) -> Result<Self> {
        if kills(dir, unified).is_none() {
            let message = "memory cgroup not supported on this system";
            return Err(Error::failed_precondition(message));
        }
        let events = if unified { watch_files(dir) } else { register_event(dir) };
        let events = events.context(|| format!("watch memory of cgroup {}", dir.display()))?;
        let kills = kills(dir, unified).unwrap_or_default();
        Ok(Self { events, dir: dir.to_owned(), unified, kills })
    }

    /// Looks at what happened.
    pub fn check(&mut self) -> Result<OomReport> {
        let signalled = self.drain()?;
        if !self.dir.is_dir() {
            return Ok(OomReport { oom: false, gone: true });
        }
        if !self.unified {
            return Ok(OomReport { oom: signalled, gone: false });
        }
        // The kernel counts at once, and tells of it when it finds the time: whoever looks because a
        // process has ended is often faster.
        let Some(kills) = kills(&self.dir, true) else {
            return Ok(OomReport { oom: false, gone: true });
        };
        let oom = kills > self.kills;
        self.kills = kills;
        Ok(OomReport { oom, gone: is_empty(&self.dir) })
    }

    /// Reads all events away; answers whether there were any. What they say is in the files too.
    fn drain(&mut self) -> Result<bool> {
        let mut any = false;
        let mut buffer = [0; 4096];
        loop {
            match self.events.read(&mut buffer) {
                Ok(read) if read > 0 => any = true,
                Ok(_) => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// How many processes were killed for want of memory.
pub(crate) fn kills(dir: &Path, unified: bool) -> Option<u64> {
    let file = if unified { "memory.events" } else { "memory.oom_control" };
    Table::read(dir, file).map(|table| table.get("oom_kill"))
}

/// Version 1: an eventfd, made known by writing its number (kernel documentation,
/// `admin-guide/cgroup-v1/memory.rst`, section 10). It fires too when the cgroup is removed.
fn register_event(dir: &Path) -> io::Result<File> {
    let events = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = fs::File::open(dir.join("memory.oom_control"))?;
    let numbers = format!("{} {}", events.as_raw_fd(), control.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), numbers)?;
    Ok(events.into())
}

/// Version 2: the file of counters changes, and so does the one that says whether anybody is left.
fn watch_files(dir: &Path) -> io::Result<File> {
    let events = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    for file in ["memory.events", "cgroup.events"] {
        inotify::add_watch(&events, dir.join(file), inotify::WatchFlags::MODIFY)?;
    }
    Ok(events.into())
}

fn is_empty(dir: &Path) -> bool {
    Table::read(dir, "cgroup.events").is_none_or(|table| table.get("populated") == 0)
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// Files as the kernel has them in a cgroup of version 2 whose memory is controlled, which not
    /// every host can show.
    fn counted(dir: &Path, kills: u64) {
        let text = format!("low 0\nhigh 0\nmax 7\noom {kills}\noom_kill {kills}\n");
        fs::write(dir.join("memory.events"), text).unwrap();
        fs::write(dir.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
    }

    /// Whether whoever waits for the watch would be woken up within a while.
    fn wakes(watch: &OomWatch, milliseconds: i64) -> bool {
        let limit = Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
        poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&limit)).unwrap() > 0
    }

    #[test]
    fn whoever_waits_is_woken_up_by_a_kill_and_by_the_end() {
        let dir = tempfile::tempdir().unwrap();
        counted(dir.path(), 0);
        let mut watch = OomWatch::start(dir.path(), true).unwrap();
        assert!(!wakes(&watch, 10), "nothing has happened");

        counted(dir.path(), 1);
        assert!(wakes(&watch, 900));
        assert_eq!(watch.check().unwrap(), OomReport { oom: true, gone: false });
        assert!(!wakes(&watch, 10), "all of it was read");

        // It met its limit, and nobody was killed for it.
        let text = "low 0\nhigh 0\nmax 8\noom 2\noom_kill 1\n";
        fs::write(dir.path().join("memory.events"), text).unwrap();
        assert!(wakes(&watch, 900));
        assert_eq!(watch.check().unwrap(), OomReport::default());

        fs::write(dir.path().join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        assert!(wakes(&watch, 900));
        assert_eq!(watch.check().unwrap(), OomReport { oom: false, gone: true });
        drop(dir);
        assert!(watch.check().unwrap().gone);
    }

    #[test]
    fn memory_that_is_not_counted_cannot_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.events"), "populated 1\n").unwrap();
        let error = OomWatch::start(dir.path(), true).unwrap_err();
        assert_eq!(error.kind(), types::Kind::FailedPrecondition);
    }

    #[test]
    fn a_kill_is_found_before_the_kernel_has_told_of_it() {
        let dir = tempfile::tempdir().unwrap();
        counted(dir.path(), 1);
        let mut watch = OomWatch::start(dir.path(), true).unwrap();
        assert_eq!(watch.check().unwrap(), OomReport::default(), "it was killed before");
        counted(dir.path(), 2);
        drop(watch.drain());
        assert!(watch.check().unwrap().oom);
        assert!(!watch.check().unwrap().oom, "it was told already");
    }
}
