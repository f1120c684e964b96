// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, IoSliceMut},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use fs_err::File;
use rustix::{
    buffer::spare_capacity,
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags},
    io::{Errno, ReadWriteFlags},
};
use types::{Error, Result};

use super::blocking;
use crate::{Piece, Reader};

/// An open blob. A blob never changes, so its size is asked for once, and removing it does not harm
/// who has it open.
pub(super) struct Blob {
    file: Arc<File>,
    size: u64,
}

pub(super) fn open(path: &Path) -> io::Result<Blob> {
    let file = open_file(path)?;
    let size = file.metadata()?.len();
    Ok(Blob { file: Arc::new(file), size })
}

/// A reader of a blob whose open file somebody handed over, `name` for what is told of it. The file
/// is its own: nobody else reads from it.
///
/// Errors: `InvalidArgument` for what is no file, cannot be read, or could be written.
pub fn opened(file: OwnedFd, name: &str) -> Result<Box<dyn Reader>> {
    let refused = |what: &str| Err(Error::invalid(format!("{name} is {what}")));
    let is_file = rustix::fs::fstat(&file).map(|it| FileType::from_raw_mode(it.st_mode).is_file());
    if !is_file.map_err(io::Error::from)? {
        return refused("no file");
    }
    let access = rustix::fs::fcntl_getfl(&file).map_err(io::Error::from)? & OFlags::ACCMODE;
    if access != OFlags::RDONLY {
        return refused("not open for reading alone");
    }
    let file = File::from_parts(std::fs::File::from(file), PathBuf::from(name));
    let size = file.metadata()?.len();
    Ok(Box::new(Blob { file: Arc::new(file), size }))
}

/// A piece of the blob at `path`, if nothing has to be waited for: neither a directory, nor an inode,
/// nor a page is to be read from the disk. It may be asked on a thread that must not block.
pub(super) fn at_hand(path: &Path, offset: u64, len: usize) -> Option<Piece> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOATIME;
    let cached = ResolveFlags::CACHED;
    let file = rustix::fs::openat2(CWD, path, flags, Mode::empty(), cached).ok()?;
    let size = u64::try_from(rustix::fs::fstat(&file).ok()?.st_size).ok()?;
    let mut data = vec![0; within(size, offset, len)];
    if !data.is_empty() {
        let mut into = [IoSliceMut::new(&mut data)];
        let read = rustix::io::preadv2(&file, &mut into, offset, ReadWriteFlags::NOWAIT);
        if read.ok()? != data.len() {
            return None;
        }
    }
    Some(Piece { size, data: data.into() })
}

/// How much there is to read of `len` bytes from `offset` of a blob.
fn within(size: u64, offset: u64, len: usize) -> usize {
    usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(len)
}

impl Blob {
    pub(super) fn piece(&self, offset: u64, len: usize) -> Result<Piece> {
        let len = within(self.size, offset, len);
        let data = if len == 0 { Bytes::new() } else { read_at(&self.file, offset, len)? };
        Ok(Piece { size: self.size, data })
    }
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
        let len = within(self.size, offset, len);
        if len == 0 {
            return Ok(Bytes::new());
        }
        let file = Arc::clone(&self.file);
        blocking(move || read_at(&file, offset, len)).await
    }

    fn file(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
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

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn file(data: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        fs_err::write(&path, data).unwrap();
        (folder, path)
    }

    /// Which of both ways is gone depends on the kernel and its caches: they must not differ.
    #[test]
    fn what_is_at_hand_is_what_is_on_disk() {
        let data: Vec<u8> = (0..100_000_u32).map(|it| (it % 251) as u8).collect();
        let (_folder, path) = file(&data);
        for (offset, len) in [(0, 10), (99_990, 100), (5, 70_000), (100_000, 1), (u64::MAX, 9)] {
            let read = open(&path).unwrap().piece(offset, len).unwrap();
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.len());
            assert_eq!(read.size, 100_000);
            assert_eq!(read.data, data[start..data.len().min(start + len)], "{len} of {offset}");
            if let Some(piece) = at_hand(&path, offset, len) {
                assert_eq!(piece, read);
            }
        }
    }

    #[tokio::test]
    async fn an_open_file_is_read_from_its_start() {
        let (_folder, path) = file(b"0123456789");
        let blob = open(&path).unwrap();
        let file = blob.file().unwrap().try_clone_to_owned().unwrap();
        let reader = opened(file, "x").unwrap();
        assert_eq!(reader.size(), 10);
        assert_eq!(reader.read_at(3, 4).await.unwrap(), "3456");
        let mut all = String::new();
        reader.into_sync().read_to_string(&mut all).unwrap();
        assert_eq!(all, "0123456789");
    }

    #[test]
    fn what_is_no_file_or_could_be_written_is_refused() {
        let (folder, path) = file(b"x");
        let directory = File::open(folder.path()).unwrap();
        let writable = fs_err::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        for wrong in [OwnedFd::from(directory), OwnedFd::from(writable)] {
            let error = opened(wrong, "x").map(drop).unwrap_err();
            assert_eq!(error.kind(), types::Kind::InvalidArgument, "{error}");
        }
    }

    #[test]
    fn what_is_not_there_is_not_at_hand() {
        let (folder, path) = file(b"x");
        fs_err::remove_file(&path).unwrap();
        assert_eq!(at_hand(&path, 0, 1), None);
        assert_eq!(
            open(&folder.path().join("blob")).map(drop).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
