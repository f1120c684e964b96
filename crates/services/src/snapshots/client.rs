// SPDX-License-Identifier: Apache-2.0
//! A snapshotter behind a socket.
use std::sync::Arc;

use ::mount::Mount;
use ::snapshots::{Capability, Commit, Info, Snapshotter, Usage};
use api::containerd::services::snapshots::v1 as pb;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use pb::snapshots_client::SnapshotsClient;
use types::{FieldMask, Filters, Labels, Result};

use crate::call::{Limits, Peer, error, limited};
use crate::convert::{FromWire, ToWire, present};
use crate::lists;

/// The snapshotter that `peer` serves under `name`. What it can do beyond the contract is not on
/// this service: whoever connects says it (a daemon lists it with its plugins).
pub fn connect(
    peer: Peer,
    name: impl Into<String>,
    capabilities: Vec<Capability>,
) -> Arc<dyn Snapshotter> {
    let client = limited!(SnapshotsClient::new(peer), Limits::default());
    Arc::new(Remote { client, name: name.into(), capabilities })
}

struct Remote {
    client: SnapshotsClient<Peer>,
    name: String,
    capabilities: Vec<Capability>,
}

impl Remote {
    fn client(&self) -> SnapshotsClient<Peer> {
        self.client.clone()
    }

    fn snapshotter(&self) -> String {
        self.name.clone()
    }
}

#[async_trait]
impl Snapshotter for Remote {
    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    async fn stat(&self, key: &str) -> Result<Info> {
        let request =
            pb::StatSnapshotRequest { snapshotter: self.snapshotter(), key: key.to_owned() };
        let reply = self.client().stat(request).await.map_err(error)?.into_inner();
        Info::from_wire(present(reply.info, "info")?)
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        let request = pb::UpdateSnapshotRequest {
            snapshotter: self.snapshotter(),
            info: Some(info.to_wire()),
            update_mask: mask.clone().to_wire(),
        };
        let reply = self.client().update(request).await.map_err(error)?.into_inner();
        Info::from_wire(present(reply.info, "info")?)
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let request = pb::UsageRequest { snapshotter: self.snapshotter(), key: key.to_owned() };
        let reply = self.client().usage(request).await.map_err(error)?.into_inner();
        Ok(Usage { size: reply.size as u64, inodes: reply.inodes as u64 })
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let request = pb::MountsRequest { snapshotter: self.snapshotter(), key: key.to_owned() };
        let reply = self.client().mounts(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.mounts)
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let request = pb::PrepareSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.to_owned(),
            parent: parent.unwrap_or_default().to_owned(),
            labels,
        };
        let reply = self.client().prepare(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.mounts)
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let request = pb::ViewSnapshotRequest {
            snapshotter: self.snapshotter(),
            key: key.to_owned(),
            parent: parent.unwrap_or_default().to_owned(),
            labels,
        };
        let reply = self.client().view(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.mounts)
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        let request = pb::CommitSnapshotRequest {
            snapshotter: self.snapshotter(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels: options.labels,
            parent: options.parent.unwrap_or_default(),
        };
        self.client().commit(request).await.map_err(error)?;
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let request =
            pb::RemoveSnapshotRequest { snapshotter: self.snapshotter(), key: key.to_owned() };
        self.client().remove(request).await.map_err(error)?;
        Ok(())
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        let request =
            pb::ListSnapshotsRequest { snapshotter: self.snapshotter(), filters: filters.texts() };
        let mut client = self.client();
        lists::received(async move { client.list(request).await }, |message| message.info)
    }

    async fn cleanup(&self) -> Result<()> {
        let request = pb::CleanupRequest { snapshotter: self.snapshotter() };
        self.client().cleanup(request).await.map_err(error)?;
        Ok(())
    }
}
