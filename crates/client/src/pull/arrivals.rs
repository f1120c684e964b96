// SPDX-License-Identifier: Apache-2.0
//! Which blobs of a manifest are wanted, and which have arrived: where fetching and unpacking meet.
use async_trait::async_trait;
use images::{Layer, Layers};
use tokio::sync::watch;
use types::{Digest, Error, Result};

use crate::progress::Tracker;

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

/// The layers of one manifest.
pub(super) struct Arrivals {
    /// Each distinct layer, in the order of the manifest.
    layers: Vec<(Digest, watch::Sender<Arrival>)>,
    wanted: watch::Sender<Wanted>,
    tracker: Tracker,
    /// The manifest's name in progress.
    parent: String,
}

impl Arrivals {
    /// Layers that are fetched at once, or with `wait` only when the first one is missed.
    pub(super) fn new(
        layers: impl Iterator<Item = Digest>,
        wait: bool,
        tracker: Tracker,
        parent: String,
    ) -> Self {
        let from = if wait { None } else { Some(0) };
        let layers = layers.map(|digest| (digest, watch::Sender::new(Arrival::Coming))).collect();
        let wanted = watch::Sender::new(Wanted { from, is_over: false });
        Self { layers, wanted, tracker, parent }
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
        if let Some((_, layer)) = self.layers.get(index) {
            layer.send_replace(arrival);
        }
    }

    /// Says that all layers are wanted, unpacked or not.
    pub(super) fn want_all(&self) {
        self.want(0);
    }

    /// Says that nobody will want any more layers.
    pub(super) fn close(&self) {
        self.wanted.send_modify(|wanted| wanted.is_over = true);
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
        let index = self.layers.iter().position(|(digest, _)| *digest == layer.descriptor.digest);
        let index = index.ok_or_else(missing)?;
        self.want(index);
        let mut arrival = self.layers[index].1.subscribe();
        match arrival.wait_for(|arrival| *arrival != Arrival::Coming).await.as_deref() {
            Ok(Arrival::Here) => Ok(()),
            _ => Err(missing()),
        }
    }

    fn extracting(&self, layer: &Layer) {
        self.tracker.unpacked(&layer.descriptor, &self.parent, false);
    }

    fn extracted(&self, layer: &Layer) {
        self.tracker.unpacked(&layer.descriptor, &self.parent, true);
    }
}
