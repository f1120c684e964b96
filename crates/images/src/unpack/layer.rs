// SPDX-License-Identifier: Apache-2.0
//! One layer, from its blob to a committed snapshot.
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::SystemTime,
};

use diff::{BEFORE_PARENT, NEEDS_PARENT};
use mount::Mount;
use snapshots::Commit;
use tokio::sync::{Semaphore, watch};
use types::{Any, Context, Descriptor, Digest, Error, Kind, Labels, Result, labels::UNCOMPRESSED};

use super::{Layer, Layers, Unpacker};
use crate::labels;

/// An active snapshot that a layer is being unpacked to.
pub(super) struct Active {
    key: String,
    mounts: Vec<Mount>,
    /// Whether it gets its parent only when it is committed.
    is_early: bool,
}

impl Unpacker {
    /// Unpacks a layer over its parent, which is there.
    pub(super) async fn one(
        &self,
        layer: &Layer,
        layers: &dyn Layers,
        turns: &Semaphore,
    ) -> Result<()> {
        if !self.brings_layers {
            layers.arrive(layer).await?;
        }
        let _flight = self.flights.board(&self.flight(layer)).await;
        if let Some(active) = self.prepare(layer, layer.parent.as_ref()).await? {
            if self.brings_layers
                && let Err(error) = layers.arrive(layer).await
            {
                self.discard(&active).await;
                return Err(error);
            }
            self.fill(layer, layers, &active, turns).await?;
            self.commit(layer, &active).await?;
            layers.extracted(layer);
        }
        Ok(())
    }

    /// Unpacks a layer whose blob is there, and whose parent will be when `beneath` says so.
    pub(super) async fn beside(
        &self,
        layer: &Layer,
        layers: &dyn Layers,
        turns: &Semaphore,
        beneath: Option<watch::Receiver<bool>>,
    ) -> Result<()> {
        let _flight = self.flights.board(&self.flight(layer)).await;
        let parent = layer.parent.as_ref();
        let base = match parent {
            Some(parent) if self.is_there(parent).await? => Some(parent),
            _ => None,
        };
        let Some(active) = self.prepare(layer, base).await? else { return Ok(()) };
        let needs_parent = match self.fill(layer, layers, &active, turns).await {
            // A hard link to a file that a layer beneath brings.
            Err(error) if active.is_early && error.kind() == Kind::FailedPrecondition => true,
            outcome => outcome?,
        };
        if !active.is_early {
            self.commit(layer, &active).await?;
        } else if let Err(error) = wait(layer, beneath).await {
            self.discard(&active).await;
            return Err(error);
        } else if needs_parent {
            self.discard(&active).await;
            self.again(layer, layers, turns).await?;
        } else {
            self.commit(layer, &active).await?;
        }
        layers.extracted(layer);
        Ok(())
    }

    /// Unpacks a layer once more, over its parent.
    async fn again(&self, layer: &Layer, layers: &dyn Layers, turns: &Semaphore) -> Result<()> {
        tracing::debug!(layer = %layer.diff_id, "layer needs its parent's files: unpacking it again");
        if let Some(active) = self.prepare(layer, layer.parent.as_ref()).await? {
            self.fill(layer, layers, &active, turns).await?;
            self.commit(layer, &active).await?;
        }
        Ok(())
    }

    fn flight(&self, layer: &Layer) -> String {
        format!("{}/{}", self.name, layer.chain_id)
    }

