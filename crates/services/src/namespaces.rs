// SPDX-License-Identifier: Apache-2.0
//! The namespaces service (`containerd.services.namespaces.v1`). It is in no namespace itself.
use std::sync::Arc;

use ::records::{Delete, Namespace, Records};
use api::containerd::services::namespaces::v1 as pb;
use async_trait::async_trait;
use pb::{
    namespaces_client::NamespacesClient,
    namespaces_server::{Namespaces, NamespacesServer},
};
use tonic::{Request, Response};
use types::{Error, FieldMask, Filters, Result};

use crate::call::{Limits, Peer, Reply, detached, error, limited, status};
use crate::convert::{FromWire, ToWire, mask, present};

/// Serves `records`.
pub fn serve(records: Arc<dyn Records<Namespace>>, limits: Limits) -> NamespacesServer<Server> {
    limited!(NamespacesServer::new(Server { records }), limits)
}

/// The records that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Records<Namespace>> {
    Arc::new(Remote { client: limited!(NamespacesClient::new(peer), Limits::default()) })
}

/// Puts namespaces on the wire.
pub struct Server {
    records: Arc<dyn Records<Namespace>>,
}

#[tonic::async_trait]
impl Namespaces for Server {
    async fn get(
        &self,
        request: Request<pb::GetNamespaceRequest>,
    ) -> Reply<pb::GetNamespaceResponse> {
        // Compat: a namespace that nobody made has no labels, and is no error: clients look for
        // their defaults here before they make anything (containerd `core/metadata/namespaces.go`).
        let name = request.into_inner().name;
        let found = match self.records.get(&name).await {
            Err(error) if error.is_not_found() => Namespace { name, ..Namespace::default() },
            found => found.map_err(status)?,
        };
        Ok(Response::new(pb::GetNamespaceResponse { namespace: Some(found.to_wire()) }))
    }

    /// Compat: Go takes the filter of this request and does not look at it.
    async fn list(
        &self,
        _: Request<pb::ListNamespacesRequest>,
    ) -> Reply<pb::ListNamespacesResponse> {
        let found = self.records.list(&Filters::default()).await.map_err(status)?;
        Ok(Response::new(pb::ListNamespacesResponse { namespaces: found.to_wire() }))
    }

    async fn create(
        &self,
        request: Request<pb::CreateNamespaceRequest>,
    ) -> Reply<pb::CreateNamespaceResponse> {
        let records = self.records.clone();
        let namespace = present(request.into_inner().namespace, "namespace")
            .and_then(Namespace::from_wire)
            .map_err(status)?;
        let made = detached(async move { records.create(namespace).await }).await?;
        Ok(Response::new(pb::CreateNamespaceResponse { namespace: Some(made.to_wire()) }))
    }

    async fn update(
        &self,
        request: Request<pb::UpdateNamespaceRequest>,
    ) -> Reply<pb::UpdateNamespaceResponse> {
        let records = self.records.clone();
        let pb::UpdateNamespaceRequest { namespace, update_mask } = request.into_inner();
        let namespace =
            present(namespace, "namespace").and_then(Namespace::from_wire).map_err(status)?;
        let mask = mask(update_mask);
        let made = detached(async move { records.update(namespace, &mask).await }).await?;
        Ok(Response::new(pb::UpdateNamespaceResponse { namespace: Some(made.to_wire()) }))
    }

    async fn delete(&self, request: Request<pb::DeleteNamespaceRequest>) -> Reply<()> {
        let records = self.records.clone();
        let name = request.into_inner().name;
        detached(async move { records.delete(&name, Delete::default()).await })
            .await
            .map(Response::new)
    }
}

impl ToWire for Namespace {
    type Wire = pb::Namespace;

    fn to_wire(self) -> pb::Namespace {
        pb::Namespace { name: self.name, labels: self.labels }
    }
}

impl FromWire<pb::Namespace> for Namespace {
    fn from_wire(wire: pb::Namespace) -> Result<Self> {
        Ok(Self { name: wire.name, labels: wire.labels })
    }
}

struct Remote {
    client: NamespacesClient<Peer>,
}

impl Remote {
    fn client(&self) -> NamespacesClient<Peer> {
        self.client.clone()
    }
}

#[async_trait]
impl Records<Namespace> for Remote {
    /// The wire does not say whether there is one, so it is found in a list.
    async fn get(&self, name: &str) -> Result<Namespace> {
        let all = self.list(&Filters::default()).await?;
        let found = all.into_iter().find(|namespace| namespace.name == name);
        found.ok_or_else(|| Error::not_found(format!("namespace {name:?}")))
    }

    /// The wire does not filter, so it is done here.
    async fn list(&self, filters: &Filters) -> Result<Vec<Namespace>> {
        let request = pb::ListNamespacesRequest::default();
        let reply = self.client().list(request).await.map_err(error)?.into_inner();
        let all: Vec<Namespace> = Vec::from_wire(reply.namespaces)?;
        Ok(all.into_iter().filter(|namespace| filters.matches(namespace)).collect())
    }

    async fn create(&self, record: Namespace) -> Result<Namespace> {
        let request = pb::CreateNamespaceRequest { namespace: Some(record.to_wire()) };
        let reply = self.client().create(request).await.map_err(error)?.into_inner();
        Namespace::from_wire(present(reply.namespace, "namespace")?)
    }

    async fn update(&self, record: Namespace, mask: &FieldMask) -> Result<Namespace> {
        let request = pb::UpdateNamespaceRequest {
            namespace: Some(record.to_wire()),
            update_mask: mask.clone().to_wire(),
        };
        let reply = self.client().update(request).await.map_err(error)?.into_inner();
        Namespace::from_wire(present(reply.namespace, "namespace")?)
    }

    async fn delete(&self, name: &str, _: Delete) -> Result<()> {
        let request = pb::DeleteNamespaceRequest { name: name.to_owned() };
        self.client().delete(request).await.map_err(error)?;
        Ok(())
    }
}
