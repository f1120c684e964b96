// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use fs_err::File;
use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags},
    io::Errno,
};
use types::{Error, Result};

use super::blocking;
use crate::Reader;

/// An open blob. A blob never changes, so its size is asked for once, and removing it does not harm
/// who has it open.
struct Blob {
    file: Arc<File>,
    size: u64,
}

pub(super) fn open(path: &Path) -> io::Result<impl Reader + 'static> {
    let file = open_file(path)?;
    let size = file.metadata()?.len();
    Ok(Blob { file: Arc::new(file), size })
}

/// Leaves the `atime` alone: it tells when the labels changed. Only the owner of a file may do that,
/// so anyone else reads as usual.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
        opened => opened,
    };
    Ok(File::from_parts(std::fs::File::from(opened?), PathBuf::from(path)))
}

#[async_trait]
impl Reader for Blob {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = self.size.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(len);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let file = Arc::clone(&self.file);
        blocking(move || read_at(&file, offset, len)).await
    }

    fn into_sync(self: Box<Self>) -> Box<dyn io::Read + Send> {
        match Arc::try_unwrap(self.file) {
            Ok(file) => Box::new(file),
            Err(shared) => Box::new(Shared { file: shared, at: 0 }),
        }
    }
}

fn read_at(file: &File, mut offset: u64, len: usize) -> Result<Bytes> {
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        match rustix::io::pread(file, spare_capacity(&mut buffer), offset) {
            Ok(0) => break,
            Ok(read) => offset += read as u64,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(file, error)),
        }
    }
    buffer.truncate(len);
    Ok(buffer.into())
}

fn failed(file: &File, error: Errno) -> Error {
    Error::from(io::Error::from(error)).context(format!("read {}", file.path().display()))
}

/// The file of a blob that a read on another thread has not let go of yet.
struct Shared {
    file: Arc<File>,
    at: u64,
}

impl io::Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = rustix::io::pread(&self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
