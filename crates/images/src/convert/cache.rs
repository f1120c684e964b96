// SPDX-License-Identifier: Apache-2.0
//! Layers as erofs images in a folder that snapshotters read, by what the layers are.
//!
//! ```text
//! <folder>/sha256/<the first two digits>/<diff ID>.erofs
//! ```
//!
//! The layout is containerd's (`cmd/ctr/commands/images/build_erofs_cache.go`).
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use content::Store;
use diff::{Imager, Imaging, Packing};
use fs_err as fs;
use tokio::task;
use types::{Context, Descriptor, Digest, Error, Kind, Result, media_types, platform::Matcher};

use super::packed_type;
use crate::{Rootfs, choose, read_config};

/// Makes images of the layers of the manifest of `image` that fits `wanted` best, and puts them into
/// `folder`, each when it is whole and on disk. What is there already is replaced. Returns them, lowest
/// layer first.
///
/// Errors: `NotFound` when a layer is not here; those of [`Imager::next`].
pub async fn cache(
    store: &dyn Store,
    image: &Descriptor,
    wanted: &Matcher,
    folder: &Path,
    how: &Imaging,
) -> Result<Vec<PathBuf>> {
    let chosen = choose(store, image, wanted).await?;
    let config = read_config(store, &chosen.manifest.config).await?;
    let rootfs = Rootfs::plan(&chosen.manifest, &config)?;
    fs::create_dir_all(folder)?;
    let mut imager = Imager::open(folder, how.clone())?;
    let mut made = Vec::new();
    for layer in rootfs.layers {
        let kind = layer.descriptor.media_type.clone();
        let is_archive = packed_type(&kind, Packing::Plain).is_some();
        if !is_archive || media_types::is_non_distributable(&kind) {
            continue;
        }
        let missing = || format!("layer {} is not in the content store", layer.descriptor.digest);
        let reader = || store.reader(&layer.descriptor.digest);
        let first = reader().await.context(missing)?.into_sync();
        let second = reader().await?.into_sync();
        let target = place(folder, &layer.diff_id);
        let work = task::spawn_blocking(move || {
            let kept = imager.next(&kind, first, second).and_then(|(image, diff_id)| {
                if diff_id == layer.diff_id { keep(&image, target) } else { Err(wrong(&diff_id)) }
            });
            (imager, kept)
        });
        let panicked = |error| Error::caused(Kind::Internal, "cache", error);
        let (back, kept) = work.await.map_err(panicked)?;
        imager = back;
        made.push(kept?);
    }
    Ok(made)
}

fn wrong(diff_id: &Digest) -> Error {
    Error::failed_precondition(format!("wrong diff id calculated on extraction {diff_id}"))
}

fn place(folder: &Path, diff_id: &Digest) -> PathBuf {
    let hex = diff_id.hex();
    folder.join(diff_id.algorithm().name()).join(&hex[..2]).join(format!("{hex}.erofs"))
}

/// Names an image once it is durable, for anybody to read.
fn keep(image: &Path, target: PathBuf) -> Result<PathBuf> {
    let folder = target.parent().unwrap_or(&target);
    fs::create_dir_all(folder)?;
    fs::set_permissions(image, PermissionsExt::from_mode(0o644))?;
    fs::File::open(image)?.sync_all()?;
    fs::rename(image, &target)?;
    // What may be new of the folders is theirs, that of the algorithm and the cache's.
    for folder in folder.ancestors().take(3) {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(target)
}
