// SPDX-License-Identifier: Apache-2.0
//! Which blobs of a manifest are wanted, and which have arrived: where fetching and unpacking meet.
use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use diff::Arriving;
use images::{Layer, Layers};
use tokio::sync::{mpsc, oneshot, watch};
use types::{Digest, Error, Result};

use crate::progress::Tracker;

/// How many pieces of a layer may wait for whoever unpacks it. With pieces of a socket's size, this
/// bounds the memory.
const WAITING: usize = 16;

/// How long a layer that begins to come waits for whoever will unpack it to be ready.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever wants to see a layer on its way.
#[derive(Debug, Default)]
enum Watcher {
    /// Nobody has asked yet.
    #[default]
    None,
    /// Somebody waits to be told that it begins.
    Waiting(oneshot::Sender<Arriving>),
    /// It has begun, or will not: nobody can see all of it any more.
    Gone,
}

/// How far a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrival {
    Coming,
    Here,
    Failed,
}

/// Which layers are to be fetched.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    /// From which on, once that is known.
    from: Option<usize>,
    /// Nobody will want any more.
    is_over: bool,
}

/// A layer that is awaited.
struct Awaited {
    digest: Digest,
    arrival: watch::Sender<Arrival>,
    watcher: Mutex<Watcher>,
}

impl Awaited {
    fn new(digest: Digest) -> Self {
        Self { digest, arrival: watch::Sender::new(Arrival::Coming), watcher: Mutex::default() }
    }

    fn watcher(&self) -> MutexGuard<'_, Watcher> {
        self.watcher.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The layers of one manifest.
pub(super) struct Arrivals {
    /// Each distinct layer, in the order of the manifest.
    layers: Vec<Awaited>,
    wanted: watch::Sender<Wanted>,
    /// Whether anybody is going to look at layers on their way, once that is known. Every change of
    /// who looks is told by it.
    looking: watch::Sender<Option<bool>>,
    tracker: Tracker,
    /// The manifest's name in progress.
    parent: String,
}

impl Arrivals {
    /// Layers that are fetched at once, or with `wait` only when the first one is missed.
    pub(super) fn new(
        layers: impl Iterator<Item = Digest>,
        wait: bool,
        looking: Option<bool>,
        tracker: Tracker,
        parent: String,
    ) -> Self {
        let from = if wait { None } else { Some(0) };
        let layers = layers.map(Awaited::new).collect();
        let wanted = watch::Sender::new(Wanted { from, is_over: false });
        Self { layers, wanted, looking: watch::Sender::new(looking), tracker, parent }
    }

    /// Waits until it is known whether the layer at `index` is to be fetched.
    pub(super) async fn is_wanted(&self, index: usize) -> bool {
        let is_from = |wanted: &Wanted| wanted.from.is_some_and(|from| from <= index);
        let mut wanted = self.wanted.subscribe();
        let known = wanted.wait_for(|wanted| is_from(wanted) || wanted.is_over).await;
        known.is_ok_and(|wanted| is_from(&wanted))
    }

    /// Says how the fetch of the layer at `index` ended.
    pub(super) fn landed(&self, index: usize, is_here: bool) {
        let arrival = if is_here { Arrival::Here } else { Arrival::Failed };
        if let Some(layer) = self.layers.get(index) {
            // Whoever waits to see it come has waited in vain.
            *layer.watcher() = Watcher::Gone;
            layer.arrival.send_replace(arrival);
        }
    }

    /// Says that the layer at `index` begins to come, from its first byte, and answers with whom to
    /// hand its bytes to, if anybody wants to see them. That is waited for, but not for long.
    pub(super) async fn begins(&self, index: usize) -> Option<mpsc::Sender<Bytes>> {
        let layer = self.layers.get(index)?;
        let is_known = |looking: &Option<bool>| {
            *looking == Some(false) || !matches!(*layer.watcher(), Watcher::None)
        };
        let mut looking = self.looking.subscribe();
        // If nobody is ready by then, nobody looks.
        drop(tokio::time::timeout(PATIENCE, looking.wait_for(is_known)).await);
        let mut watcher = layer.watcher();
        let Watcher::Waiting(waiting) = mem::replace(&mut *watcher, Watcher::Gone) else {
            return None;
        };
        let (sender, arriving) = Arriving::new(WAITING);
        waiting.send(arriving).is_ok().then_some(sender)
    }

    /// Says that all layers are wanted, unpacked or not.
    pub(super) fn want_all(&self) {
        self.looks(false);
        self.want(0);
    }

    /// Says that nobody will want any more layers.
    pub(super) fn close(&self) {
        self.looks(false);
        self.wanted.send_modify(|wanted| wanted.is_over = true);
    }

    fn position(&self, layer: &Layer) -> Option<usize> {
        self.layers.iter().position(|awaited| awaited.digest == layer.descriptor.digest)
    }

    fn want(&self, index: usize) {
        self.wanted.send_modify(|wanted| {
            wanted.from = Some(wanted.from.map_or(index, |from| from.min(index)));
        });
    }
}

#[async_trait]
impl Layers for Arrivals {
    async fn arrive(&self, layer: &Layer) -> Result<()> {
        let missing = || Error::cancelled(format!("fetch {}", layer.descriptor.digest));
        let index = self.position(layer).ok_or_else(missing)?;
        self.want(index);
        let mut arrival = self.layers[index].arrival.subscribe();
        match arrival.wait_for(|arrival| *arrival != Arrival::Coming).await.as_deref() {
            Ok(Arrival::Here) => Ok(()),
            _ => Err(missing()),
        }
    }

    async fn arriving(&self, layer: &Layer) -> Option<Arriving> {
        let index = self.position(layer)?;
        let (sender, begun) = oneshot::channel();
        match &mut *self.layers[index].watcher() {
            watcher @ Watcher::None => *watcher = Watcher::Waiting(sender),
            // The same layer may be in an image twice: one looks, the other waits.
            Watcher::Waiting(_) | Watcher::Gone => return None,
        }
        self.want(index);
        self.looking.send_modify(|_| {});
        begun.await.ok()
    }

    fn looks(&self, is_looking: bool) {
        self.looking.send_replace(Some(is_looking));
    }

    fn extracting(&self, layer: &Layer) {
        self.tracker.unpacked(&layer.descriptor, &self.parent, false);
    }

    fn extracted(&self, layer: &Layer) {
        self.tracker.unpacked(&layer.descriptor, &self.parent, true);
    }
}
