// SPDX-License-Identifier: Apache-2.0
//! Labels, and the names that mean something to this project.
use std::collections::BTreeMap;

use crate::{Error, Result};

/// Names and values that a client hangs on a thing.
pub type Labels = BTreeMap<String, String>;

/// The longest a key and its value may be together, in bytes (containerd `pkg/labels/validate.go`).
const MAX_SIZE: usize = 4096;

/// Keeps a resource from collection for as long as it stands; any value will do.
pub const GC_ROOT: &str = "containerd.io/gc.root";
/// An RFC 3339 time after which a lease or image is as good as gone.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";
/// On a lease: what it holds is held, but not what that refers to.
pub const GC_FLAT: &str = "containerd.io/gc.flat";
/// A digest that the labelled thing refers to; may be followed by `.` or `/` and a suffix.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";
/// A snapshot that the labelled thing refers to: `containerd.io/gc.ref.snapshot.<snapshotter>`.
pub const GC_REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// An image that the labelled thing refers to.
pub const GC_REF_IMAGE: &str = "containerd.io/gc.ref.image";
/// On a compressed blob: the digest of what it inflates to.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// On a blob: which repositories of a host it came from: `containerd.io/distribution.source.<host>`.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source";
/// On a namespace: its blobs may be seen from other namespaces.
pub const NAMESPACE_SHAREABLE: &str = "containerd.io/namespace.shareable";
/// On a namespace: the runtime of containers that name none.
pub const DEFAULT_RUNTIME: &str = "containerd.io/defaults/runtime";
/// On a namespace: the snapshotter of clients that name none.
pub const DEFAULT_SNAPSHOTTER: &str = "containerd.io/defaults/snapshotter";
/// On a call to prepare: the name under which the layer will be committed.
pub const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// Tells a snapshotter which layer it is asked to prepare, by its diff ID (containerd
/// `core/unpack/unpacker.go`).
pub const SNAPSHOT_DIFF_ID: &str = "containerd.io/snapshot/diff-id";

/// Tells a snapshotter over which layer a snapshot will be committed, which may be prepared over
/// nothing (containerd `core/unpack/unpacker.go`).
pub const SNAPSHOT_PARENT: &str = "containerd.io/snapshot/parent-chain-id";

/// Refuses a label whose key and value are longer than 4096 bytes together.
pub fn validate(key: &str, value: &str) -> Result<()> {
    let total = key.len() + value.len();
    if total <= MAX_SIZE {
        return Ok(());
    }
    let shown: String = key.chars().take(10).collect();
    Err(Error::invalid(format!(
        "label key and value length ({total} bytes) greater than maximum size ({MAX_SIZE} bytes), key: {shown}"
    )))
}

/// Refuses the first label that [`validate`] refuses.
pub fn validate_all(labels: &Labels) -> Result<()> {
    labels.iter().try_for_each(|(key, value)| validate(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_may_fill_its_size_but_not_exceed_it() {
        assert!(validate("k", &"v".repeat(4095)).is_ok());
        assert!(validate("k", &"v".repeat(4096)).is_err());
    }
}
