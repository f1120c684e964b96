// SPDX-License-Identifier: Apache-2.0
use std::{io, path::Path};

use types::{Error, Kind};

/// What was asked of the kernel, to be told when it refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) source: &'a str,
    pub(crate) target: &'a Path,
    pub(crate) kind: &'a str,
    pub(crate) flags: u32,
    pub(crate) data: &'a str,
}

impl Call<'_> {
    /// The text is containerd's (`core/mount/mount_linux.go`, `mountAt`).
    pub(crate) fn failed(&self, error: impl Into<io::Error>) -> Error {
        let Self { source, target, kind, flags, data } = self;
        let target = target.to_string_lossy();
        let text = sys::errno::text(&error.into());
        let message = format!(
            "mount source: {source:?}, target: {target:?}, fstype: {kind}, flags: {flags}, data: {data:?}, err: {text}",
        );
        Error::said(Kind::Unknown, message)
    }
}

/// An error that says what was being done and ends in the errno's text.
pub(crate) fn failed(doing: &str, path: &Path, error: impl Into<io::Error>) -> Error {
    let text = sys::errno::text(&error.into());
    Error::said(Kind::Unknown, format!("failed to {doing} {}: {text}", path.display()))
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn a_failed_mount_names_all_it_was_asked() {
        let target = Path::new("/t");
        let call =
            Call { source: "overlay", target, kind: "overlay", flags: 1, data: "lowerdir=/l" };
        let text = r#"mount source: "overlay", target: "/t", fstype: overlay, flags: 1, data: "lowerdir=/l", err: no such file or directory"#;
        assert_eq!(call.failed(Errno::NOENT).to_string(), text);
    }
}
