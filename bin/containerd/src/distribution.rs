// SPDX-License-Identifier: Apache-2.0
//! What the config and the environment say of registries.
use std::sync::Arc;

use ::registry::{Credentials, Directories, DockerConfig, Options, Proxies, Registry, Transfers};
use serde::Deserialize;
use services::transfer::Registries;
use types::{Context as _, Result};

use crate::{Config, plugins::kinds};

/// What the config may tell the transfer service of registries (containerd
/// `plugins/transfer/plugin.go`). The last two are ours.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Section {
    max_concurrent_downloads: usize,
    max_concurrent_uploaded_layers: usize,
    concurrent_layer_fetch_buffer: u64,
    config_path: String,
    /// Where Docker keeps credentials: its folder, or its `config.json`.
    docker_config: String,
    /// How many bytes a second all downloads may take together; 0 is no limit.
    max_download_bandwidth: u64,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            max_concurrent_downloads: 3,
            max_concurrent_uploaded_layers: 3,
            concurrent_layer_fetch_buffer: 0,
            config_path: String::new(),
            docker_config: String::new(),
            max_download_bandwidth: 0,
        }
    }
}

/// How this daemon reaches registries.
pub(crate) fn registries(config: &Config) -> Result<Registries> {
    let section: Section = config.section(&format!("{}.local", kinds::TRANSFER))?;
    let variable = |name: &str| std::env::var(name).ok();
    let proxies = Proxies::new(variable).context(|| "proxies in the environment")?;
    let options = Options { proxies, transfers: section.transfers(), ..Options::default() };
    let credentials: Arc<dyn Credentials> = match section.docker_config.as_str() {
        "" => Arc::new(|_: &str| None),
        path => Arc::new(DockerConfig::new(path)),
    };
    Ok(Registries {
        shared: Registry::new(options),
        directories: Directories::split(&section.config_path),
        credentials,
        downloads: section.max_concurrent_downloads,
        uploads: section.max_concurrent_uploaded_layers,
    })
}

impl Section {
    fn transfers(&self) -> Transfers {
        Transfers {
            downloads: self.max_concurrent_downloads,
            part: self.concurrent_layer_fetch_buffer,
            parts: self.max_concurrent_downloads.max(1),
            bandwidth: self.max_download_bandwidth,
            ..Transfers::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap().0
    }

    #[test]
    fn the_keys_are_gos() {
        let text = "version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\n\
                    config_path = \"/a:/b\"\nmax_concurrent_downloads = 5\n\
                    concurrent_layer_fetch_buffer = 8388608\nunpack_config = []";
        let found = registries(&config(text)).unwrap();
        assert_eq!(found.directories, ["/a", "/b"].map(std::path::PathBuf::from));
        assert_eq!((found.downloads, found.uploads), (5, 3));
        let section: Section = config(text).section("io.containerd.transfer.v1.local").unwrap();
        let transfers = section.transfers();
        assert_eq!((transfers.part, transfers.parts), (8 << 20, 5));
    }
}
