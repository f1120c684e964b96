// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::process::Signal;

/// Signals as data: blocked, and read from a descriptor that an event loop can wait on.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Which one.
    pub signal: Signal,
    /// The process that sent it, or that it is about.
    pub pid: u32,
}

impl Signals {
    /// Blocks these signals in this thread, and in threads it makes from now on. Call it before
    /// there are other threads: a signal goes to any thread that does not block it.
    ///
    /// Children do not inherit the mask when they are started by [`Command`](crate::Command).
    pub fn block(signals: &[Signal]) -> io::Result<Self> {
        let set = set_of(signals);
        // SAFETY: `set` was filled in by `set_of`; the old mask is not asked for.
        let failed =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: `set` is valid as above, and -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &raw const set, flags) };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal, if one has come. Several of one kind may have become one.
    pub fn next(&self) -> io::Result<Option<Received>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer has room for `size` bytes.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read == size as isize {
            // SAFETY: the kernel has written a whole record, and any bytes are a valid one.
            let info = unsafe { info.assume_init() };
            let signal = Signal::from_named_raw(info.ssi_signo as i32);
            return Ok(signal.map(|signal| Received { signal, pid: info.ssi_pid }));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error if error.kind() == io::ErrorKind::Interrupted => self.next(),
            error => Err(error),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initializes the whole set and cannot fail on a valid pointer.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for signal in signals {
        // SAFETY: the set is initialized; an unknown number is refused and changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal.as_raw()) };
    }
    set
}
