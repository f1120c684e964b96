// SPDX-License-Identifier: Apache-2.0
//! The flows: where components come together.
//!
//! A [`Client`] is a struct of contracts, all of one namespace: the daemon fills it with its own
//! parts, `services::connect` with a socket's, and the flows over it are the same.
//!
//! ```text
//! pull:  registry --Fetch--> content --Differ--> snapshots --> image record
//! push:  image --> content --Push--> registry
//! import, export:  archive <--> content, image record
//! run:   image --> snapshot --> container record --> task
//! ```
//!
//! Nothing that a flow makes is lost to collection before it is done: see [`Client::hold`].
use std::sync::Arc;

use runtime::Tasks;
use types::Result;

mod checkpoint;
mod container;
mod convert;
mod held;
mod image;
mod import;
mod mounts;
mod package;
mod process;
mod progress;
mod pull;
mod push;
mod restart;
mod retry;
mod stdio;

pub use checkpoint::{CHECKPOINT, CHECKPOINT_CONFIG, KeptCheckpoints};
pub use container::NewContainer;
pub use held::Held;
pub use import::Import;
pub use package::{Files, Package};
pub use process::{NewTask, Process};
pub use progress::{Event, Progress, Silent};
pub use pull::{Pull, Unpack};
pub use push::Push;
pub use restart::RESTART_POLICIES;
pub use stdio::{Fifos, Io, Streams};

/// The same [`Client`], with what it makes held by the lease of the given name.
pub type Under = dyn Fn(&str) -> Result<Client> + Send + Sync;

/// Everything that a flow needs, of one namespace and under one lease.
#[derive(Clone)]
pub struct Client {
    /// Blobs.
    pub content: Arc<dyn content::Store>,
    /// Finds a snapshotter by name.
    pub snapshotters: Arc<images::Snapshotters>,
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
    /// Mounts that somebody looks after, where there is somebody.
    pub mounts: Option<Arc<dyn mount::Manager>>,
    /// Running things.
    pub tasks: Arc<dyn Tasks>,
    /// What happens.
    pub events: Arc<dyn events::Bus>,
    /// How to come under a lease; `None` when this client is under one already.
    pub under: Option<Arc<Under>>,
    /// What is being fetched and unpacked in this process: nobody else does it at the same time.
    pub flights: images::Flights,
}
