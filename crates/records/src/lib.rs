// SPDX-License-Identifier: Apache-2.0
//! The records that containerd keeps, and one contract over all of them.
//!
//! A record is plain data with a name, labels and two times. [`Records`] is the same five verbs for
//! each of them: what may be updated, and what is checked, is the record's own.
//!
//! ```
//! use records::{Image, Record};
//! use std::time::SystemTime;
//! use types::{Descriptor, Digest, FieldMask, Labels, media_types};
//!
//! let now = SystemTime::now();
//! let target = Descriptor::new(media_types::MANIFEST, Digest::of("{}"), 2);
//! let mut image =
//!     Image { name: "busybox".into(), labels: Labels::new(), target, created_at: now, updated_at: now };
//!
//! let change = Image { labels: [("env".into(), "test".into())].into(), ..image.clone() };
//! image.change(change, &FieldMask::new(["labels.env"]))?;
//! assert_eq!(image.labels["env"], "test");
//! # Ok::<(), types::Error>(())
//! ```

pub mod audit;
mod change;
mod lease;
#[cfg(feature = "suite")]
pub mod suite;
mod validate;

pub use audit::{Auditor, State};

use std::{borrow::Cow, time::SystemTime};

use async_trait::async_trait;
use types::{Any, Descriptor, Digest, FieldMask, Fields, Filters, Labels, Result, filter::label};

/// A tenant: a name under which all other records stand apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels, among them the defaults of its clients.
    pub labels: Labels,
}

/// What a container is made from. Nothing of it runs: that is a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its name.
    pub id: String,
    /// Its labels.
    pub labels: Labels,
    /// The name of the image it was made from; it need not exist.
    pub image: String,
    /// What runs it.
    pub runtime: Runtime,
    /// The OCI runtime spec, or what the runtime takes instead.
    pub spec: Option<Any>,
    /// The snapshotter that has its root filesystem.
    pub snapshotter: String,
    /// The snapshot that is its root filesystem.
    pub snapshot_key: String,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it last changed.
    pub updated_at: SystemTime,
    /// What clients keep beside it, by name.
    pub extensions: std::collections::BTreeMap<String, Any>,
    /// The sandbox it belongs to; empty for none.
    pub sandbox: String,
}

/// What a group of containers shares: a pod, or whatever else a runtime makes of it.
///
/// Nothing of it runs: that is for the sandbox controller called [`sandboxer`](Self::sandboxer).
#[derive(Clone, Debug, PartialEq)]
pub struct Sandbox {
    /// Its name.
    pub id: String,
    /// What runs it.
    pub runtime: Runtime,
    /// What its controller makes of it; it need not be an OCI spec.
    pub spec: Option<Any>,
    /// Its labels.
    pub labels: Labels,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it last changed.
    pub updated_at: SystemTime,
    /// What clients keep beside it, by name.
    pub extensions: std::collections::BTreeMap<String, Any>,
    /// The controller that runs it: `shim`, `podsandbox`; empty for the caller's default.
    pub sandboxer: String,
}

/// The name of a runtime, and what it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// `io.containerd.runc.v2`, or the path of a shim.
    pub name: String,
    /// The runtime's own options.
    pub options: Option<Any>,
}

/// A name for content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name, usually a reference: `docker.io/library/busybox:latest`.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What it names.
    pub target: Descriptor,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it last changed.
    pub updated_at: SystemTime,
}

/// Keeps what is created under it from collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: String,
    /// When it was made.
    pub created_at: SystemTime,
    /// Its labels, among them when it expires.
    pub labels: Labels,
}

/// Something that a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource {
    /// A digest, a snapshot's key, an ingest's ref, an image's name.
    pub id: String,
    /// `content`, `ingests`, `images`, or `snapshots/<snapshotter>`.
    pub kind: String,
}

