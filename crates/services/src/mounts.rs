// SPDX-License-Identifier: Apache-2.0
//! The mounts service (`containerd.services.mounts.v1`).
use std::{pin::Pin, sync::Arc};

use ::mount::{Activate, ActivationInfo, ActiveMount, Manager as Contract, Mount};
use api::containerd::{services::mounts::v1 as pb, types as wire};
use async_trait::async_trait;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use pb::{
    mounts_client::MountsClient,
    mounts_server::{Mounts, MountsServer},
};
use tonic::{Request, Response, Status};
use types::{Error, FieldMask, Filters, Result, Scope};

use crate::call::{Limits, Peer, Reply, Scoped, detached, error, limited, status};
use crate::convert::{FromWire, ToWire, filters, mask, present, time};

/// Serves the mounts that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> MountsServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    limited!(MountsServer::new(Scoped::new(find)), limits)
}

/// The mounts that `peer` manages.
pub fn connect(peer: Peer) -> Arc<dyn Contract> {
    Arc::new(Remote { client: limited!(MountsClient::new(peer), Limits::default()) })
}

#[tonic::async_trait]
impl<F> Mounts for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    async fn activate(&self, request: Request<pb::ActivateRequest>) -> Reply<pb::ActivateResponse> {
        let (manager, request) = self.open(request)?;
        let pb::ActivateRequest { name, mounts, labels, temporary } = request;
        let mounts: Vec<Mount> = Vec::from_wire(mounts).map_err(status)?;
        let options = Activate { labels, temporary, allow_mount_types: Vec::new() };
        let activated = async move { manager.activate(&name, &mounts, options).await };
        let info = Some(detached(activated).await?.to_wire());
        Ok(Response::new(pb::ActivateResponse { info }))
    }

    async fn deactivate(&self, request: Request<pb::DeactivateRequest>) -> Reply<()> {
        let (manager, request) = self.open(request)?;
        detached(async move { manager.deactivate(&request.name).await }).await.map(Response::new)
    }

    async fn info(&self, request: Request<pb::InfoRequest>) -> Reply<pb::InfoResponse> {
        let (manager, request) = self.open(request)?;
        let info = Some(manager.info(&request.name).await.map_err(status)?.to_wire());
        Ok(Response::new(pb::InfoResponse { info }))
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Reply<pb::UpdateResponse> {
        let (manager, request) = self.open(request)?;
        let info =
            present(request.info, "info").and_then(ActivationInfo::from_wire).map_err(status)?;
        let mask = mask(request.update_mask);
        let updated = detached(async move { manager.update(info, &mask).await }).await?;
        Ok(Response::new(pb::UpdateResponse { info: Some(updated.to_wire()) }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<pb::ListMessage, Status>> + Send>>;

    async fn list(&self, request: Request<pb::ListRequest>) -> Reply<Self::ListStream> {
        let (manager, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let infos = manager.list(&filters).await.map_err(status)?;
        let message = |info: ActivationInfo| Ok(pb::ListMessage { info: Some(info.to_wire()) });
        Ok(Response::new(stream::iter(infos.into_iter().map(message)).boxed()))
    }
}

impl ToWire for ActivationInfo {
    type Wire = wire::ActivationInfo;

    fn to_wire(self) -> Self::Wire {
        let Self { name, active, system, labels } = self;
        wire::ActivationInfo { name, active: active.to_wire(), system: system.to_wire(), labels }
    }
}

impl FromWire<wire::ActivationInfo> for ActivationInfo {
    fn from_wire(wire: wire::ActivationInfo) -> Result<Self> {
        let wire::ActivationInfo { name, active, system, labels } = wire;
        let (active, system) = (Vec::from_wire(active)?, Vec::from_wire(system)?);
        Ok(Self { name, active, system, labels })
    }
}

impl ToWire for ActiveMount {
    type Wire = wire::ActiveMount;

    fn to_wire(self) -> Self::Wire {
        let Self { mount, mounted_at, mount_point, data } = self;
        wire::ActiveMount {
            mount: Some(mount.to_wire()),
            mounted_at: mounted_at.and_then(ToWire::to_wire),
            mount_point,
            data,
        }
    }
}

impl FromWire<wire::ActiveMount> for ActiveMount {
    fn from_wire(wire: wire::ActiveMount) -> Result<Self> {
        let wire::ActiveMount { mount, mounted_at, mount_point, data } = wire;
        let mount = mount.map(Mount::from_wire).transpose()?.unwrap_or_default();
        Ok(Self { mount, mounted_at: mounted_at.map(|at| time(Some(at))), mount_point, data })
    }
}

struct Remote {
    client: MountsClient<Peer>,
}

#[async_trait]
impl Contract for Remote {
    async fn activate(
        &self,
        name: &str,
        mounts: &[Mount],
        options: Activate,
    ) -> Result<ActivationInfo> {
        let Activate { labels, temporary, allow_mount_types } = options;
        if !allow_mount_types.is_empty() {
            return Err(Error::unimplemented("mount types of the caller's own, over the wire"));
        }
        let (name, mounts) = (name.to_owned(), mounts.to_vec().to_wire());
        let request = pb::ActivateRequest { name, mounts, labels, temporary };
        let reply = self.client.clone().activate(request).await.map_err(error)?.into_inner();
        ActivationInfo::from_wire(present(reply.info, "info")?)
    }

    async fn deactivate(&self, name: &str) -> Result<()> {
        let request = pb::DeactivateRequest { name: name.to_owned() };
        self.client.clone().deactivate(request).await.map_err(error)?;
        Ok(())
    }

    async fn info(&self, name: &str) -> Result<ActivationInfo> {
        let request = pb::InfoRequest { name: name.to_owned() };
        let reply = self.client.clone().info(request).await.map_err(error)?.into_inner();
        ActivationInfo::from_wire(present(reply.info, "info")?)
    }

    async fn update(&self, info: ActivationInfo, mask: &FieldMask) -> Result<ActivationInfo> {
        let update_mask = mask.clone().to_wire();
        let request = pb::UpdateRequest { info: Some(info.to_wire()), update_mask };
        let reply = self.client.clone().update(request).await.map_err(error)?.into_inner();
        ActivationInfo::from_wire(present(reply.info, "info")?)
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<ActivationInfo>> {
        let request = pb::ListRequest { filters: filters.texts() };
        let messages = self.client.clone().list(request).await.map_err(error)?.into_inner();
        messages
            .map_err(error)
            .and_then(async |message| ActivationInfo::from_wire(present(message.info, "info")?))
            .try_collect()
            .await
    }
}
