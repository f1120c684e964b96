// SPDX-License-Identifier: Apache-2.0
//! Parts in other processes, which the config names (containerd `cmd/containerd/server/server.go`,
//! `LoadPlugins`).
//!
//! Nothing is dialled before it is used, so a daemon starts whether its proxies do or not.
mod namespaced;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use content::Store;
use diff::Differ;
use runtime::sandbox::Controller;
use services::introspection::Plugin;
use snapshots::{Capability, Snapshotter};
use tonic::transport::Channel;
use types::{Error, Platform, Result, Scope};

use self::namespaced::Namespaced;
use crate::{Config, config::Proxy, plugins::kinds, sandboxes::Remote};

/// The namespace in the headers of calls to a content store, whose blobs are in none.
const BACKEND: &str = "default";

/// The parts of a daemon that are elsewhere.
#[derive(Default)]
pub(crate) struct Proxies {
    pub(crate) content: Option<Arc<dyn Store>>,
    pub(crate) snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
    pub(crate) sandboxers: BTreeMap<String, Remote>,
    pub(crate) plugins: Vec<Plugin>,
    /// Differs by their names.
    differs: BTreeMap<String, Channel>,
}

impl Proxies {
    /// Prepares to reach what the config names.
    ///
    /// Errors: `InvalidArgument` for a proxy that makes no sense.
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let mut all = Self::default();
        for (name, proxy) in &config.proxies {
            let added = all.add(name, proxy);
            added.map_err(|error| error.context(format!("proxy plugin {name}")))?;
        }
        Ok(all)
    }

    fn add(&mut self, name: &str, proxy: &Proxy) -> Result<()> {
        let address = proxy.address.strip_prefix("unix://").unwrap_or(&proxy.address);
        let channel = services::dial_lazily(Path::new(address))?;
        let kind = match proxy.kind.as_str() {
            "snapshot" | "snapshots" => {
                let capabilities = capabilities(name, &proxy.capabilities);
                let snapshotter = Namespaced::new(channel, name, capabilities)?;
                self.snapshotters.insert(name.to_owned(), Arc::new(snapshotter));
                kinds::SNAPSHOTTER
            }
            "content" => {
                let peer = services::peer(channel, &Scope::new(BACKEND)?)?;
                self.content = Some(services::content::connect(peer));
                kinds::CONTENT
            }
            "diff" => {
                self.differs.insert(name.to_owned(), channel);
                kinds::DIFFER
            }
            "sandbox" => {
                let sandboxer = name.to_owned();
                let connect = move |scope: &Scope| -> Result<Arc<dyn Controller>> {
                    let peer = services::peer(channel.clone(), scope)?;
                    Ok(services::sandboxers::connect(peer, &*sandboxer))
                };
                self.sandboxers.insert(name.to_owned(), Arc::new(connect));
                kinds::SANDBOX
            }
            other => return Err(Error::invalid(format!("unknown proxy type {other:?}"))),
        };
        self.plugins.push(plugin(kind, name, proxy)?);
        Ok(())
    }

    /// Whether a differ of this name is elsewhere.
    pub(crate) fn has_differ(&self, name: &str) -> bool {
        self.differs.contains_key(name)
    }

    /// The differ of this name on behalf of a namespace, if it is elsewhere.
    pub(crate) fn differ(&self, name: &str, namespace: &str) -> Option<Arc<dyn Differ>> {
        let scope = Scope::new(namespace).ok()?;
        let channel = self.differs.get(name)?.clone();
        Some(services::diff::connect(services::peer(channel, &scope).ok()?))
    }
}

/// What a snapshotter can do, of what is known here.
fn capabilities(proxy: &str, names: &[String]) -> Vec<Capability> {
    let known = |name: &String| {
        let all = [Capability::RemapIds, Capability::Rebase];
        let found = all.into_iter().find(|capability| capability.name() == name);
        if found.is_none() {
            tracing::debug!(proxy, name, "a capability of a proxy that is not known");
        }
        found
    };
    names.iter().filter_map(known).collect()
}

fn plugin(kind: &str, name: &str, proxy: &Proxy) -> Result<Plugin> {
    let platform = match proxy.platform.as_str() {
        "" => Platform::host(),
        text => text.parse()?,
    };
    let mut exports = proxy.exports.clone();
    exports.insert("address".into(), proxy.address.clone());
    Ok(Plugin {
        kind: kind.to_owned(),
        id: name.to_owned(),
        platforms: vec![platform],
        exports,
        capabilities: proxy.capabilities.clone(),
        ..Plugin::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn proxies_are_listed_and_found_by_what_they_are() {
        let (config, _) = Config::parse(
            r#"
            version = 3
            [proxy_plugins.stargz]
              type = "snapshot"
              address = "/nowhere/stargz.sock"
              capabilities = ["remap-ids", "new"]
              [proxy_plugins.stargz.exports]
                root = "/var/lib/stargz"
            [proxy_plugins.kuasar]
              type = "sandbox"
              address = "/nowhere/kuasar.sock"
            [proxy_plugins.far]
              type = "diff"
              address = "/nowhere/diff.sock"
            [plugins."io.containerd.service.v1.diff-service"]
              default = ["far", "walking"]
            "#,
        )
        .unwrap();
        let all = Proxies::open(&config).unwrap();
        assert!(all.snapshotters.contains_key("stargz") && all.sandboxers.contains_key("kuasar"));
        assert!(all.differ("far", "k8s.io").is_some() && all.has_differ("far"));
        assert!(all.differ("walking", "k8s.io").is_none() && all.content.is_none());
        let stargz = all.plugins.iter().find(|plugin| plugin.id == "stargz").unwrap();
        assert_eq!(stargz.kind, "io.containerd.snapshotter.v1");
        assert_eq!(stargz.exports["root"], "/var/lib/stargz");
        assert_eq!(stargz.capabilities, ["remap-ids", "new"]);
        // Nobody listens there, which is known only when it is used.
        let error = all.snapshotters["stargz"].stat("x").await.unwrap_err();
        assert_eq!(error.kind(), types::Kind::Unavailable);
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        let text = "version = 3\n[proxy_plugins.x]\ntype = \"magic\"\naddress = \"/x\"";
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let error = Proxies::open(&Config::parse(text).unwrap().0).err().unwrap();
        assert_eq!(
            error.to_string(),
            "proxy plugin x: unknown proxy type \"magic\": invalid argument"
        );
    }
}
