// SPDX-License-Identifier: Apache-2.0
//! Bytes on their way from one thread to others, in buffers that are used again and again.
//!
//! A [`Chunk`] may be held by several threads; when the last lets go of it, its buffer returns to
//! the [`Pool`]. The pool has a fixed number of buffers, and that is what holds a fast producer back
//! and bounds the memory, however the threads are connected.
//!
//! ```text
//!   Pool --take--> producer --+--Arc<Chunk>--> hashing
//!    ^                        `--Arc<Chunk>--> writing
//!    `---------- dropped by both ----------------'
//! ```
use std::{
    io::{self, BufRead, Read},
    ops::Deref,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
};

use types::{Algorithm, Digest, Hasher};

use crate::inflate::read_full;

/// Buffers that nobody holds.
pub(crate) struct Pool {
    free: Receiver<Vec<u8>>,
    home: Sender<Vec<u8>>,
}

impl Pool {
    /// Makes `count` buffers of `size` bytes.
    pub(crate) fn new(count: usize, size: usize) -> Self {
        let (home, free) = channel();
        for _ in 0..count {
            home.send(vec![0; size]).expect("the receiver is right here");
        }
        Self { free, home }
    }

    /// Waits for a buffer that nobody holds.
    pub(crate) fn take(&self) -> Chunk {
        let buffer = self.free.recv().expect("the pool itself holds a sender");
        Chunk { buffer, length: 0, home: self.home.clone() }
    }
}

/// A buffer from a pool, filled up to a length.
pub(crate) struct Chunk {
    buffer: Vec<u8>,
    length: usize,
    home: Sender<Vec<u8>>,
}

impl Chunk {
    /// Fills it as far as the source goes.
    pub(crate) fn fill(&mut self, source: &mut impl Read) -> io::Result<()> {
        self.length = 0;
        self.length = read_full(source, &mut self.buffer)?;
        Ok(())
    }

    /// Appends as much of `data` as there is room for, and tells how much that was.
    pub(crate) fn append(&mut self, data: &[u8]) -> usize {
        let room = &mut self.buffer[self.length..];
        let step = room.len().min(data.len());
        room[..step].copy_from_slice(&data[..step]);
        self.length += step;
        step
    }

    pub(crate) fn is_full(&self) -> bool {
        self.length == self.buffer.len()
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // When the pool is gone, nobody needs the buffer.
        drop(self.home.send(std::mem::take(&mut self.buffer)));
    }
}

/// The receiving end of a stream of chunks, as a reader.
pub(crate) struct Chunks {
    incoming: Receiver<io::Result<Arc<Chunk>>>,
    current: Option<Arc<Chunk>>,
    position: usize,
}

impl Chunks {
    pub(crate) fn new(incoming: Receiver<io::Result<Arc<Chunk>>>) -> Self {
        Self { incoming, current: None, position: 0 }
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let step = available.len().min(buffer.len());
        buffer[..step].copy_from_slice(&available[..step]);
        self.consume(step);
        Ok(step)
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let is_spent = self.current.as_ref().is_none_or(|chunk| self.position == chunk.len());
        if is_spent {
            self.current = None;
            self.position = 0;
            // A sender that is gone has sent everything.
            self.current = self.incoming.recv().ok().transpose()?;
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk[self.position..]))
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

/// Hashes a stream of chunks to its end: its digest and its length.
pub(crate) fn hash(incoming: &Receiver<Arc<Chunk>>) -> (Digest, u64) {
    let (mut hasher, mut size) = (Hasher::new(Algorithm::Sha256), 0);
    for chunk in incoming {
        hasher.update(&chunk);
        size += chunk.len() as u64;
    }
    (hasher.finish(), size)
}
