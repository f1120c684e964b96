// SPDX-License-Identifier: Apache-2.0
//! From a registry to the store. The daemon does it where it can; else the registry is asked from
//! here, and everything that it sends goes through the daemon's content service.
use std::sync::Arc;

use clap::Args;
use client::Unpack;
use records::Image;
use registry::{Reference, Registry};
use services::transfer::{self, Fetched};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::{Descriptor, Kind, Platform, Result};

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

/// How it is fetched.
struct How {
    unpack: Vec<Unpack>,
    /// Whether layers are left out.
    metadata_only: bool,
    /// Whether the registry is asked from here.
    local: bool,
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

    /// Has the daemon fetch the image, or does so from here: where that was asked for, where the flags
    /// say what the daemon cannot be told, and where it knows no transfers.
    async fn fetch(&self, connection: &Connection, access: &Access, how: How) -> Result<Image> {
        let display = Display::new();
        let is_ours = how.local
            || how.metadata_only
            || access.is_only_ours()
            || self.max_concurrent_downloads > 0;
        let by_daemon = if is_ours {
            None
        } else {
            self.by_daemon(connection, access, &how.unpack, &display).await.transpose()
        };
        let image = match by_daemon {
            Some(image) => image,
            None => self.by_ourselves(connection, access, how, &display).await,
        };
        match &image {
            Ok(_) => display.finish(),
            Err(_) => display.give_up(),
        }
        image
    }

    /// None if the daemon knows no transfers, as before containerd 1.7.
    async fn by_daemon(
        &self,
        connection: &Connection,
        access: &Access,
        unpack: &[Unpack],
        display: &Arc<Display>,
    ) -> Result<Option<Image>> {
        let name = self.reference.to_string();
        let (progress, watching) = display.watch();
        let fetched = Fetched {
            name: name.clone(),
            plain_http: access.is_plain(),
            hosts_dir: access.hosts_dir(),
            http_log: access.is_dumped().then(print_as_it_comes),
            platforms: self.platforms(),
            all_metadata: !self.skip_metadata,
            unpack: unpack.iter().map(|it| (it.snapshotter.clone(), it.platform.clone())).collect(),
            labels: labels::parse(&self.label),
            credentials: access.credentials()?,
            progress,
        };
        let outcome = transfer::fetch(connection.peer().await?, fetched).await;
        watching.end().await;
        match outcome {
            Ok(()) => connection.client().await?.images.get(&name).await.map(Some),
            Err(error) if error.kind() == Kind::Unimplemented => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn by_ourselves(
        &self,
        connection: &Connection,
        access: &Access,
        how: How,
        display: &Arc<Display>,
    ) -> Result<Image> {
        let client = connection.client().await?;
        let registry = access.registry()?;
        let target = registry.resolve(&self.reference).await?;
        client.pull(&self.asked(&registry, target, how, display)?).await
    }

    fn asked(
        &self,
        registry: &Registry,
        target: Descriptor,
        how: How,
        display: &Arc<Display>,
    ) -> Result<client::Pull> {
        Ok(client::Pull {
            name: self.reference.to_string(),
            kept_as: Vec::new(),
            stop: CancellationToken::new(),
            manifest_limit: 0,
            target,
            fetch: registry.fetcher(&self.reference)?,
            platforms: self.platforms(),
            all_metadata: !self.skip_metadata,
            unpack: how.unpack,
            metadata_only: how.metadata_only,
            discard_layers: false,
            labels: labels::parse(&self.label),
            concurrency: self.max_concurrent_downloads,
            progress: Arc::<Display>::clone(display),
        })
    }

    /// Fetches what refers to an image that is here by now. The daemon cannot be told to, so the
    /// registry is asked from here.
    async fn referrers(
        &self,
        connection: &Connection,
        access: &Access,
        image: &Image,
    ) -> Result<usize> {
        let (client, registry) = (connection.client().await?, access.registry()?);
        let how = How { unpack: Vec::new(), metadata_only: false, local: true };
        let display = Display::new();
        let pull = self.asked(&registry, image.target.clone(), how, &display)?;
        let found = super::referrers::fetch(&client, &registry, &self.reference, &pull).await;
        match &found {
            Ok(_) => display.finish(),
            Err(_) => display.give_up(),
        }
        found
    }
}

/// Fetch an image from a registry and make it ready to run.
#[derive(Debug, Args)]
#[command(after_help = "All content is fetched, unpacked into snapshots, and kept under the name \
                        that it was fetched by.\nWhat is there already is not fetched again.")]
pub(crate) struct Pull {
    #[command(flatten)]
    chosen: Chosen,
    #[command(flatten)]
    wanted: Wanted,
    /// Accepted for scripts: what is unpacked is always on disk before the answer
    #[arg(long, hide = true)]
    sync_fs: bool,
    /// Print the names of the topmost snapshots
    #[arg(long)]
    print_chainid: bool,
    /// Fetch what refers to the image too, such as signatures, and keep it beside it
    #[arg(long)]
    referrers: bool,
    /// Ask the registry from here and not from the daemon
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    access: Access,
}

impl Pull {
    pub(crate) async fn run(mut self, connection: &Connection) -> Result<()> {
        // Of all platforms, only this machine's can be run here.
        let platforms = match self.wanted.platform.as_slice() {
            [] => vec![self.chosen.platform(connection).await?],
            platforms => platforms.to_vec(),
        };
        if !self.wanted.all_platforms {
            self.wanted.platform.clone_from(&platforms);
        }
        let snapshotter = self.chosen.name().to_owned();
        let unpack = |platform: &Platform| Unpack {
            snapshotter: snapshotter.clone(),
            platform: platform.clone(),
            brings_layers: self.chosen.may_bring_layers(),
            ..Unpack::default()
        };
        let unpack = platforms.iter().map(unpack).collect();
        let how = How { unpack, metadata_only: false, local: self.local };
        let image = self.wanted.fetch(connection, &self.access, how).await?;
        if self.referrers {
            let count = self.wanted.referrers(connection, &self.access, &image).await?;
            say!("{count} referrers");
        }
        if self.print_chainid {
            print_chain_ids(connection, &image, &platforms).await?;
        }
        Ok(())
    }
}

/// Where texts go that are to be printed beside the progress.
fn print_as_it_comes() -> mpsc::UnboundedSender<String> {
    let (texts, mut coming) = mpsc::unbounded_channel::<String>();
    tokio::spawn(async move {
        while let Some(text) = coming.recv().await {
            eprint!("{text}");
        }
    });
    texts
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
    wanted: Wanted,
    /// Fetch indexes, manifests and configs only
    #[arg(long)]
    metadata_only: bool,
    /// Ask the registry from here and not from the daemon
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    access: Access,
}

impl Fetch {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let how = How { unpack: Vec::new(), metadata_only: self.metadata_only, local: self.local };
        self.wanted.fetch(connection, &self.access, how).await.map(drop)
    }
}
