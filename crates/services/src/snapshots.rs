// SPDX-License-Identifier: Apache-2.0
//! The snapshots service (`containerd.services.snapshots.v1`).
mod client;

use std::sync::Arc;

use ::snapshots::{Commit, Info, Kind, Snapshotter};
use api::containerd::services::snapshots::v1 as pb;
use futures_util::stream::BoxStream;
use pb::snapshots_server::{Snapshots, SnapshotsServer};
use tonic::{Request, Response, Status};
use types::{Result, Scope};

pub use client::connect;

use crate::call::{Limits, Reply, detached, limited, open, status};
use crate::convert::{FromWire, ToWire, filters, mask, non_empty, present, time};
use crate::lists;

/// Serves the snapshotter that `find` finds for a scope and a name.
pub fn serve<F>(find: F, limits: Limits) -> SnapshotsServer<Server<F>>
where
    F: Fn(&Scope, &str) -> Result<Arc<dyn Snapshotter>> + Send + Sync + 'static,
{
    limited!(SnapshotsServer::new(Server { find }), limits)
}

/// Puts snapshotters on the wire.
#[derive(Debug)]
pub struct Server<F> {
    find: F,
}

/// A request that says which snapshotter it is for.
trait Named {
    fn snapshotter(&self) -> &str;
}

macro_rules! named {
    ($($request:ident)*) => {$(
        impl Named for pb::$request {
            fn snapshotter(&self) -> &str {
                &self.snapshotter
            }
        }
    )*};
}
named! {
    PrepareSnapshotRequest ViewSnapshotRequest MountsRequest CommitSnapshotRequest
    RemoveSnapshotRequest StatSnapshotRequest UpdateSnapshotRequest ListSnapshotsRequest
    UsageRequest CleanupRequest
}

impl<F> Server<F>
where
    F: Fn(&Scope, &str) -> Result<Arc<dyn Snapshotter>> + Send + Sync + 'static,
{
    fn open<T: Named>(&self, request: Request<T>) -> Result<(Arc<dyn Snapshotter>, T), Status> {
        let (scope, request) = open(request)?;
        let snapshotter = (self.find)(&scope, request.snapshotter()).map_err(status)?;
        Ok((snapshotter, request))
    }
}

#[tonic::async_trait]
impl<F> Snapshots for Server<F>
where
    F: Fn(&Scope, &str) -> Result<Arc<dyn Snapshotter>> + Send + Sync + 'static,
{
    type ListStream = BoxStream<'static, Result<pb::ListSnapshotsResponse, Status>>;

    async fn prepare(
        &self,
        request: Request<pb::PrepareSnapshotRequest>,
    ) -> Reply<pb::PrepareSnapshotResponse> {
        let (snapshotter, request) = self.open(request)?;
        let mounts = detached(async move {
            let pb::PrepareSnapshotRequest { key, parent, labels, .. } = request;
            snapshotter.prepare(&key, non_empty(&parent), labels).await
        })
        .await?;
        Ok(Response::new(pb::PrepareSnapshotResponse { mounts: mounts.to_wire() }))
    }

    async fn view(
        &self,
        request: Request<pb::ViewSnapshotRequest>,
    ) -> Reply<pb::ViewSnapshotResponse> {
        let (snapshotter, request) = self.open(request)?;
        let mounts = detached(async move {
            let pb::ViewSnapshotRequest { key, parent, labels, .. } = request;
            snapshotter.view(&key, non_empty(&parent), labels).await
        })
        .await?;
        Ok(Response::new(pb::ViewSnapshotResponse { mounts: mounts.to_wire() }))
    }

    async fn mounts(&self, request: Request<pb::MountsRequest>) -> Reply<pb::MountsResponse> {
        let (snapshotter, request) = self.open(request)?;
        let mounts = snapshotter.mounts(&request.key).await.map_err(status)?;
        Ok(Response::new(pb::MountsResponse { mounts: mounts.to_wire() }))
    }

    async fn commit(&self, request: Request<pb::CommitSnapshotRequest>) -> Reply<()> {
        let (snapshotter, request) = self.open(request)?;
        let work = async move {
            let pb::CommitSnapshotRequest { name, key, labels, parent, .. } = request;
            let parent = non_empty(&parent).map(str::to_owned);
            snapshotter.commit(&name, &key, Commit { labels, parent }).await
        };
        detached(work).await.map(Response::new)
    }

    async fn remove(&self, request: Request<pb::RemoveSnapshotRequest>) -> Reply<()> {
        let (snapshotter, request) = self.open(request)?;
        detached(async move { snapshotter.remove(&request.key).await }).await.map(Response::new)
    }

    async fn stat(
        &self,
        request: Request<pb::StatSnapshotRequest>,
    ) -> Reply<pb::StatSnapshotResponse> {
        let (snapshotter, request) = self.open(request)?;
        let info = snapshotter.stat(&request.key).await.map_err(status)?;
        Ok(Response::new(pb::StatSnapshotResponse { info: Some(info.to_wire()) }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateSnapshotRequest>,
    ) -> Reply<pb::UpdateSnapshotResponse> {
        let (snapshotter, request) = self.open(request)?;
        let info = present(request.info, "info").and_then(Info::from_wire).map_err(status)?;
        let mask = mask(request.update_mask);
        let info = detached(async move { snapshotter.update(info, &mask).await }).await?;
        Ok(Response::new(pb::UpdateSnapshotResponse { info: Some(info.to_wire()) }))
    }

    async fn list(&self, request: Request<pb::ListSnapshotsRequest>) -> Reply<Self::ListStream> {
        let (snapshotter, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let message = |info: Vec<Info>| pb::ListSnapshotsResponse { info: info.to_wire() };
        Ok(Response::new(lists::sent(snapshotter, move |it| it.walk(filters), message)))
    }

    async fn usage(&self, request: Request<pb::UsageRequest>) -> Reply<pb::UsageResponse> {
        let (snapshotter, request) = self.open(request)?;
        let usage = snapshotter.usage(&request.key).await.map_err(status)?;
        let (size, inodes) = (usage.size as i64, usage.inodes as i64);
        Ok(Response::new(pb::UsageResponse { size, inodes }))
    }

    async fn cleanup(&self, request: Request<pb::CleanupRequest>) -> Reply<()> {
        let (snapshotter, _) = self.open(request)?;
        detached(async move { snapshotter.cleanup().await }).await.map(Response::new)
    }
}

impl ToWire for Info {
    type Wire = pb::Info;

    fn to_wire(self) -> pb::Info {
        let kind = match self.kind {
            Kind::View => pb::Kind::View,
            Kind::Active => pb::Kind::Active,
            Kind::Committed => pb::Kind::Committed,
        };
        pb::Info {
            name: self.name,
            parent: self.parent.unwrap_or_default(),
            kind: kind.into(),
            created_at: self.created_at.to_wire(),
            updated_at: self.updated_at.to_wire(),
            labels: self.labels,
        }
    }
}

impl FromWire<pb::Info> for Info {
    /// An update does not say the kind: it is active then, and whoever updates does not look.
    fn from_wire(wire: pb::Info) -> Result<Self> {
        let kind = match wire.kind() {
            pb::Kind::View => Kind::View,
            pb::Kind::Committed => Kind::Committed,
            pb::Kind::Active | pb::Kind::Unknown => Kind::Active,
        };
        Ok(Self {
            kind,
            name: wire.name,
            parent: non_empty(&wire.parent).map(str::to_owned),
            labels: wire.labels,
            created_at: time(wire.created_at),
            updated_at: time(wire.updated_at),
        })
    }
}
