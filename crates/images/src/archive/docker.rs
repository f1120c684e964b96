// SPDX-License-Identifier: Apache-2.0
//! What `docker save` wrote before it knew of OCI, and what others write for it: `manifest.json`
//! names configs and layers by their files.
use bytes::Bytes;
use content::{Expected, Store, blob};
use diff::Packing;
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};
use types::{
    Context, Descriptor, Digest, Error, Filters, Kind, Labels, Platform, Result,
    labels::UNCOMPRESSED, media_types,
};

use super::{
    IMAGE_NAME, Import, REF_NAME,
    import::{Found, json},
    names,
    pieces::clean,
};
use crate::{convert, document::Index, labels, read_config};

/// How much of a blob tells how it is packed.
const HEAD: usize = 10;

/// An image of `manifest.json` (moby `image/tarexport`).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Option<Vec<String>>,
}

/// The fields of a manifest in the order in which Go writes them: a manifest is named by its bytes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u32,
    media_type: &'a str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// Makes manifests and an index of what `manifest.json` says.
pub(super) async fn index(
    store: &dyn Store,
    found: &Found,
    docker: &Bytes,
    how: Import,
) -> Result<Descriptor> {
    let saved: Vec<Saved> = json(docker).context(|| "untar manifest \"manifest.json\"")?;
    let mut index = Index { schema_version: 2, ..Index::default() };
    for image in saved {
        let manifest = manifest(store, found, &image, how).await?;
        let tags = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            index.manifests.push(manifest.clone());
        }
        for tag in tags {
            let name = names::normalized(&tag)?;
            let mut named = manifest.clone();
            named.annotations.insert(REF_NAME.to_owned(), names::tag(&name).to_owned());
            named.annotations.insert(IMAGE_NAME.to_owned(), name);
            index.manifests.push(named);
        }
    }
    let children = index.manifests.clone();
    write(store, media_types::INDEX, &index, &children).await
}

async fn manifest(
    store: &dyn Store,
    found: &Found,
    image: &Saved,
    how: Import,
) -> Result<Descriptor> {
    let missing = |what: String| Error::said(Kind::InvalidArgument, what);
    let config = found.blobs.get(&clean(&image.config));
    let config =
        config.ok_or_else(|| missing(format!("image config {:?} not found", image.config)))?;
    let config = Descriptor { media_type: media_types::DOCKER_CONFIG.into(), ..config.clone() };
    let mut layers = Vec::new();
    for name in image.layers.iter().flatten() {
        let blob = found.blobs.get(&clean(name));
        let blob = blob.ok_or_else(|| {
            missing(format!("failed to resolve layers: layer {name:?} not found"))
        })?;
        layers.push(layer(store, blob, how).await.context(|| "failed to resolve layers")?);
    }
    let children = [std::slice::from_ref(&config), &layers].concat();
    let platform = read_config(store, &config).await.context(|| "unable to resolve platform")?;
    let platform = platform.platform.normalized();
    let media_type = media_types::DOCKER_MANIFEST;
    let manifest = Manifest { schema_version: 2, media_type, config, layers };
    let descriptor = write(store, media_type, &manifest, &children).await?;
    let platform = Some(platform).filter(|platform| *platform != Platform::new("", "", ""));
    Ok(Descriptor { platform, ..descriptor })
}

/// A layer as it is best: packed, if the same is there packed already or has to be made so.
async fn layer(store: &dyn Store, blob: &Descriptor, how: Import) -> Result<Descriptor> {
    if let Some(packed) = packed_twin(store, &blob.digest).await? {
        return Ok(packed);
    }
    let packing = packing(store, &blob.digest).await?;
    if packing == Packing::Plain && how.compress {
        let packed = convert::repack(store, &blob.digest, Packing::Gzip).await?;
        return Ok(Descriptor { media_type: media_types::DOCKER_LAYER_GZIP.into(), ..packed });
    }
    Ok(Descriptor { media_type: layer_type(packing).into(), ..blob.clone() })
}

/// A blob that inflates to `diff_id`; the first by name, so that it is the same one next time.
async fn packed_twin(store: &dyn Store, diff_id: &Digest) -> Result<Option<Descriptor>> {
    let filter = format!("labels.{UNCOMPRESSED:?}=={diff_id}");
    let twins: Vec<_> = store.walk(Filters::parse([filter])?).try_collect().await?;
    let Some(twin) = twins.into_iter().min_by(|a, b| a.digest.cmp(&b.digest)) else {
        return Ok(None);
    };
    let media_type = layer_type(packing(store, &twin.digest).await?);
    Ok(Some(Descriptor::new(media_type, twin.digest, twin.size)))
}

async fn packing(store: &dyn Store, digest: &Digest) -> Result<Packing> {
    let head = store.reader(digest).await?.read_at(0, HEAD).await?;
    Ok(diff::packing(&head))
}

/// Compat: whatever packed it, it is called gzip, as by containerd: manifests are named by their bytes.
fn layer_type(packing: Packing) -> &'static str {
    match packing {
        Packing::Plain => media_types::DOCKER_LAYER,
        Packing::Gzip | Packing::Zstd => media_types::DOCKER_LAYER_GZIP,
    }
}

async fn write(
    store: &dyn Store,
    media_type: &str,
    document: &impl Serialize,
    children: &[Descriptor],
) -> Result<Descriptor> {
    let data = crate::document::to_json(document)?;
    let descriptor = Descriptor::new(media_type, Digest::of(&data), data.len() as u64);
    let reference = format!("manifest-{}", descriptor.digest);
    let keeps: Labels = labels::of_children(children);
    blob::write(store, &reference, Expected::from(&descriptor), data, keeps).await?;
    Ok(descriptor)
}
