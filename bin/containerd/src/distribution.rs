// SPDX-License-Identifier: Apache-2.0
//! What the config and the environment say of registries.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ::registry::{
    Credentials, Directories, DockerConfig, Options, Proxies, Registry, Timeouts, Transfers,
};
use serde::Deserialize;
use services::transfer::{Registries, Supported, Unpacks};
use tokio::sync::Semaphore;
use types::{Context as _, Error, Platform, Result};

use crate::{Config, config::duration, plugins::kinds};

/// What the config may tell the transfer service of registries (containerd
/// `plugins/transfer/plugin.go`). From `docker_config` on they are ours (docs/pulling.md).
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Section {
    max_concurrent_downloads: usize,
    max_concurrent_uploaded_layers: usize,
    concurrent_layer_fetch_buffer: u64,
    max_concurrent_unpacks: Option<usize>,
    check_platform_supported: bool,
    unpack_config: Option<Vec<UnpackSection>>,
    config_path: String,
    /// Where Docker keeps credentials: its folder, or its `config.json`.
    docker_config: String,
    /// How many bytes a second all downloads may take together; 0 is no limit.
    max_download_bandwidth: u64,
    /// The size of the pieces in which a large blob is uploaded, in place of one stream that can go
    /// on; 0 sends it in one request that cannot.
    upload_chunk_size: Option<u64>,
    /// How many bytes a second are progress.
    min_download_speed: Option<u64>,
    /// Until the next host is asked as well, such as `2s`, and how long a registry has: to begin a
    /// reply, for the next byte, and to take in an upload.
    next_host_delay: String,
    reply_timeout: String,
    idle_timeout: String,
    commit_timeout: String,
}

/// One of `unpack_config`. Where there is none, any snapshotter may be unpacked to.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct UnpackSection {
    platform: String,
    snapshotter: String,
    differ: String,
}

impl Default for UnpackSection {
    fn default() -> Self {
        let (platform, snapshotter) = (Platform::host().to_string(), "overlayfs".to_owned());
        Self { platform, snapshotter, differ: String::new() }
    }
}

impl UnpackSection {
    fn read(&self) -> Result<Supported> {
        let Self { platform, snapshotter, differ } = self;
        if !matches!(differ.as_str(), "" | "walking") {
            tracing::warn!(differ, "unpack_config: differs are asked in the diff service's order");
        }
        let platform = platform.parse();
        let platform = platform.context(|| {
            format!("{}: platform configuration {:?} invalid", kinds::TRANSFER, self.platform)
        })?;
        Ok(Supported { platform, snapshotter: snapshotter.clone() })
    }
}

impl Default for Section {
    fn default() -> Self {
        Self {
            max_concurrent_downloads: 3,
            max_concurrent_uploaded_layers: 3,
            concurrent_layer_fetch_buffer: 0,
            max_concurrent_unpacks: None,
            check_platform_supported: false,
            unpack_config: None,
            config_path: String::new(),
            docker_config: String::new(),
            max_download_bandwidth: 0,
            upload_chunk_size: None,
            min_download_speed: None,
            next_host_delay: String::new(),
            reply_timeout: String::new(),
            idle_timeout: String::new(),
            commit_timeout: String::new(),
        }
    }
}

/// How this daemon reaches registries.
pub(crate) fn registries(config: &Config) -> Result<Registries> {
    let section: Section = config.section(&format!("{}.local", kinds::TRANSFER))?;
    let variable = |name: &str| std::env::var(name).ok();
    let proxies = Proxies::new(variable).context(|| "proxies in the environment")?;
    let (transfers, timeouts) = (section.transfers(), section.timeouts()?);
    let options = Options { proxies, transfers, timeouts, ..Options::default() };
    let credentials: Arc<dyn Credentials> = match section.docker_config.as_str() {
        "" => Arc::new(|_: &str| None),
        path => Arc::new(DockerConfig::new(path)),
    };
    Ok(Registries {
        shared: Registry::new(options),
        directories: Directories::split(&section.config_path),
        credentials,
        unpacks: section.unpacks()?,
        upload_turns: turns(section.max_concurrent_uploaded_layers),
        downloads: section.max_concurrent_downloads,
        uploads: section.max_concurrent_uploaded_layers,
    })
}

/// As many turns as may be taken at once; 0 is no limit.
fn turns(limit: usize) -> Option<Arc<Semaphore>> {
    (limit > 0).then(|| Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS))))
}

/// A time, as the usual one if nothing is said.
fn span(key: &str, text: &str, usual: Duration) -> Result<Duration> {
    if text.is_empty() {
        return Ok(usual);
    }
    duration(text).ok_or_else(|| {
        Error::invalid(format!("{}: {key} = {text:?} is no time such as 30s", kinds::TRANSFER))
    })
}

