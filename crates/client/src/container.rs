// SPDX-License-Identifier: Apache-2.0
//! Containers: a record, and a snapshot that is its root filesystem.
use images::chain_id;
use records::{Container, Image};
use types::{Context, Digest, Error, Labels, Platform, Result};

use crate::{Client, Unpack};

/// A container to be made.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// The record. Its `snapshot_key` may be empty, and is then the container's name; its labels go
    /// before those of the image.
    pub container: Container,
    /// The image it is made from; none when its root filesystem comes from elsewhere.
    pub image: Option<(Image, Platform)>,
    /// Whether the root filesystem cannot be written to.
    pub read_only: bool,
    /// Labels of the snapshot.
    pub snapshot_labels: Labels,
}

impl Client {
    /// Makes a container: unpacks its image if need be, prepares a snapshot over it, and keeps the
    /// record. If that fails, the snapshot is removed.
    ///
    /// Errors: `AlreadyExists` when the container or the snapshot does.
    pub async fn new_container(&self, new: NewContainer) -> Result<Container> {
        let held = self.hold().await?;
        let outcome = held.client().make_container(new).await;
        held.release().await;
        outcome
    }

    async fn make_container(&self, new: NewContainer) -> Result<Container> {
        let NewContainer { mut container, image, read_only, snapshot_labels } = new;
        let Some((image, platform)) = image else { return self.containers.create(container).await };
        container.image.clone_from(&image.name);
        if container.snapshot_key.is_empty() {
            container.snapshot_key.clone_from(&container.id);
        }
        let config = self.image_config(&image, &platform).await?;
        let mut labels = images::labels::of_container(&config);
        labels.append(&mut container.labels);
        container.labels = labels;
        self.unpack_for(&container, &image, platform).await?;
        let top = chain_id(&config.root_fs.diff_ids);
        let (key, parent) = (&container.snapshot_key, top.as_ref().map(Digest::as_str));
        let snapshots = (self.snapshotters)(&container.snapshotter)?;
        if read_only {
            snapshots.view(key, parent, snapshot_labels).await?;
        } else {
            snapshots.prepare(key, parent, snapshot_labels).await?;
        }
        let outcome = self.containers.create(container.clone()).await;
        if outcome.is_err() {
            self.remove_snapshot(&container).await?;
        }
        outcome
    }

    /// Unpacks an image to where a container's root filesystem will be, unless it has been.
    async fn unpack_for(
        &self,
        container: &Container,
        image: &Image,
        platform: Platform,
    ) -> Result<()> {
        let snapshotter = container.snapshotter.clone();
        if self.is_unpacked(&image.target, &snapshotter, &platform).await? {
            return Ok(());
        }
        let unpack = Unpack { snapshotter, platform, ..Unpack::default() };
        let unpacked = self.unpack(&image.target, &unpack).await;
        unpacked.map(drop).context(|| format!("error unpacking image {:?}", image.name))
    }

    /// Deletes a container that has no task, and its snapshot with it unless that is to be kept.
    ///
    /// The snapshot goes first: as long as the record stands, it can be found and tried again
    /// (containerd `client/container.go`, `Delete`). Errors: `FailedPrecondition` while it has a task.
    pub async fn delete_container(&self, id: &str, keep_snapshot: bool) -> Result<()> {
        match self.tasks.get(id, "").await {
            Ok(_) => {
                let what = format!("cannot delete running task {id}");
                return Err(Error::failed_precondition(what));
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.context(format!("task of container {id:?}"))),
        }
        let container = self.containers.get(id).await?;
        if !keep_snapshot {
            self.remove_snapshot(&container).await?;
        }
        self.containers.delete(id, records::Delete::default()).await
    }

    async fn remove_snapshot(&self, container: &Container) -> Result<()> {
        if container.snapshot_key.is_empty() {
            return Ok(());
        }
        if container.snapshotter.is_empty() {
            let what = "container.Snapshotter must be set to cleanup rootfs snapshot";
            return Err(Error::invalid(what));
        }
        let snapshotter = (self.snapshotters)(&container.snapshotter)?;
        match snapshotter.remove(&container.snapshot_key).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
