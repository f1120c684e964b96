// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// What a collection did, and how long it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// How many records and ingests were looked at.
    pub seen: usize,
    /// How many of them were removed.
    pub removed: Removed,
    /// How long it took to find and remove them. Nobody else waited for the first part.
    pub metadata: Duration,
    /// For how long other writers had to wait at most.
    pub pause: Duration,
    /// How long removing bytes took, where there was anything to look for: by snapshotter, and
    /// under the empty name for content. Unmounting is under `mounts`.
    pub backends: BTreeMap<String, Duration>,
    /// What could not be removed. It is tried again with the next collection.
    pub failures: Vec<String>,
    /// When the next thing expires.
    pub expires: Option<SystemTime>,
}

/// How many of each were removed from the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blobs, each time for one namespace.
    pub content: usize,
    /// Snapshots.
    pub snapshots: usize,
    /// Ingests.
    pub ingests: usize,
    /// Images that expired.
    pub images: usize,
    /// Leases that expired.
    pub leases: usize,
    /// Activations of mounts.
    pub mounts: usize,
}

impl Removed {
    /// All of them together.
    pub fn total(&self) -> usize {
        let Self { content, snapshots, ingests, images, leases, mounts } = self;
        content + snapshots + ingests + images + leases + mounts
    }
}
