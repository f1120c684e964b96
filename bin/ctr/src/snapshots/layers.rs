// SPDX-License-Identifier: Apache-2.0
//! From snapshots to layers, and from layers to snapshots.
use ::snapshots::{Kind, Snapshotter};
use clap::Args;
use client::Client;
use mount::Mount;
use types::{Descriptor, Digest, Error, Filters, Labels, Result, media_types};

use super::{Chosen, root};
use crate::{connection::Connection, content, labels, output::say};

/// Write what two snapshots differ in to the standard output, as a layer.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// What kind of layer
    #[arg(long, value_name = "TYPE", default_value = media_types::LAYER_GZIP)]
    media_type: String,
    /// The name of the ingest that it is written through
    #[arg(long = "ref", value_name = "NAME", default_value = "")]
    reference: String,
    /// Keep it in the store, until it is deleted by hand
    #[arg(long)]
    keep: bool,
    /// Labels of the layer, key=value
    #[arg(long, value_name = "LABEL")]
    label: Vec<String>,
    /// The snapshot that is looked at; with another one, what that is compared with
    a: String,
    /// The snapshot that has changed; where none is given, it is the first one, over its parent
    b: Option<String>,
}

impl Diff {
    pub(super) async fn run(self, connection: &Connection, snapshotter: &str) -> Result<()> {
        let held = connection.client().await?.hold().await?;
        let outcome = self.write(held.client(), snapshotter).await;
        held.release().await;
        outcome
    }

    async fn write(&self, client: &Client, name: &str) -> Result<()> {
        let mut labels = labels::parse(&self.label);
        labels.extend(self.keep.then(root).unwrap_or_default());
        let options = diff::Compare {
            media_type: self.media_type.clone(),
            reference: self.reference.clone(),
            labels,
            ..diff::Compare::default()
        };
        let layer = match &self.b {
            Some(upper) => {
                let snapshotter = (client.snapshotters)(name)?;
                between(client, &*snapshotter, Some(&self.a), upper, options).await?
            }
            None => changes(client, name, &self.a, options).await?,
        };
        content::get(&*client.content, &layer.digest).await
    }
}

/// Writes what a snapshot differs from its parent in as a layer.
pub(crate) async fn changes(
    client: &Client,
    snapshotter: &str,
    key: &str,
    options: diff::Compare,
) -> Result<Descriptor> {
    let snapshotter = (client.snapshotters)(snapshotter)?;
    let parent = snapshotter.stat(key).await?.parent;
    between(client, &*snapshotter, parent.as_deref(), key, options).await
}

async fn between(
    client: &Client,
    snapshotter: &dyn Snapshotter,
    lower: Option<&str>,
    upper: &str,
    options: diff::Compare,
) -> Result<Descriptor> {
    let lower = match lower {
        Some(lower) => Seen::of(snapshotter, lower, "lower").await?,
        None => Seen { mounts: Vec::new(), view: None },
    };
    let layer = match Seen::of(snapshotter, upper, "upper").await {
        Ok(upper) => {
            let layer = client.differ.compare(&lower.mounts, &upper.mounts, options).await;
            upper.forget(snapshotter).await;
            layer
        }
        Err(error) => Err(error),
    };
    lower.forget(snapshotter).await;
    layer
}

/// A snapshot that can be looked into: an active one as it is, a committed one through a view.
struct Seen {
    mounts: Vec<Mount>,
    view: Option<String>,
}

impl Seen {
    async fn of(snapshotter: &dyn Snapshotter, name: &str, side: &str) -> Result<Self> {
        if snapshotter.stat(name).await?.kind != Kind::Committed {
            return Ok(Self { mounts: snapshotter.mounts(name).await?, view: None });
        }
        let view = format!("{name}-{side}-{}-view", std::process::id());
        let mounts = snapshotter.view(&view, Some(name), Labels::new()).await?;
        Ok(Self { mounts, view: Some(view) })
    }

    /// Removes the view. If it cannot be, it goes with the lease.
    async fn forget(self, snapshotter: &dyn Snapshotter) {
        if let Some(view) = self.view {
            drop(snapshotter.remove(&view).await);
        }
    }
}

/// Unpack the layers of an image.
#[derive(Debug, Args)]
pub(crate) struct Unpack {
    /// Accepted for scripts: what is unpacked is always synced
    #[arg(long, hide = true)]
    sync_fs: bool,
    /// The digest of what an image's name stands for
    digest: Digest,
}

impl Unpack {
    pub(super) async fn run(self, connection: &Connection, chosen: &Chosen) -> Result<()> {
        let client = connection.client().await?;
        let images = client.images.list(&Filters::default()).await?;
        let image = images.into_iter().find(|image| image.target.digest == self.digest);
        let image = image.ok_or_else(|| Error::not_found("manifest not found"))?;
        let platform = chosen.platform_of(connection, &client, &image.target).await?;
        let unpack = client::Unpack {
            snapshotter: chosen.name().to_owned(),
            platform,
            ..client::Unpack::default()
        };
        client.unpack(&image.target, &unpack).await?;
        say!("unpacking {} ({})...done", self.digest, image.target.media_type);
        Ok(())
    }
}
