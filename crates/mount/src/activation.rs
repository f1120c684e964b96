// SPDX-License-Identifier: Apache-2.0
//! Mounts that somebody has to look after: named, recorded, and undone when nobody refers to them.
//!
//! ```text
//! [loop image] [format/ext4 {{ mount 0 }}] [format/mkdir/overlay upperdir={{ mount 1 }}/u]
//!   `- active: performed outside, below the manager's directory    `- system: left to the caller
//! ```
//!
//! The rules are those of containerd's `core/mount/manager` and `docs/mounts.md`.
mod activator;
mod erofs;
mod loops;
mod mkdir;
mod mkfs;
mod plan;
mod roots;
mod template;

use std::{borrow::Cow, time::SystemTime};

use async_trait::async_trait;
use types::{FieldMask, Fields, Filters, Labels, Result, filter};

use crate::Mount;

pub use activator::{Activator, Performed};
pub use erofs::Erofs;
pub use loops::Loop;
pub use plan::Plan;

/// A mount that a manager performed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActiveMount {
    /// What was mounted, with templates filled in and the manager's own options gone.
    pub mount: Mount,
    /// When.
    pub mounted_at: Option<SystemTime>,
    /// Where: a directory, or what a handler made there, such as a link to a device.
    pub mount_point: String,
    /// What the type's handler has to say of it.
    pub data: Labels,
}

/// A set of mounts that a manager looks after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivationInfo {
    /// Its name, unique within a namespace.
    pub name: String,
    /// What was performed, in order.
    pub active: Vec<ActiveMount>,
    /// What is left to the caller.
    pub system: Vec<Mount>,
    /// Labels, among them the references that keep it (`containerd.io/gc.bref.*`).
    pub labels: Labels,
}

/// Fields of filters: `name`, `labels`.
impl Fields for ActivationInfo {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["name"] => Some(Cow::Borrowed(&self.name)),
            ["labels", key @ ..] => filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// How mounts are activated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activate {
    /// Labels of the activation.
    pub labels: Labels,
    /// Everything is performed, and what is left is a bind mount of the last.
    pub temporary: bool,
    /// What the caller performs itself: types (`erofs`), transformations (`format/*`), or both in full
    /// (`format/mkdir/overlay`). What a later mount depends on is performed all the same.
    pub allow_mount_types: Vec<String>,
}

/// Activates mounts, and remembers them.
#[async_trait]
pub trait Manager: Send + Sync {
    /// Performs what the system cannot, under a name, and answers with what is left.
    ///
    /// Errors: `Unimplemented` when there is nothing to perform: the mounts are the system's as they
    /// are; `AlreadyExists` when the name is taken.
    async fn activate(
        &self,
        name: &str,
        mounts: &[Mount],
        options: Activate,
    ) -> Result<ActivationInfo>;

    /// Undoes an activation. What is still in use then is undone later.
    async fn deactivate(&self, name: &str) -> Result<()>;

    /// Describes an activation.
    async fn info(&self, name: &str) -> Result<ActivationInfo>;

    /// Changes the labels of an activation.
    async fn update(&self, info: ActivationInfo, mask: &FieldMask) -> Result<ActivationInfo>;

    /// The activations that match, by name.
    async fn list(&self, filters: &Filters) -> Result<Vec<ActivationInfo>>;
}

/// Mounts a type that the system does not know.
pub trait Handler: Send + Sync {
    /// Mounts at a path that does not exist yet and whose parent does. `before` are the mounts of the
    /// same activation that came before.
    fn mount(&self, mount: &Mount, at: &str, before: &[ActiveMount]) -> Result<ActiveMount>;

    /// Takes the mount away, and all that was made at the path. What is not there is no error.
    fn unmount(&self, at: &str) -> Result<()>;

    /// Whether it is still mounted.
    fn is_mounted(&self, at: &str) -> Result<bool>;
}

/// Changes a mount before it is performed, or prepares what it needs.
pub trait Transformer: Send + Sync {
    /// The mount as it shall be. Its type is already without the transformer's own name.
    fn transform(&self, mount: Mount, before: &[ActiveMount]) -> Result<Mount>;
}

/// A mount in the words of Go's `%v`, for errors that are the same: `{ext4 /dev/x  [ro]}`.
fn in_go(mount: &Mount) -> String {
    let Mount { kind, source, target, options } = mount;
    format!("{{{kind} {source} {target} [{}]}}", options.join(" "))
}
