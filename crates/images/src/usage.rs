// SPDX-License-Identifier: Apache-2.0
use std::{collections::HashSet, sync::Arc};

use content::Store;
use snapshots::Snapshotter;
use types::{Descriptor, Kind, Labels, Result, labels::GC_REF_SNAPSHOT, platform::Matcher};

use crate::{choose, tree};

/// Finds a snapshotter by name.
pub type Snapshotters = dyn Fn(&str) -> Result<Arc<dyn Snapshotter>> + Send + Sync;

/// How many bytes the manifest of `image` that fits `wanted` best, its config and its layers have, by
/// what the documents say.
pub async fn size(
    store: &(impl Store + ?Sized),
    image: &Descriptor,
    wanted: &Matcher,
) -> Result<u64> {
    let chosen = choose(store, image, wanted).await?;
    let parts = [&image.size, &chosen.manifest.config.size].into_iter();
    let parts = parts.chain(chosen.manifest.layers.iter().map(|layer| &layer.size));
    let is_nested = chosen.descriptor.digest != image.digest;
    let nested = is_nested.then_some(&chosen.descriptor.size);
    Ok(parts.chain(nested).fold(0, |sum, size| sum.saturating_add(*size)))
}

/// How many bytes `image` takes here: the blobs that are there, for whatever platform, and with
/// `snapshotters` the snapshots that it was unpacked to. What is used twice counts once (containerd
/// `core/images/usage/calculator.go`, which counts of the snapshots only the topmost).
pub async fn usage(
    store: &(impl Store + ?Sized),
    image: &Descriptor,
    snapshotters: Option<&Snapshotters>,
) -> Result<u64> {
    let parts = tree::walk(store, image.clone(), |_, children| match children {
        Err(error) if error.is_not_found() => Ok(Vec::new()),
        children => children,
    });
    let (mut sum, mut counted) = (0_u64, HashSet::new());
    for part in parts.await? {
        match store.info(&part.digest).await {
            Ok(info) => {
                sum = sum.saturating_add(info.size);
                if let Some(find) = snapshotters {
                    sum = sum.saturating_add(snapshots(find, &info.labels, &mut counted).await?);
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

async fn snapshots(
    find: &Snapshotters,
    labels: &Labels,
    counted: &mut HashSet<(String, String)>,
) -> Result<u64> {
    let mut sum = 0_u64;
    for (name, top) in
        labels.iter().filter_map(|(key, top)| Some((key.strip_prefix(GC_REF_SNAPSHOT)?, top)))
    {
        // A snapshotter that is not there any more has nothing that could be counted.
        let Ok(snapshotter) = find(name) else { continue };
        let mut next = Some(top.clone());
        while let Some(key) = next.filter(|key| counted.insert((name.to_owned(), key.clone()))) {
            let (size, parent) = one(&*snapshotter, &key).await?;
            sum = sum.saturating_add(size);
            next = parent;
        }
    }
    Ok(sum)
}

async fn one(snapshotter: &dyn Snapshotter, key: &str) -> Result<(u64, Option<String>)> {
    let read = async {
        let usage = snapshotter.usage(key).await?;
        Ok((usage.size, snapshotter.stat(key).await?.parent))
    };
    match read.await {
        Err::<_, types::Error>(error)
            if matches!(error.kind(), Kind::NotFound | Kind::InvalidArgument) =>
        {
            Ok((0, None))
        }
        outcome => outcome,
    }
}