impl Section {
    fn unpacks(&self) -> Result<Unpacks> {
        let supported = self.unpack_config.as_ref();
        let supported = supported.map(|it| it.iter().map(UnpackSection::read).collect());
        // Compat: 0 and 1 are both one after the other (containerd `core/transfer/local/transfer.go`).
        let parallel = self.max_concurrent_unpacks.map_or(0, |limit| limit.max(1));
        Ok(Unpacks {
            supported: supported.transpose()?,
            remote: BTreeSet::new(),
            natives: BTreeMap::from([("erofs".to_owned(), vec!["erofs".to_owned()])]),
            checks_platform: self.check_platform_supported,
            parallel,
            turns: turns(parallel).filter(|_| parallel > 1),
        })
    }

    fn transfers(&self) -> Transfers {
        Transfers {
            downloads: self.max_concurrent_downloads,
            part: self.concurrent_layer_fetch_buffer,
            parts: self.max_concurrent_downloads.max(1),
            bandwidth: self.max_download_bandwidth,
            upload_stream: self.upload_chunk_size.is_none(),
            upload_chunk: self.upload_chunk_size.unwrap_or(Transfers::default().upload_chunk),
        }
    }

    fn timeouts(&self) -> Result<Timeouts> {
        let usual = Timeouts::default();
        Ok(Timeouts {
            hedge: span("next_host_delay", &self.next_host_delay, usual.hedge)?,
            reply: span("reply_timeout", &self.reply_timeout, usual.reply)?,
            idle: span("idle_timeout", &self.idle_timeout, usual.idle)?,
            commit: span("commit_timeout", &self.commit_timeout, usual.commit)?,
            slowest: self.min_download_speed.unwrap_or(usual.slowest),
            ..usual
        })
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
                    concurrent_layer_fetch_buffer = 8388608\n\
                    max_concurrent_unpacks = 4\ncheck_platform_supported = true\n\
                    unpack_config = [{ platform = \"linux/arm64\", snapshotter = \"native\" }]";
        let found = registries(&config(text)).unwrap();
        assert_eq!(found.directories, ["/a", "/b"].map(std::path::PathBuf::from));
        assert_eq!((found.downloads, found.uploads), (5, 3));
        let Unpacks { supported, checks_platform, parallel, turns, .. } = found.unpacks;
        let native = Supported {
            platform: "linux/arm64".parse().unwrap(),
            snapshotter: "native".to_owned(),
        };
        assert_eq!((supported, checks_platform, parallel), (Some(vec![native]), true, 4));
        assert_eq!(turns.unwrap().available_permits(), 4);
        let section: Section = config(text).section("io.containerd.transfer.v1.local").unwrap();
        let transfers = section.transfers();
        assert_eq!((transfers.part, transfers.parts), (8 << 20, 5));
        assert_eq!(transfers.upload_chunk, Transfers::default().upload_chunk);
        assert!(transfers.upload_stream);
    }

    fn section(keys: &str) -> Section {
        let text = format!("version = 3\n[plugins.\"io.containerd.transfer.v1.local\"]\n{keys}");
        config(&text).section("io.containerd.transfer.v1.local").unwrap()
    }

    #[test]
    fn our_own_keys_say_how_long_and_how_fast() {
        let keys = "upload_chunk_size = 1048576\nmin_download_speed = 5\nmax_download_bandwidth = 9\n\
                    next_host_delay = \"250ms\"\nreply_timeout = \"10s\"\nidle_timeout = \"1m30s\"\n\
                    commit_timeout = \"1h\"";
        let section = section(keys);
        let Transfers { upload_chunk, upload_stream, bandwidth, .. } = section.transfers();
        assert_eq!((upload_chunk, upload_stream, bandwidth), (1 << 20, false, 9));
        let Timeouts { hedge, reply, idle, commit, slowest, .. } = section.timeouts().unwrap();
        assert_eq!((hedge, slowest), (Duration::from_millis(250), 5));
        assert_eq!((reply, idle), (Duration::from_secs(10), Duration::from_secs(90)));
        assert_eq!(commit, Duration::from_hours(1));
    }

    #[test]
    fn what_is_no_time_is_named() {
        let refused = section("reply_timeout = \"soon\"").timeouts().unwrap_err().to_string();
        assert!(refused.contains("reply_timeout = \"soon\" is no time"), "{refused}");
        let unsaid = section("").timeouts().unwrap();
        assert_eq!(unsaid.reply, Timeouts::default().reply);
    }
}
