// SPDX-License-Identifier: Apache-2.0
//! Work on a thread that stops sharing something with the rest of the process, and then ends.
//!
//! A thread that has left cannot come back, so it is thrown away with what it left for.
use std::{io, os::fd::BorrowedFd, panic, thread};

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// What a thread can stop sharing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// Its working directory, root and umask.
    Directory,
    /// Its mounts: what it mounts is seen by nobody else and gone when the thread has ended.
    Mounts,
    /// Its network: a new one with nothing but a loopback interface that is down.
    Network,
}

/// Runs `work` on a thread with something of its own, and waits for it. A panic goes on here.
pub fn with<T: Send>(own: Own, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    apart(|| leave(own), work)
}

/// Runs `work` on a thread inside another namespace, and waits for it. A panic goes on here.
pub fn inside<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    apart(|| Ok(move_into_link_name_space(namespace, None::<LinkNameSpaceType>)?), work)
}

fn apart<T: Send>(
    leave: impl FnOnce() -> io::Result<()> + Send,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    thread::scope(|scope| {
        let apart = thread::Builder::new().spawn_scoped(scope, || leave().map(|()| work()))?;
        apart.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

fn leave(own: Own) -> io::Result<()> {
    let flags = match own {
        Own::Directory => UnshareFlags::FS,
        Own::Mounts => UnshareFlags::NEWNS,
        Own::Network => UnshareFlags::NEWNET,
    };
    // SAFETY: of all that can be unshared only the table of open files would break what Rust
    // relies on, and that is not among the flags.
    unsafe { unshare_unsafe(flags) }?;
    if own == Own::Mounts {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::env;

    use super::*;

    #[test]
    fn a_directory_of_its_own_is_not_ours() {
        let before = env::current_dir().unwrap();
        let there = with(Own::Directory, || {
            env::set_current_dir("/proc").unwrap();
            env::current_dir().unwrap()
        });
        assert_eq!(there.unwrap().to_str(), Some("/proc"));
        assert_eq!(env::current_dir().unwrap(), before);
    }

    #[test]
    fn mounts_of_its_own_are_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        with(Own::Mounts, || {
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("tmpfs", dir.path(), "tmpfs", flags, None).unwrap();
            fs_err::write(&file, "").unwrap();
        })
        .unwrap();
        assert!(!file.exists());
    }
}
