// SPDX-License-Identifier: Apache-2.0
//! Open files that our parent left us.
use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// Takes over the open file that our parent passed under `number`, and keeps it from our children.
///
/// What a parent passed is open and not close-on-exec, or it would not be here; what this process
/// opens itself is close-on-exec from the start. So nothing that another part of the program owns
/// can be taken, nor the same file twice: both are [`io::ErrorKind::NotFound`].
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: on a number that is not open, fcntl fails with EBADF and does nothing else.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if number < 3 || flags == -1 || flags & libc::FD_CLOEXEC != 0 {
        let message = format!("no file was inherited as number {number}");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    // SAFETY: as above; the flag marks the file as taken.
    if unsafe { libc::fcntl(number, libc::F_SETFD, flags | libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and was not close-on-exec: no Rust code of this process opened it, and so
    // nobody owns it yet.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_we_opened_ourselves_cannot_be_taken() {
        let file = fs_err::File::open("/dev/null").unwrap();
        assert_eq!(take(file.as_raw_fd()).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_number_that_is_not_open_cannot_be_taken() {
        assert_eq!(take(9_999).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
