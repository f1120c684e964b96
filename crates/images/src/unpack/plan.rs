// SPDX-License-Identifier: Apache-2.0
use types::{
    Descriptor, Digest, Error, Labels, Result,
    labels::{SNAPSHOT_DIFF_ID, SNAPSHOT_PARENT, SNAPSHOT_REF, validate},
    media_types,
};

use crate::{Config, Manifest, chain_ids};

/// Annotations of a layer with this prefix become labels of its snapshot (containerd
/// `core/snapshots/snapshotter.go`, `FilterInheritedLabels`).
const INHERITED: &str = "containerd.io/snapshot/";

/// A layer, and which snapshot it becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its place among the layers, lowest first.
    pub index: usize,
    /// Its blob.
    pub descriptor: Descriptor,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// The snapshot that it becomes.
    pub chain_id: Digest,
    /// The snapshot beneath.
    pub parent: Option<Digest>,
}

impl Layer {
    /// The labels of its snapshot.
    pub(super) fn labels(&self) -> Labels {
        let annotations = self.descriptor.annotations.iter();
        let inherited = annotations.filter(|(key, _)| key.starts_with(INHERITED));
        let mut labels: Labels =
            inherited.map(|(key, value)| (key.clone(), value.clone())).collect();
        labels.insert(SNAPSHOT_REF.to_owned(), self.chain_id.to_string());
        labels.insert(SNAPSHOT_DIFF_ID.to_owned(), self.diff_id.to_string());
        if let Some(parent) = &self.parent {
            labels.insert(SNAPSHOT_PARENT.to_owned(), parent.to_string());
        }
        labels
    }
}

/// A root filesystem to be unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rootfs {
    /// The config that says so.
    pub config: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
}

impl Rootfs {
    /// Plans the snapshots of an image.
    ///
    /// What is no filesystem layer, such as an attestation, is passed over; without any layers there
    /// is nothing to unpack. Errors: `InvalidArgument` when manifest and config disagree.
    pub fn plan(manifest: &Manifest, config: &Config) -> Result<Self> {
        let is_layer = |layer: &&Descriptor| media_types::is_layer(&layer.media_type);
        let blobs: Vec<_> = manifest.layers.iter().filter(is_layer).collect();
        let is_filesystem = matches!(config.root_fs.kind.as_str(), "" | "layers")
            && media_types::is_config(&manifest.config.media_type);
        let mut rootfs = Self { config: manifest.config.digest.clone(), layers: Vec::new() };
        if blobs.is_empty() || !is_filesystem {
            return Ok(rootfs);
        }
        let diff_ids = &config.root_fs.diff_ids;
        if blobs.len() != diff_ids.len() {
            let (blobs, diff_ids) = (blobs.len(), diff_ids.len());
            let why = format!("number of layers and diffIDs don't match: {blobs} != {diff_ids}");
            return Err(Error::invalid(why));
        }
        let mut parent = None;
        let chained = blobs.into_iter().zip(diff_ids).zip(chain_ids(diff_ids)).enumerate();
        for (index, ((descriptor, diff_id), chain_id)) in chained {
            let (descriptor, diff_id) = (descriptor.clone(), diff_id.clone());
            let beneath = parent.replace(chain_id.clone());
            rootfs.layers.push(Layer { index, descriptor, diff_id, chain_id, parent: beneath });
        }
        Ok(rootfs)
    }

    /// The same, with what a snapshotter needs to bring layers by itself, as labels of the snapshots:
    /// the image's name if it is known, its manifest, and which layers it and those above it are
    /// (containerd `pkg/snapshotters/annotations.go`).
    pub fn announced(mut self, name: Option<&str>, manifest: &Digest) -> Self {
        let digests: Vec<_> =
            self.layers.iter().map(|layer| layer.descriptor.digest.to_string()).collect();
        for (layer, above) in self.layers.iter_mut().zip((0..).map(|index| &digests[index..])) {
            let annotations = &mut layer.descriptor.annotations;
            let mut say = |what: &str, value: String| {
                annotations.insert(format!("{INHERITED}cri.{what}"), value);
            };
            if let Some(name) = name {
                say("image-ref", name.to_owned());
            }
            say("manifest-digest", manifest.to_string());
            say("layer-digest", above[0].clone());
            say("image-layers", as_many_as_fit(above));
        }
        self
    }

