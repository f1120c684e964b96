// SPDX-License-Identifier: Apache-2.0
//! Bytes over a stream, as much as the other end has room for (containerd
//! `core/transfer/streaming/stream.go`).
//!
//! ```text
//! receiver --WindowUpdate{65536}--> sender
//! receiver <-----Data{32768}------- sender, while there is room
//! ```
use std::time::Duration;

use api::containerd::types::transfer::{Data, WindowUpdate};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::sync::mpsc;
use types::{Error, Kind, Result};

use super::Stream;
use crate::convert::{ToWire, any};

/// The most data of a message, and how much room a receiver gives.
const MAX_DATA: usize = 32 * 1024;
const WINDOW: usize = 2 * MAX_DATA;
/// How long a receiver has to take the last of it.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many messages may wait for whoever reads.
const WAITING: usize = 8;

/// The bytes that the other end sends. Dropping the stream closes ours.
pub(crate) fn receive(stream: Stream) -> BoxStream<'static, Result<Bytes>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        if let Err(error) = pass_on(stream, &sender).await {
            // Nobody who wants to hear it is left when this fails.
            drop(sender.send(Err(error)).await);
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(receiver).boxed()
}

async fn pass_on(mut stream: Stream, sender: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
    let mut room = 0;
    loop {
        if room < WINDOW {
            let update = WindowUpdate { update: WINDOW as i32 };
            // A sender that has finished takes no updates, but what it has sent is still to be read.
            if stream.send(any(api::pack(&update))).await.is_ok() {
                room += WINDOW;
            }
        }
        let message = tokio::select! {
            message = stream.receive() => message,
            () = sender.closed() => return Ok(()),
        };
        let Some(message) = message else { return Ok(()) };
        let Some(data) = api::unpack::<Data>(&message.to_wire()) else { continue };
        let malformed = |error| Error::caused(Kind::InvalidArgument, "malformed data", error);
        let data = data.map_err(malformed)?.data;
        room = room.saturating_sub(data.len());
        if sender.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
}

/// Sends bytes until there are no more, and closes the stream.
///
/// Errors: `Unavailable` when the other end is gone.
pub(crate) async fn send(mut stream: Stream, mut source: mpsc::Receiver<Bytes>) -> Result<()> {
    let mut room = 0;
    while let Some(mut piece) = source.recv().await {
        while !piece.is_empty() {
            while room == 0 {
                room += more_room(&mut stream).await?;
            }
            let data = piece.split_to(piece.len().min(room).min(MAX_DATA));
            room -= data.len();
            stream.send(any(api::pack(&Data { data }))).await?;
        }
    }
    let taken = async {
        while room < WINDOW {
            room += more_room(&mut stream).await?;
        }
        Ok::<_, Error>(())
    };
    // Whoever has taken everything has given a whole window of room since. One that gives none is
    // not waited for: it has been sent everything.
    drop(tokio::time::timeout(PATIENCE, taken).await);
    stream.settle().await;
    Ok(())
}

async fn more_room(stream: &mut Stream) -> Result<usize> {
    let gone = || Error::unavailable("stream closed");
    let message = stream.receive().await.ok_or_else(gone)?;
    match api::unpack::<WindowUpdate>(&message.to_wire()) {
        Some(Ok(update)) => Ok(usize::try_from(update.update).unwrap_or(0)),
        _ => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;
    use crate::streaming::pair;

    #[tokio::test]
    async fn bytes_arrive_in_order_and_whole() {
        let (here, there) = pair();
        let (feed, source) = mpsc::channel(1);
        let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let sent = data.clone();
        tokio::spawn(async move {
            for piece in sent.chunks(150_001) {
                feed.send(Bytes::copy_from_slice(piece)).await.unwrap();
            }
        });
        let sending = tokio::spawn(send(here, source));
        let pieces: Vec<Bytes> = receive(there).try_collect().await.unwrap();
        assert!(pieces.iter().all(|piece| piece.len() <= MAX_DATA));
        assert_eq!(pieces.concat(), data);
        sending.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_sender_waits_for_room_and_notices_that_nobody_gives_any() {
        let (here, there) = pair();
        let (feed, source) = mpsc::channel(1);
        let sending = tokio::spawn(send(here, source));
        feed.send(Bytes::from_static(b"x")).await.unwrap();
        tokio::task::yield_now().await;
        assert!(!sending.is_finished(), "there was no room");
        drop(there);
        let error = sending.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::Unavailable);
    }
}