    pub(super) async fn is_there(&self, chain_id: &Digest) -> Result<bool> {
        match self.snapshotter.stat(chain_id.as_str()).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.context(format!("failed to stat snapshot {chain_id}"))),
        }
    }

    /// Prepares a snapshot for a layer; `None` when the snapshotter has the layer already.
    ///
    /// It says so with `AlreadyExists`. But that can also mean that the key is taken, so it is asked
    /// for the layer (containerd `docs/snapshotters/remote-snapshotter.md`).
    pub(super) async fn prepare(
        &self,
        layer: &Layer,
        parent: Option<&Digest>,
    ) -> Result<Option<Active>> {
        let parent = parent.map(Digest::as_str);
        for _ in 0..3 {
            let key = format!("extract-{} {}", unique(), layer.chain_id);
            match self.snapshotter.prepare(&key, parent, layer.labels()).await {
                Ok(mounts) => {
                    let is_early = parent.is_none() && layer.parent.is_some();
                    return Ok(Some(Active { key, mounts, is_early }));
                }
                Err(error) if !error.is_already_exists() => {
                    let what = format!("failed to prepare extraction snapshot {key:?}");
                    return Err(error.context(what));
                }
                Err(_) if self.is_there(&layer.chain_id).await? => return Ok(None),
                Err(_) => {}
            }
        }
        Err(Error::already_exists("unable to prepare extraction snapshot"))
    }

    /// Applies a layer to `active`, which is removed if that fails. Returns whether the layer needed
    /// files of its parents.
    async fn fill(
        &self,
        layer: &Layer,
        layers: &dyn Layers,
        active: &Active,
        turns: &Semaphore,
    ) -> Result<bool> {
        let outcome = async {
            let _turn = turns.acquire().await.map_err(|_closed| Error::cancelled("unpack"))?;
            layers.extracting(layer);
            let applied = self.apply(layer, active).await?;
            // Who does not say may not know that the parent was not there.
            Ok(applied.annotations.get(NEEDS_PARENT).is_none_or(|value| value != "false"))
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            self.discard(active).await;
        }
        outcome
    }

    async fn apply(&self, layer: &Layer, active: &Active) -> Result<Descriptor> {
        let Layer { descriptor, diff_id, .. } = layer;
        let mut options = self.options.clone();
        if active.is_early {
            options.payloads.insert(BEFORE_PARENT.to_owned(), Any::default());
        }
        let applied = self.differ.apply(descriptor, &active.mounts, options);
        let applied = applied.await.context(|| {
            let Descriptor { media_type, digest, .. } = descriptor;
            let (name, key) = (&self.name, &active.key);
            format!("failed to extract layer ({media_type} {digest}) to {name} as {key:?}")
        })?;
        if applied.digest != *diff_id {
            let text = format!("wrong diff id calculated on extraction \"{diff_id}\"");
            return Err(Error::said(Kind::InvalidArgument, text));
        }
        Ok(applied)
    }

    /// Commits a layer, over its parent if it was prepared without; else it is removed. That somebody
    /// else has committed it is as good.
    async fn commit(&self, layer: &Layer, active: &Active) -> Result<()> {
        let parent = layer.parent.as_ref().filter(|_| active.is_early).map(Digest::to_string);
        let options = Commit { labels: layer.labels(), parent };
        let name = layer.chain_id.as_str();
        if let Err(error) = self.snapshotter.commit(name, &active.key, options).await {
            self.discard(active).await;
            if error.is_already_exists() {
                return Ok(());
            }
            return Err(error.context(format!("failed to commit snapshot {}", active.key)));
        }
        let inflated = Labels::from([(UNCOMPRESSED.to_owned(), layer.diff_id.to_string())]);
        labels::set(&*self.content, &layer.descriptor.digest, inflated).await
    }

    /// Removes an active snapshot, if it is still there.
    pub(super) async fn discard(&self, active: &Active) {
        if let Err(error) = self.snapshotter.remove(&active.key).await
            && !error.is_not_found()
        {
            tracing::warn!(key = active.key, %error, "failed to remove extraction snapshot");
        }
    }
}

/// Waits for the layer beneath. If it fails, its error is the one that counts.
async fn wait(layer: &Layer, beneath: Option<watch::Receiver<bool>>) -> Result<()> {
    let failed = || Error::cancelled(format!("layer beneath {}", layer.diff_id));
    let mut beneath = beneath.ok_or_else(failed)?;
    beneath.wait_for(|is_committed| *is_committed).await.map(drop).map_err(|_gone| failed())
}

/// A part of a key that nobody else uses, as containerd makes it: `123456789-aB3_`
/// (`core/unpack/unpacker.go`, `uniquePart`).
fn unique() -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let random = RandomState::new().build_hasher().finish();
    let digit = |place: u32| char::from(DIGITS[(random >> (6 * place)) as usize % DIGITS.len()]);
    format!("{}-{}", since.subsec_nanos(), (0..4).map(digit).collect::<String>())
}
