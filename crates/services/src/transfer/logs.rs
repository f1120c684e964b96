// SPDX-License-Identifier: Apache-2.0
//! What passes between the daemon and a registry, as text on a stream of the client's.
use std::sync::Arc;

use ::registry::Listener;
use api::containerd::types::transfer::{Data, WindowUpdate};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    convert::{ToWire as _, any},
    streaming::Stream,
};

/// How many texts wait for a client that reads slowly. What is more is left out.
const DEPTH: usize = 256;
/// How much goes into one message (containerd `core/transfer/streaming/stream.go`, `maxRead`).
const PIECE: usize = 32 << 10;

/// Writes what passes onto `stream`. It is closed once nobody speaks to the registry any more.
pub(super) fn onto(stream: Stream) -> Listener {
    let (texts, waiting) = mpsc::channel(DEPTH);
    tokio::spawn(write(stream, waiting));
    Arc::new(move |heard| {
        let text = heard.dump();
        if !text.is_empty() {
            // A client that does not read does not hold up its own transfer.
            drop(texts.try_send(text));
        }
    })
}

/// Sends as much as the other end has said that it takes (containerd
/// `core/transfer/streaming/writer.go`).
async fn write(mut stream: Stream, mut texts: mpsc::Receiver<String>) {
    let mut window = 0;
    while let Some(text) = texts.recv().await {
        let mut rest = Bytes::from(text);
        while !rest.is_empty() {
            while window == 0 {
                let Some(message) = stream.receive().await else { return };
                let Some(Ok(update)) = api::unpack::<WindowUpdate>(&message.to_wire()) else {
                    return;
                };
                window = usize::try_from(update.update).unwrap_or_default();
            }
            let piece = rest.split_to(rest.len().min(window).min(PIECE));
            window -= piece.len();
            let data = api::pack(&Data { data: piece });
            if stream.send(any(data)).await.is_err() {
                return;
            }
        }
    }
}
