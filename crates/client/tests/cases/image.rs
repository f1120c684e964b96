// SPDX-License-Identifier: Apache-2.0
//! Making images.
use std::io::Write;

use diff::tar::{Entry, Kind, Time, Writer};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use types::{Descriptor, Digest, Platform, media_types};

use super::{remote::Remote, world::amd64};

/// A layer: its uncompressed archive.
pub(crate) type Layer = Vec<u8>;

/// An image that a registry has.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Descriptor,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Image {
    /// The name of its topmost snapshot.
    pub(crate) fn top(&self) -> Digest {
        images::chain_id(&self.diff_ids).unwrap()
    }
}

/// The media types of an image's parts.
pub(crate) struct Types {
    pub(crate) manifest: &'static str,
    pub(crate) config: &'static str,
    pub(crate) layer: &'static str,
    pub(crate) gzip: bool,
}

pub(crate) const OCI: Types = Types {
    manifest: media_types::MANIFEST,
    config: media_types::CONFIG,
    layer: media_types::LAYER,
    gzip: false,
};

pub(crate) const DOCKER: Types = Types {
    manifest: media_types::DOCKER_MANIFEST,
    config: media_types::DOCKER_CONFIG,
    layer: media_types::DOCKER_LAYER_GZIP,
    gzip: true,
};

/// Gives `remote` an image for linux/amd64.
pub(crate) fn image(remote: &Remote, layers: &[Layer]) -> Image {
    image_of(remote, &OCI, &amd64(), layers)
}

pub(crate) fn image_of(
    remote: &Remote,
    types: &Types,
    platform: &Platform,
    layers: &[Layer],
) -> Image {
    let diff_ids: Vec<_> = layers.iter().map(Digest::of).collect();
    let packed = layers.iter().map(|layer| if types.gzip { gzip(layer) } else { layer.clone() });
    let layers: Vec<_> = packed.map(|layer| remote.add(types.layer, layer)).collect();
    let config = json!({
        "os": platform.os,
        "architecture": platform.architecture,
        "config": { "Cmd": ["sh"], "Labels": { "maintainer": "me", "containerd.io/x": "evil" } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = add(remote, types.config, &config);
    let manifest = json!({
        "schemaVersion": 2, "mediaType": types.manifest, "config": config, "layers": layers,
    });
    let manifest = add(remote, types.manifest, &manifest);
    Image { manifest, config, layers, diff_ids }
}

/// Gives `remote` an index of manifests, each for a platform or for none.
pub(crate) fn index(remote: &Remote, children: &[(&Descriptor, Option<&str>)]) -> Descriptor {
    let children = children.iter().map(|(child, platform)| {
        let platform = platform.map(|text| {
            let (os, architecture) = text.split_once('/').unwrap();
            Platform { os: os.into(), architecture: architecture.into(), ..Platform::default() }
        });
        Descriptor { platform, ..(*child).clone() }
    });
    let children: Vec<_> = children.collect();
    let index = json!({ "schemaVersion": 2, "manifests": children });
    add(remote, media_types::INDEX, &index)
}

pub(crate) fn add(remote: &Remote, media_type: &str, document: &Value) -> Descriptor {
    remote.add(media_type, document.to_string())
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Three layers that only add files, the second of them large.
pub(crate) fn plain() -> Vec<Layer> {
    let large = "0123456789abcdef".repeat(1 << 12);
    vec![
        layer(&[dir("bin", 0o755), file("bin/sh", "shell")]),
        layer(&[dir("data", 0o750), file("data/large", &large)]),
        layer(&[file("top", "top")]),
    ]
}

pub(crate) fn layer(entries: &[(Entry, &str)]) -> Layer {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.append(entry).unwrap();
        writer.data(data.as_bytes()).unwrap();
    }
    writer.finish().unwrap()
}

fn entry(name: &str, kind: Kind, mode: u32) -> Entry {
    let modified = Time { seconds: 1_000_000, nanos: 0 };
    Entry { name: name.into(), kind, mode, modified, ..Entry::default() }
}

pub(crate) fn dir(name: &str, mode: u32) -> (Entry, &'static str) {
    (entry(&format!("{name}/"), Kind::Directory, mode), "")
}

pub(crate) fn file<'a>(name: &str, data: &'a str) -> (Entry, &'a str) {
    (Entry { size: data.len() as u64, ..entry(name, Kind::File, 0o644) }, data)
}

pub(crate) fn link(name: &str, to: &str) -> (Entry, &'static str) {
    (Entry { link: to.into(), ..entry(name, Kind::Link, 0o644) }, "")
}
