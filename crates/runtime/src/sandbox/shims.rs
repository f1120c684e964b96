// SPDX-License-Identifier: Apache-2.0
//! Shims that are sandboxes themselves (containerd `plugins/sandbox/controller.go`).
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use api::containerd::runtime::sandbox::v1 as pb;
use async_trait::async_trait;
use prost::Message;
use records::Sandbox;
use types::{Context, Error, FieldMask, Kind, Platform, Result, Scope};

use super::{Controller, Create, Endpoint, Instance, Status, missing};
use crate::{
    Exit, Metric, binary,
    bundle::{Bundle, existing},
    log::Forwarding,
    shim::{Shim, domain_any, time},
    shims::Shims,
    table::{Phase, Reservation, Table},
    tasks::{blocking, wire_any, wire_mount},
};

/// What a connection says that is being closed (`github.com/containerd/ttrpc`, `errors.go`).
const CLOSED: &str = "ttrpc: closed";
/// How long a shim that ends may take to be gone.
const LEAVING: Duration = Duration::from_secs(1);

/// The sandboxes of a daemon that are shims, found again after a restart.
pub struct Sandboxes {
    shims: Arc<Shims>,
    root: PathBuf,
    state: PathBuf,
    table: Arc<Table>,
}

impl Sandboxes {
    /// Looks for sandboxes that were there before, in directories of their own beside those of
    /// tasks, and returns without waiting for them.
    pub fn open(shims: Arc<Shims>, root: PathBuf, state: PathBuf) -> Result<Arc<Self>> {
        let this = Arc::new(Self { shims, root, state, table: Arc::default() });
        for bundle in existing(&this.root, &this.state) {
            let reservation = this.table.load(&bundle.namespace, &bundle.id)?;
            let owner = this.clone();
            this.shims.watchers.spawn(async move { owner.load(bundle, reservation).await });
        }
        Ok(this)
    }

    /// The sandboxes of one namespace.
    pub fn controller(self: &Arc<Self>, scope: &Scope) -> Arc<dyn Controller> {
        Arc::new(Scoped { all: self.clone(), namespace: scope.namespace().to_owned() })
    }

    async fn load(self: Arc<Self>, bundle: Bundle, reservation: Reservation) {
        match self.reach(&bundle).await {
            Ok((shim, log)) => self.live(reservation, Arc::new(shim), log),
            Err(error) => {
                tracing::info!(id = bundle.id, %error, "the shim of a sandbox is gone");
                self.shims.clean(&bundle, bundle.binary()).await;
                drop(reservation);
            }
        }
    }

    async fn reach(&self, bundle: &Bundle) -> Result<(Shim, Forwarding)> {
        let answer = bundle.answer().ok_or_else(|| missing(&bundle.id))?;
        let log = Forwarding::open(&bundle.log(), &bundle.id)?;
        let program = bundle.binary().unwrap_or_default();
        let config = &self.shims.config;
        let (grpc, patience) = (config.grpc.as_deref(), config.timeouts.load);
        Ok((Shim::connect(bundle.clone(), program, answer, grpc, patience).await?, log))
    }

    fn live(self: &Arc<Self>, reservation: Reservation, shim: Arc<Shim>, log: Forwarding) {
        reservation.live(shim.clone());
        let this = self.clone();
        self.shims.watchers.spawn(async move {
            shim.closed().await;
            drop(log);
            let Some(deleting) = this.table.begin_delete(&shim) else { return };
            let exit = this.shims.clean(&shim.bundle, Some(shim.program.clone())).await;
            deleting.done(exit);
        });
    }

    /// Starts a shim and has it make the sandbox. What fails leaves nothing behind.
    async fn make(&self, bundle: &Bundle, create: Create) -> Result<(Shim, Forwarding)> {
        let id = &create.sandbox.id;
        let context = || format!("failed to start new shim for sandbox {id}");
        let runtime = &create.sandbox.runtime;
        let program =
            binary::find(&runtime.name, self.shims.config.beside.as_deref()).context(context)?;
        let started = self.shims.start(bundle, program.clone(), runtime.options.as_ref()).await;
        let (shim, log) = match started {
            Ok(started) => started,
            Err(error) => {
                self.shims.clean(bundle, Some(program)).await;
                return Err(error.context(context()));
            }
        };
        let request = pb::CreateSandboxRequest {
            sandbox_id: id.clone(),
            bundle_path: bundle.path.display().to_string(),
            rootfs: create.rootfs.into_iter().map(wire_mount).collect(),
            options: create.options.as_ref().map(wire_any),
            netns_path: create.netns_path,
            annotations: create.annotations,
        };
        let patience = Some(self.shims.config.timeouts.call);
        match shim.call_sandbox("CreateSandbox", &request, patience).await {
            Ok(pb::CreateSandboxResponse {}) => Ok((shim, log)),
            Err(error) => {
                self.end(&shim).await;
                Err(error.context(format!("failed to create sandbox {id}")))
            }
        }
    }

