// SPDX-License-Identifier: Apache-2.0
//! Taking away what nobody on the host looks after. No process of a container is ended, and nothing
//! that one wrote is removed.
use std::{io::ErrorKind, os::fd::OwnedFd, path::Path};

use fs_err as fs;
use mount::UnmountFlags;
use records::audit::{Repaired, Thing};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};
use types::{Error, Kind, Result};

use super::host::{self, Host, Places, TASKS};

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
        "shim" => end_shim(places, orphan),
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
///
/// The shim was found a moment ago, and its number may be another's by now. Whoever has the number is
/// held by a pidfd first, looked at then, and signalled through it: if that process is still there for
/// the signal, it was the one that was looked at.
fn end_shim(places: &Places, orphan: &Thing) -> Result<()> {
    let words: Vec<&str> = orphan.name.splitn(3, ' ').collect();
    let [pid, "of", id] = words[..] else { return Err(Error::invalid("not the name of a shim")) };
    let pid: u32 =
        pid.parse().map_err(|e| Error::caused(Kind::InvalidArgument, orphan.name.clone(), e))?;
    let name = (orphan.namespace.clone(), id.to_owned());
    let Some(process) = hold(pid)? else { return Ok(()) };
    if host::shim_of(Path::new("/proc"), pid, &places.address) != Some(name) {
        return Ok(());
    }
    let children = match children(pid) {
        Err(error) if is_gone(&error) => return Ok(()),
        children => children?,
    };
    if !children.is_empty() {
        let text = format!("its processes still run: {}", children.join(" "));
        return Err(Error::failed_precondition(text));
    }
    match sys::kill::by_fd(&process, Signal::KILL.as_raw()) {
        Err(error) if !is_gone(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

/// The process that has the number now, if there is one.
fn hold(pid: u32) -> std::io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => Ok(None),
        held => Ok(Some(held?)),
    }
}

/// Whether an error means that a process has ended.
fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// The children of all threads of a process. What cannot be read is not taken for none.
fn children(pid: u32) -> std::io::Result<Vec<String>> {
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

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::symlink, process::Stdio, time::Duration};

    use records::audit::State;
    use sys::{Child, Exit};
    use tempfile::TempDir;

    use super::*;

    /// A process that passes for the shim of `n/id` at the socket `/a`, and does what a shell is told.
    /// It has told that it has begun: a program has no command line yet when its start is reported.
    fn shim(folder: &TempDir, does: &str) -> Child {
        let program = folder.path().join("containerd-shim-test");
        if !program.exists() {
            symlink("/bin/sh", &program).unwrap();
        }
        let does = format!("exec 3<&0; {does} echo begun; read word");
        let words = ["-c", &does, "-namespace", "n", "-id", "id", "-address", "/a"];
        let command = sys::Command::new(program).args(words).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 6];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        child
    }

    fn end(name: String, namespace: &str) -> Result<()> {
        let places = Places { root: "/r".into(), state: "/s".into(), address: "/a".into() };
        let orphan = Thing {
            kind: "shim".into(),
            namespace: namespace.into(),
            name,
            path: None,
            size: 0,
            state: State::Orphan,
            owners: Vec::new(),
            since: None,
        };
        end_shim(&places, &orphan)
    }

    #[test]
    fn a_shim_that_looks_after_nobody_is_ended() {
        let folder = TempDir::new().unwrap();
        let mut child = shim(&folder, "");
        // Held, so that it does not end by itself.
        let _input = child.stdin.take();
        end(format!("{} of id", child.pid()), "n").unwrap();
        let exit = child.wait_timeout(Duration::from_mins(1)).unwrap();
        assert_eq!(exit, Some(Exit::Signal(Signal::KILL.as_raw())));
        end(format!("{} of id", child.pid()), "n").unwrap();
    }

    #[test]
    fn whoever_has_the_number_of_a_shim_by_now_is_left_alone() {
        let folder = TempDir::new().unwrap();
        let mut child = shim(&folder, "");
        end(format!("{} of another", child.pid()), "n").unwrap();
        end(format!("{} of id", child.pid()), "m").unwrap();
        end(format!("{} of id", std::process::id()), "n").unwrap();
        end("4194305 of id".into(), "n").unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it was ended");
        child.kill(9).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_shim_that_looks_after_somebody_is_left_alone() {
        let folder = TempDir::new().unwrap();
        // Both end when nobody holds their input any more.
        let mut child = shim(&folder, "cat <&3 &");
        let error = end(format!("{} of id", child.pid()), "n").unwrap_err();
        assert!(error.to_string().contains("its processes still run"), "{error}");
        assert!(child.try_wait().unwrap().is_none(), "it was ended");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
