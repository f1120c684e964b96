// SPDX-License-Identifier: Apache-2.0
//! What leases hold.
use types::{Digest, Error, Result};

use crate::Resource;

impl Resource {
    /// A blob.
    pub fn content(digest: &Digest) -> Self {
        Self { id: digest.to_string(), kind: "content".into() }
    }

    /// An ingest under way.
    pub fn ingest(reference: impl Into<String>) -> Self {
        Self { id: reference.into(), kind: "ingests".into() }
    }

    /// An image.
    pub fn image(name: impl Into<String>) -> Self {
        Self { id: name.into(), kind: "images".into() }
    }

    /// A snapshot of `snapshotter`.
    pub fn snapshot(snapshotter: &str, key: impl Into<String>) -> Self {
        Self { id: key.into(), kind: format!("snapshots/{snapshotter}") }
    }

    /// The snapshotter, if this is a snapshot.
    pub fn snapshotter(&self) -> Option<&str> {
        self.kind.strip_prefix("snapshots/")
    }

    /// Refuses what no lease can hold (containerd `core/metadata/leases.go`, `parseLeaseResource`).
    pub fn validate(&self) -> Result<()> {
        let Self { id, kind } = self;
        match kind.split_once('/') {
            None if kind == "content" => check_digest(id),
            None if kind == "ingests" || kind == "images" => Ok(()),
            Some(("snapshots", snapshotter)) if !snapshotter.contains('/') => Ok(()),
            None if kind == "snapshots" => {
                Err(Error::invalid(format!("invalid snapshot resource type {kind}")))
            }
            Some(("snapshots", _)) => {
                Err(Error::invalid(format!("invalid snapshot resource type {kind}")))
            }
            Some(("content" | "ingests" | "images", _)) => {
                Err(Error::invalid(format!("invalid resource type {kind}")))
            }
            _ => Err(Error::unimplemented(format!("resource type {kind} not supported yet"))),
        }
    }
}

fn check_digest(id: &str) -> Result<()> {
    match id.parse::<Digest>() {
        Ok(_) => Ok(()),
        Err(error) => Err(error.context(format!("invalid content resource id {id}"))),
    }
}

#[cfg(test)]
mod tests {
    use types::Kind;

    use super::*;

    fn check(kind: &str, id: &str, want: Option<Kind>) {
        let resource = Resource { id: id.into(), kind: kind.into() };
        assert_eq!(resource.validate().err().map(|error| error.kind()), want, "{kind} {id}");
    }

    #[test]
    fn resources_are_content_ingests_images_and_snapshots_of_a_snapshotter() {
        check("content", Digest::of("").as_str(), None);
        check("content", "sha256:beef", Some(Kind::InvalidArgument));
        check("content/x", Digest::of("").as_str(), Some(Kind::InvalidArgument));
        check("ingests", "layer-1", None);
        check("images", "busybox", None);
        check("snapshots/overlayfs", "key", None);
        check("snapshots", "key", Some(Kind::InvalidArgument));
        check("snapshots/a/b", "key", Some(Kind::InvalidArgument));
        check("volumes", "key", Some(Kind::Unimplemented));
    }
}
