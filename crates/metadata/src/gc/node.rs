// SPDX-License-Identifier: Apache-2.0
use std::{fmt, sync::Arc};

use ::records::Resource;

/// Something that can be referred to, whether it exists or not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Node {
    pub(crate) namespace: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) key: String,
}

/// What sort of thing it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Container,
    Content,
    Image,
    Ingest,
    Lease,
    /// An activation of mounts.
    Mount,
    Sandbox,
    /// Of the snapshotter named.
    Snapshot(Arc<str>),
}

impl Node {
    pub(crate) fn new(namespace: &Arc<str>, kind: Kind, key: impl Into<String>) -> Self {
        Self { namespace: Arc::clone(namespace), kind, key: key.into() }
    }

    pub(crate) fn snapshot(
        namespace: &Arc<str>,
        snapshotter: &str,
        key: impl Into<String>,
    ) -> Self {
        Self::new(namespace, Kind::Snapshot(snapshotter.into()), key)
    }

    /// What a lease holds.
    pub(crate) fn resource(namespace: &Arc<str>, resource: Resource) -> Option<Self> {
        let kind = match (&*resource.kind, resource.snapshotter()) {
            (_, Some(snapshotter)) => Kind::Snapshot(snapshotter.into()),
            ("content", _) => Kind::Content,
            ("images", _) => Kind::Image,
            ("ingests", _) => Kind::Ingest,
            ("mounts", _) => Kind::Mount,
            _ => return None,
        };
        Some(Self::new(namespace, kind, resource.id))
    }
}

impl Kind {
    /// What a person calls it.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Content => "blob",
            Self::Image => "image",
            Self::Ingest => "ingest",
            Self::Lease => "lease",
            Self::Mount => "activation",
            Self::Sandbox => "sandbox",
            Self::Snapshot(_) => "snapshot",
        }
    }
}

impl Node {
    /// Its key, with the snapshotter's name before that of a snapshot.
    pub(crate) fn name(&self) -> String {
        match &self.kind {
            Kind::Snapshot(of) => format!("{of}/{}", self.key),
            _ => self.key.clone(),
        }
    }
}

/// `image docker.io/library/busybox:1`.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name())
    }
}
