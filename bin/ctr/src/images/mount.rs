// SPDX-License-Identifier: Apache-2.0
//! The filesystem of an image, mounted on this machine. A snapshot named like the target is what is
//! mounted, and a lease named like it keeps that for a day.
use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use ::mount::{Mount, UnmountFlags};
use ::snapshots::Snapshotter;
use clap::Args;
use client::{Client, Unpack};
use records::{Delete, Lease};
use types::{
    Context as _, Labels, Platform, Result,
    labels::{GC_EXPIRE, GC_REF_SNAPSHOT},
};

use crate::{connection::Connection, output::say, snapshots::Chosen, units};

/// How long the snapshot is kept if nobody unmounts it (containerd `cmd/ctr/commands/images/mount.go`).
const EXPIRY: Duration = Duration::from_hours(24);

/// The label by which what was activated stays as long as the snapshot.
pub(crate) const GC_BREF_SNAPSHOT: &str = "containerd.io/gc.bref.snapshot.";

/// Mount the filesystem of an image.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    chosen: Chosen,
    /// Let it be written to
    #[arg(long)]
    rw: bool,
    /// The platform of the image to mount
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Accepted for scripts: what is unpacked is always synced
    #[arg(long, hide = true)]
    sync_fs: bool,
    /// The image's name
    #[arg(value_name = "REF")]
    reference: String,
    /// Where to mount it
    target: String,
}

impl Attach {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let plain = connection.client().await?;
        let is_ours = self.lease(&plain).await?;
        let outcome = self.attach(connection, &connection.leased(&self.target).await?).await;
        if outcome.is_err() && is_ours {
            // The error tells more than that nobody could clean up: the lease expires.
            drop(plain.leases.delete(&self.target, Delete::default()).await);
        }
        outcome
    }

    /// Makes the lease, and says whether there was none before.
    async fn lease(&self, client: &Client) -> Result<bool> {
        let now = SystemTime::now();
        let labels = Labels::from([
            (GC_EXPIRE.to_owned(), units::time(now + EXPIRY)),
            (format!("{GC_REF_SNAPSHOT}{}", self.chosen.name()), self.target.clone()),
        ]);
        let lease = Lease { id: self.target.clone(), created_at: now, labels };
        match client.leases.create(lease).await {
            Err(error) if !error.is_already_exists() => Err(error),
            created => Ok(created.is_ok()),
        }
    }

    async fn attach(&self, connection: &Connection, client: &Client) -> Result<()> {
        let image = client.images.get(&self.reference).await?;
        let snapshotter = self.chosen.name().to_owned();
        let find = &client.snapshotters;
        let snapshots = find(&snapshotter)?;
        let platform = match &self.platform {
            Some(platform) => platform.clone(),
            None => self.chosen.platform_of(connection, client, &image.target).await?,
        };
        let unpack = Unpack { snapshotter, platform, ..Unpack::default() };
        let top = client.unpack(&image.target, &unpack).await;
        let top = top.context(|| "error unpacking image")?.map(|top| top.to_string());
        say!("{}", top.as_deref().unwrap_or_default());
        let mounts = self.snapshot(&*snapshots, top.as_deref()).await?;
        let label = format!("{GC_BREF_SNAPSHOT}{}", self.chosen.name());
        let labels = Labels::from([(label, self.target.clone())]);
        let mounts = client.activate(&self.target, mounts, labels).await?;
        if let Err(error) = mount_here(mounts, self.target.clone()).await {
            drop(client.deactivate(&self.target).await);
            // As above: a snapshot that stays is collected once the lease is gone.
            drop(snapshots.remove(&self.target).await);
            return Err(error);
        }
        say!("{}", self.target);
        Ok(())
    }

    async fn snapshot(
        &self,
        snapshots: &dyn Snapshotter,
        parent: Option<&str>,
    ) -> Result<Vec<Mount>> {
        let made = if self.rw {
            snapshots.prepare(&self.target, parent, Labels::new()).await
        } else {
            snapshots.view(&self.target, parent, Labels::new()).await
        };
        match made {
            Err(error) if error.is_already_exists() => snapshots.mounts(&self.target).await,
            made => made,
        }
    }
}

async fn mount_here(mounts: Vec<Mount>, target: String) -> Result<()> {
    let mount = move || ::mount::all(&mounts, Path::new(&target));
    tokio::task::spawn_blocking(mount).await.expect("mounting does not panic")
}

/// Unmount the filesystem of an image.
#[derive(Debug, Args)]
pub(crate) struct Detach {
    #[command(flatten)]
    chosen: Chosen,
    /// Remove the snapshot too
    #[arg(long)]
    rm: bool,
    /// Where it is mounted
    target: String,
}

impl Detach {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        ::mount::unmount_all(Path::new(&self.target), UnmountFlags::empty())?;
        let client = connection.client().await?;
        client.deactivate(&self.target).await?;
        if self.rm {
            let find = &client.snapshotters;
            let removed = find(self.chosen.name())?.remove(&self.target).await;
            gone(removed).context(|| "error removing snapshot")?;
            let released = client.leases.delete(&self.target, Delete::default()).await;
            gone(released).context(|| "error deleting lease")?;
        }
        say!("{}", self.target);
        Ok(())
    }
}

/// What was not there is as good as gone.
fn gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        removed => removed,
    }
}