    /// Asks a shim to end, gives it the time for that, and cleans up after it.
    async fn end(&self, shim: &Shim) -> Exit {
        let request = pb::ShutdownSandboxRequest { sandbox_id: shim.bundle.id.clone() };
        let patience = self.shims.config.timeouts.shutdown;
        let asked = shim.call_sandbox("ShutdownSandbox", &request, Some(patience)).await;
        match asked {
            Ok(pb::ShutdownSandboxResponse {}) => {}
            // A shim that ends may do so before it has answered.
            Err(error) if shim.is_closed() || error.kind() == Kind::Unavailable => {}
            Err(error) => {
                tracing::warn!(id = shim.bundle.id, %error, "failed to shut down a sandbox");
            }
        }
        if tokio::time::timeout(patience, shim.closed()).await.is_err() {
            tracing::warn!(id = shim.bundle.id, "the shim of a sandbox does not end");
        }
        self.shims.clean(&shim.bundle, Some(shim.program.clone())).await
    }
}

impl std::fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandboxes").field("state", &self.state).finish_non_exhaustive()
    }
}

struct Scoped {
    all: Arc<Sandboxes>,
    namespace: String,
}

impl Scoped {
    async fn find(&self, id: &str) -> Result<Arc<Shim>> {
        let patience = self.all.shims.config.timeouts.load;
        let found = self.all.table.find(&self.namespace, id, patience).await;
        found.map_err(|error| if error.is_not_found() { missing(id) } else { error })
    }

    async fn call<Q, R>(&self, id: &str, method: &str, request: Q) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let shim = self.find(id).await?;
        let patience = Some(self.all.shims.config.timeouts.call);
        match shim.call_sandbox(method, &request, patience).await {
            Err(error) if is_gone(&shim, &error).await => Err(missing(id)),
            answer => answer,
        }
    }

    /// How a sandbox ended whose shim went away while somebody waited.
    async fn ended(&self, id: &str) -> Exit {
        let unknown = Exit { pid: 0, status: 255, at: SystemTime::now() };
        let Some(mut phase) = self.all.table.watch(&self.namespace, id) else { return unknown };
        let cleanup = self.all.shims.config.timeouts.cleanup + Duration::from_secs(1);
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Gone(_)));
        match tokio::time::timeout(cleanup, ended).await {
            Ok(Ok(phase)) => match &*phase {
                Phase::Gone(Some(exit)) => *exit,
                _ => unknown,
            },
            _ => unknown,
        }
    }
}

/// Whether a call failed because the shim has ended. One that is about to refuses calls before its
/// connection is closed.
async fn is_gone(shim: &Shim, error: &Error) -> bool {
    let is_cut = error.kind() == Kind::Unavailable || error.to_string().ends_with(CLOSED);
    shim.is_closed() || is_cut && tokio::time::timeout(LEAVING, shim.closed()).await.is_ok()
}

