// SPDX-License-Identifier: Apache-2.0
//! Mounts: the value that snapshotters and runtimes share, and what carries it out.
//!
//! A [`Mount`] is plain data: a snapshotter answers with a list of them, a runtime mounts the list,
//! and neither knows the other. This crate executes and never decides.
//!
//! ```text
//! snapshots --Vec<Mount>--> mount::all(&mounts, target) --> a root filesystem
//! ```

/// A filesystem to be mounted, in the words of `mount(8)` and of containerd's wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mount {
    /// The type: `bind`, `overlay`, `tmpfs`, `ext4`, or what a foreign snapshotter names.
    pub kind: String,
    /// What is mounted: a directory, a device, a file.
    pub source: String,
    /// A directory below the target to mount at, relative; usually empty.
    pub target: String,
    /// Options as in `fstab(5)`: `ro`, `rbind`, `lowerdir=...`.
    pub options: Vec<String>,
}
