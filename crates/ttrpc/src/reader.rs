// SPDX-License-Identifier: Apache-2.0
//! Bytes to frames.
//!
//! A message is a slice of the buffer that it was read into, not a copy. The buffer is small and
//! grows for a long message only, after which it is given away together with that message.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::frame::{HEADER, Header, MAX_MESSAGE};

/// How much is asked for at once while messages are short.
const CHUNK: usize = 8 << 10;
/// Less room than this is not worth a system call.
const LEAST: usize = 512;

/// What a peer sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole message.
    Message(Header, Bytes),
    /// A message above the limit, which was read and thrown away.
    Oversized(Header),
}

/// Cuts what was read into frames. It does no I/O.
#[derive(Debug, Default)]
struct Decoder {
    buffer: BytesMut,
    skipping: Option<(Header, usize)>,
}

impl Decoder {
    fn next(&mut self) -> Option<Received> {
        if self.skipping.is_none() {
            let header = Header::peek(&self.buffer)?;
            let length = header.length as usize;
            if length <= MAX_MESSAGE {
                return self.message(header, length);
            }
            self.buffer.advance(HEADER);
            self.skipping = Some((header, length));
        }
        self.skip()
    }

    fn message(&mut self, header: Header, length: usize) -> Option<Received> {
        if self.buffer.len() < HEADER + length {
            return None;
        }
        self.buffer.advance(HEADER);
        let message = self.buffer.split_to(length).freeze();
        if length > CHUNK {
            // What follows moves out, so that the long message's room goes with the message.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Some(Received::Message(header, message))
    }

    fn skip(&mut self) -> Option<Received> {
        let (header, left) = self.skipping.take()?;
        let here = left.min(self.buffer.len());
        self.buffer.advance(here);
        if here == left {
            return Some(Received::Oversized(header));
        }
        self.skipping = Some((header, left - here));
        None
    }

    /// Returns the buffer with room for at least what the next frame still lacks.
    fn room(&mut self) -> &mut BytesMut {
        let whole = match (&self.skipping, Header::peek(&self.buffer)) {
            (None, Some(header)) => HEADER + header.length as usize,
            _ => HEADER,
        };
        let lacking = whole.saturating_sub(self.buffer.len());
        if self.buffer.capacity() - self.buffer.len() < lacking.max(LEAST) {
            self.buffer.reserve(lacking.max(CHUNK));
        }
        &mut self.buffer
    }

    fn between_frames(&self) -> bool {
        self.buffer.is_empty() && self.skipping.is_none()
    }
}

/// Reads frames from a stream of bytes.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    io: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(io: R) -> Self {
        Self { io, decoder: Decoder::default() }
    }

    /// Returns the next frame, or `None` at the end of the connection.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when it is dropped: what was read is kept.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Received>> {
        loop {
            if let Some(received) = self.decoder.next() {
                return Ok(Some(received));
            }
            if self.io.read_buf(self.decoder.room()).await? > 0 {
                continue;
            }
            if self.decoder.between_frames() {
                return Ok(None);
            }
            let text = "the connection ended inside a message";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Kind;
    use proptest::prelude::*;

    fn frame(stream: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (data.len() as u32).to_be_bytes().to_vec();
        bytes.extend(stream.to_be_bytes());
        bytes.extend([3, 0]);
        bytes.extend(data);
        bytes
    }

    fn message(stream: u32, data: &[u8]) -> Received {
        let header = Header { length: data.len() as u32, stream, kind: Kind::Data, flags: 0 };
        Received::Message(header, Bytes::copy_from_slice(data))
    }

    /// Feeds `bytes` in pieces of `step` and returns what comes out.
    fn decode(decoder: &mut Decoder, bytes: &[u8], step: usize) -> Vec<Received> {
        let mut all = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.room().extend_from_slice(piece);
            while let Some(received) = decoder.next() {
                all.push(received);
            }
        }
        all
    }

    #[test]
    fn frames_come_out_however_they_were_cut() {
        let long = vec![5; CHUNK * 3];
        let bytes = [frame(1, b"one"), frame(3, b""), frame(5, &long), frame(7, b"x")].concat();
        let want = [message(1, b"one"), message(3, b""), message(5, &long), message(7, b"x")];
        for step in [1, 2, 9, 10, 11, 1000, bytes.len()] {
            let mut decoder = Decoder::default();
            assert_eq!(decode(&mut decoder, &bytes, step), want, "in steps of {step}");
            assert!(decoder.between_frames());
        }
    }

    #[test]
    fn a_message_above_the_limit_is_skipped_and_the_next_one_is_read() {
        let long = vec![5; MAX_MESSAGE + 1];
        let bytes = [frame(1, &long), frame(3, b"next")].concat();
        let mut decoder = Decoder::default();
        let all = decode(&mut decoder, &bytes, 100_000);
        assert!(matches!(all[0], Received::Oversized(header) if header.stream == 1));
        assert_eq!(all[1..], [message(3, b"next")]);
        assert!(decoder.buffer.capacity() < 4 * 100_000, "it was not collected");
    }

    #[test]
    fn the_room_for_a_long_message_goes_with_it() {
        let mut decoder = Decoder::default();
        let bytes = [frame(1, &vec![5; MAX_MESSAGE]), b"rest".to_vec()].concat();
        decode(&mut decoder, &bytes, bytes.len());
        assert_eq!(&decoder.buffer[..], b"rest");
        assert!(decoder.room().capacity() <= 2 * CHUNK);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..4096),
            step in 1..600_usize,
        ) {
            decode(&mut Decoder::default(), &bytes, step);
        }
    }
}