    /// The topmost layer.
    pub fn top(&self) -> Option<&Layer> {
        self.layers.last()
    }
}

/// As many of `digests` as a label can hold, joined by commas.
fn as_many_as_fit(digests: &[String]) -> String {
    let mut joined = String::new();
    for digest in digests {
        let longer = match joined.as_str() {
            "" => digest.clone(),
            joined => format!("{joined},{digest}"),
        };
        if validate(&format!("{INHERITED}cri.image-layers"), &longer).is_err() {
            break;
        }
        joined = longer;
    }
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use types::media_types::{CONFIG, LAYER_GZIP};

    use super::*;

    fn blob(media_type: &str, content: &str) -> Descriptor {
        Descriptor::new(media_type, Digest::of(content), 1)
    }

    fn plan(layers: &[Descriptor], diff_ids: &[Digest]) -> Result<Rootfs> {
        let manifest = json!({ "config": blob(CONFIG, "c"), "layers": layers });
        let config = json!({ "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        let parsed = |error| panic!("{error}");
        Rootfs::plan(
            &serde_json::from_value(manifest).unwrap_or_else(parsed),
            &serde_json::from_value(config).unwrap(),
        )
    }

    #[test]
    fn each_layer_is_over_the_chain_beneath_it() {
        let ids = ["a", "b"].map(Digest::of);
        let attestation = blob("application/vnd.in-toto+json", "x");
        let rootfs =
            plan(&[blob(LAYER_GZIP, "1"), attestation, blob(LAYER_GZIP, "2")], &ids).unwrap();
        let [lower, upper] = rootfs.layers.as_slice() else { panic!("{rootfs:?}") };
        assert_eq!((&lower.chain_id, &lower.parent), (&ids[0], &None));
        assert_eq!(upper.parent.as_ref(), Some(&ids[0]));
        assert_eq!(upper.chain_id, chain_ids(&ids)[1]);
    }

    #[test]
    fn manifest_and_config_have_to_agree() {
        let error = plan(&[blob(LAYER_GZIP, "1")], &[]).unwrap_err();
        let want = "number of layers and diffIDs don't match: 1 != 0: invalid argument";
        assert_eq!(error.to_string(), want);
        assert_eq!(plan(&[], &[Digest::of("a")]).unwrap().layers, []);
    }

    #[test]
    fn a_snapshot_inherits_what_is_meant_for_it() {
        let mut blob = blob(LAYER_GZIP, "1");
        for key in ["containerd.io/snapshot/remote/x", "containerd.io/other", "title"] {
            blob.annotations.insert(key.into(), "y".into());
        }
        let rootfs = plan(&[blob], &[Digest::of("a")]).unwrap();
        let labels = rootfs.layers[0].labels();
        let keys: Vec<_> = labels.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "containerd.io/snapshot.ref",
                "containerd.io/snapshot/diff-id",
                "containerd.io/snapshot/remote/x"
            ]
        );
    }

    #[test]
    fn a_snapshotter_that_brings_layers_is_told_which() {
        let digests: Vec<_> = (0..80).map(|n| Digest::of(n.to_string())).collect();
        let blobs: Vec<_> = (0..80).map(|n| blob(LAYER_GZIP, &n.to_string())).collect();
        let rootfs = plan(&blobs, &digests).unwrap().announced(Some("r.io/a:1"), &digests[0]);
        let labels = |index: usize| rootfs.layers[index].labels();
        assert_eq!(labels(0)["containerd.io/snapshot/cri.image-ref"], "r.io/a:1");
        let layers = |index| labels(index)["containerd.io/snapshot/cri.image-layers"].clone();
        assert_eq!(layers(79), blobs[79].digest.as_str());
        assert!(layers(0).len() <= 4096 && layers(0).starts_with(blobs[0].digest.as_str()));
    }
}