#[async_trait]
impl Controller for Scoped {
    async fn create(&self, create: Create) -> Result<()> {
        let id = create.sandbox.id.clone();
        let Sandboxes { root, state, table, .. } = &*self.all;
        let bundle = Bundle::at(root, state, &self.namespace, &id)?;
        let reservation = table.reserve(&self.namespace, &id).map_err(|error| {
            let taken = error.is_already_exists();
            if taken {
                Error::already_exists(format!("sandbox {id} already running"))
            } else {
                error
            }
        })?;
        // A shim reads the spec of its bundle even where there is none to be run.
        let spec = create.sandbox.spec.as_ref().map(|spec| spec.value.clone());
        let spec = spec.filter(|spec| !spec.is_empty()).unwrap_or_else(|| "{}".into());
        let made = bundle.clone();
        blocking(move || made.create(&spec)).await?;
        match self.all.make(&bundle, create).await {
            Ok((shim, log)) => self.all.live(reservation, Arc::new(shim), log),
            Err(error) => {
                blocking(move || {
                    bundle.remove();
                    Ok(())
                })
                .await?;
                return Err(error);
            }
        }
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<Instance> {
        let request = pb::StartSandboxRequest { sandbox_id: id.to_owned() };
        let shim = self.find(id).await?;
        let patience = Some(self.all.shims.config.timeouts.call);
        let started = match shim.call_sandbox("StartSandbox", &request, patience).await {
            Ok(started) => started,
            Err(error) => {
                let is_gone = shim.is_closed();
                if let Some(deleting) = self.all.table.begin_delete(&shim) {
                    deleting.done(self.all.end(&shim).await);
                }
                if is_gone {
                    return Err(missing(id));
                }
                return Err(error.context(format!("failed to start sandbox {id}")));
            }
        };
        let pb::StartSandboxResponse { pid, created_at, spec } = started;
        Ok(Instance {
            id: id.to_owned(),
            pid,
            created_at: created_at.map(|at| time(Some(at))),
            labels: Default::default(),
            endpoint: Endpoint::of(&shim.answer),
            spec: spec.map(domain_any),
        })
    }

    async fn platform(&self, id: &str) -> Result<Platform> {
        let request = pb::PlatformRequest { sandbox_id: id.to_owned() };
        let told: pb::PlatformResponse = self
            .call(id, "Platform", request)
            .await
            .context(|| "failed to get sandbox platform")?;
        let told = told.platform.unwrap_or_default();
        Ok(Platform {
            os: told.os,
            architecture: told.architecture,
            variant: told.variant,
            ..Platform::default()
        })
    }

    async fn stop(&self, id: &str, grace: Option<Duration>) -> Result<()> {
        let timeout_secs = grace.map_or(0, |grace| grace.as_secs() as u32);
        let request = pb::StopSandboxRequest { sandbox_id: id.to_owned(), timeout_secs };
        match self.call::<_, pb::StopSandboxResponse>(id, "StopSandbox", request).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() || error.kind() == Kind::Unavailable => Ok(()),
            Err(error) => Err(error.context("failed to stop sandbox")),
        }
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        let shim = self.find(id).await?;
        let request = pb::WaitSandboxRequest { sandbox_id: id.to_owned() };
        match shim.call_sandbox("WaitSandbox", &request, None).await {
            Ok(pb::WaitSandboxResponse { exit_status, exited_at }) => {
                Ok(Exit { pid: 0, status: exit_status, at: time(exited_at) })
            }
            Err(error) if is_gone(&shim, &error).await => Ok(self.ended(id).await),
            Err(error) => Err(error.context(format!("failed to wait sandbox {id}"))),
        }
    }

    async fn status(&self, id: &str, verbose: bool) -> Result<Status> {
        let gone = || Status {
            id: id.to_owned(),
            exited_at: Some(SystemTime::now()),
            ..Status::default()
        };
        let shim = match self.find(id).await {
            Err(error) if error.is_not_found() => return Ok(gone()),
            found => found?,
        };
        let request = pb::SandboxStatusRequest { sandbox_id: id.to_owned(), verbose };
        let patience = Some(self.all.shims.config.timeouts.state);
        let told = match shim.call_sandbox("SandboxStatus", &request, patience).await {
            Err(error) if is_gone(&shim, &error).await => return Ok(gone()),
            told => told.context(|| format!("failed to query sandbox {id} status"))?,
        };
        let pb::SandboxStatusResponse { pid, state, info, created_at, exited_at, extra, .. } = told;
        Ok(Status {
            id: id.to_owned(),
            pid,
            state,
            info,
            created_at: created_at.map(|at| time(Some(at))),
            exited_at: exited_at.map(|at| time(Some(at))),
            extra: extra.map(domain_any),
            endpoint: Endpoint::of(&shim.answer),
        })
    }

    async fn shutdown(&self, id: &str) -> Result<()> {
        let shim = self.find(id).await?;
        match self.all.table.begin_delete(&shim) {
            Some(deleting) => deleting.done(self.all.end(&shim).await),
            // Somebody else is at it.
            None => drop(self.ended(id).await),
        }
        Ok(())
    }

    async fn metrics(&self, id: &str) -> Result<Option<Metric>> {
        let request = pb::SandboxMetricsRequest { sandbox_id: id.to_owned() };
        let told: pb::SandboxMetricsResponse = self.call(id, "SandboxMetrics", request).await?;
        Ok(told.metrics.and_then(|metric| {
            let data = domain_any(metric.data?);
            Some(Metric { id: metric.id, at: time(metric.timestamp), data })
        }))
    }

    /// Compat: nothing, as in Go's.
    async fn update(&self, _: Sandbox, _: &FieldMask) -> Result<()> {
        Ok(())
    }
}
