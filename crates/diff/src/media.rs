// SPDX-License-Identifier: Apache-2.0
//! The media types of layers: which we can apply, which we can make, and how they are compressed.
use types::{Error, Kind, Result, media_types as mt};

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

const OCI_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
const DOCKER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
const DOCKER_FOREIGN_GZIP: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// Tells whether a layer is compressed, or refuses what is no layer that we can read.
///
/// The bytes themselves say how, so that a layer with the wrong suffix still works; but what is not
/// called compressed is not inflated, except that Docker once called every layer a plain tar
/// (containerd `core/images/mediatypes.go`, `core/diff/stream.go`). Anything behind a `+` that we do
/// not know, such as `+encrypted`, needs a processor that we do not have.
pub(crate) fn is_compressed(media_type: &str) -> Result<bool> {
    match media_type {
        mt::DOCKER_LAYER
        | mt::DOCKER_LAYER_GZIP
        | mt::DOCKER_LAYER_ZSTD
        | DOCKER_FOREIGN
        | DOCKER_FOREIGN_GZIP => return Ok(true),
        _ => {}
    }
    let (base, suffix) = media_type.split_once('+').unwrap_or((media_type, ""));
    match (base, suffix) {
        (mt::LAYER | OCI_FOREIGN, "") => Ok(false),
        (mt::LAYER | OCI_FOREIGN, "gzip" | "zstd") => Ok(true),
        _ => Err(Error::said(
            Kind::Unimplemented,
            format!("failed to get stream processor for {media_type}: no processor for media-type"),
        )),
    }
}

/// The compression of a layer that is to be made. Empty is the default, OCI in gzip.
///
/// Compat: the text is what BuildKit and nerdctl see from containerd (`plugins/diff/walking/differ.go`),
/// and the code what makes a daemon try its next differ.
pub(crate) fn to_make(media_type: &str) -> Result<(&str, Compression)> {
    let compression = match media_type {
        "" => return Ok((mt::LAYER_GZIP, Compression::Gzip)),
        mt::LAYER | mt::DOCKER_LAYER | DOCKER_FOREIGN => Compression::None,
        mt::LAYER_GZIP | mt::DOCKER_LAYER_GZIP | DOCKER_FOREIGN_GZIP => Compression::Gzip,
        mt::LAYER_ZSTD | mt::DOCKER_LAYER_ZSTD => Compression::Zstd,
        _ => {
            let text = format!("unsupported diff media type: {media_type}");
            return Err(Error::unimplemented(text));
        }
    };
    Ok((media_type, compression))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_layers_can_be_applied() {
        let cases = [
            ("application/vnd.oci.image.layer.v1.tar", false),
            ("application/vnd.oci.image.layer.v1.tar+gzip", true),
            ("application/vnd.oci.image.layer.v1.tar+zstd", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", true),
            ("application/vnd.docker.image.rootfs.diff.tar", true),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", true),
            ("application/vnd.docker.image.rootfs.diff.tar.zstd", true),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
        ];
        for (media_type, want) in cases {
            assert_eq!(is_compressed(media_type).unwrap(), want, "{media_type}");
        }
    }

    #[test]
    fn what_needs_a_processor_is_not_implemented() {
        for media_type in [
            "",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.oci.image.layer.v1.tar+encrypted",
            "application/vnd.docker.image.rootfs.diff.tar.gzip+encrypted",
            "application/vnd.oci.image.config.v1+json",
        ] {
            let error = is_compressed(media_type).unwrap_err();
            assert_eq!(error.kind(), Kind::Unimplemented, "{media_type}");
        }
    }

    #[test]
    fn a_layer_of_an_unknown_type_is_not_made() {
        let error = to_make("text/plain").unwrap_err();
        assert_eq!(error.to_string(), "unsupported diff media type: text/plain: not implemented");
        assert_eq!(error.kind(), Kind::Unimplemented);
        assert_eq!(to_make("").unwrap(), (mt::LAYER_GZIP, Compression::Gzip));
    }
}
