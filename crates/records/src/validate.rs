// SPDX-License-Identifier: Apache-2.0
//! What a record must be to be kept (containerd `core/metadata/{containers,images,namespaces}.go`;
//! the texts are containerd's, since clients show and match them).
use types::{Context, Descriptor, Error, Labels, Result, identifiers, labels};

use crate::{Container, Image, Lease, Namespace, Sandbox};

pub(crate) fn namespace(namespace: &Namespace) -> Result<()> {
    identifiers::validate(&namespace.name)?;
    check_labels(&namespace.labels, "namespace.Labels")
}

/// A spec is wanted by those who run it, and not here: Go's store asks for one, but takes the one that
/// its service makes of none (containerd `plugins/services/containers/helpers.go`).
pub(crate) fn container(container: &Container) -> Result<()> {
    identifiers::validate(&container.id).context(|| "container.ID")?;
    if container.extensions.contains_key("") {
        return Err(Error::invalid("container.Extension keys must not be zero-length"));
    }
    check_labels(&container.labels, "containers.Labels")?;
    if container.runtime.name.is_empty() {
        return Err(Error::invalid("container.Runtime.Name must be set"));
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        let rule = "container.Snapshotter must be set if container.SnapshotKey is set";
        return Err(Error::invalid(rule));
    }
    Ok(())
}

/// Only the name and the labels: what else there is, is between the client and the controller
/// (containerd `core/metadata/sandbox.go`, `validate`).
pub(crate) fn sandbox(sandbox: &Sandbox) -> Result<()> {
    identifiers::validate(&sandbox.id).context(|| "invalid sandbox ID")?;
    check_labels(&sandbox.labels, "sandbox.Labels")
}

pub(crate) fn image(image: &Image) -> Result<()> {
    if image.name.is_empty() {
        return Err(Error::invalid("image name must not be empty"));
    }
    check_labels(&image.labels, "image.Labels")?;
    target(&image.target)
}

fn target(target: &Descriptor) -> Result<()> {
    if target.size == 0 || i64::try_from(target.size).is_err() {
        return Err(Error::invalid("Target.Size must be greater than zero"));
    }
    if target.media_type.is_empty() {
        return Err(Error::invalid("Target.MediaType must be set"));
    }
    Ok(())
}

pub(crate) fn lease(lease: &Lease) -> Result<()> {
    if lease.id.is_empty() {
        return Err(Error::invalid("lease id must be provided"));
    }
    check_labels(&lease.labels, "lease.Labels")
}

fn check_labels(all: &Labels, of: &'static str) -> Result<()> {
    labels::validate_all(all).context(|| of)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::UNIX_EPOCH;

    use types::{Any, Digest, media_types};

    use super::*;
    use crate::{Record, Runtime};

    pub(crate) fn a_container() -> Container {
        Container {
            id: "c".into(),
            labels: Labels::new(),
            image: "busybox".into(),
            runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
            spec: Some(Any::new("spec", "{}")),
            snapshotter: "overlayfs".into(),
            snapshot_key: "c".into(),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
            extensions: [].into(),
            sandbox: String::new(),
        }
    }

    pub(crate) fn a_sandbox() -> Sandbox {
        Sandbox {
            id: "s".into(),
            runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
            spec: None,
            labels: Labels::new(),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
            extensions: [].into(),
            sandboxer: "shim".into(),
        }
    }

    pub(crate) fn an_image() -> Image {
        Image {
            name: "busybox".into(),
            labels: Labels::new(),
            target: Descriptor::new(media_types::MANIFEST, Digest::of(""), 7),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
        }
    }

    /// How to spoil a record, and what is said then.
    type Rule<T> = (fn(&mut T), &'static str);

    #[track_caller]
    fn check<T: Record>(mut record: T, spoil: impl FnOnce(&mut T), want: &str) {
        assert!(record.validate().is_ok());
        spoil(&mut record);
        assert_eq!(record.validate().unwrap_err().to_string(), want);
    }

    #[test]
    fn containers_need_what_runs_them() {
        let rules: [Rule<Container>; 5] = [
            (
                |c| c.id = "a/b".into(),
                "container.ID: identifier \"a/b\" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument",
            ),
            (|c| c.runtime.name.clear(), "container.Runtime.Name must be set: invalid argument"),
            (
                |c| c.snapshotter.clear(),
                "container.Snapshotter must be set if container.SnapshotKey is set: invalid argument",
            ),
            (
                |c| c.extensions = [(String::new(), Any::default())].into(),
                "container.Extension keys must not be zero-length: invalid argument",
            ),
            (
                |c| c.labels = [("k".into(), "v".repeat(4096))].into(),
                "containers.Labels: label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: k: invalid argument",
            ),
        ];
        for (spoil, want) in rules {
            check(a_container(), spoil, want);
        }
    }

    #[test]
    fn a_sandbox_needs_a_name_alone() {
        check(
            a_sandbox(),
            |s| s.id = "a/b".into(),
            "invalid sandbox ID: identifier \"a/b\" must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument",
        );
        let bare = Sandbox { runtime: Runtime::default(), ..a_sandbox() };
        assert!(bare.validate().is_ok());
    }

    #[test]
    fn images_need_a_name_and_a_target() {
        check(an_image(), |i| i.name.clear(), "image name must not be empty: invalid argument");
        let rules: [Rule<Descriptor>; 2] = [
            (|t| t.size = 0, "Target.Size must be greater than zero: invalid argument"),
            (|t| t.media_type.clear(), "Target.MediaType must be set: invalid argument"),
        ];
        for (spoil, want) in rules {
            check(an_image(), |image| spoil(&mut image.target), want);
        }
    }
}
