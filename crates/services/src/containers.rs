// SPDX-License-Identifier: Apache-2.0
//! The containers service (`containerd.services.containers.v1`).
use std::{pin::Pin, sync::Arc};

use ::records::{Container, Delete, Records, Runtime};
use api::containerd::services::containers::v1 as pb;
use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};
use pb::{
    containers_client::ContainersClient,
    containers_server::{Containers, ContainersServer},
};
use tonic::{Request, Response, Status};
use types::{FieldMask, Filters, Result, Scope};

use crate::call::{Limits, Peer, Reply, Scoped, detached, error, limited, status};
use crate::convert::{FromWire, ToWire, any, filters, mask, present, time};

/// Serves the records that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> ContainersServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Container>>> + Send + Sync + 'static,
{
    limited!(ContainersServer::new(Scoped::new(find)), limits)
}

/// The records that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Records<Container>> {
    Arc::new(Remote { client: limited!(ContainersClient::new(peer), Limits::default()) })
}

impl<F> Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Container>>> + Send + Sync + 'static,
{
    async fn found(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Result<Vec<Container>, Status> {
        let (records, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        records.list(&filters).await.map_err(status)
    }
}

#[tonic::async_trait]
impl<F> Containers for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Records<Container>>> + Send + Sync + 'static,
{
    type ListStreamStream =
        Pin<Box<dyn Stream<Item = Result<pb::ListContainerMessage, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<pb::GetContainerRequest>,
    ) -> Reply<pb::GetContainerResponse> {
        let (records, request) = self.open(request)?;
        let container = records.get(&request.id).await.map_err(status)?;
        Ok(Response::new(pb::GetContainerResponse { container: Some(container.to_wire()) }))
    }

    async fn list(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Reply<pb::ListContainersResponse> {
        let containers = self.found(request).await?.to_wire();
        Ok(Response::new(pb::ListContainersResponse { containers }))
    }

    async fn list_stream(
        &self,
        request: Request<pb::ListContainersRequest>,
    ) -> Reply<Self::ListStreamStream> {
        let messages =
            self.found(request).await?.into_iter().map(|container| {
                Ok(pb::ListContainerMessage { container: Some(container.to_wire()) })
            });
        Ok(Response::new(stream::iter(messages).boxed()))
    }

    async fn create(
        &self,
        request: Request<pb::CreateContainerRequest>,
    ) -> Reply<pb::CreateContainerResponse> {
        let (records, request) = self.open(request)?;
        let container = present(request.container, "container")
            .and_then(Container::from_wire)
            .map_err(status)?;
        let container = detached(async move { records.create(container).await }).await?;
        Ok(Response::new(pb::CreateContainerResponse { container: Some(container.to_wire()) }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateContainerRequest>,
    ) -> Reply<pb::UpdateContainerResponse> {
        let (records, request) = self.open(request)?;
        let container = present(request.container, "container")
            .and_then(Container::from_wire)
            .map_err(status)?;
        if container.id.is_empty() {
            return Err(Status::invalid_argument("Container.ID required"));
        }
        let mask = mask(request.update_mask);
        let container = detached(async move { records.update(container, &mask).await }).await?;
        Ok(Response::new(pb::UpdateContainerResponse { container: Some(container.to_wire()) }))
    }

    async fn delete(&self, request: Request<pb::DeleteContainerRequest>) -> Reply<()> {
        let (records, request) = self.open(request)?;
        detached(async move { records.delete(&request.id, Delete::default()).await })
            .await
            .map(Response::new)
    }
}

impl ToWire for Container {
    type Wire = pb::Container;

    fn to_wire(self) -> pb::Container {
        let Runtime { name, options } = self.runtime;
        let extensions = self.extensions.into_iter();
        pb::Container {
            id: self.id,
            labels: self.labels,
            image: self.image,
            runtime: Some(pb::container::Runtime { name, options: options.map(ToWire::to_wire) }),
            spec: self.spec.map(ToWire::to_wire),
            snapshotter: self.snapshotter,
            snapshot_key: self.snapshot_key,
            created_at: self.created_at.to_wire(),
            updated_at: self.updated_at.to_wire(),
            extensions: extensions.map(|(name, value)| (name, value.to_wire())).collect(),
            sandbox: self.sandbox,
        }
    }
}

impl FromWire<pb::Container> for Container {
    fn from_wire(wire: pb::Container) -> Result<Self> {
        let runtime = wire.runtime.unwrap_or_default();
        let extensions = wire.extensions.into_iter();
        Ok(Self {
            id: wire.id,
            labels: wire.labels,
            image: wire.image,
            runtime: Runtime { name: runtime.name, options: runtime.options.map(any) },
            spec: wire.spec.map(any),
            snapshotter: wire.snapshotter,
            snapshot_key: wire.snapshot_key,
            created_at: time(wire.created_at),
            updated_at: time(wire.updated_at),
            extensions: extensions.map(|(name, value)| (name, any(value))).collect(),
            sandbox: wire.sandbox,
        })
    }
}

struct Remote {
    client: ContainersClient<Peer>,
}

impl Remote {
    fn client(&self) -> ContainersClient<Peer> {
        self.client.clone()
    }
}

#[async_trait]
impl Records<Container> for Remote {
    async fn get(&self, name: &str) -> Result<Container> {
        let request = pb::GetContainerRequest { id: name.to_owned() };
        let reply = self.client().get(request).await.map_err(error)?.into_inner();
        Container::from_wire(present(reply.container, "container")?)
    }

    /// Streamed, because a list with all specs in it may not fit one message.
    async fn list(&self, filters: &Filters) -> Result<Vec<Container>> {
        let request = pb::ListContainersRequest { filters: filters.texts() };
        let mut messages = self.client().list_stream(request).await.map_err(error)?.into_inner();
        let mut containers = Vec::new();
        while let Some(message) = messages.message().await.map_err(error)? {
            containers.push(Container::from_wire(present(message.container, "container")?)?);
        }
        Ok(containers)
    }

    async fn create(&self, record: Container) -> Result<Container> {
        let request = pb::CreateContainerRequest { container: Some(record.to_wire()) };
        let reply = self.client().create(request).await.map_err(error)?.into_inner();
        Container::from_wire(present(reply.container, "container")?)
    }

    async fn update(&self, record: Container, mask: &FieldMask) -> Result<Container> {
        let request = pb::UpdateContainerRequest {
            container: Some(record.to_wire()),
            update_mask: mask.clone().to_wire(),
        };
        let reply = self.client().update(request).await.map_err(error)?.into_inner();
        Container::from_wire(present(reply.container, "container")?)
    }

    async fn delete(&self, name: &str, _: Delete) -> Result<()> {
        let request = pb::DeleteContainerRequest { id: name.to_owned() };
        self.client().delete(request).await.map_err(error)?;
        Ok(())
    }
}
