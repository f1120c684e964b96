// SPDX-License-Identifier: Apache-2.0
//! Taking away what nobody on the host looks after. No process of a container is ended, and nothing
//! that one wrote is removed.
use std::{io::ErrorKind, path::Path};

use fs_err as fs;
use mount::UnmountFlags;
use records::audit::{Repaired, Thing};
use rustix::process::{Pid, Signal, kill_process};
use types::{Error, Result};

use super::host::{Host, Places, TASKS};

/// In which order: users before what they use, so that nothing is busy.
const ORDER: [&str; 6] = ["shim", "netns", "mount", "loop", "bundle", "cgroup"];

/// Takes the orphans away that were found on `host`.
pub(super) fn all(places: &Places, host: &Host, orphans: &[Thing]) -> Repaired {
    let mut done = Repaired::default();
    for kind in ORDER {
        // A mount comes before those on it, which go first.
        for orphan in orphans.iter().filter(|it| it.kind == kind).rev() {
            let what = format!("{kind} {}", orphan.name);
            match take_away(places, host, orphan) {
                Ok(()) => done.deeds.push(format!("removed {what}")),
                Err(error) => done.failures.push(format!("{what}: {error}")),
            }
        }
    }
    done
}

fn take_away(places: &Places, host: &Host, orphan: &Thing) -> Result<()> {
    let path = orphan.path.as_deref().unwrap_or(Path::new(""));
    match orphan.kind.as_str() {
        "shim" => end_shim(orphan),
        "mount" => mount::unmount(path, UnmountFlags::DETACH),
        "netns" => {
            mount::unmount_all(path, UnmountFlags::DETACH)?;
            absent(fs::remove_file(path))
        }
        "loop" => Ok(sys::loop_device::detach(path)?),
        "bundle" => remove_bundle(places, orphan, path),
        _ => host.directories_of(orphan).iter().try_for_each(|path| remove_group(path)),
    }
}

/// A shim that has nobody to look after is ended. One that has would leave a container to itself.
fn end_shim(orphan: &Thing) -> Result<()> {
    let pid: i32 = orphan.name.split(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
    let children = match children(pid) {
        Err(error) if error.kind() == ErrorKind::NotFound && !alive(pid) => return Ok(()),
        children => children?,
    };
    if !children.is_empty() {
        let text = format!("its processes still run: {}", children.join(" "));
        return Err(Error::failed_precondition(text));
    }
    let Some(pid) = Pid::from_raw(pid) else { return Ok(()) };
    match kill_process(pid, Signal::KILL) {
        Err(error) if error != rustix::io::Errno::SRCH => Err(std::io::Error::from(error).into()),
        _ => Ok(()),
    }
}

fn alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The children of all threads of a process. What cannot be read is not taken for none.
fn children(pid: i32) -> std::io::Result<Vec<String>> {
    let mut all = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let children = fs::read_to_string(thread?.path().join("children"))?;
        all.extend(children.split_whitespace().map(str::to_owned));
    }
    Ok(all)
}

/// Only what is not mounted is removed: below a mount are somebody's files.
fn remove_bundle(places: &Places, orphan: &Thing, path: &Path) -> Result<()> {
    mount::unmount_recursive(path, UnmountFlags::DETACH)?;
    absent(fs::remove_dir_all(path))?;
    let work = places.root.join(TASKS).join(&orphan.namespace).join(&orphan.name);
    absent(fs::remove_dir_all(work))
}

/// Removes an empty group and those below it; one that somebody has entered meanwhile stays.
fn remove_group(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path)?.flatten().filter(|entry| entry.path().is_dir()) {
        remove_group(&entry.path())?;
    }
    absent(fs::remove_dir(path))
}

fn absent(removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