/// A thing with a name that [`Records`] can keep.
pub trait Record: Fields + Clone + Send + Sync + 'static {
    /// What messages call it: `container`, `image`.
    const KIND: &'static str;

    /// Its name.
    fn name(&self) -> &str;

    /// Refuses a record that makes no sense, with `InvalidArgument`.
    fn validate(&self) -> Result<()>;

    /// Takes from `change` what `mask` names; the name and the times stay. A label or annotation
    /// that becomes empty is removed.
    ///
    /// A path that may not change is `InvalidArgument`, and so is an outcome that makes no sense.
    fn change(&mut self, change: Self, mask: &FieldMask) -> Result<()>;
}

/// How to delete a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delete {
    /// Answer only when everything that the record alone kept has been collected.
    pub sync: bool,
    /// Delete an image only if this is what it names, else `NotFound`.
    pub target: Option<Digest>,
}

/// The five verbs over one sort of record.
///
/// Errors: what does not exist is `NotFound`; a name in use is `AlreadyExists`; a name, label or
/// path of a mask that makes no sense is `InvalidArgument`; a namespace that is not empty cannot be
/// deleted, nor a container's immutable fields be updated: `FailedPrecondition`, `InvalidArgument`.
#[async_trait]
pub trait Records<T: Record>: Send + Sync + 'static {
    /// The record called `name`.
    async fn get(&self, name: &str) -> Result<T>;

    /// The records that match, by name.
    async fn list(&self, filters: &Filters) -> Result<Vec<T>>;

    /// Keeps a new record and returns it as kept, with its times set.
    async fn create(&self, record: T) -> Result<T>;

    /// Replaces what `mask` names in the record of the same name, and returns the outcome.
    async fn update(&self, record: T, mask: &FieldMask) -> Result<T>;

    /// Forgets a record.
    async fn delete(&self, name: &str, options: Delete) -> Result<()>;
}

/// Leases, and what they hold.
#[async_trait]
pub trait Leases: Records<Lease> {
    /// Lets `lease` hold `resource`, which need not exist yet.
    async fn add(&self, lease: &str, resource: Resource) -> Result<()>;

    /// Lets go of `resource`.
    async fn remove(&self, lease: &str, resource: &Resource) -> Result<()>;

    /// What `lease` holds.
    async fn resources(&self, lease: &str) -> Result<Vec<Resource>>;
}

macro_rules! record {
    ($type:ident, $kind_fn:ident, $kind:literal, $name:ident, |$self:ident, $path:ident| $fields:expr) => {
        impl Record for $type {
            const KIND: &'static str = $kind;

            fn name(&self) -> &str {
                &self.$name
            }

            fn validate(&self) -> Result<()> {
                validate::$kind_fn(self)
            }

            fn change(&mut self, change: Self, mask: &FieldMask) -> Result<()> {
                change::$kind_fn(self, &change, mask)?;
                self.validate()
            }
        }

        /// The fields of containerd `core/metadata/adaptors.go`.
        impl Fields for $type {
            fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
                let ($self, $path) = (self, path);
                match $path {
                    ["labels", key @ ..] => label(&$self.labels, key),
                    _ => $fields,
                }
            }
        }
    };
}

record!(Namespace, namespace, "namespace", name, |it, path| match path {
    ["name"] => Some(it.name.as_str().into()),
    _ => None,
});
record!(Container, container, "container", id, |it, path| match path {
    ["id"] => Some(it.id.as_str().into()),
    ["runtime", "name"] => Some(it.runtime.name.as_str().into()).filter(|s: &Cow<_>| !s.is_empty()),
    ["image"] => Some(it.image.as_str().into()).filter(|s: &Cow<_>| !s.is_empty()),
    _ => None,
});
record!(Sandbox, sandbox, "sandbox", id, |it, path| match path {
    ["id"] => Some(it.id.as_str().into()),
    _ => None,
});
record!(Image, image, "image", name, |it, path| match path {
    ["name"] => Some(it.name.as_str().into()).filter(|s: &Cow<_>| !s.is_empty()),
    ["target", "digest"] => Some(it.target.digest.as_str().into()),
    ["target", "mediatype"] => Some(it.target.media_type.as_str().into()),
    _ => None,
});
record!(Lease, lease, "lease", id, |it, path| match path {
    ["id"] => Some(it.id.as_str().into()),
    _ => None,
});
