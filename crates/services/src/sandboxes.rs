// SPDX-License-Identifier: Apache-2.0
//! The sandbox store (`containerd.services.sandbox.v1.Store`).
use std::sync::Arc;

use ::records::{Delete, Records, Runtime, Sandbox};
use api::containerd::{services::sandbox::v1 as pb, types as wire};
use async_trait::async_trait;
use pb::{
    store_client::StoreClient,
    store_server::{Store, StoreServer},
};
use tonic::{Request, Response};
use types::{FieldMask, Filters, Result, Scope};

use crate::call::{Limits, Peer, Reply, Scoped, detached, error, limited, status};
use crate::convert::{FromWire, ToWire, any, filters, present, time};

/// Serves the records that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> StoreServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Sandbox>>> + Send + Sync + 'static,
{
    limited!(StoreServer::new(Scoped::new(find)), limits)
}

/// The records that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Records<Sandbox>> {
    Arc::new(Remote { client: limited!(StoreClient::new(peer), Limits::default()) })
}

#[tonic::async_trait]
impl<F> Store for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Sandbox>>> + Send + Sync + 'static,
{
    async fn create(
        &self,
        request: Request<pb::StoreCreateRequest>,
    ) -> Reply<pb::StoreCreateResponse> {
        let (records, request) = self.open(request)?;
        let sandbox = sandbox(request.sandbox).map_err(status)?;
        let sandbox = detached(async move { records.create(sandbox).await }).await?;
        Ok(Response::new(pb::StoreCreateResponse { sandbox: Some(sandbox.to_wire()) }))
    }

    async fn update(
        &self,
        request: Request<pb::StoreUpdateRequest>,
    ) -> Reply<pb::StoreUpdateResponse> {
        let (records, request) = self.open(request)?;
        let sandbox = sandbox(request.sandbox).map_err(status)?;
        let mask = FieldMask::new(request.fields);
        let sandbox = detached(async move { records.update(sandbox, &mask).await }).await?;
        Ok(Response::new(pb::StoreUpdateResponse { sandbox: Some(sandbox.to_wire()) }))
    }

    async fn delete(
        &self,
        request: Request<pb::StoreDeleteRequest>,
    ) -> Reply<pb::StoreDeleteResponse> {
        let (records, request) = self.open(request)?;
        detached(async move { records.delete(&request.sandbox_id, Delete::default()).await })
            .await?;
        Ok(Response::new(pb::StoreDeleteResponse {}))
    }

    async fn list(&self, request: Request<pb::StoreListRequest>) -> Reply<pb::StoreListResponse> {
        let (records, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let list = records.list(&filters).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::StoreListResponse { list }))
    }

    async fn get(&self, request: Request<pb::StoreGetRequest>) -> Reply<pb::StoreGetResponse> {
        let (records, request) = self.open(request)?;
        let sandbox = records.get(&request.sandbox_id).await.map_err(status)?;
        Ok(Response::new(pb::StoreGetResponse { sandbox: Some(sandbox.to_wire()) }))
    }
}

fn sandbox(wire: Option<wire::Sandbox>) -> Result<Sandbox> {
    present(wire, "sandbox").and_then(Sandbox::from_wire)
}

impl ToWire for Sandbox {
    type Wire = wire::Sandbox;

    fn to_wire(self) -> wire::Sandbox {
        let Runtime { name, options } = self.runtime;
        let extensions = self.extensions.into_iter();
        wire::Sandbox {
            sandbox_id: self.id,
            runtime: Some(wire::sandbox::Runtime { name, options: options.map(ToWire::to_wire) }),
            spec: self.spec.map(ToWire::to_wire),
            labels: self.labels,
            created_at: self.created_at.to_wire(),
            updated_at: self.updated_at.to_wire(),
            extensions: extensions.map(|(name, value)| (name, value.to_wire())).collect(),
            sandboxer: self.sandboxer,
        }
    }
}

impl FromWire<wire::Sandbox> for Sandbox {
    fn from_wire(wire: wire::Sandbox) -> Result<Self> {
        let runtime = wire.runtime.unwrap_or_default();
        let extensions = wire.extensions.into_iter();
        Ok(Self {
            id: wire.sandbox_id,
            runtime: Runtime { name: runtime.name, options: runtime.options.map(any) },
            spec: wire.spec.map(any),
            labels: wire.labels,
            created_at: time(wire.created_at),
            updated_at: time(wire.updated_at),
            extensions: extensions.map(|(name, value)| (name, any(value))).collect(),
            sandboxer: wire.sandboxer,
        })
    }
}

struct Remote {
    client: StoreClient<Peer>,
}

#[async_trait]
impl Records<Sandbox> for Remote {
    async fn get(&self, name: &str) -> Result<Sandbox> {
        let request = pb::StoreGetRequest { sandbox_id: name.to_owned() };
        sandbox(self.client.clone().get(request).await.map_err(error)?.into_inner().sandbox)
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<Sandbox>> {
        let request = pb::StoreListRequest { filters: filters.texts() };
        let reply = self.client.clone().list(request).await.map_err(error)?;
        Vec::from_wire(reply.into_inner().list)
    }

    async fn create(&self, record: Sandbox) -> Result<Sandbox> {
        let request = pb::StoreCreateRequest { sandbox: Some(record.to_wire()) };
        sandbox(self.client.clone().create(request).await.map_err(error)?.into_inner().sandbox)
    }

    async fn update(&self, record: Sandbox, mask: &FieldMask) -> Result<Sandbox> {
        let fields = mask.paths().to_vec();
        let request = pb::StoreUpdateRequest { sandbox: Some(record.to_wire()), fields };
        sandbox(self.client.clone().update(request).await.map_err(error)?.into_inner().sandbox)
    }

    async fn delete(&self, name: &str, _: Delete) -> Result<()> {
        let request = pb::StoreDeleteRequest { sandbox_id: name.to_owned() };
        self.client.clone().delete(request).await.map_err(error)?;
        Ok(())
    }
}
