// SPDX-License-Identifier: Apache-2.0
//! Frames to bytes: the bounded queue of a connection and the loop that empties it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::frame::Frame;

/// How many frames wait for a peer that does not read, before those who send wait too.
pub(crate) const QUEUE: usize = 64;

/// Where all who speak on a connection put their frames.
pub(crate) type Outbox = mpsc::Sender<Frame>;

/// Writes frames until all senders are gone and the queue is empty.
///
/// Whatever waits is written with one system call.
pub(crate) async fn write_frames<W>(mut io: W, frames: &mut mpsc::Receiver<Frame>) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut waiting = Vec::new();
    let mut batch = Batch::default();
    while frames.recv_many(&mut waiting, QUEUE).await > 0 {
        for frame in waiting.drain(..) {
            batch.push(frame.head.freeze());
            batch.push(frame.tail);
        }
        io.write_all_buf(&mut batch).await?;
        io.flush().await?;
    }
    Ok(())
}

/// Pieces that are written one after the other, without being copied together.
#[derive(Debug, Default)]
struct Batch {
    pieces: VecDeque<Bytes>,
    left: usize,
}

impl Batch {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.left += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[..])
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.pieces);
        filled.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_its_pieces_in_order() {
        let mut batch = Batch::default();
        for piece in ["abc", "", "de", "f"] {
            batch.push(piece.into());
        }
        assert_eq!(batch.remaining(), 6);
        let mut slices = [IoSlice::new(&[]); 2];
        assert_eq!(batch.chunks_vectored(&mut slices), 2);
        batch.advance(4);
        assert_eq!(batch.chunk(), b"e");
        assert_eq!(batch.copy_to_bytes(2), "ef");
        assert_eq!(batch.remaining(), 0);
    }
}
