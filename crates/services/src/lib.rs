// SPDX-License-Identifier: Apache-2.0
//! The rim: every component and its gRPC service.
//!
//! Each module has a `serve`, which puts a contract on the wire, and a `connect`, which makes a
//! contract of a socket, side by side over one conversion. An adapter opens the request, makes one
//! call, and encodes the answer: decisions are elsewhere. What is served is found by scope (and by
//! name where there are several), so the same adapter serves the daemon and a remote snapshotter.
//!
//! ```text
//! gRPC --Scope, request--> serve(find) --> dyn content::Store --> metadata, or anything else
//! gRPC <------------------ connect(channel, scope): dyn content::Store <-- a flow
//! ```

mod call;
mod convert;
mod lists;

pub mod containers;
pub mod content;
pub mod diff;
pub mod events;
pub mod health;
pub mod images;
pub mod introspection;
pub mod leases;
pub mod metrics;
pub mod mounts;
pub mod namespaces;
pub mod sandboxers;
pub mod sandboxes;
pub mod shims;
pub mod snapshots;
pub mod store;
pub mod streaming;
pub mod tasks;
pub mod transfer;
pub mod version;

mod remote;

pub use call::{Limits, Peer, Scoped, error, peer, status};
pub use remote::{connect, connect_beside, dial, dial_lazily};
