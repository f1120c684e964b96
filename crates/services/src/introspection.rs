// SPDX-License-Identifier: Apache-2.0
//! The introspection service (`containerd.services.introspection.v1`): what a daemon is made of.
use std::{borrow::Cow, collections::BTreeMap, sync::Arc, time::SystemTime};

use ::runtime::RuntimeInfo;
use api::{
    containerd::{services::introspection::v1 as pb, types as wire},
    google::rpc,
};
use futures_util::future::BoxFuture;
use pb::{
    introspection_client::IntrospectionClient,
    introspection_server::{Introspection, IntrospectionServer},
};
use tonic::{Request, Response, Status};
use types::{Any, Error, Fields, Filters, Kind, Platform, Result};

use crate::call::{Limits, Peer, Reply, error, limited, status};
use crate::convert::{FromWire, ToWire, any, filters, present, time};

/// The plugin that tells what runtimes can do (containerd `core/runtime/v2/task_manager.go`).
const RUNTIME: (&str, &str) = ("io.containerd.runtime.v2", "task");

/// A part of a daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plugin {
    /// What sort of part: `io.containerd.snapshotter.v1`.
    pub kind: String,
    /// Its name: `overlayfs`.
    pub id: String,
    /// The sorts of parts that it needs.
    pub requires: Vec<String>,
    /// The platforms that it works for.
    pub platforms: Vec<Platform>,
    /// What it tells about itself, such as its root directory.
    pub exports: BTreeMap<String, String>,
    /// What it can do.
    pub capabilities: Vec<String>,
    /// Why it is not there, by kind and text. One that was skipped on purpose is `Unimplemented`.
    pub fault: Option<(Kind, String)>,
}

/// `type`, `id`, `platforms`, `capabilities` (containerd `plugins/services/introspection/local.go`).
impl Fields for Plugin {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["type"] => Some(self.kind.as_str().into()),
            ["id"] => Some(self.id.as_str().into()),
            ["platforms", ..] => {
                let platforms: Vec<_> = self.platforms.iter().map(Platform::to_string).collect();
                Some(platforms.join(",").into()).filter(|text: &Cow<_>| !text.is_empty())
            }
            ["capabilities"] => Some(self.capabilities.join(",").into()),
            _ => None,
        }
    }
}

/// Which daemon this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its own name, the same for as long as its root directory is.
    pub uuid: String,
    /// Its pid.
    pub pid: u64,
    /// The inode of its pid namespace.
    pub pidns: u64,
    /// What is used of it that will not be there for ever.
    pub deprecations: Vec<Deprecation>,
}

/// Something is used that will not be there for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deprecation {
    /// Its name: `io.containerd.deprecation/cri-registry-mirrors`.
    pub id: String,
    /// What to do about it.
    pub message: String,
    /// When it was last seen.
    pub last: SystemTime,
}

/// Asks runtimes what they can do, by name or path and with options.
pub type Inspect =
    dyn Fn(String, Option<Any>) -> BoxFuture<'static, Result<RuntimeInfo>> + Send + Sync;

/// Serves what `identity` and `plugins` say, and what `inspect` finds out. No namespace is needed.
pub fn serve(
    identity: Identity,
    plugins: Arc<[Plugin]>,
    inspect: Arc<Inspect>,
    limits: Limits,
) -> IntrospectionServer<Server> {
    limited!(IntrospectionServer::new(Server { identity, plugins, inspect }), limits)
}

/// Asks `peer` which daemon it is.
pub async fn identity(peer: Peer) -> Result<Identity> {
    let reply = IntrospectionClient::new(peer).server(()).await.map_err(error)?.into_inner();
    let deprecations = reply.deprecations.into_iter().map(|warning| Deprecation {
        id: warning.id,
        message: warning.message,
        last: time(warning.last_occurrence),
    });
    let deprecations = deprecations.collect();
    Ok(Identity { uuid: reply.uuid, pid: reply.pid, pidns: reply.pidns, deprecations })
}

/// Asks `peer` what a runtime can do.
pub async fn runtime(peer: Peer, runtime: String, options: Option<Any>) -> Result<RuntimeInfo> {
    let asked =
        wire::RuntimeRequest { runtime_path: runtime, options: options.map(ToWire::to_wire) };
    let request = pb::PluginInfoRequest {
        r#type: RUNTIME.0.to_owned(),
        id: RUNTIME.1.to_owned(),
        options: Some(api::pack(&asked)),
    };
    let reply = IntrospectionClient::new(peer).plugin_info(request).await.map_err(error)?;
    let extra = present(reply.into_inner().extra, "runtime info")?;
    let told = api::unpack::<wire::RuntimeInfo>(&extra)
        .ok_or_else(|| Error::internal(format!("unexpected runtime info {}", extra.type_url)))?
        .map_err(|e| Error::caused(Kind::Internal, "runtime info", e))?;
    let version = told.version.unwrap_or_default();
    Ok(RuntimeInfo {
        name: told.name,
        version: version.version,
        revision: version.revision,
        options: told.options.map(any),
        features: told.features.map(any),
        annotations: told.annotations,
    })
}

