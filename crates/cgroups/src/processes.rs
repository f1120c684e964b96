// SPDX-License-Identifier: Apache-2.0
//! The processes of a tree of cgroups: listing them, ending them, removing the empty tree.
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use fs_err as fs;
use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};
use types::{Error, Kind, Result};

/// How long processes may take to die once they were told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a removal is tried, at pauses that double from ten milliseconds (containerd/cgroups
/// `cgroup1/utils.go`, `remove`).
const REMOVALS: u32 = 5;

/// All processes in a cgroup and below it. A cgroup that is gone has none.
pub(crate) fn list(dir: &Path) -> Result<Vec<u32>> {
    let mut pids = Vec::new();
    for dir in tree(dir)? {
        match read_procs(&dir) {
            Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                return Err(Error::from(error).context(format!("processes of {}", dir.display())));
            }
        }
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn read_procs(dir: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = open(dir.join("cgroup.procs"), flags, Mode::empty())?;
    let mut text = String::new();
    File::from(file).read_to_string(&mut text)?;
    Ok(text)
}

/// Ends all processes in a cgroup and below it, and waits until there are none.
///
/// Linux 5.14 can do it at once in a tree of version 2. Elsewhere new processes may appear while we
/// look, so the tree is frozen meanwhile where it can be, and looked at until it is empty.
pub(crate) fn kill(dir: &Path, freezer: Option<&Path>) -> Result<()> {
    let at_once = fs::write(dir.join("cgroup.kill"), "1").is_ok();
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    loop {
        let left = if at_once { list(dir)? } else { signal_all(dir, freezer)? };
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let message = format!("cgroup {}: {} processes do not end", dir.display(), left.len());
            return Err(Error::unavailable(message));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn signal_all(dir: &Path, freezer: Option<&Path>) -> Result<Vec<u32>> {
    freeze(freezer, true);
    let pids = list(dir);
    for pid in pids.iter().flatten() {
        // It may have ended by itself.
        drop(sys::kill::process(*pid, SIGKILL));
    }
    freeze(freezer, false);
    pids
}

const SIGKILL: i32 = rustix::process::Signal::KILL.as_raw();

/// Freezes or thaws as far as possible: it is a help and not needed. Both versions are tried.
fn freeze(dir: Option<&Path>, frozen: bool) {
    let Some(dir) = dir else { return };
    let (v1, v2) = if frozen { ("FROZEN", "1") } else { ("THAWED", "0") };
    for (file, state) in [("freezer.state", v1), ("cgroup.freeze", v2)] {
        let file = dir.join(file);
        if file.exists() {
            drop(fs::write(file, state));
        }
    }
}

/// Removes an empty cgroup and those below it, the deepest first.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    let mut pause = Duration::from_millis(10);
    for _ in 1..REMOVALS {
        if remove_once(dir).is_ok() {
            return Ok(());
        }
        thread::sleep(pause);
        pause *= 2;
    }
    remove_once(dir).map_err(|error| {
        let message = format!("cgroups: unable to remove path {:?}", dir.to_string_lossy());
        Error::caused(Kind::FailedPrecondition, message, error)
    })
}

fn remove_once(dir: &Path) -> Result<()> {
    for dir in tree(dir)?.into_iter().rev() {
        match fs::remove_dir(dir) {
            Err(error) if !is_gone(&error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// A directory and all below it, each before what is in it. One that is gone has nothing.
fn tree(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut dirs = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = dirs.get(next) {
        let below = match children(dir) {
            Err(error) if is_gone(&error) => Vec::new(),
            below => below?,
        };
        dirs.extend(below);
        next += 1;
    }
    Ok(dirs)
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut below = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            below.push(entry.path());
        }
    }
    Ok(below)
}

/// A cgroup that was removed under our hands is `ENOENT` by name and `ENODEV` by open file.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::NODEV.raw_os_error())
}
