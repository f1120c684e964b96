// SPDX-License-Identifier: Apache-2.0
//! Images made otherwise: layers packed in another way, Docker's media types turned into OCI's.
//!
//! What is inside of the layers stays the same, and so do diff IDs, configs and snapshots: a converted
//! image is unpacked already if the original was. Only layers that become erofs images are others.
mod cache;
mod native;
mod repack;

use content::{Expected, Store, blob};
use diff::Packing;
use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use types::{
    Descriptor, Digest, Error, Labels, Platform, Result, labels::GC_REF_CONTENT, media_types as mt,
    platform::Matcher,
};

pub use cache::cache;
pub use native::Native;
pub use repack::repack;

use crate::{
    document::{Document, Index, read_config, to_json},
    labels, tree,
};

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 8;

/// How to convert an image.
#[derive(Clone, Debug, Default)]
pub struct Convert {
    /// Whether Docker's media types become OCI's.
    pub oci: bool,
    /// How layers are packed; as they are, if that is not said.
    pub packing: Option<Packing>,
    /// How layers become erofs images, which takes OCI's media types; they do not, if that is not said.
    pub native: Option<Native>,
    /// Whether what is converted is added to what there is, in an index that has both.
    pub append: bool,
    /// The platforms whose manifests are kept, none being all.
    pub platforms: Vec<Platform>,
}

/// Converts an image and says where the outcome is: the image itself, if there is nothing to do
/// (containerd `core/images/converter`).
///
/// Nothing keeps what is written from collection but a lease of the caller's.
///
/// Errors: `NotFound` when a part of what is converted is not here.
pub async fn convert(store: &dyn Store, image: &Descriptor, how: &Convert) -> Result<Descriptor> {
    let how = Convert { oci: how.oci || how.native.is_some(), ..how.clone() };
    if how.append { append(store, image, how).await } else { document(store, image, &how, 0).await }
}

/// An index of what there is, as it is, and of what becomes of it. Who does not know the latter takes
/// the former.
async fn append(store: &dyn Store, image: &Descriptor, how: Convert) -> Result<Descriptor> {
    let mut index = match tree::read(store, image).await? {
        Some(Document::Index(index)) => *index,
        Some(Document::Manifest(manifest)) => {
            let platform = read_config(store, &manifest.config).await?.platform.normalized();
            let only = Descriptor { platform: Some(platform), ..image.clone() };
            Index { schema_version: 2, manifests: vec![only], ..Index::default() }
        }
        None => return Err(Error::invalid(format!("{} is no image", image.digest))),
    };
    how.keep_wanted(&mut index.manifests);
    mt::INDEX.clone_into(&mut index.media_type);
    for child in index.manifests.clone() {
        let new = document(store, &child, &how, 1).await?;
        let is_there = index.manifests.iter().any(|it| it.digest == new.digest);
        // What only its description is other than would be there twice.
        if !is_there && mt::is_manifest(&new.media_type) && new.platform != child.platform {
            index.manifests.push(new);
        }
    }
    let old = Descriptor { media_type: mt::INDEX.to_owned(), ..image.clone() };
    let children = index.manifests.clone();
    write(store, &old, &index, &children).await
}

fn document<'a>(
    store: &'a dyn Store,
    old: &'a Descriptor,
    how: &'a Convert,
    depth: usize,
) -> BoxFuture<'a, Result<Descriptor>> {
    async move {
        let new = match tree::read(store, old).await? {
            _ if depth > MAX_DEPTH => {
                return Err(Error::invalid(format!("index {} is nested too deep", old.digest)));
            }
            Some(Document::Index(mut index)) => {
                let before = index.clone();
                how.keep_wanted(&mut index.manifests);
                for child in &mut index.manifests {
                    *child = document(store, child, how, depth + 1).await?;
                }
                index.media_type = how.media_type(&index.media_type);
                let is_same = index == before;
                let children = index.manifests.clone();
                if is_same { old.clone() } else { write(store, old, &*index, &children).await? }
            }
            Some(Document::Manifest(mut manifest)) => {
                let before = manifest.clone();
                let platform = match &how.native {
                    Some(native) => {
                        native::layers(store, &mut manifest, old.platform.as_ref(), native).await?
                    }
                    None => None,
                };
                manifest.config = how.described(manifest.config);
                for layer in &mut manifest.layers {
                    *layer = how.described(self::layer(store, layer, how).await?);
                }
                manifest.media_type = how.media_type(&manifest.media_type);
                let is_same = manifest == before;
                let mut children = vec![manifest.config.clone()];
                children.extend_from_slice(&manifest.layers);
                let mut new = if is_same {
                    old.clone()
                } else {
                    write(store, old, &*manifest, &children).await?
                };
                if depth > 0 && platform.is_some() {
                    new.platform = platform;
                }
                new
            }
            None => old.clone(),
        };
        Ok(how.described(new))
    }
    .boxed()
}

/// A layer, packed as it is wanted.
async fn layer(store: &dyn Store, old: &Descriptor, how: &Convert) -> Result<Descriptor> {
    let Some(packing) = how.packing.filter(|_| mt::is_layer(&old.media_type)) else {
        return Ok(old.clone());
    };
    let Some(media_type) = packed_type(&old.media_type, packing) else { return Ok(old.clone()) };
    if media_type == old.media_type {
        return Ok(old.clone());
    }
    let Descriptor { digest, size, .. } = repack(store, &old.digest, packing).await?;
    let sources = source_labels(store, &old.digest).await?;
    labels::set(store, &digest, sources).await?;
    Ok(Descriptor { media_type, digest, size, ..old.clone() })
}

