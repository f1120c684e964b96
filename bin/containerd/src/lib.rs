// SPDX-License-Identifier: Apache-2.0
//! The containerd daemon, as a library with a small program around it.
//!
//! A daemon is a [`Registry`] of parts and a rim that serves them. Whoever wants another part adds
//! it by name and runs a daemon of their own:
//!
//! ```no_run
//! use containerd::{Config, Daemon};
//!
//! # use std::sync::Arc;
//! # use snapshots::{Native, Snapshotter};
//! # async fn run() -> types::Result<()> {
//! Daemon::new(Config::default())
//!     .with::<dyn Snapshotter>("io.containerd.snapshotter.v1", "mine", |part| {
//!         Ok(Arc::new(Native::open(part.root())?))
//!     })
//!     .run(std::future::pending())
//!     .await
//! # }
//! ```
//!
//! Reading config, touching the environment and naming plugins happen in this crate only.

mod config;
mod counted;
mod daemon;
mod deprecations;
mod differs;
mod distribution;
mod files;
mod identity;
mod listeners;
mod metrics;
mod notify;
mod oci_hook;
mod plugins;
mod proxies;
mod publish;
mod registry;
mod rest;
mod restarts;
mod rim;
mod sandboxes;
mod schedule;
mod state_dump;
mod store;
mod trusted;

pub use config::{Config, Warning, default_text, dump, migrate};
pub use daemon::Daemon;
pub use oci_hook::{State as OciState, run as oci_hook};
pub use publish::Publish;
pub use registry::{Part, Registry};
pub use store::rebuild::Rebuilt;

/// The version of containerd that this daemon stands in for.
pub const VERSION: &str = "2.2.0";

/// The whole line that `--version` prints, in the shape that scripts take apart.
pub fn version_line() -> String {
    format!("containerd github.com/containerd/containerd/v2 {VERSION} {}", revision())
}

/// The revision that this daemon was built from, where the build knew it.
pub fn revision() -> &'static str {
    option_env!("CONTAINERD_REVISION").unwrap_or("rust")
}
