// SPDX-License-Identifier: Apache-2.0
//! The sandbox controllers (`containerd.services.sandbox.v1.Controller`).
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::records::Sandbox;
use ::runtime::{
    Endpoint, Exit, Metric,
    sandbox::{Controller as Contract, Create, Instance, Status as State},
};
use api::containerd::{services::sandbox::v1 as pb, types as wire};
use async_trait::async_trait;
use pb::{
    controller_client::ControllerClient,
    controller_server::{Controller, ControllerServer},
};
use tonic::{Request, Response, Status};
use types::{FieldMask, Platform, Result, Scope};

use crate::call::{Limits, Peer, Reply, detached, error, limited, open, status};
use crate::convert::{FromWire, ToWire, any, present, time};

/// Serves the controllers that `find` finds for a scope, by name.
pub fn serve<F>(find: F, limits: Limits) -> ControllerServer<Server<F>>
where
    F: Fn(&Scope, &str) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    limited!(ControllerServer::new(Server { find }), limits)
}

/// The controller called `name` that `peer` serves.
pub fn connect(peer: Peer, name: impl Into<String>) -> Arc<dyn Contract> {
    let client = limited!(ControllerClient::new(peer), Limits::default());
    Arc::new(Remote { client, sandboxer: name.into() })
}

/// Puts controllers on the wire.
#[derive(Debug)]
pub struct Server<F> {
    find: F,
}

impl<F> Server<F>
where
    F: Fn(&Scope, &str) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    fn open<T>(
        &self,
        request: Request<T>,
        name: impl FnOnce(&T) -> &str,
    ) -> Result<(Arc<dyn Contract>, T), Status> {
        let (scope, request) = open(request)?;
        Ok(((self.find)(&scope, name(&request)).map_err(status)?, request))
    }
}

#[tonic::async_trait]
impl<F> Controller for Server<F>
where
    F: Fn(&Scope, &str) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    async fn create(
        &self,
        request: Request<pb::ControllerCreateRequest>,
    ) -> Reply<pb::ControllerCreateResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let sandbox_id = request.sandbox_id.clone();
        let create = Create::from_wire(request).map_err(status)?;
        detached(async move { controller.create(create).await }).await?;
        Ok(Response::new(pb::ControllerCreateResponse { sandbox_id }))
    }

    async fn start(
        &self,
        request: Request<pb::ControllerStartRequest>,
    ) -> Reply<pb::ControllerStartResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let started = detached(async move { controller.start(&request.sandbox_id).await }).await?;
        Ok(Response::new(started.to_wire()))
    }

    async fn platform(
        &self,
        request: Request<pb::ControllerPlatformRequest>,
    ) -> Reply<pb::ControllerPlatformResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let platform = controller.platform(&request.sandbox_id).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::ControllerPlatformResponse { platform: Some(platform) }))
    }

    async fn stop(
        &self,
        request: Request<pb::ControllerStopRequest>,
    ) -> Reply<pb::ControllerStopResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let seconds = u64::from(request.timeout_secs);
        let grace = (seconds > 0).then_some(Duration::from_secs(seconds));
        detached(async move { controller.stop(&request.sandbox_id, grace).await }).await?;
        Ok(Response::new(pb::ControllerStopResponse {}))
    }

    async fn wait(
        &self,
        request: Request<pb::ControllerWaitRequest>,
    ) -> Reply<pb::ControllerWaitResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let exit = controller.wait(&request.sandbox_id).await.map_err(status)?;
        let (exit_status, exited_at) = (exit.status, exit.at.to_wire());
        Ok(Response::new(pb::ControllerWaitResponse { exit_status, exited_at }))
    }

    async fn status(
        &self,
        request: Request<pb::ControllerStatusRequest>,
    ) -> Reply<pb::ControllerStatusResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let told = controller.status(&request.sandbox_id, request.verbose).await;
        Ok(Response::new(told.map_err(status)?.to_wire()))
    }

    async fn shutdown(
        &self,
        request: Request<pb::ControllerShutdownRequest>,
    ) -> Reply<pb::ControllerShutdownResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        detached(async move { controller.shutdown(&request.sandbox_id).await }).await?;
        Ok(Response::new(pb::ControllerShutdownResponse {}))
    }

    async fn metrics(
        &self,
        request: Request<pb::ControllerMetricsRequest>,
    ) -> Reply<pb::ControllerMetricsResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let metrics = controller.metrics(&request.sandbox_id).await.map_err(status)?;
        let metrics = metrics.map(|metric| wire::Metric {
            timestamp: metric.at.to_wire(),
            id: metric.id,
            data: Some(metric.data.to_wire()),
        });
        Ok(Response::new(pb::ControllerMetricsResponse { metrics }))
    }

    async fn update(
        &self,
        request: Request<pb::ControllerUpdateRequest>,
    ) -> Reply<pb::ControllerUpdateResponse> {
        let (controller, request) = self.open(request, |it| &it.sandboxer)?;
        let sandbox = present(request.sandbox, "sandbox").and_then(Sandbox::from_wire);
        let (sandbox, mask) = (sandbox.map_err(status)?, FieldMask::new(request.fields));
        detached(async move { controller.update(sandbox, &mask).await }).await?;
        Ok(Response::new(pb::ControllerUpdateResponse {}))
    }
}

