// SPDX-License-Identifier: Apache-2.0
//! A user namespace nobody lives in: only its mapping of ids is wanted, for id-mapped mounts.
use std::{
    fmt::Write,
    io,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd},
};

use fs_err as fs;
use rustix::{
    io::Errno,
    process::{WaitId, WaitIdOptions, waitid},
};

use crate::kill;

/// A range of ids and what it becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdRange {
    /// The first id inside, as a container counts.
    pub container: u32,
    /// The first id outside.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// Opens a new user namespace with these mappings. It lives as long as the descriptor.
pub fn open(uids: &[IdRange], gids: &[IdRange]) -> io::Result<OwnedFd> {
    let sleeper = Sleeper::start()?;
    let proc = format!("/proc/{}", sleeper.pid);
    fs::write(format!("{proc}/uid_map"), to_text(uids))?;
    fs::write(format!("{proc}/gid_map"), to_text(gids))?;
    Ok(fs::File::open(format!("{proc}/ns/user"))?.into_parts().0.into())
}

fn to_text(ranges: &[IdRange]) -> String {
    let mut text = String::new();
    for IdRange { container, host, size } in ranges {
        writeln!(text, "{container} {host} {size}").expect("a string takes any text");
    }
    text
}

/// A process that does nothing, in a user namespace of its own. It ends when this is dropped.
///
/// It sends no `SIGCHLD` when it ends, so that no reaper ever sees it.
struct Sleeper {
    pid: i32,
    pidfd: OwnedFd,
}

impl Sleeper {
    fn start() -> io::Result<Self> {
        let mut pidfd = -1;
        let args = CloneArgs {
            flags: (libc::CLONE_NEWUSER | libc::CLONE_PIDFD) as u64,
            pidfd: &raw mut pidfd as u64,
            ..CloneArgs::default()
        };
        let parent = rustix::process::getpid().as_raw_pid();
        // SAFETY: without CLONE_VM and a stack of its own this is a fork: the child goes on with a
        // copy of this thread, and `args` is laid out as the kernel's struct clone_args.
        let pid =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => sleep_until_killed(parent),
            // SAFETY: the kernel has stored a new descriptor there for us.
            pid => Ok(Self { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } }),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Neither can fail while the descriptor is open and the process not waited for.
        drop(kill::by_fd(self.fd(), libc::SIGKILL));
        let options = WaitIdOptions::EXITED | WaitIdOptions::from_bits_retain(libc::__WALL as u32);
        while let Err(Errno::INTR) = waitid(WaitId::PidFd(self.fd()), options) {}
    }
}

/// The whole life of the sleeper. It is a copy of one thread of many: system calls only.
///
/// It lets go of our open files at once, lest it keep a pipe or a mount of ours busy.
fn sleep_until_killed(parent: i32) -> ! {
    // SAFETY: system calls on numbers. The files closed are the child's own copies, and nothing of
    // Rust's runs in it any more. Should our parent have ended before the signal was asked for, the
    // second look finds it and leaves.
    unsafe {
        libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        while libc::getppid() == parent {
            libc::pause();
        }
        libc::_exit(0)
    }
}

/// `struct clone_args` (linux/sched.h), the part that every kernel with clone3 knows.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_namespace_outlives_the_process_that_made_it() {
        let range = IdRange { container: 0, host: 100_000, size: 65_536 };
        let namespace = open(&[range], &[range]).unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", namespace.as_raw_fd())).unwrap();
        assert!(link.to_string_lossy().starts_with("user:["), "{}", link.display());
        assert_ne!(link, fs::read_link("/proc/self/ns/user").unwrap());
    }

    #[test]
    fn a_mapping_that_overlaps_itself_is_refused() {
        let range = IdRange { container: 0, host: 0, size: 10 };
        open(&[range, range], &[range]).unwrap_err();
    }
}
