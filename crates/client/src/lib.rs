// SPDX-License-Identifier: Apache-2.0
//! The flows: where components come together.
//!
//! A [`Client`] is a struct of contracts, all of one namespace: the daemon fills it with its own
//! parts, `services::connect` with a socket's, and the flows over it are the same.
//!
//! ```text
//! pull:  registry --Fetch--> content --Differ--> snapshots --> image record
//! run:   image --> snapshot --> container record --> task
//! ```
use std::sync::Arc;

use runtime::Tasks;
use snapshots::Snapshotter;
use types::Result;

/// Everything that a flow needs, of one namespace and under one lease.
#[derive(Clone)]
pub struct Client {
    /// Blobs.
    pub content: Arc<dyn content::Store>,
    /// Finds a snapshotter by name.
    pub snapshotters: Arc<dyn Fn(&str) -> Result<Arc<dyn Snapshotter>> + Send + Sync>,
    /// Layers.
    pub differ: Arc<dyn diff::Differ>,
    /// Names for content.
    pub images: Arc<dyn records::Records<records::Image>>,
    /// What tasks are made from.
    pub containers: Arc<dyn records::Records<records::Container>>,
    /// What keeps things from collection.
    pub leases: Arc<dyn records::Leases>,
    /// Tenants.
    pub namespaces: Arc<dyn records::Records<records::Namespace>>,
    /// Running things.
    pub tasks: Arc<dyn Tasks>,
    /// What happens.
    pub events: Arc<dyn events::Bus>,
}
