// SPDX-License-Identifier: Apache-2.0
//! What is on the disk and on the host, and why: plain data, and the contract of whoever knows.
use std::{path::PathBuf, time::SystemTime};

use async_trait::async_trait;
use types::Result;

/// Something that takes room or a name on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    /// What sort of thing: `blob`, `ingest`, `snapshot`, `directory`, `mount`, `loop`, `bundle`,
    /// `shim`, `cgroup`, `netns`.
    pub kind: String,
    /// Whose it is; empty if no namespace knows it.
    pub namespace: String,
    /// Its name: a digest, a reference, a key with its snapshotter, a path, an id.
    pub name: String,
    /// Where it is, if it is a file or a directory.
    pub path: Option<PathBuf>,
    /// What it takes, in bytes, as far as that is known or was asked for.
    pub size: u64,
    /// Whether it is as it should be.
    pub state: State,
    /// What keeps it, and what keeps that, up to what stays on its own account.
    pub owners: Vec<String>,
    /// Since when it has been as it is, if that is known.
    pub since: Option<SystemTime>,
}

/// Whether a thing is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Something keeps it.
    Kept,
    /// Nothing keeps it, and the next collection removes it.
    Garbage,
    /// Nobody knows it, and nobody is about to remove it.
    Orphan,
    /// There is a record of it, and it is not there.
    Missing,
    /// It is there, and not what its name says.
    Broken,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Kept, Self::Garbage, Self::Orphan, Self::Missing, Self::Broken];

    /// The word of the wire and of the command line: `kept`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Garbage => "garbage",
            Self::Orphan => "orphan",
            Self::Missing => "missing",
            Self::Broken => "broken",
        }
    }

    /// Whether something is wrong.
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::Orphan | Self::Missing | Self::Broken)
    }
}

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many records went.
    pub records: u64,
    /// What could not be removed, in words.
    pub failures: Vec<String>,
}

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was done, in words, and what is left to do by whoever asked.
    pub deeds: Vec<String>,
    /// What could not be done, in words.
    pub failures: Vec<String>,
}

/// How closely to look. What is not asked for is not looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Measure what takes long to measure.
    pub sizes: bool,
    /// Read every blob, and compare it with its name.
    pub digests: bool,
}

/// Whoever knows what there is.
#[async_trait]
pub trait Auditor: Send + Sync + 'static {
    /// Looks at everything.
    async fn check(&self, look: Look) -> Result<Vec<Thing>>;

    /// Removes what nobody knows, and puts what is broken aside, so that it is fetched and unpacked
    /// again when it is asked for. It ends no container, and removes nothing that was written by one.
    async fn repair(&self) -> Result<Repaired>;

    /// Has the next start make the database of metadata anew, from what is on the disk.
    async fn rebuild(&self) -> Result<()>;

    /// Removes what nothing refers to, known or not, and answers when it is gone.
    async fn prune(&self) -> Result<Pruned>;

    /// Copies the database of metadata into a new file. `AlreadyExists` when there is such a file.
    async fn back_up(&self, path: PathBuf) -> Result<()>;
}
