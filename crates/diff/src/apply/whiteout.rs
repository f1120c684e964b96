// SPDX-License-Identifier: Apache-2.0
//! Names that are not files but say what is gone (OCI image spec, `layer.md`, "Whiteouts").
use types::{Error, Kind, Result};

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker<'a> {
    /// Just a file.
    None,
    /// Nothing of this directory shows through from beneath.
    Opaque,
    /// The file of this name is gone.
    Gone(&'a [u8]),
    /// AUFS' own bookkeeping, which concerns nobody else.
    Reserved,
}

/// Tells what a name stands for, given the directory that it is in.
///
/// Errors: `InvalidArgument` for a whiteout of `.`, of `..` or of nothing, which would remove the
/// directory or its parent (containerd `pkg/archive/tar.go`, `validateWhiteout`).
pub(super) fn marker<'a>(directory: &[u8], name: &'a [u8]) -> Result<Marker<'a>> {
    if directory.split(|&byte| byte == b'/').any(|part| part.starts_with(META_PREFIX)) {
        return Ok(Marker::Reserved);
    }
    if name == OPAQUE {
        return Ok(Marker::Opaque);
    }
    if name.starts_with(META_PREFIX) {
        return Ok(Marker::Reserved);
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(Marker::None),
        Some(b"" | b"." | b"..") => {
            let name = crate::names::show(name);
            let text = format!("invalid whiteout name: {name}: invalid archive");
            Err(Error::said(Kind::InvalidArgument, text))
        }
        Some(gone) => Ok(Marker::Gone(gone)),
    }
}

/// The whiteout of `name`.
pub(crate) fn of(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

/// Whether a layer cannot hold a file of this name, because it would mean something else.
pub(crate) fn is_marker(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart() {
        let cases = [
            ("", "file", Marker::None),
            ("", ".whatever", Marker::None),
            ("a", ".wh.file", Marker::Gone(b"file")),
            ("a", ".wh..hidden", Marker::Gone(b".hidden")),
            ("a", ".wh..wh..opq", Marker::Opaque),
            ("", ".wh..wh.plnk", Marker::Reserved),
            (".wh..wh.plnk", "12.34", Marker::Reserved),
            ("", ".wh..wh.aufs", Marker::Reserved),
        ];
        for (directory, name, want) in cases {
            assert_eq!(marker(directory.as_bytes(), name.as_bytes()).unwrap(), want, "{name}");
        }
    }

    #[test]
    fn a_whiteout_cannot_climb() {
        for name in [".wh.", ".wh..", ".wh..."] {
            let error = marker(b"a", name.as_bytes()).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("invalid whiteout name: {name}: invalid archive")
            );
        }
    }
}
