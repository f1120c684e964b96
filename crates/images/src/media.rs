// SPDX-License-Identifier: Apache-2.0
use types::{Descriptor, media_types};

/// A name that the descriptor's referrer gives to what it points at (OCI image spec, annotations.md).
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The configs of checkpoints (containerd `core/images/mediatypes.go`).
const CHECKPOINT_CONFIGS: [&str; 2] = [
    "application/vnd.containerd.container.criu.checkpoint.criu.tar",
    "application/vnd.containerd.container.checkpoint.config.v1+proto",
];

/// Whether this is the config of an image or of a checkpoint.
pub fn is_known_config(media_type: &str) -> bool {
    media_types::is_config(media_type) || CHECKPOINT_CONFIGS.contains(&media_type)
}

/// The name of the ingest that a blob comes in through, and of its progress: `layer-sha256:...`.
///
/// Every client names it so, and so they find each other's transfers and go on with them
/// (containerd `core/remotes/handlers.go`, `MakeRefKey`).
pub fn ref_key(descriptor: &Descriptor) -> String {
    let digest = &descriptor.digest;
    let kind = match descriptor.media_type.as_str() {
        it if media_types::is_manifest(it) => "manifest",
        it if media_types::is_index(it) => "index",
        it if media_types::is_layer(it) => "layer",
        it if is_known_config(it) => "config",
        _ => "unknown",
    };
    match descriptor.annotations.get(REF_NAME) {
        Some(name) => format!("{kind}-{name}@{digest}"),
        None => format!("{kind}-{digest}"),
    }
}

#[cfg(test)]
mod tests {
    use types::Digest;

    use super::*;

    #[test]
    fn ingests_are_named_by_what_they_will_be() {
        let digest = Digest::of("");
        for (media_type, want) in [
            (media_types::DOCKER_MANIFEST, "manifest"),
            (media_types::INDEX, "index"),
            (media_types::DOCKER_LAYER_GZIP, "layer"),
            (media_types::CONFIG, "config"),
            ("application/vnd.in-toto+json", "unknown"),
        ] {
            let descriptor = Descriptor::new(media_type, digest.clone(), 1);
            assert_eq!(ref_key(&descriptor), format!("{want}-{digest}"));
        }
    }

    #[test]
    fn a_ref_name_is_part_of_it() {
        let mut descriptor = Descriptor::new(media_types::MANIFEST, Digest::of(""), 1);
        descriptor.annotations.insert(REF_NAME.into(), "v1".into());
        assert_eq!(ref_key(&descriptor), format!("manifest-v1@{}", descriptor.digest));
    }
}
