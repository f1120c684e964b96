// SPDX-License-Identifier: Apache-2.0
//! A large blob in parts, several of them under way at once, as one stream in order.
//!
//! ```text
//!            part 0      part 1      part 2      part 3
//!  stream <-- [####......][######....][##........]  (not begun: at most so many at once)
//! ```
//!
//! What has arrived out of turn is held: no more than the parts that are under way. Each part is a
//! [`Download`] of its own, that goes on where it was when its connection breaks.
use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::{sync::mpsc, task::JoinHandle};
use types::{Descriptor, Error, Result};

use super::{Download, Place};
use crate::{limits::Slot, request::Repository};

/// Streams the rest of a blob whose first part has been opened.
pub(super) fn stream(mut first: Download) -> BoxStream<'static, Result<Bytes>> {
    let parts = Parts {
        next: first.end,
        places: first.places.clone(),
        _slot: first.slot.take(),
        pattern: Pattern {
            repository: first.repository.clone(),
            descriptor: first.descriptor.clone(),
        },
        running: VecDeque::from([Part::run(first, None)]),
    };
    stream::try_unfold(parts, Parts::step).boxed()
}

/// What the parts have in common.
struct Pattern {
    repository: Arc<Repository>,
    descriptor: Descriptor,
}

struct Parts {
    pattern: Pattern,
    places: Vec<Place>,
    /// Where the next part begins.
    next: u64,
    /// The stream's own place among the downloads: one part runs on it, and others on spare ones.
    _slot: Option<Slot>,
    running: VecDeque<Part>,
}

/// A part under way. It ends with its owner.
struct Part {
    pieces: mpsc::UnboundedReceiver<Result<Bytes>>,
    task: JoinHandle<()>,
    /// None for the one that runs on the stream's own.
    slot: Option<Slot>,
}

impl Drop for Part {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Part {
    fn run(mut download: Download, slot: Option<Slot>) -> Self {
        // Not bounded by itself, but by the length of the part.
        let (sender, pieces) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            while let Some(piece) = download.piece().await.transpose() {
                let is_over = piece.is_err();
                if sender.send(piece).is_err() || is_over {
                    return;
                }
            }
        });
        Self { pieces, task, slot }
    }
}

impl Parts {
    async fn step(mut self) -> Result<Option<(Bytes, Self)>> {
        loop {
            self.begin();
            let Some(part) = self.running.front_mut() else { return Ok(None) };
            if let Some(piece) = part.pieces.recv().await {
                return Ok(Some((piece?, self)));
            }
            // A task that came to grief leaves a hole that nobody may take for the end.
            let ended = (&mut part.task).await;
            ended.map_err(|error| Error::internal(format!("a part of a download: {error}")))?;
            self.running.pop_front();
        }
    }

    /// Begins as many parts as may be under way.
    fn begin(&mut self) {
        let transfers = &self.pattern.repository.shared.options.transfers;
        let size = self.pattern.descriptor.size;
        while self.next < size && self.running.len() < transfers.parts.max(1) {
            let own_is_free = self.running.iter().all(|part| part.slot.is_some());
            let spare = || self.pattern.repository.shared.limits.spare_slot();
            let slot = if own_is_free { None } else { spare() };
            if slot.is_none() && !own_is_free {
                return;
            }
            let end = size.min(self.next + transfers.part);
            let download = Download {
                repository: self.pattern.repository.clone(),
                descriptor: self.pattern.descriptor.clone(),
                places: self.places.clone(),
                offset: self.next,
                end,
                current: None,
                since: 0,
                fruitless: 0,
                slot: None,
            };
            self.next = end;
            self.running.push_back(Part::run(download, slot));
        }
    }
}