/// Asks `peer` for its parts that match.
pub async fn plugins(peer: Peer, filters: &Filters) -> Result<Vec<Plugin>> {
    let request = pb::PluginsRequest { filters: filters.texts() };
    let mut client = limited!(IntrospectionClient::new(peer), Limits::default());
    let reply = client.plugins(request).await.map_err(error)?.into_inner();
    Vec::from_wire(reply.plugins)
}

/// Asks `peer` for one part.
pub async fn plugin(peer: Peer, kind: &str, id: &str) -> Result<Plugin> {
    let request =
        pb::PluginInfoRequest { r#type: kind.to_owned(), id: id.to_owned(), options: None };
    let reply = IntrospectionClient::new(peer).plugin_info(request).await.map_err(error)?;
    Plugin::from_wire(present(reply.into_inner().plugin, "plugin")?)
}

/// Puts a daemon's parts on the wire.
pub struct Server {
    identity: Identity,
    plugins: Arc<[Plugin]>,
    inspect: Arc<Inspect>,
}

impl Server {
    /// What there is to say beyond the plugin itself: of the runtime plugin, what a runtime can do.
    async fn extra(
        &self,
        request: &pb::PluginInfoRequest,
    ) -> Result<Option<prost_types::Any>, Status> {
        let Some(options) = &request.options else { return Ok(None) };
        let asked = api::unpack::<wire::RuntimeRequest>(options);
        let is_runtime = (request.r#type.as_str(), request.id.as_str()) == RUNTIME;
        let Some(Ok(asked)) = asked.filter(|_| is_runtime) else {
            let what = format!("unknown request type {}", options.type_url);
            return Err(status(Error::unimplemented(what)));
        };
        let info = (self.inspect)(asked.runtime_path, asked.options.map(any)).await;
        Ok(Some(api::pack(&info.map_err(status)?.to_wire())))
    }
}

#[tonic::async_trait]
impl Introspection for Server {
    async fn plugins(&self, request: Request<pb::PluginsRequest>) -> Reply<pb::PluginsResponse> {
        let filters = filters(&request.get_ref().filters).map_err(status)?;
        let found = self.plugins.iter().filter(|plugin| filters.matches(*plugin));
        let plugins = found.cloned().map(ToWire::to_wire).collect();
        Ok(Response::new(pb::PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Reply<pb::ServerResponse> {
        let Identity { uuid, pid, pidns, deprecations } = self.identity.clone();
        let deprecations = deprecations.into_iter().map(|warning| pb::DeprecationWarning {
            id: warning.id,
            message: warning.message,
            last_occurrence: warning.last.to_wire(),
        });
        let deprecations = deprecations.collect();
        Ok(Response::new(pb::ServerResponse { uuid, pid, pidns, deprecations }))
    }

    async fn plugin_info(
        &self,
        request: Request<pb::PluginInfoRequest>,
    ) -> Reply<pb::PluginInfoResponse> {
        let request = request.into_inner();
        let pb::PluginInfoRequest { r#type: kind, id, .. } = &request;
        let found = self.plugins.iter().find(|plugin| plugin.kind == *kind && plugin.id == *id);
        let missing = || status(Error::not_found(format!("plugin {kind}.{id}")));
        let plugin = Some(found.cloned().ok_or_else(missing)?.to_wire());
        Ok(Response::new(pb::PluginInfoResponse { plugin, extra: self.extra(&request).await? }))
    }
}

impl ToWire for RuntimeInfo {
    type Wire = wire::RuntimeInfo;

    fn to_wire(self) -> wire::RuntimeInfo {
        wire::RuntimeInfo {
            name: self.name,
            version: Some(wire::RuntimeVersion { version: self.version, revision: self.revision }),
            options: self.options.map(ToWire::to_wire),
            features: self.features.map(ToWire::to_wire),
            annotations: self.annotations,
        }
    }
}

impl ToWire for Plugin {
    type Wire = pb::Plugin;

    fn to_wire(self) -> pb::Plugin {
        let fault = |(kind, message): (Kind, String)| rpc::Status {
            code: kind.code(),
            message,
            ..Default::default()
        };
        pb::Plugin {
            r#type: self.kind,
            id: self.id,
            requires: self.requires,
            platforms: self.platforms.to_wire(),
            exports: self.exports,
            capabilities: self.capabilities,
            init_err: self.fault.map(fault),
        }
    }
}

impl FromWire<pb::Plugin> for Plugin {
    fn from_wire(wire: pb::Plugin) -> Result<Self> {
        Ok(Self {
            kind: wire.r#type,
            id: wire.id,
            requires: wire.requires,
            platforms: Vec::from_wire(wire.platforms)?,
            exports: wire.exports,
            capabilities: wire.capabilities,
            fault: wire.init_err.map(|fault| (Kind::from_code(fault.code), fault.message)),
        })
    }
}
