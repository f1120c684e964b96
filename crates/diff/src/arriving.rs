// SPDX-License-Identifier: Apache-2.0
use std::io::{self, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;
use types::Error;

/// A layer whose bytes are just arriving, read on a blocking thread.
///
/// An empty piece is its end. A sender that is dropped before that has failed, and so the layer is
/// never taken for a whole one.
#[derive(Debug)]
pub struct Arriving {
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    is_over: bool,
}

impl Arriving {
    /// A layer, and where its pieces go. `waiting` pieces may wait: who sends faster waits, too.
    pub fn new(waiting: usize) -> (mpsc::Sender<Bytes>, Self) {
        let (sender, pieces) = mpsc::channel(waiting);
        (sender, Self { pieces, current: Bytes::new(), is_over: false })
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() && !self.is_over {
            let stopped = || io::Error::other(Error::cancelled("layer stopped arriving"));
            self.current = self.pieces.blocking_recv().ok_or_else(stopped)?;
            self.is_over = self.current.is_empty();
        }
        let step = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..step]);
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&'static str]) -> io::Result<String> {
        let (sender, mut layer) = Arriving::new(pieces.len().max(1));
        for piece in pieces {
            sender.try_send(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        drop(sender);
        let mut text = String::new();
        layer.read_to_string(&mut text).map(|_| text)
    }

    #[test]
    fn only_what_has_an_end_is_whole() {
        assert_eq!(read(&["one ", "two", ""]).unwrap(), "one two");
        let error = read(&["one "]).unwrap_err();
        assert!(error.to_string().contains("stopped arriving"), "{error}");
    }
}
