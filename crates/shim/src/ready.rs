// SPDX-License-Identifier: Apache-2.0
use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::{Interest, unix::AsyncFd};

/// An open file that tells when it is worth trying again.
///
/// Try first, and wait only when the file says that it would block: readiness is told once for each
/// change, and forgotten when it was waited for.
pub struct Ready<T: AsFd> {
    watched: AsyncFd<Raw<T>>,
}

impl<T: AsFd> Ready<T> {
    /// Waits for something to read.
    pub fn to_read(file: T) -> io::Result<Self> {
        Self::watch(file, Interest::READABLE)
    }

    /// Waits for room to write.
    pub fn to_write(file: T) -> io::Result<Self> {
        Self::watch(file, Interest::WRITABLE)
    }

    /// Waits for either.
    pub fn to_read_and_write(file: T) -> io::Result<Self> {
        Self::watch(file, Interest::READABLE | Interest::WRITABLE)
    }

    #[allow(deprecated, reason = "what replaces it is unsafe, for files that lie about being open")]
    fn watch(file: T, interest: Interest) -> io::Result<Self> {
        Ok(Self { watched: AsyncFd::with_interest(Raw(file), interest)? })
    }

    /// Waits until reading may have become possible since it was last tried.
    pub async fn readable(&self) -> io::Result<()> {
        self.watched.readable().await?.clear_ready();
        Ok(())
    }

    /// Waits until writing may have become possible since it was last tried.
    pub async fn writable(&self) -> io::Result<()> {
        self.watched.writable().await?.clear_ready();
        Ok(())
    }

    /// The file.
    pub fn file(&self) -> &T {
        &self.watched.get_ref().0
    }

    /// The file, to be changed.
    pub fn file_mut(&mut self) -> &mut T {
        &mut self.watched.get_mut().0
    }
}

impl<T: AsFd> fmt::Debug for Ready<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ready").field(&self.file().as_fd()).finish()
    }
}

/// Makes reads and writes of a file fail rather than wait.
pub(crate) fn nonblocking<T: AsFd>(file: T) -> io::Result<T> {
    fcntl_setfl(&file, fcntl_getfl(&file)? | OFlags::NONBLOCK)?;
    Ok(file)
}

struct Raw<T>(T);

impl<T: AsFd> AsRawFd for Raw<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}
