// SPDX-License-Identifier: Apache-2.0
//! The introspection service (`containerd.services.introspection.v1`): what a daemon is made of.
mod runtime;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use ::runtime::Shims;
use api::{containerd::services::introspection::v1 as pb, google::rpc};
use pb::{
    introspection_client::IntrospectionClient,
    introspection_server::{Introspection, IntrospectionServer},
};
use tonic::{Request, Response};
use types::{Error, Fields, Filters, Kind, Platform, Result};

use crate::call::{Limits, Peer, Reply, error, limited, status};
use crate::convert::{FromWire, ToWire, filters, present};

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
}

/// Serves what `identity` and `plugins` say. No namespace is needed.
pub fn serve(
    identity: Identity,
    plugins: Arc<[Plugin]>,
    limits: Limits,
) -> IntrospectionServer<Server> {
    limited!(IntrospectionServer::new(Server { identity, plugins, shims: None }), limits)
}

/// Serves the same, and what the runtimes of `shims` can do.
pub fn serve_with_runtimes(
    identity: Identity,
    plugins: Arc<[Plugin]>,
    shims: Arc<Shims>,
    limits: Limits,
) -> IntrospectionServer<Server> {
    limited!(IntrospectionServer::new(Server { identity, plugins, shims: Some(shims) }), limits)
}

/// Asks `peer` which daemon it is.
pub async fn identity(peer: Peer) -> Result<Identity> {
    let reply = IntrospectionClient::new(peer).server(()).await.map_err(error)?.into_inner();
    Ok(Identity { uuid: reply.uuid, pid: reply.pid, pidns: reply.pidns })
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
#[derive(Debug)]
pub struct Server {
    identity: Identity,
    plugins: Arc<[Plugin]>,
    shims: Option<Arc<Shims>>,
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
        let Identity { uuid, pid, pidns } = self.identity.clone();
        Ok(Response::new(pb::ServerResponse { uuid, pid, pidns, deprecations: Vec::new() }))
    }

    async fn plugin_info(
        &self,
        request: Request<pb::PluginInfoRequest>,
    ) -> Reply<pb::PluginInfoResponse> {
        let pb::PluginInfoRequest { r#type: kind, id, options } = request.into_inner();
        let found = self.plugins.iter().find(|plugin| plugin.kind == kind && plugin.id == id);
        let plugin = found
            .cloned()
            .ok_or_else(|| status(Error::not_found(format!("plugin {kind}.{id}"))))?;
        let extra = runtime::extra(self.shims.as_ref(), (&kind, &id), options).await;
        let (plugin, extra) = (Some(plugin.to_wire()), extra.map_err(status)?);
        Ok(Response::new(pb::PluginInfoResponse { plugin, extra }))
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
