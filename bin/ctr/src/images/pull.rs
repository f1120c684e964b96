// SPDX-License-Identifier: Apache-2.0
//! From a registry to the store. The registry is asked from here, and everything that it sends goes
//! through the daemon's content service.
use std::sync::Arc;

use clap::Args;
use client::Unpack;
use records::Image;
use registry::Reference;
use types::{Platform, Result};

use crate::{
    access::Access, connection::Connection, labels, output::say, progress::Display,
    snapshots::Chosen,
};

/// What to fetch.
#[derive(Debug, Args)]
struct Wanted {
    /// Labels of the image, key=value
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// Platforms to fetch, such as linux/arm64; this machine's where none is given
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<Platform>,
    /// Fetch the content of all platforms
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// Fetch the manifests and configs of other platforms too: they are, unless skipped
    #[arg(long, hide = true)]
    all_metadata: bool,
    /// Leave out manifests and configs of other platforms; the image cannot be pushed as a whole then
    #[arg(long, conflicts_with = "all_metadata")]
    skip_metadata: bool,
    /// How many blobs to fetch at once (0 is a default of 3)
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    max_concurrent_downloads: usize,
    /// The image's full name, such as docker.io/library/busybox:latest
    #[arg(value_name = "REF")]
    reference: Reference,
}

impl Wanted {
    /// The platforms to fetch; none are all.
    fn platforms(&self) -> Vec<Platform> {
        match self.all_platforms {
            true => Vec::new(),
            false if self.platform.is_empty() => vec![Platform::host()],
            false => self.platform.clone(),
        }
    }

    /// The platforms to unpack. Of all, only this machine's can be run here.
    fn unpacked(&self) -> Vec<Platform> {
        let platforms = self.platforms();
        if platforms.is_empty() { vec![Platform::host()] } else { platforms }
    }

    async fn fetch(
        self,
        connection: &Connection,
        access: &Access,
        unpack: Vec<Unpack>,
    ) -> Result<Image> {
        let client = connection.client().await?;
        let registry = access.registry()?;
        let display = Display::new();
        let target = registry.resolve(&self.reference).await?;
        let pull = client::Pull {
            name: self.reference.to_string(),
            target,
            fetch: registry.fetcher(&self.reference)?,
            platforms: self.platforms(),
            all_metadata: !self.skip_metadata,
            unpack,
            discard_layers: false,
            labels: labels::parse(&self.label),
            concurrency: self.max_concurrent_downloads,
            progress: Arc::<Display>::clone(&display),
        };
        let image = client.pull(&pull).await.inspect_err(|_| display.give_up())?;
        display.finish(&format!("{} saved", image.name));
        Ok(image)
    }
}

/// Fetch an image from a registry and make it ready to run.
///
/// All of its content is fetched, unpacked into snapshots, and kept under the name that it was
/// fetched by. What is there already is not fetched again.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    wanted: Wanted,
    /// Print the names of the topmost snapshots
    #[arg(long)]
    print_chainid: bool,
    /// Ask the registry from here and not from the daemon
    #[arg(long)]
    local: bool,
}

impl Pull {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let platforms = self.wanted.unpacked();
        let snapshotter = self.chosen.name().to_owned();
        let unpack = |platform: &Platform| Unpack {
            snapshotter: snapshotter.clone(),
            platform: platform.clone(),
            ..Unpack::default()
        };
        let unpack = platforms.iter().map(unpack).collect();
        let image = self.wanted.fetch(connection, &self.access, unpack).await?;
        if self.print_chainid {
            print_chain_ids(connection, &image, &platforms).await?;
        }
        Ok(())
    }
}

async fn print_chain_ids(
    connection: &Connection,
    image: &Image,
    platforms: &[Platform],
) -> Result<()> {
    let client = connection.client().await?;
    for platform in platforms {
        let config = client.image_config(image, platform).await?;
        if let Some(top) = ::images::chain_id(&config.root_fs.diff_ids) {
            say!("image chain ID: {top}");
        }
    }
    Ok(())
}

/// Fetch all content of an image into the store, without unpacking it.
#[derive(Debug, Args)]
pub(crate) struct Fetch {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    wanted: Wanted,
}

impl Fetch {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        self.wanted.fetch(connection, &self.access, Vec::new()).await.map(drop)
    }
}
