// SPDX-License-Identifier: Apache-2.0
//! The leases service (`containerd.services.leases.v1`).
use std::{sync::Arc, time::SystemTime};

use ::records::{Delete, Lease, Leases as Contract, Records, Resource};
use api::containerd::services::leases::v1 as pb;
use async_trait::async_trait;
use pb::{
    leases_client::LeasesClient,
    leases_server::{Leases, LeasesServer},
};
use tonic::{Request, Response};
use types::{Error, FieldMask, Fields, Filter, Filters, Result, Scope};

use crate::call::{Limits, Peer, Reply, Scoped, detached, error, limited, status};
use crate::convert::{FromWire, ToWire, filters, present, time};

/// Serves the leases that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> LeasesServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    limited!(LeasesServer::new(Scoped::new(find)), limits)
}

/// The leases that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Contract> {
    Arc::new(Remote { client: limited!(LeasesClient::new(peer), Limits::default()) })
}

#[tonic::async_trait]
impl<F> Leases for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    async fn create(&self, request: Request<pb::CreateRequest>) -> Reply<pb::CreateResponse> {
        let (leases, request) = self.open(request)?;
        let pb::CreateRequest { mut id, labels } = request;
        if id.is_empty() {
            id = unnamed().map_err(status)?;
        }
        let lease = Lease { id, labels, created_at: SystemTime::UNIX_EPOCH };
        let lease = detached(async move { leases.create(lease).await }).await?;
        Ok(Response::new(pb::CreateResponse { lease: Some(lease.to_wire()) }))
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Reply<()> {
        let (leases, request) = self.open(request)?;
        let options = Delete { sync: request.sync, target: None };
        detached(async move { leases.delete(&request.id, options).await }).await.map(Response::new)
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Reply<pb::ListResponse> {
        let (leases, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let leases = leases.list(&filters).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::ListResponse { leases }))
    }

    async fn add_resource(&self, request: Request<pb::AddResourceRequest>) -> Reply<()> {
        let (leases, request) = self.open(request)?;
        let resource =
            present(request.resource, "resource").and_then(Resource::from_wire).map_err(status)?;
        detached(async move { leases.add(&request.id, resource).await }).await.map(Response::new)
    }

    async fn delete_resource(&self, request: Request<pb::DeleteResourceRequest>) -> Reply<()> {
        let (leases, request) = self.open(request)?;
        let resource =
            present(request.resource, "resource").and_then(Resource::from_wire).map_err(status)?;
        detached(async move { leases.remove(&request.id, &resource).await })
            .await
            .map(Response::new)
    }

    async fn list_resources(
        &self,
        request: Request<pb::ListResourcesRequest>,
    ) -> Reply<pb::ListResourcesResponse> {
        let (leases, request) = self.open(request)?;
        let resources = leases.resources(&request.id).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::ListResourcesResponse { resources }))
    }
}

/// A name for a lease whose maker gives it none: the time, and something random (containerd
/// `plugins/services/leases/service.go`, `core/leases/id.go`).
fn unnamed() -> Result<String> {
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(std::io::Error::from)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{:08x}", now.subsec_nanos(), u32::from_le_bytes(random)))
}

impl ToWire for Lease {
    type Wire = pb::Lease;

    fn to_wire(self) -> pb::Lease {
        pb::Lease { id: self.id, created_at: self.created_at.to_wire(), labels: self.labels }
    }
}

impl FromWire<pb::Lease> for Lease {
    fn from_wire(wire: pb::Lease) -> Result<Self> {
        Ok(Self { id: wire.id, created_at: time(wire.created_at), labels: wire.labels })
    }
}

impl ToWire for Resource {
    type Wire = pb::Resource;

    fn to_wire(self) -> pb::Resource {
        pb::Resource { id: self.id, r#type: self.kind }
    }
}

impl FromWire<pb::Resource> for Resource {
    fn from_wire(wire: pb::Resource) -> Result<Self> {
        Ok(Self { id: wire.id, kind: wire.r#type })
    }
}

struct Remote {
    client: LeasesClient<Peer>,
}

impl Remote {
    fn client(&self) -> LeasesClient<Peer> {
        self.client.clone()
    }
}

#[async_trait]
impl Records<Lease> for Remote {
    /// The wire has no way to ask for one lease, so it is found in a list.
    async fn get(&self, name: &str) -> Result<Lease> {
        let by_id = Filter::parse(&format!("id=={name:?}"))?;
        let found = self.list(&Filters::from_iter([by_id])).await?;
        let lease = found.into_iter().find(|lease| lease.field(&["id"]).as_deref() == Some(name));
        lease.ok_or_else(|| Error::not_found(format!("lease {name:?}")))
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<Lease>> {
        let request = pb::ListRequest { filters: filters.texts() };
        let reply = self.client().list(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.leases)
    }

    async fn create(&self, record: Lease) -> Result<Lease> {
        let request = pb::CreateRequest { id: record.id, labels: record.labels };
        let reply = self.client().create(request).await.map_err(error)?.into_inner();
        Lease::from_wire(present(reply.lease, "lease")?)
    }

    /// The wire has no way to change a lease.
    async fn update(&self, record: Lease, _: &FieldMask) -> Result<Lease> {
        Err(Error::unimplemented(format!("update of lease {:?}", record.id)))
    }

    async fn delete(&self, name: &str, options: Delete) -> Result<()> {
        let request = pb::DeleteRequest { id: name.to_owned(), sync: options.sync };
        self.client().delete(request).await.map_err(error)?;
        Ok(())
    }
}

#[async_trait]
impl Contract for Remote {
    async fn add(&self, lease: &str, resource: Resource) -> Result<()> {
        let resource = Some(resource.to_wire());
        let request = pb::AddResourceRequest { id: lease.to_owned(), resource };
        self.client().add_resource(request).await.map_err(error)?;
        Ok(())
    }

    async fn remove(&self, lease: &str, resource: &Resource) -> Result<()> {
        let resource = Some(resource.clone().to_wire());
        let request = pb::DeleteResourceRequest { id: lease.to_owned(), resource };
        self.client().delete_resource(request).await.map_err(error)?;
        Ok(())
    }

    async fn resources(&self, lease: &str) -> Result<Vec<Resource>> {
        let request = pb::ListResourcesRequest { id: lease.to_owned() };
        let reply = self.client().list_resources(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.resources)
    }
}
