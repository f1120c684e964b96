// SPDX-License-Identifier: Apache-2.0
//! Sending signals by number, as they come over the wire: real-time signals have no name.
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::io::Errno;

/// Sends a signal to a process. Number 0 only asks whether it exists.
pub fn process(pid: u32, signal: i32) -> io::Result<()> {
    send(one(pid)?, signal)
}

/// Sends a signal to every process of a group.
pub fn group(leader: u32, signal: i32) -> io::Result<()> {
    send(-one(leader)?, signal)
}

/// Sends a signal to the process behind a pidfd, and to no other.
pub fn by_fd(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open as long as `pidfd` is borrowed, and without a siginfo the
    // kernel makes one up.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    checked(sent)
}

/// Whether a process exists, be it only as a zombie.
pub fn exists(pid: u32) -> bool {
    match process(pid, 0) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() != Some(libc::ESRCH),
    }
}

/// One process: 0 and negative numbers would mean whole groups to the kernel.
fn one(pid: u32) -> io::Result<i32> {
    match i32::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(Errno::SRCH.into()),
    }
}

fn send(to: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    checked(unsafe { libc::kill(to, signal) }.into())
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_zero_is_nobody() {
        assert_eq!(process(0, libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(group(0, libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(process(u32::MAX, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn we_exist() {
        assert!(exists(std::process::id()));
        assert!(!exists(i32::MAX as u32));
    }
}
