// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, IoSlice},
    path::Path,
};

use bytes::Bytes;
use fs_err::{File, OpenOptions};
use types::{Algorithm, Digest, Hasher, Result};

/// The most slices that one system call takes (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;
/// How much is read at once to be hashed.
const CHUNK: usize = 1 << 20;

/// The data of an ingest and its hash, in step. Synchronous: it lives on blocking threads.
pub(super) struct Sink {
    file: File,
    hasher: Hasher,
    len: u64,
}

impl Sink {
    /// Opens the data of an ingest and takes in what is there.
    pub(super) fn open(path: &Path, algorithm: Algorithm) -> Result<Self> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let len = file.metadata()?.len();
        let hasher = hash(&file, algorithm, len)?;
        Ok(Self { file, hasher, len })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Hashes and writes `chunks`. After an error the two are out of step: the sink is of no more
    /// use, and opening it again puts that right.
    pub(super) fn append(&mut self, chunks: &[Bytes]) -> Result<()> {
        for chunk in chunks {
            self.hasher.update(chunk);
        }
        for chunks in chunks.chunks(MAX_SLICES) {
            let mut slices: Vec<_> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
            self.write_all(&mut slices)?;
        }
        Ok(())
    }

    fn write_all(&mut self, mut slices: &mut [IoSlice<'_>]) -> Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match rustix::io::pwritev(&self.file, slices, self.len) {
                Ok(0) => return Err(self.failed(&io::ErrorKind::WriteZero.into()).into()),
                Ok(written) => {
                    self.len += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.failed(&error.into()).into()),
            }
        }
        Ok(())
    }

    /// Reads up to `len` bytes from `offset`, as far as there are any.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Bytes> {
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut data = vec![0; len.min(left)];
        let mut at = 0;
        while at < data.len() {
            match rustix::io::pread(&self.file, &mut data[at..], offset + at as u64) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(read) => at += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Ok(data.into())
    }

    /// Goes back to the length `size`.
    pub(super) fn truncate(&mut self, size: u64, algorithm: Algorithm) -> Result<()> {
        self.file.set_len(size)?;
        self.hasher = hash(&self.file, algorithm, size)?;
        self.len = size;
        Ok(())
    }

    /// The digest of the data and of `more` after it.
    pub(super) fn digest(&self, more: &[Bytes]) -> Digest {
        let mut hasher = self.hasher.clone();
        for chunk in more {
            hasher.update(chunk);
        }
        hasher.finish()
    }

    /// The digest by another hash function than the data was taken in with.
    pub(super) fn digest_by(&self, algorithm: Algorithm) -> Result<Digest> {
        Ok(hash(&self.file, algorithm, self.len)?.finish())
    }

    fn failed(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("write {}: {error}", self.file.path().display()))
    }
}

/// Hashes the first `len` bytes of `file`; that it ends before is an error.
fn hash(file: &File, algorithm: Algorithm, len: u64) -> Result<Hasher> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; CHUNK.min(len as usize)];
    let mut at = 0;
    while at < len {
        let want = buffer.len().min((len - at) as usize);
        match rustix::io::pread(file, &mut buffer[..want], at) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    Ok(hasher)
}
