// SPDX-License-Identifier: Apache-2.0
//! The store service (`containerd.services.store.v1`): what there is, and why. It is ours alone, and
//! in no namespace.
use std::{path::PathBuf, sync::Arc, time::SystemTime};

use ::records::{
    Auditor, State,
    audit::{Look, Pruned, Repaired, Thing},
};
use api::containerd::services::store::v1 as pb;
use async_trait::async_trait;
use pb::{
    store_client::StoreClient,
    store_server::{Store, StoreServer},
};
use tonic::{Request, Response};
use types::{Error, Result};

use crate::call::{Limits, Peer, Reply, detached, error, limited, status};
use crate::convert::{FromWire, ToWire};

/// Serves what `auditor` knows.
pub fn serve(auditor: Arc<dyn Auditor>, limits: Limits) -> StoreServer<Server> {
    // An answer is as large as the store is full.
    let limits = Limits { send: usize::MAX, ..limits };
    limited!(StoreServer::new(Server { auditor }), limits)
}

/// The auditor that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Auditor> {
    let limits = Limits { receive: usize::MAX, ..Limits::default() };
    Arc::new(Remote { client: limited!(StoreClient::new(peer), limits) })
}

/// Puts an auditor on the wire.
pub struct Server {
    auditor: Arc<dyn Auditor>,
}

#[tonic::async_trait]
impl Store for Server {
    async fn check(&self, request: Request<pb::CheckRequest>) -> Reply<pb::CheckResponse> {
        let pb::CheckRequest { sizes, digests } = request.into_inner();
        let things = self.auditor.check(Look { sizes, digests }).await.map_err(status)?;
        Ok(Response::new(pb::CheckResponse { things: things.to_wire() }))
    }

    async fn prune(&self, _: Request<pb::PruneRequest>) -> Reply<pb::PruneResponse> {
        let auditor = self.auditor.clone();
        let Pruned { records, failures } = detached(async move { auditor.prune().await }).await?;
        Ok(Response::new(pb::PruneResponse { records, failures }))
    }

    async fn repair(&self, _: Request<pb::RepairRequest>) -> Reply<pb::RepairResponse> {
        let auditor = self.auditor.clone();
        let Repaired { deeds, failures } = detached(async move { auditor.repair().await }).await?;
        Ok(Response::new(pb::RepairResponse { deeds, failures }))
    }

    async fn rebuild(&self, _: Request<pb::RebuildRequest>) -> Reply<()> {
        self.auditor.rebuild().await.map(Response::new).map_err(status)
    }

    async fn back_up(&self, request: Request<pb::BackUpRequest>) -> Reply<()> {
        let (auditor, path) = (self.auditor.clone(), PathBuf::from(request.into_inner().path));
        if !path.is_absolute() {
            let text = format!("path {} is not absolute", path.display());
            return Err(status(Error::invalid(text)));
        }
        detached(async move { auditor.back_up(path).await }).await.map(Response::new)
    }
}

struct Remote {
    client: StoreClient<Peer>,
}

#[async_trait]
impl Auditor for Remote {
    async fn check(&self, look: Look) -> Result<Vec<Thing>> {
        let request = pb::CheckRequest { sizes: look.sizes, digests: look.digests };
        let reply = self.client.clone().check(request).await.map_err(error)?;
        Vec::from_wire(reply.into_inner().things)
    }

    async fn prune(&self) -> Result<Pruned> {
        let reply = self.client.clone().prune(pb::PruneRequest {}).await.map_err(error)?;
        let pb::PruneResponse { records, failures } = reply.into_inner();
        Ok(Pruned { records, failures })
    }

    async fn repair(&self) -> Result<Repaired> {
        let reply = self.client.clone().repair(pb::RepairRequest {}).await.map_err(error)?;
        let pb::RepairResponse { deeds, failures } = reply.into_inner();
        Ok(Repaired { deeds, failures })
    }

    async fn rebuild(&self) -> Result<()> {
        self.client.clone().rebuild(pb::RebuildRequest {}).await.map_err(error)?;
        Ok(())
    }

    async fn back_up(&self, path: PathBuf) -> Result<()> {
        let path = path.to_string_lossy().into_owned();
        self.client.clone().back_up(pb::BackUpRequest { path }).await.map_err(error)?;
        Ok(())
    }
}

impl ToWire for Thing {
    type Wire = pb::Thing;

    fn to_wire(self) -> pb::Thing {
        pb::Thing {
            kind: self.kind,
            namespace: self.namespace,
            name: self.name,
            path: self.path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
            size: self.size,
            state: self.state.name().to_owned(),
            owners: self.owners,
            since: self.since.and_then(ToWire::to_wire),
        }
    }
}

impl FromWire<pb::Thing> for Thing {
    fn from_wire(wire: pb::Thing) -> Result<Self> {
        let state = State::ALL.into_iter().find(|state| state.name() == wire.state);
        let unknown = || Error::internal(format!("unknown state {:?}", wire.state));
        Ok(Self {
            kind: wire.kind,
            namespace: wire.namespace,
            name: wire.name,
            path: Some(PathBuf::from(wire.path)).filter(|path| !path.as_os_str().is_empty()),
            size: wire.size,
            state: state.ok_or_else(unknown)?,
            owners: wire.owners,
            since: wire.since.and_then(|time| SystemTime::try_from(time).ok()),
        })
    }
}
