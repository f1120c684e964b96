// SPDX-License-Identifier: Apache-2.0
//! What a daemon is made of, unless somebody says otherwise: the one list to read.
pub(crate) use snapshotters::bringing_layers;

use std::sync::Arc;

use content::{Local, Store};
use events::Exchange;
use mount::{Erofs, Handler, Loop};
use types::Result;

use crate::registry::{Part, Registry};

mod snapshotters;

/// The types of containerd's plugins (containerd `plugins/types.go`).
pub(crate) mod kinds {
    pub(crate) const CONTENT: &str = "io.containerd.content.v1";
    pub(crate) const SNAPSHOTTER: &str = "io.containerd.snapshotter.v1";
    pub(crate) const EVENT: &str = "io.containerd.event.v1";
    pub(crate) const METADATA: &str = "io.containerd.metadata.v1";
    pub(crate) const GC: &str = "io.containerd.gc.v1";
    pub(crate) const RUNTIME: &str = "io.containerd.runtime.v2";
    pub(crate) const SHIM: &str = "io.containerd.shim.v1";
    pub(crate) const MONITOR: &str = "io.containerd.monitor.task.v1";
    pub(crate) const DIFFER: &str = "io.containerd.differ.v1";
    pub(crate) const SERVICE: &str = "io.containerd.service.v1";
    pub(crate) const LEASE: &str = "io.containerd.lease.v1";
    pub(crate) const MOUNT_MANAGER: &str = "io.containerd.mount-manager.v1";
    pub(crate) const MOUNT_HANDLER: &str = "io.containerd.mount-handler.v1";
    pub(crate) const TRANSFER: &str = "io.containerd.transfer.v1";
    pub(crate) const STREAMING: &str = "io.containerd.streaming.v1";
    pub(crate) const SANDBOX: &str = "io.containerd.sandbox.controller.v1";
    pub(crate) const POD_SANDBOX: &str = "io.containerd.podsandbox.controller.v1";
    pub(crate) const SANDBOX_STORE: &str = "io.containerd.sandbox.store.v1";
    pub(crate) const CONTAINER_MONITOR: &str = "io.containerd.monitor.container.v1";
    pub(crate) const IMAGE_VERIFIER: &str = "io.containerd.image-verifier.v1";
    pub(crate) const TRUST: &str = "io.containerd.trust.v1";
    pub(crate) const GRPC: &str = "io.containerd.grpc.v1";
    pub(crate) const TTRPC: &str = "io.containerd.ttrpc.v1";
}

/// The mount manager, which keeps its records in the metadata (containerd `plugins/mount/manager.go`).
pub(crate) const MOUNT_MANAGER: &str = "io.containerd.mount-manager.v1.bolt";

/// Adds the parts that every daemon has.
pub(crate) fn add_defaults(registry: &mut Registry) {
    registry.add::<dyn Store>(kinds::CONTENT, "content", content);
    snapshotters::add(registry);
    registry.add::<dyn Handler>(kinds::MOUNT_HANDLER, "erofs", |_| Ok(Arc::new(Erofs)));
    registry.add::<dyn Handler>(kinds::MOUNT_HANDLER, "loop", |_| Ok(Arc::new(Loop)));
    registry.add::<Exchange>(kinds::EVENT, "exchange", |_| Ok(Arc::new(Exchange::new())));
}

/// Parts of containerd that are not built by name here: they are always there, and are listed for
/// those who look for them (Docker, `BuildKit` and Spegel do).
pub(crate) const FIXED: &[(&str, &str)] = &[
    (kinds::METADATA, "bolt"),
    (kinds::GC, "scheduler"),
    (kinds::RUNTIME, "task"),
    (kinds::SHIM, "manager"),
    (kinds::MONITOR, "cgroups"),
    (kinds::DIFFER, "erofs"),
    (kinds::DIFFER, "walking"),
    (kinds::SERVICE, "diff-service"),
    (kinds::LEASE, "manager"),
    (kinds::MOUNT_MANAGER, "bolt"),
    (kinds::TRANSFER, "local"),
    (kinds::STREAMING, "manager"),
    (kinds::SANDBOX, "shim"),
    (kinds::POD_SANDBOX, "podsandbox"),
    (kinds::SANDBOX_STORE, "local"),
    (kinds::CONTAINER_MONITOR, "restart"),
    (kinds::IMAGE_VERIFIER, "bindir"),
    (kinds::TRUST, "policy"),
    (kinds::GRPC, "containers"),
    (kinds::GRPC, "content"),
    (kinds::GRPC, "content-files"),
    (kinds::GRPC, "diff"),
    (kinds::GRPC, "events"),
    (kinds::GRPC, "healthcheck"),
    (kinds::GRPC, "images"),
    (kinds::GRPC, "introspection"),
    (kinds::GRPC, "leases"),
    (kinds::GRPC, "mounts"),
    (kinds::GRPC, "namespaces"),
    (kinds::GRPC, "sandbox-controllers"),
    (kinds::GRPC, "sandboxes"),
    (kinds::GRPC, "snapshots"),
    (kinds::GRPC, "streaming"),
    (kinds::GRPC, "tasks"),
    (kinds::GRPC, "transfer"),
    (kinds::GRPC, "version"),
    (kinds::TTRPC, "events"),
];

fn content(part: &Part<'_>) -> Result<Arc<dyn Store>> {
    Ok(Arc::new(Local::open(part.root())?))
}
