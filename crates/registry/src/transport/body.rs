// SPDX-License-Identifier: Apache-2.0
use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc;

/// What a request carries. Its length is always known, so nothing is sent in HTTP chunks, which some
/// registries refuse.
pub(crate) enum Body {
    /// All of it.
    Whole(Bytes),
    /// Pieces as they come, `left` bytes in all. The sender that hangs up early breaks the request
    /// off, so that the other side never takes half a blob for a whole one.
    Pieces {
        /// Where they come from.
        from: mpsc::Receiver<Bytes>,
        /// How many bytes are still to come.
        left: u64,
    },
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.is_end_stream() {
            return Poll::Ready(None);
        }
        let piece = match &mut *self {
            Self::Whole(bytes) => Some(mem::take(bytes)),
            Self::Pieces { from, left } => {
                let piece = ready!(from.poll_recv(cx));
                *left -= piece.as_ref().map_or(0, |piece| piece.len() as u64).min(*left);
                piece
            }
        };
        let abandoned = || io::Error::new(io::ErrorKind::UnexpectedEof, "upload abandoned");
        Poll::Ready(Some(piece.map(Frame::data).ok_or_else(abandoned)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Pieces { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces { left, .. } => SizeHint::with_exact(*left),
        }
    }
}
