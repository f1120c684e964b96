// SPDX-License-Identifier: Apache-2.0
//! An image that is there: unpacking it, and asking about it.
use std::thread::available_parallelism;

use images::{Config, Present, Rootfs, Unpacker, choose, read_config};
use records::Image;
use types::{Context, Descriptor, Digest, Platform, Result, platform::Matcher};

use crate::{Client, Unpack};

impl Client {
    /// What unpacks images to the snapshotter that `unpack` names.
    pub fn unpacker(&self, unpack: &Unpack) -> Result<Unpacker> {
        let processors = || available_parallelism().map_or(1, usize::from);
        Ok(Unpacker {
            content: self.content.clone(),
            differ: self.differ.clone(),
            options: unpack.options.clone(),
            name: unpack.snapshotter.clone(),
            snapshotter: (self.snapshotters)(&unpack.snapshotter)?,
            brings_layers: unpack.brings_layers,
            parallel: if unpack.parallel == 0 { processors() } else { unpack.parallel },
            turns: unpack.turns.clone(),
            flights: self.flights.clone(),
        })
    }

    /// Unpacks an image whose blobs are all there, and returns the name of its topmost snapshot;
    /// `None` when it has no layers. What is unpacked already is left as it is.
    pub async fn unpack(&self, image: &Descriptor, unpack: &Unpack) -> Result<Option<Digest>> {
        let held = self.hold().await?;
        let outcome = held.client().unpack_held(image, unpack).await;
        held.release().await;
        outcome
    }

    async fn unpack_held(&self, image: &Descriptor, unpack: &Unpack) -> Result<Option<Digest>> {
        let store = &*self.content;
        let chosen = choose(store, image, &Matcher::only(&unpack.platform)).await?;
        let config = read_config(store, &chosen.manifest.config).await?;
        let mut rootfs = Rootfs::plan(&chosen.manifest, &config)?;
        if unpack.brings_layers {
            rootfs = rootfs.announced(None, &chosen.descriptor.digest);
        }
        self.unpacker(unpack)?.unpack(&rootfs, &Present).await
    }

    /// Whether an image has been unpacked to `snapshotter`.
    pub async fn is_unpacked(
        &self,
        image: &Descriptor,
        snapshotter: &str,
        platform: &Platform,
    ) -> Result<bool> {
        let snapshotter = (self.snapshotters)(snapshotter)?;
        let wanted = Matcher::only(platform);
        images::is_unpacked(&*self.content, &*snapshotter, image, &wanted).await
    }

    /// How an image says that it is run.
    pub async fn image_config(&self, image: &Image, platform: &Platform) -> Result<Config> {
        let config = images::config(&*self.content, &image.target, &Matcher::only(platform)).await;
        Ok(config.context(|| format!("image {:?}", image.name))?.1)
    }
}
