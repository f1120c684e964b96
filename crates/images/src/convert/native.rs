// SPDX-License-Identifier: Apache-2.0
//! Layers made into erofs images.
//!
//! What is inside of an image has another digest than the archive, so diff IDs and snapshots are others
//! too; and config and index say that the feature `erofs` is needed, so that nobody else chooses the
//! manifest (containerd `core/images/converter/erofs`).
use std::path::PathBuf;

use content::{Store, blob};
use diff::{Imager, Imaging, Packing};
use fs_err as fs;
use serde_json::{Map, Value, json};
use tokio::task;
use types::{
    Descriptor, Digest, Error, Kind, Platform, Result,
    labels::GC_REF_SNAPSHOT,
    media_types::{self as mt, EROFS_LAYER},
};

use super::{repack::pack, source_labels};
use crate::{
    Config,
    document::{MAX_SIZE, Manifest, to_json},
    labels,
};

/// What a host that mounts such layers is able to.
const FEATURE: &str = "erofs";

/// How layers become erofs images.
#[derive(Clone, Debug, Default)]
pub struct Native {
    /// How the images are made.
    pub imaging: Imaging,
    /// Whether the blobs are compressed with zstd. They have to be inflated before they are mounted.
    pub is_zstd: bool,
    /// Where the images are made.
    pub scratch: PathBuf,
}

/// Makes images of the layers of `manifest`, and a config that says so. Returns what it needs to run
/// now; `None` if it has no such layers, or is not for Linux.
pub(super) async fn layers(
    store: &dyn Store,
    manifest: &mut Manifest,
    described: Option<&Platform>,
    how: &Native,
) -> Result<Option<Platform>> {
    if !mt::is_config(&manifest.config.media_type) {
        return Ok(None);
    }
    let data = blob::read(store, &manifest.config.digest, MAX_SIZE).await?;
    let unread = |e| Error::caused(Kind::InvalidArgument, "", e);
    let config: Config = serde_json::from_slice(&data).map_err(unread)?;
    let platform = described.unwrap_or(&config.platform).clone().normalized();
    if platform.os != "linux" {
        return Ok(None);
    }
    let mut diff_ids = config.root_fs.diff_ids;
    make(store, &mut manifest.layers, &mut diff_ids, how).await?;
    if !manifest.layers.iter().any(|layer| mt::is_erofs_layer(&layer.media_type)) {
        return Ok(None);
    }
    let platform = platform.with_feature(FEATURE);
    let document: Map<String, Value> = serde_json::from_slice(&data).map_err(unread)?;
    let document = said(document, &diff_ids, &platform);
    manifest.config = write(store, &manifest.config, &document).await?;
    Ok(Some(platform))
}

/// Replaces those `layers` that are archives, and their `diff_ids`. What registries are not to hand on
/// stays as it is, and so does what is encrypted.
async fn make(
    store: &dyn Store,
    layers: &mut [Descriptor],
    diff_ids: &mut [Digest],
    how: &Native,
) -> Result<()> {
    let mut imager = Imager::open(&how.scratch, how.imaging.clone())?;
    let filesystems = layers.iter_mut().filter(|layer| mt::is_layer(&layer.media_type));
    for (layer, diff_id) in filesystems.zip(diff_ids) {
        let is_archive = super::packed_type(&layer.media_type, Packing::Plain).is_some();
        if !is_archive || mt::is_non_distributable(&layer.media_type) {
            continue;
        }
        let made = self::layer(store, layer, diff_id, imager, how).await?;
        (imager, *layer, *diff_id) = made;
    }
    Ok(())
}

async fn layer(
    store: &dyn Store,
    old: &Descriptor,
    diff_id: &Digest,
    mut imager: Imager,
    how: &Native,
) -> Result<(Imager, Descriptor, Digest)> {
    let first = store.reader(&old.digest).await?.into_sync();
    let second = store.reader(&old.digest).await?.into_sync();
    let media_type = old.media_type.clone();
    let making = task::spawn_blocking(move || {
        let made = imager.next(&media_type, first, second);
        (imager, made)
    });
    let panicked = |error| Error::caused(Kind::Internal, "convert", error);
    let (imager, made) = making.await.map_err(panicked)?;
    let (image, found) = made?;
    if found != *diff_id {
        let text = format!("wrong diff id calculated on extraction {found} != {diff_id}");
        return Err(Error::failed_precondition(text));
    }
    let (packing, media_type) = if how.is_zstd {
        (Packing::Zstd, format!("{EROFS_LAYER}+zstd"))
    } else {
        (Packing::Plain, EROFS_LAYER.to_owned())
    };
    let reference = format!("convert-erofs-from-{}", old.digest);
    let (packed, diff_id) = pack(store, &reference, fs::File::open(image)?, packing).await?;
    labels::set(store, &packed.digest, source_labels(store, &old.digest).await?).await?;
    let Descriptor { digest, size, .. } = packed;
    Ok((imager, Descriptor { media_type, digest, size, ..old.clone() }, diff_id))
}

/// The config with what is different, and whatever else it says.
fn said(mut config: Map<String, Value>, diff_ids: &[Digest], platform: &Platform) -> Value {
    config.insert("rootfs".into(), json!({ "type": "layers", "diff_ids": diff_ids }));
    config.insert("os.features".into(), json!(platform.os_features));
    // Docker once wrote the image's name there, which is a digest of what it was.
    for key in ["config", "container_config"] {
        if let Some(Value::Object(part)) = config.get_mut(key) {
            part.remove("Image");
        }
    }
    Value::Object(config)
}

/// Writes a config in place of `old`. Its snapshots are not those of the old one.
async fn write(store: &dyn Store, old: &Descriptor, config: &Value) -> Result<Descriptor> {
    let mut labels = source_labels(store, &old.digest).await?;
    labels.retain(|key, _| !key.starts_with(GC_REF_SNAPSHOT));
    let data = to_json(config)?;
    let (digest, size) = (Digest::of(&data), data.len() as u64);
    let new = Descriptor { digest: digest.clone(), size, ..old.clone() };
    let reference = format!("converter-write-json-{digest}");
    blob::write(store, &reference, content::Expected::from(&new), data, labels).await?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_says_what_is_needed_and_keeps_what_nobody_here_knows() {
        let old = json!({
            "architecture": "amd64", "os": "linux", "history": [{ "comment": "x" }], "mine": 7,
            "config": { "Image": "sha256:1", "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of("old")] },
        });
        let Value::Object(old) = old else { unreachable!("it is one") };
        let platform = Platform::new("linux", "amd64", "").with_feature(FEATURE);
        let new = said(old, &[Digest::of("new")], &platform);
        assert_eq!(new["os.features"], json!(["erofs"]));
        assert_eq!(new["rootfs"]["diff_ids"], json!([Digest::of("new")]));
        assert_eq!(new["config"], json!({ "Cmd": ["sh"] }));
        assert_eq!((&new["mine"], &new["history"][0]["comment"]), (&json!(7), &json!("x")));
    }
}