/// A client that says no record has none but a name (containerd
/// `plugins/services/sandbox/controller_service.go`).
impl FromWire<pb::ControllerCreateRequest> for Create {
    fn from_wire(request: pb::ControllerCreateRequest) -> Result<Self> {
        let nameless = || wire::Sandbox { sandbox_id: request.sandbox_id, ..Default::default() };
        Ok(Self {
            sandbox: Sandbox::from_wire(request.sandbox.unwrap_or_else(nameless))?,
            rootfs: Vec::from_wire(request.rootfs)?,
            options: request.options.map(any),
            netns_path: request.netns_path,
            annotations: request.annotations,
        })
    }
}

impl ToWire for Instance {
    type Wire = pb::ControllerStartResponse;

    fn to_wire(self) -> pb::ControllerStartResponse {
        pb::ControllerStartResponse {
            sandbox_id: self.id,
            pid: self.pid,
            created_at: self.created_at.and_then(SystemTime::to_wire),
            labels: self.labels,
            address: self.endpoint.address,
            version: self.endpoint.version,
            spec: self.spec.map(ToWire::to_wire),
        }
    }
}

impl FromWire<pb::ControllerStartResponse> for Instance {
    fn from_wire(told: pb::ControllerStartResponse) -> Result<Self> {
        Ok(Self {
            id: told.sandbox_id,
            pid: told.pid,
            created_at: told.created_at.map(|at| time(Some(at))),
            labels: told.labels,
            endpoint: Endpoint { address: told.address, version: told.version },
            spec: told.spec.map(any),
        })
    }
}

impl ToWire for State {
    type Wire = pb::ControllerStatusResponse;

    fn to_wire(self) -> pb::ControllerStatusResponse {
        pb::ControllerStatusResponse {
            sandbox_id: self.id,
            pid: self.pid,
            state: self.state,
            info: self.info,
            created_at: self.created_at.and_then(SystemTime::to_wire),
            exited_at: self.exited_at.and_then(SystemTime::to_wire),
            extra: self.extra.map(ToWire::to_wire),
            address: self.endpoint.address,
            version: self.endpoint.version,
        }
    }
}

impl FromWire<pb::ControllerStatusResponse> for State {
    fn from_wire(told: pb::ControllerStatusResponse) -> Result<Self> {
        Ok(Self {
            id: told.sandbox_id,
            pid: told.pid,
            state: told.state,
            info: told.info,
            created_at: told.created_at.map(|at| time(Some(at))),
            exited_at: told.exited_at.map(|at| time(Some(at))),
            extra: told.extra.map(any),
            endpoint: Endpoint { address: told.address, version: told.version },
        })
    }
}

struct Remote {
    client: ControllerClient<Peer>,
    sandboxer: String,
}

impl Remote {
    fn client(&self) -> ControllerClient<Peer> {
        self.client.clone()
    }
}

#[async_trait]
impl Contract for Remote {
    async fn create(&self, create: Create) -> Result<()> {
        let request = pb::ControllerCreateRequest {
            sandbox_id: create.sandbox.id.clone(),
            rootfs: create.rootfs.to_wire(),
            options: create.options.map(ToWire::to_wire),
            netns_path: create.netns_path,
            annotations: create.annotations,
            sandbox: Some(create.sandbox.to_wire()),
            sandboxer: self.sandboxer.clone(),
        };
        self.client().create(request).await.map(drop).map_err(error)
    }

    async fn start(&self, id: &str) -> Result<Instance> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let request = pb::ControllerStartRequest { sandbox_id, sandboxer };
        Instance::from_wire(self.client().start(request).await.map_err(error)?.into_inner())
    }

    async fn platform(&self, id: &str) -> Result<Platform> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let request = pb::ControllerPlatformRequest { sandbox_id, sandboxer };
        let told = self.client().platform(request).await.map_err(error)?.into_inner();
        Platform::from_wire(present(told.platform, "platform")?)
    }

    async fn stop(&self, id: &str, grace: Option<Duration>) -> Result<()> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let timeout_secs = grace.map_or(0, |grace| grace.as_secs() as u32);
        let request = pb::ControllerStopRequest { sandbox_id, timeout_secs, sandboxer };
        self.client().stop(request).await.map(drop).map_err(error)
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let request = pb::ControllerWaitRequest { sandbox_id, sandboxer };
        let told = self.client().wait(request).await.map_err(error)?.into_inner();
        Ok(Exit { pid: 0, status: told.exit_status, at: time(told.exited_at) })
    }

    async fn status(&self, id: &str, verbose: bool) -> Result<State> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let request = pb::ControllerStatusRequest { sandbox_id, verbose, sandboxer };
        State::from_wire(self.client().status(request).await.map_err(error)?.into_inner())
    }

    async fn shutdown(&self, id: &str) -> Result<()> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let request = pb::ControllerShutdownRequest { sandbox_id, sandboxer };
        self.client().shutdown(request).await.map(drop).map_err(error)
    }

    async fn metrics(&self, id: &str) -> Result<Option<Metric>> {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.clone());
        let request = pb::ControllerMetricsRequest { sandbox_id, sandboxer };
        let told = self.client().metrics(request).await.map_err(error)?.into_inner().metrics;
        Ok(told.and_then(|metric| {
            let (at, data) = (time(metric.timestamp), any(metric.data?));
            Some(Metric { id: metric.id, at, data })
        }))
    }

    async fn update(&self, sandbox: Sandbox, mask: &FieldMask) -> Result<()> {
        let request = pb::ControllerUpdateRequest {
            sandbox_id: sandbox.id.clone(),
            sandboxer: self.sandboxer.clone(),
            sandbox: Some(sandbox.to_wire()),
            fields: mask.paths().to_vec(),
        };
        self.client().update(request).await.map(drop).map_err(error)
    }
}
