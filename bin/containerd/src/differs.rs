// SPDX-License-Identifier: Apache-2.0
//! Which differs there are, and in which order they are asked.
use std::{path::PathBuf, sync::Arc};

use diff::{Differ, Erofs, Ordered, Processor, Walking};
use metadata::Scoped;
use serde::Deserialize;
use types::Result;

use crate::{Config, plugins::kinds};

/// The differs of a daemon.
#[derive(Debug)]
pub(crate) struct Differs {
    order: Vec<Name>,
    sync_fs: bool,
    mkfs_options: Vec<String>,
    max_layer_size: u64,
    processors: Vec<Processor>,
    /// Where layers are mounted that cannot be written in place.
    scratch: PathBuf,
}

/// A differ by the name of its plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Walking,
    Erofs,
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
        processors: Vec<Processor>,
        scratch: PathBuf,
    ) -> Result<Self> {
        let service: Service = config.section(&format!("{}.diff-service", kinds::SERVICE))?;
        let erofs: ErofsSection = config.section(&format!("{}.erofs", kinds::DIFFER))?;
        let walking: WalkingSection = config.section(&format!("{}.walking", kinds::DIFFER))?;
        let is_enabled = |name: &str| !config.is_disabled(&format!("{}.{name}", kinds::DIFFER));
        let names = service.default.iter().map(String::as_str).filter(|name| is_enabled(name));
        Ok(Self {
            order: names.filter_map(Name::parse).collect(),
            sync_fs: service.sync_fs,
            mkfs_options: erofs.mkfs_options,
            max_layer_size: walking.max_layer_size,
            processors,
            scratch,
        })
    }

    /// The differs over the content that a scope may see.
    pub(crate) fn of(&self, scoped: &Scoped) -> Arc<dyn Differ> {
        let one = |name: &Name| -> Arc<dyn Differ> {
            match name {
                Name::Walking => Arc::new(
                    Walking::new(scoped.content(), self.scratch.clone())
                        .with_processors(self.processors.clone())
                        .with_max_size(self.max_layer_size)
                        .with_mounts(scoped.mounts()),
                ),
                Name::Erofs => Arc::new(Erofs::new(scoped.content(), self.mkfs_options.clone())),
            }
        };
        Arc::new(Ordered::new(self.order.iter().map(one).collect(), self.sync_fs))
    }
}

impl Name {
    fn parse(name: &str) -> Option<Self> {
        match name {
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
        Differs::read(&config, Vec::new(), "/tmp".into()).unwrap()
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

    #[test]
    fn a_disabled_differ_is_not_asked() {
        let differs = read("disabled_plugins = ['io.containerd.differ.v1.erofs']");
        assert_eq!(differs.order, [Name::Walking]);
    }
}
