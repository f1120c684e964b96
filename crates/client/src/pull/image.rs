// SPDX-License-Identifier: Apache-2.0
//! One manifest: its config, its layers, and the snapshots that they become.
use std::collections::HashSet;

use futures_util::{FutureExt, future::join};
use images::{Manifest, Rootfs, read_config, ref_key};
use types::{Descriptor, Result, media_types, platform::Matcher};

use super::{Session, arrivals::Arrivals, first_cause};

impl Session<'_> {
    /// Fetches what a manifest refers to, and unpacks it where it belongs. Of one that is not
    /// `wanted`, the config is fetched (containerd `core/remotes/handlers.go`,
    /// `FilterManifestByPlatformHandler`).
    pub(super) async fn manifest(
        &self,
        descriptor: &Descriptor,
        manifest: &Manifest,
        wanted: bool,
    ) -> Result<()> {
        let name = ref_key(descriptor);
        if !wanted {
            if media_types::is_config(&manifest.config.media_type) {
                self.blob(&manifest.config, &name).await?;
            }
            return Ok(());
        }
        let layers = distinct(&manifest.layers);
        let digests = layers.iter().map(|layer| layer.digest.clone());
        let waits = self.waits_for_snapshotter();
        let looking = if self.pull.unpack.is_empty() { Some(false) } else { None };
        let arrivals = Arrivals::new(digests, waits, looking, self.tracker.clone(), name.clone());
        let fetches = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| self.layer(layer, index, &name, &arrivals).boxed());
        let unpack = async {
            let outcome = self.unpack(descriptor, manifest, &arrivals).await;
            match outcome {
                Ok(true) => arrivals.close(),
                Ok(false) => arrivals.want_all(),
                Err(_) => {
                    self.stop.cancel();
                    arrivals.close();
                }
            }
            outcome.map(drop)
        };
        // The config first: who knows it can look at the layers while they come.
        let (unpacked, fetched) = join(unpack, self.all(fetches)).await;
        first_cause([fetched, unpacked])
    }

    /// Whether layers are only fetched when no snapshotter brings them.
    fn waits_for_snapshotter(&self) -> bool {
        let unpack = &self.pull.unpack;
        !unpack.is_empty() && unpack.iter().all(|unpack| unpack.brings_layers)
    }

    async fn layer(
        &self,
        layer: &Descriptor,
        index: usize,
        parent: &str,
        arrivals: &Arrivals,
    ) -> Result<()> {
        if media_types::is_layer(&layer.media_type) && !arrivals.is_wanted(index).await {
            return Ok(());
        }
        let begins = || arrivals.begins(index).boxed();
        let outcome = self.blob_watched(layer, parent, &begins).await;
        arrivals.landed(index, outcome.is_ok());
        outcome
    }

    /// Fetches the config, and unpacks the image to where it belongs. Returns whether it belongs
    /// anywhere.
    async fn unpack(
        &self,
        descriptor: &Descriptor,
        manifest: &Manifest,
        arrivals: &Arrivals,
    ) -> Result<bool> {
        self.blob(&manifest.config, &ref_key(descriptor)).await?;
        let is_image = media_types::is_config(&manifest.config.media_type);
        if self.pull.unpack.is_empty() || !is_image {
            return Ok(false);
        }
        let config = read_config(&*self.client.content, &manifest.config).await?;
        let rootfs = Rootfs::plan(manifest, &config)?;
        let mut done = HashSet::new();
        for unpack in &self.pull.unpack {
            let fits = Matcher::only(&unpack.platform).matches(&config.platform);
            if !fits || !done.insert(unpack.snapshotter.as_str()) {
                continue;
            }
            let mut rootfs = rootfs.clone();
            if unpack.brings_layers {
                rootfs = rootfs.announced(Some(&self.pull.name), &descriptor.digest);
            }
            let unpacker = self.client.unpacker(unpack)?;
            unpacker.unpack(&rootfs, arrivals).await?;
        }
        Ok(!done.is_empty())
    }
}

/// Each blob once: an image may well have the same empty layer many times.
fn distinct(layers: &[Descriptor]) -> Vec<&Descriptor> {
    let mut seen = HashSet::new();
    layers.iter().filter(|layer| seen.insert(&layer.digest)).collect()
}
