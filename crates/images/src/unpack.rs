// SPDX-License-Identifier: Apache-2.0
//! Layers become snapshots, each named by its chain ID.
//!
//! ```text
//! blob arrives --> prepare(extract-...) --> apply, diff ID checked --> commit(chain ID)
//!
//! one by one:   each layer is prepared over its parent, and so waits for it from the start
//! side by side: each layer is prepared over nothing, and waits for its parent only to be committed
//!               over it; one that turns out to need its parent's files is then done again
//! in one pass:  side by side, and each layer is applied from the bytes that are on their way into the
//!               store; once its blob is known to be what it is called, it is committed
//! ```
mod layer;
mod plan;

use std::sync::Arc;

use async_trait::async_trait;
use content::Store;
use diff::{Arriving, Differ};
use futures_util::future::join_all;
use snapshots::{Capability, Snapshotter};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use types::{Digest, Error, Kind, Result};

pub use self::plan::{Layer, Rootfs};
use crate::{Flights, labels};

/// Where an unpack gets its layers from, and whom it tells how far it is.
#[async_trait]
pub trait Layers: Send + Sync {
    /// Waits until the layer's blob is in the store.
    async fn arrive(&self, layer: &Layer) -> Result<()>;

    /// Waits until the layer begins to come, and answers with its bytes; none when it is in the store
    /// already, or will be without being seen on its way. Only who can take them at once asks: if they
    /// are left, the layer still arrives.
    async fn arriving(&self, _layer: &Layer) -> Option<Arriving> {
        None
    }

    /// Hears whether anybody is going to ask for layers on their way.
    fn looks(&self, _is_looking: bool) {}

    /// Hears that a layer is being unpacked.
    fn extracting(&self, _layer: &Layer) {}

    /// Hears that a layer has been unpacked.
    fn extracted(&self, _layer: &Layer) {}
}

/// Layers that are all in the store.
#[derive(Clone, Copy, Debug)]
pub struct Present;

#[async_trait]
impl Layers for Present {
    async fn arrive(&self, _layer: &Layer) -> Result<()> {
        Ok(())
    }
}

/// Unpacks images to one snapshotter.
#[derive(Clone)]
pub struct Unpacker {
    /// Where the blobs are.
    pub content: Arc<dyn Store>,
    /// What layers are applied with.
    pub differ: Arc<dyn Differ>,
    /// How they are applied.
    pub options: diff::Apply,
    /// What clients call the snapshotter.
    pub name: String,
    /// Where the snapshots go.
    pub snapshotter: Arc<dyn Snapshotter>,
    /// Whether the snapshotter brings layers by itself: each is offered to it before its blob is
    /// waited for, and one that it has is not waited for at all.
    pub brings_layers: bool,
    /// How many layers are applied at once, where the snapshotter can chain them later.
    pub parallel: usize,
    /// The turns that all unpacks of a daemon share; `None` gives each its own `parallel` ones.
    pub turns: Option<Arc<Semaphore>>,
    /// What is being unpacked in this process: the same layer is unpacked once.
    pub flights: Flights,
}

impl Unpacker {
    /// Unpacks what is not unpacked yet of `rootfs`, and lets its config keep the outcome from
    /// collection. Returns the topmost snapshot's name.
    ///
    /// If it fails, what was committed stays, and what was not is removed.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may leave an active snapshot behind, which nothing refers to.
    pub async fn unpack(&self, rootfs: &Rootfs, layers: &dyn Layers) -> Result<Option<Digest>> {
        let Some(top) = rootfs.top() else { return Ok(None) };
        if !self.is_unpacked(top).await? {
            if self.can_chain_later() && rootfs.layers.len() > 1 {
                layers.looks(self.differ.takes_arriving());
                self.side_by_side(rootfs, layers).await?;
            } else {
                layers.looks(false);
                self.one_by_one(rootfs, layers).await?;
            }
        }
        let refers = labels::of_snapshot(&self.name, &top.chain_id);
        labels::set(&*self.content, &rootfs.config, refers).await?;
        Ok(Some(top.chain_id.clone()))
    }

    fn can_chain_later(&self) -> bool {
        self.parallel > 1 && self.snapshotter.capabilities().contains(&Capability::Rebase)
    }

    /// Whether a layer is there, and so all below, and will stay for as long as the lease that we work
    /// under: that is what offering to prepare it again is for. If it can be prepared it has just been
    /// collected, or the snapshotter does not say what it has.
    async fn is_unpacked(&self, layer: &Layer) -> Result<bool> {
        for _ in 0..3 {
            if !self.is_there(&layer.chain_id).await? {
                return Ok(false);
            }
            match self.prepare(layer, layer.parent.as_ref()).await {
                Ok(None) => return Ok(true),
                Ok(Some(active)) => self.discard(&active).await,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        self.is_there(&layer.chain_id).await
    }

    async fn one_by_one(&self, rootfs: &Rootfs, layers: &dyn Layers) -> Result<()> {
        let turn = Semaphore::new(1);
        for layer in &rootfs.layers {
            self.one(layer, layers, &turn).await?;
        }
        Ok(())
    }

    /// Runs all layers at once. Each says when it is committed, which is what the next one waits for.
    async fn side_by_side(&self, rootfs: &Rootfs, layers: &dyn Layers) -> Result<()> {
        let own = || Arc::new(Semaphore::new(self.parallel));
        let turns = self.turns.clone().unwrap_or_else(own);
        let stop = CancellationToken::new();
        let mut parent = None;
        let runs = rootfs.layers.iter().map(|layer| {
            let (done, committed) = watch::channel(false);
            let beneath = parent.replace(committed);
            let (turns, stop) = (&*turns, &stop);
            async move {
                let way = Way { layers, turns, stop };
                let outcome = self.beside(layer, &way, beneath).await;
                match &outcome {
                    Ok(()) => drop(done.send_replace(true)),
                    Err(_) => stop.cancel(),
                }
                outcome
            }
        });
        first_cause(join_all(runs).await)
    }
}

/// How the layers of one image are unpacked beside each other.
struct Way<'a> {
    layers: &'a dyn Layers,
    /// As many permits as layers may be applied at once.
    turns: &'a Semaphore,
    /// Ends everything when a layer has failed.
    stop: &'a CancellationToken,
}

impl Way<'_> {
    /// Waits for a layer's blob, unless another layer has failed.
    async fn arrive(&self, layer: &Layer) -> Result<()> {
        let stopped = || Err(Error::cancelled(format!("layer {}", layer.diff_id)));
        let arrived = self.stop.run_until_cancelled(self.layers.arrive(layer)).await;
        arrived.unwrap_or_else(stopped)
    }
}

/// The error that others followed from: those are cancelled.
fn first_cause(outcomes: Vec<Result<()>>) -> Result<()> {
    let mut errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    let cause = errors.iter().position(|error| error.kind() != Kind::Cancelled).unwrap_or(0);
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(cause)) }
}
