// SPDX-License-Identifier: Apache-2.0
//! Filesystems in layers, copied on write.
//!
//! A snapshotter answers with mounts and never mounts them. A committed snapshot never changes; an
//! active one is a writable layer over a committed parent; a view is a read-only one.
//!
//! ```text
//!            prepare(key, parent)              commit(name, key)
//! committed ---------------------> active(key) -----------------> committed(name)
//!     |      view(key, parent)
//!     `--------------------------> view(key)          remove(key) ends any of the three
//! ```
//!
//! [`Overlay`] lays directories over each other, [`Native`] copies them, [`Btrfs`] clones subvolumes,
//! [`Erofs`] lays a directory over images that cannot change, [`Blockfile`] copies images that can.
//! What they share (keys, parents, labels, the order in which things become durable) is [`Layered`],
//! and what differs is a [`Driver`]: another filesystem is another driver.
//!
//! ```no_run
//! # async fn example() -> types::Result<()> {
//! use snapshots::{Options, Overlay, Snapshotter};
//!
//! let root = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs";
//! let snapshots = Overlay::open(root, Options::default())?;
//! let mounts = snapshots.prepare("layer", None, Default::default()).await?;
//! mount::all(&mounts, "/mnt".as_ref())?;
//! # Ok(())
//! # }
//! ```
mod blockfile;
mod btrfs;
mod erofs;
mod id_map;
mod layered;
mod meta;
mod native;
mod overlay;
mod quota;
#[cfg(feature = "suite")]
pub mod suite;
mod tree;

pub use blockfile::{Blockfile, BlockfileDriver, BlockfileOptions};
pub use btrfs::{Btrfs, BtrfsDriver};
pub use erofs::{Erofs, ErofsDriver, ErofsOptions};
pub use id_map::{GID_MAPPING_LABEL, UID_MAPPING_LABEL};
pub use layered::{Driver, Layered, Layers};
pub use native::{Native, NativeDriver};
pub use overlay::{Options, Overlay, OverlayDriver, UPPERDIR_LABEL};
pub use quota::MAX_SIZE_LABEL;

use std::{borrow::Cow, path::PathBuf, time::SystemTime};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use mount::Mount;
use types::{FieldMask, Fields, Filters, Labels, Result};

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Read-only, over a parent.
    View,
    /// Writable, over a parent.
    Active,
    /// Finished: it can be a parent.
    Committed,
}

impl Kind {
    /// The word of filters and of the command line: `Active`.
    pub fn name(self) -> &'static str {
        match self {
            Self::View => "View",
            Self::Active => "Active",
            Self::Committed => "Committed",
        }
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What it is.
    pub kind: Kind,
    /// Its key while active or a view, its name once committed.
    pub name: String,
    /// The name of its parent, if it has one.
    pub parent: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: SystemTime,
    /// When its labels or its kind last changed.
    pub updated_at: SystemTime,
}

/// `kind` (in lower case), `name`, `parent` and `labels.<key>` (containerd
/// `core/metadata/adaptors.go`, `adaptSnapshot`).
impl Fields for Info {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["kind"] => Some(self.kind.name().to_lowercase().into()),
            ["name"] => Some(self.name.as_str().into()),
            ["parent"] => self.parent.as_deref().map(Cow::Borrowed),
            ["labels", key @ ..] => types::filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// What a snapshot takes on disk, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of disk, in blocks used.
    pub size: u64,
    /// Files, directories and the like.
    pub inodes: u64,
}

/// What a snapshotter can do beyond the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Capability {
    /// [`Commit::parent`] is honoured: layers can be unpacked side by side and chained at commit.
    Rebase,
    /// Ownership can be shifted by labels instead of changing every file.
    RemapIds,
    /// Ownership can be shifted in no other way: whoever would change every file must not.
    OnlyRemapIds,
}

impl Capability {
    /// The name as plugins list it: `rebase`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rebase => "rebase",
            Self::RemapIds => "remap-ids",
            Self::OnlyRemapIds => "only-remap-ids",
        }
    }
}

/// What a commit may say besides the two names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commit {
    /// Labels of the committed snapshot; those of the active one are not kept.
    pub labels: Labels,
    /// The parent that the committed snapshot gets instead of none: only for an active snapshot
    /// that was prepared without one, and only with [`Capability::Rebase`].
    pub parent: Option<String>,
}

/// A store of snapshots.
///
/// Keys and names are one flat set of non-empty strings. Errors, for every implementation: what
/// does not exist is `NotFound`, also a parent; a key or name in use is `AlreadyExists`; an operation
/// that the snapshot's kind does not allow, or the removal of a snapshot with children, is
/// `FailedPrecondition`; an empty key, or a parent that is not committed, is `InvalidArgument`
/// (containerd `core/snapshots/storage/bolt.go`; only a commit onto such a parent is
/// `FailedPrecondition`).
#[async_trait]
pub trait Snapshotter: Send + Sync + 'static {
    /// What it can do beyond the contract.
    fn capabilities(&self) -> &[Capability] {
        &[]
    }

    /// Tells what is known of a snapshot.
    async fn stat(&self, key: &str) -> Result<Info>;

    /// Replaces the labels that `mask` names (`labels`, `labels.<key>`; an empty mask is all of
    /// them) and returns the outcome.
    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info>;

    /// What the snapshot itself takes on disk: measured for an active one, remembered for a
    /// committed one.
    async fn usage(&self, key: &str) -> Result<Usage>;

    /// The mounts of an active snapshot or a view, as `prepare` or `view` answered.
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>>;

    /// Makes a writable snapshot over `parent`, or over nothing.
    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes a read-only snapshot over `parent`, or over nothing.
    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>>;

    /// Makes the active snapshot `key` the committed snapshot `name`. Whatever wrote it has synced
    /// its data: a committed snapshot survives a power cut.
    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()>;

    /// Removes a snapshot that has no children. Its data may go later: see [`Self::cleanup`].
    async fn remove(&self, key: &str) -> Result<()>;

    /// Streams the snapshots that match, parents before their children.
    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>>;

    /// Deletes the data of removed snapshots, and what a crash left behind.
    async fn cleanup(&self) -> Result<()>;

    /// Makes the data of an active snapshot or a view anew, and empty, where it is gone. What is there
    /// stays. `FailedPrecondition` for a committed one: only unpacking it again brings that back.
    async fn mend(&self, key: &str) -> Result<()> {
        Err(types::Error::unimplemented(format!("mending of snapshot {key}")))
    }

    /// Lists where data lies, and whose it is. What is in the making is left out. `Unimplemented`
    /// when that is not for others to know.
    async fn places(&self) -> Result<Vec<Place>> {
        Err(types::Error::unimplemented("places of snapshots"))
    }
}

/// Where data of a snapshot lies, or should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its directory.
    pub path: PathBuf,
    /// The key or name of its snapshot, if any has it.
    pub key: Option<String>,
    /// When it was last changed; nothing if it is not there.
    pub changed_at: Option<SystemTime>,
}