/// The type of the same layer packed otherwise; none for what we do not know, such as encrypted ones.
fn packed_type(media_type: &str, packing: Packing) -> Option<String> {
    let (base, joint) = match media_type {
        it if it.starts_with("application/vnd.oci.") => {
            (it.split_once('+').map_or(it, |(base, _)| base), '+')
        }
        it => {
            let base = it.strip_suffix(".gzip").or(it.strip_suffix(".zstd")).unwrap_or(it);
            (base, '.')
        }
    };
    let known = ["", "gzip", "zstd"];
    let suffix = media_type[base.len()..].trim_start_matches(joint);
    if !known.contains(&suffix) || base.rsplit('.').next() != Some("tar") {
        return None;
    }
    Some(match packing {
        Packing::Plain => base.to_owned(),
        Packing::Gzip => format!("{base}{joint}gzip"),
        Packing::Zstd => format!("{base}{joint}zstd"),
    })
}

impl Convert {
    fn keep_wanted(&self, children: &mut Vec<Descriptor>) {
        if self.platforms.is_empty() {
            return;
        }
        let wanted = Matcher::strict(self.platforms.clone());
        children.retain(|child| child.platform.as_ref().is_none_or(|it| wanted.matches(it)));
    }

    fn media_type(&self, media_type: &str) -> String {
        if self.oci { oci_type(media_type) } else { media_type.to_owned() }
    }

    fn described(&self, mut descriptor: Descriptor) -> Descriptor {
        if !descriptor.media_type.starts_with("application/vnd.docker.") {
            return descriptor;
        }
        if self.oci {
            descriptor.media_type = oci_type(&descriptor.media_type);
        } else {
            // Docker's documents have no annotations.
            descriptor.annotations.clear();
        }
        descriptor
    }
}

fn oci_type(media_type: &str) -> String {
    let parts = [
        ("application/vnd.docker.image.rootfs.diff.tar", mt::LAYER),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
        ),
    ];
    match media_type {
        mt::DOCKER_LIST => return mt::INDEX.to_owned(),
        mt::DOCKER_MANIFEST => return mt::MANIFEST.to_owned(),
        mt::DOCKER_CONFIG => return mt::CONFIG.to_owned(),
        _ => {}
    }
    for (docker, oci) in parts {
        match media_type.strip_prefix(docker) {
            Some("") => return oci.to_owned(),
            Some(suffix @ (".gzip" | ".zstd")) => return format!("{oci}+{}", &suffix[1..]),
            _ => {}
        }
    }
    media_type.to_owned()
}

/// Writes a document in place of `old`: with labels that keep its children, and with what else was
/// known of the old one.
async fn write(
    store: &dyn Store,
    old: &Descriptor,
    document: &impl Serialize,
    children: &[Descriptor],
) -> Result<Descriptor> {
    let data = to_json(document)?;
    let (digest, size) = (Digest::of(&data), data.len() as u64);
    let new = Descriptor { digest: digest.clone(), size, ..old.clone() };
    let mut labels = source_labels(store, &old.digest).await?;
    labels.extend(labels::of_children(children));
    let reference = format!("converter-write-json-{digest}");
    blob::write(store, &reference, Expected::from(&new), data, labels.clone()).await?;
    labels::set(store, &digest, labels).await?;
    Ok(new)
}

/// The labels of a blob that are true of a converted one, too.
async fn source_labels(store: &dyn Store, digest: &Digest) -> Result<Labels> {
    let mut labels = store.info(digest).await?.labels;
    labels.retain(|key, _| !key.starts_with(GC_REF_CONTENT) && key != types::labels::UNCOMPRESSED);
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_packed_otherwise_has_another_type() {
        for (old, packing, want) in [
            (mt::LAYER_GZIP, Packing::Plain, mt::LAYER),
            (mt::LAYER_GZIP, Packing::Zstd, mt::LAYER_ZSTD),
            (mt::LAYER, Packing::Gzip, mt::LAYER_GZIP),
            (mt::DOCKER_LAYER_GZIP, Packing::Plain, mt::DOCKER_LAYER),
            (mt::DOCKER_LAYER_GZIP, Packing::Zstd, mt::DOCKER_LAYER_ZSTD),
        ] {
            assert_eq!(packed_type(old, packing).as_deref(), Some(want));
        }
        let encrypted = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted";
        assert_eq!(packed_type(encrypted, Packing::Plain), None);
    }

    #[test]
    fn dockers_types_have_twins() {
        for (docker, oci) in [
            (mt::DOCKER_LIST, mt::INDEX),
            (mt::DOCKER_MANIFEST, mt::MANIFEST),
            (mt::DOCKER_CONFIG, mt::CONFIG),
            (mt::DOCKER_LAYER, mt::LAYER),
            (mt::DOCKER_LAYER_GZIP, mt::LAYER_GZIP),
            (mt::LAYER_ZSTD, mt::LAYER_ZSTD),
            (
                "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            ),
        ] {
            assert_eq!(oci_type(docker), oci);
        }
    }
}
