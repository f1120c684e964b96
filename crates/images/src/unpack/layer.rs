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

use super::{Layer, Layers, Unpacker, Way};
use crate::labels;

/// An active snapshot that a layer is being unpacked to.
pub(super) struct Active {
    key: String,
    mounts: Vec<Mount>,
    /// Whether it gets its parent only when it is committed.
    is_early: bool,
}

impl Active {
    /// Whether the snapshotter has put the layer there itself: nothing can be written to it (containerd
    /// `core/unpack/unpacker.go`, `isStaged`).
    fn is_filled(&self) -> bool {
        self.mounts.last().is_some_and(Mount::is_read_only)
    }
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
            if !active.is_filled() {
                if self.brings_layers
                    && let Err(error) = layers.arrive(layer).await
                {
                    self.discard(&active).await;
                    return Err(error);
                }
                self.fill(layer, layers, &active, turns).await?;
            }
            self.commit(layer, &active).await?;
            layers.extracted(layer);
        }
        Ok(())
    }

    /// Unpacks a layer whose parent will be there when `beneath` says so.
    pub(super) async fn beside(
        &self,
        layer: &Layer,
        way: &Way<'_>,
        beneath: Option<watch::Receiver<bool>>,
    ) -> Result<()> {
        if !self.differ.takes_arriving() && !self.brings_layers {
            way.arrive(layer).await?;
        }
        let _flight = self.flights.board(&self.flight(layer)).await;
        let Some(active) = self.prepare_beside(layer).await? else { return Ok(()) };
        let filled = if active.is_filled() {
            Some((active, false))
        } else {
            self.fill_beside(layer, way, active).await?
        };
        let Some((active, needs_parent)) = filled else { return Ok(()) };
        if !active.is_early {
            self.commit(layer, &active).await?;
        } else if let Err(error) = wait(layer, beneath).await {
            self.discard(&active).await;
            return Err(error);
        } else if needs_parent {
            self.discard(&active).await;
            self.again(layer, way.layers, way.turns).await?;
        } else {
            self.commit(layer, &active).await?;
        }
        way.layers.extracted(layer);
        Ok(())
    }

    /// Prepares a snapshot over the layer beneath if that is there by now, and over nothing if not.
    async fn prepare_beside(&self, layer: &Layer) -> Result<Option<Active>> {
        let base = match &layer.parent {
            Some(parent) if self.is_there(parent).await? => Some(parent),
            _ => None,
        };
        match self.prepare(layer, base).await {
            // It was somebody else's, and has just been collected.
            Err(error) if base.is_some() && error.is_not_found() => self.prepare(layer, None).await,
            outcome => outcome,
        }
    }

    /// Applies a layer, from the bytes that are on their way if they can be had, else from the store
    /// once it is there. Returns where it was applied, and whether it needs its parent's files.
    async fn fill_beside(
        &self,
        layer: &Layer,
        way: &Way<'_>,
        active: Active,
    ) -> Result<Option<(Active, bool)>> {
        let seen = self.fill_arriving(layer, way, &active).await;
        if let Err(error) = way.arrive(layer).await {
            self.discard(&active).await;
            return Err(error);
        }
        let active = match seen {
            None => active,
            Some(Ok(needs_parent)) => {
                way.layers.extracting(layer);
                return Ok(Some((active, needs_parent)));
            }
            Some(Err(error)) => {
                // Whatever the cause, from here on the store has the layer as it was meant to be.
                tracing::debug!(layer = %layer.diff_id, %error, "unpacking from the store instead");
                self.discard(&active).await;
                let Some(active) = self.prepare_beside(layer).await? else { return Ok(None) };
                active
            }
        };
        match self.fill(layer, way.layers, &active, way.turns).await {
            Ok(needs_parent) => Ok(Some((active, needs_parent))),
            // A hard link to a file that a layer beneath brings.
            Err(error) if active.is_early && error.kind() == Kind::FailedPrecondition => {
                Ok(Some((active, true)))
            }
            Err(error) => Err(error),
        }
    }

    /// Applies a layer while it arrives. None if it does not come by here, or if it is nobody's turn to
    /// look at it: then nothing was done.
    async fn fill_arriving(
        &self,
        layer: &Layer,
        way: &Way<'_>,
        active: &Active,
    ) -> Option<Result<bool>> {
        if !self.differ.takes_arriving() {
            return None;
        }
        let arriving = way.stop.run_until_cancelled(way.layers.arriving(layer)).await??;
        let _turn = way.turns.try_acquire().ok()?;
        let media_type = &layer.descriptor.media_type;
        let options = self.options_for(active);
        let applied = self.differ.apply_arriving(media_type, arriving, &active.mounts, options);
        match applied.await {
            // Another differ may know it, once it is in the store.
            Err(error) if error.kind() == Kind::Unimplemented => None,
            applied => Some(applied.and_then(|applied| checked(layer, &applied))),
        }
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
            checked(layer, &applied)
        };
        let outcome = outcome.await;
        if outcome.is_err() {
            self.discard(active).await;
        }
        outcome
    }

    async fn apply(&self, layer: &Layer, active: &Active) -> Result<Descriptor> {
        let Layer { descriptor, .. } = layer;
        let applied = self.differ.apply(descriptor, &active.mounts, self.options_for(active));
        applied.await.context(|| {
            let Descriptor { media_type, digest, .. } = descriptor;
            let (name, key) = (&self.name, &active.key);
            format!("failed to extract layer ({media_type} {digest}) to {name} as {key:?}")
        })
    }

    fn options_for(&self, active: &Active) -> diff::Apply {
        let mut options = self.options.clone();
        if active.is_early {
            options.payloads.insert(BEFORE_PARENT.to_owned(), Any::default());
        }
        options
    }

    /// Commits a layer, over its parent if it was prepared without; else it is removed. That somebody
    /// else has committed it is as good, once it is held under our lease too.
    async fn commit(&self, layer: &Layer, active: &Active) -> Result<()> {
        let parent = layer.parent.as_ref().filter(|_| active.is_early).map(Digest::to_string);
        let options = Commit { labels: layer.labels(), parent };
        let name = layer.chain_id.as_str();
        if let Err(error) = self.snapshotter.commit(name, &active.key, options).await {
            self.discard(active).await;
            if error.is_already_exists() && self.is_unpacked(layer).await? {
                return Ok(());
            }
            return Err(error.context(format!("failed to commit snapshot {}", active.key)));
        }
        if active.is_filled() {
            // Its blob may not be here.
            return Ok(());
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

/// Whether a layer that was applied needed its parent's files.
///
/// Errors: `InvalidArgument` when it is not the layer that the config names.
fn checked(layer: &Layer, applied: &Descriptor) -> Result<bool> {
    let diff_id = &layer.diff_id;
    if applied.digest != *diff_id {
        let text = format!("wrong diff id calculated on extraction \"{diff_id}\"");
        return Err(Error::said(Kind::InvalidArgument, text));
    }
    // Who does not say may not know that the parent was not there.
    Ok(applied.annotations.get(NEEDS_PARENT).is_none_or(|value| value != "false"))
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
