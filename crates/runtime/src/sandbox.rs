// SPDX-License-Identifier: Apache-2.0
//! Sandboxes: what is started before the containers of a pod and ended after them.
//!
//! Who runs a sandbox is its controller. There are two here, and others can be plugged in:
//!
//! ```text
//! shim        a shim that is a sandbox itself, such as a virtual machine's
//! podsandbox  a task that does nothing, whose namespaces the containers join
//! ```
//!
//! A sandbox tells where its tasks are served, and containers that belong to it are made there.
mod announced;
mod pods;
mod shims;
#[cfg(feature = "suite")]
pub mod suite;

use std::{collections::BTreeMap, time::Duration, time::SystemTime};

use async_trait::async_trait;
use mount::Mount;
use records::Sandbox;
use shim::bootstrap::Answer;
use types::{Any, Error, FieldMask, Labels, Platform, Result};

use crate::{Exit, Metric};

pub use announced::Announced;
pub use pods::Pods;
pub use shims::Sandboxes;

/// How a sandbox is that can be used (containerd `core/sandbox`, `api/runtime/sandbox/v1`).
pub const READY: &str = "SANDBOX_READY";
/// How a sandbox is that cannot be used.
pub const NOT_READY: &str = "SANDBOX_NOTREADY";

/// Asks for a sandbox.
#[derive(Clone, Debug)]
pub struct Create {
    /// Its record.
    pub sandbox: Sandbox,
    /// The mounts that make its root filesystem, for controllers that want one.
    pub rootfs: Vec<Mount>,
    /// What the controller is told.
    pub options: Option<Any>,
    /// The network namespace that it joins; empty for one of its own.
    pub netns_path: String,
    /// Whatever else is said.
    pub annotations: Labels,
}

impl Create {
    /// Asks for a sandbox of which nothing but its record is said.
    pub fn new(sandbox: Sandbox) -> Self {
        let (rootfs, options, netns_path, annotations) = Default::default();
        Self { sandbox, rootfs, options, netns_path, annotations }
    }
}

/// Where tasks are served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// A protocol and a socket: `ttrpc+unix:///run/containerd/s/1`.
    pub address: String,
    /// The version of the task service: 2 or 3.
    pub version: u32,
}

impl Endpoint {
    pub(crate) fn of(answer: &Answer) -> Self {
        let address = format!("{}+{}", answer.protocol, answer.address);
        Self { address, version: answer.version }
    }

    /// Takes protocol and socket apart (containerd `core/runtime/v2/shim_manager.go`).
    pub(crate) fn answer(&self) -> Result<Answer> {
        let (protocol, address) = self.address.split_once('+').ok_or_else(|| {
            Error::invalid(
                "the scheme of sandbox address should be in the form of \
                 <protocol>+<unix|vsock|tcp>, i.e. ttrpc+unix or grpc+vsock",
            )
        })?;
        let version = if self.version == 0 { 2 } else { self.version };
        Ok(Answer { version, address: address.to_owned(), protocol: protocol.to_owned() })
    }
}

/// A sandbox that was started.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The sandbox.
    pub id: String,
    /// The process that stands for it; 0 if there is none.
    pub pid: u32,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// What the controller tells of it.
    pub labels: Labels,
    /// Where its tasks are served.
    pub endpoint: Endpoint,
    /// What became of its spec.
    pub spec: Option<Any>,
}

/// What is known of a sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The sandbox.
    pub id: String,
    /// The process that stands for it; 0 if there is none.
    pub pid: u32,
    /// [`READY`] or [`NOT_READY`]; empty when it is gone.
    pub state: String,
    /// What the controller tells of it, if it was asked to tell more.
    pub info: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Option<SystemTime>,
    /// When it ended.
    pub exited_at: Option<SystemTime>,
    /// The controller's own.
    pub extra: Option<Any>,
    /// Where its tasks are served.
    pub endpoint: Endpoint,
}

/// Runs the sandboxes of one namespace.
///
/// Errors, for every implementation: a sandbox that does not run is `NotFound`, but to stop one that
/// has ended is no error, and its status tells that it has. Of one that was never made, some tell
/// the same and some that it is missing, as Go's do. One that runs already is `AlreadyExists`; a peer that does not answer in time is `DeadlineExceeded` or `Unavailable`.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// Makes what the sandbox needs. Nothing of it runs yet.
    async fn create(&self, create: Create) -> Result<()>;

    /// Starts a sandbox. One that cannot be started is gone.
    async fn start(&self, id: &str) -> Result<Instance>;

    /// What containers of the sandbox run on.
    async fn platform(&self, id: &str) -> Result<Platform>;

    /// Ends the sandbox and whatever is in it, with force after `grace`.
    async fn stop(&self, id: &str, grace: Option<Duration>) -> Result<()>;

    /// Waits for the sandbox to end, however long that takes.
    async fn wait(&self, id: &str) -> Result<Exit>;

    /// What is known of the sandbox.
    async fn status(&self, id: &str, verbose: bool) -> Result<Status>;

    /// Removes what [`create`](Self::create) made. Its record stays.
    async fn shutdown(&self, id: &str) -> Result<()>;

    /// Statistics of the sandbox as a whole, if it has any.
    async fn metrics(&self, id: &str) -> Result<Option<Metric>>;

    /// Takes note of what `mask` names of a record that is to change.
    async fn update(&self, sandbox: Sandbox, mask: &FieldMask) -> Result<()>;
}

pub(crate) fn missing(id: &str) -> Error {
    Error::not_found(format!("sandbox {id:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_names_its_protocol() {
        let answer = Answer::ttrpc(3, "unix:///run/s/a");
        let endpoint = Endpoint::of(&answer);
        assert_eq!(endpoint.address, "ttrpc+unix:///run/s/a");
        assert_eq!(endpoint.answer().unwrap(), answer);
        let bare = Endpoint { address: "unix:///run/s/a".into(), version: 3 };
        assert_eq!(bare.answer().unwrap_err().kind(), types::Kind::InvalidArgument);
    }
}
