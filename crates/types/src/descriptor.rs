// SPDX-License-Identifier: Apache-2.0
use serde::{Deserialize, Serialize};

use crate::{Digest, Labels, Platform};

/// Points at content: what it is, what it is called, how long it is (OCI image spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The type of what is pointed at.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Other places to fetch it from.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// What the referrer says of it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The type of the artifact, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor of `size` bytes named `digest`.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: Labels::new(),
            platform: None,
            artifact_type: None,
        }
    }
}

/// The media types of images (OCI image spec media-types.md; Docker image manifest v2.2).
pub mod media_types {
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image config.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, tar.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, tar in gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, tar in zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image config.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, tar.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, tar in gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, tar in zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
    /// A layer that is an erofs image, mounted as it is; `+zstd` behind it says that the blob is
    /// compressed besides (containerd `core/images/mediatypes.go`).
    pub const EROFS_LAYER: &str = "application/vnd.erofs.layer.v1";
    /// Docker manifest, schema 1, refused.
    pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

    /// Whether this is an index or a manifest list.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, INDEX | DOCKER_LIST)
    }

    /// Whether this is a manifest of one image.
    pub fn is_manifest(media_type: &str) -> bool {
        matches!(media_type, MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this is an image's config.
    pub fn is_config(media_type: &str) -> bool {
        matches!(media_type, CONFIG | DOCKER_CONFIG)
    }

    /// Whether this is a filesystem layer, however compressed (non-distributable ones included).
    pub fn is_layer(media_type: &str) -> bool {
        is_erofs_layer(media_type)
            || media_type.starts_with("application/vnd.oci.image.layer.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.")
    }

    /// Whether this is a layer that is an erofs image.
    pub fn is_erofs_layer(media_type: &str) -> bool {
        media_type.split('+').next() == Some(EROFS_LAYER)
    }

    /// Whether registries are asked not to hand this layer on.
    pub fn is_non_distributable(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_only_what_is_said() {
        let descriptor = Descriptor::new(media_types::CONFIG, Digest::of("{}"), 2);
        let json = serde_json::to_string(&descriptor).unwrap();
        assert!(!json.contains("urls") && json.contains("\"mediaType\""), "{json}");
        assert_eq!(serde_json::from_str::<Descriptor>(&json).unwrap(), descriptor);
    }
}
