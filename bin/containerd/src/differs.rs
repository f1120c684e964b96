// SPDX-License-Identifier: Apache-2.0
//! Which differs there are, and in which order they are asked.
use std::{path::PathBuf, sync::Arc};

use diff::{Differ, Erofs, Ordered, Processor, Walking};
use metadata::Scoped;
use serde::Deserialize;
use types::Result;

use crate::{Config, plugins::kinds, proxies::Proxies};

/// The differs of a daemon.
pub(crate) struct Differs {
    order: Vec<Name>,
    sync_fs: bool,
    mkfs_options: Vec<String>,
    max_layer_size: u64,
    processors: Vec<Processor>,
    proxies: Arc<Proxies>,
    /// Where layers are mounted that cannot be written in place.
    scratch: PathBuf,
}

/// A differ by the name of its plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Walking,
    Erofs,
    /// One in another process, by the name of its proxy.
    Proxy(String),
}

/// `[plugins."io.containerd.service.v1.diff-service"]` (containerd `plugins/services/diff`).
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Service {
    default: Vec<String>,
    sync_fs: bool,
}

/// Walking comes first: it refuses native layers by their type, and makes of others what every
/// snapshotter knows.
impl Default for Service {
    fn default() -> Self {
        Self { default: vec!["walking".into(), "erofs".into()], sync_fs: false }
    }
}

/// `[plugins."io.containerd.differ.v1.erofs"]` (containerd `plugins/diff/erofs/plugin`).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ErofsSection {
    mkfs_options: Vec<String>,
}

/// `[plugins."io.containerd.differ.v1.walking"]`, which is ours.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WalkingSection {
    /// How many bytes a layer may inflate to; 0 is no limit.
    max_layer_size: u64,
}

impl Differs {
    /// Reads what the config says. A differ that does not exist is left out, and said so.
    pub(crate) fn read(
        config: &Config,
        proxies: &Arc<Proxies>,
        processors: Vec<Processor>,
        scratch: PathBuf,
    ) -> Result<Self> {
        let service: Service = config.section(&format!("{}.diff-service", kinds::SERVICE))?;
        let erofs: ErofsSection = config.section(&format!("{}.erofs", kinds::DIFFER))?;
        let walking: WalkingSection = config.section(&format!("{}.walking", kinds::DIFFER))?;
        let is_enabled = |name: &str| !config.is_disabled(&format!("{}.{name}", kinds::DIFFER));
        let names = service.default.iter().map(String::as_str).filter(|name| is_enabled(name));
        Ok(Self {
            order: names.filter_map(|name| Name::parse(name, proxies)).collect(),
            proxies: Arc::clone(proxies),
            sync_fs: service.sync_fs,
            mkfs_options: erofs.mkfs_options,
            max_layer_size: walking.max_layer_size,
            processors,
            scratch,
        })
    }

    /// The differs over the content that a scope may see.
    pub(crate) fn of(&self, scoped: &Scoped) -> Arc<dyn Differ> {
        let one = |name: &Name| -> Option<Arc<dyn Differ>> {
            Some(match name {
                Name::Walking => Arc::new(
                    Walking::new(scoped.content(), self.scratch.clone())
                        .with_processors(self.processors.clone())
                        .with_max_size(self.max_layer_size)
                        .with_mounts(scoped.mounts()),
                ),
                Name::Erofs => Arc::new(Erofs::new(scoped.content(), self.mkfs_options.clone())),
                Name::Proxy(name) => return self.proxies.differ(name, scoped.namespace()),
            })
        };
        Arc::new(Ordered::new(self.order.iter().filter_map(one).collect(), self.sync_fs))
    }
}

impl Name {
    fn parse(name: &str, proxies: &Proxies) -> Option<Self> {
        match name {
            proxy if proxies.has_differ(proxy) => Some(Self::Proxy(proxy.to_owned())),
            "walking" => Some(Self::Walking),
            "erofs" => Some(Self::Erofs),
            // Go has the short cut through an overlay's upper directory apart; here walking takes it.
            "overlay" => None,
            other => {
                tracing::warn!("unknown differ in config: {other}");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Differs {
        let (config, warnings) = Config::parse(&format!("version = 3\n{text}")).unwrap();
        assert_eq!(warnings, []);
        let proxies = Arc::new(Proxies::open(&config).unwrap());
        Differs::read(&config, &proxies, Vec::new(), "/tmp".into()).unwrap()
    }

    #[test]
    fn the_config_says_who_is_asked_first() {
        assert_eq!(read("").order, [Name::Walking, Name::Erofs]);
        let differs = read(
            "[plugins.'io.containerd.service.v1.diff-service']\n\
             default = ['erofs', 'overlay', 'bogus', 'walking']\nsync_fs = true",
        );
        assert_eq!((differs.order, differs.sync_fs), (vec![Name::Erofs, Name::Walking], true));
    }

    #[tokio::test]
    async fn one_in_another_process_is_asked_in_its_turn() {
        let differs = read(
            "[proxy_plugins.far]\ntype = 'diff'\naddress = '/nowhere/diff.sock'\n\
             [plugins.'io.containerd.service.v1.diff-service']\n\
             default = ['erofs', 'far', 'walking']",
        );
        assert_eq!(differs.order, [Name::Erofs, Name::Proxy("far".into()), Name::Walking]);
    }

    #[test]
    fn a_disabled_differ_is_not_asked() {
        let differs = read("disabled_plugins = ['io.containerd.differ.v1.erofs']");
        assert_eq!(differs.order, [Name::Walking]);
    }
}
