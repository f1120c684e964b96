// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use fs_err as fs;
use mount::{Mount, mountinfo};
use sys::{btrfs, failpoint};
use types::{Context, Error, Result};

use crate::{Driver, Kind, Layered, Layers, Usage, quota, tree};

/// Keeps each snapshot as a subvolume of a btrfs filesystem.
///
/// ```text
/// <root>/snapshots/<id>     a subvolume: of an active snapshot, writable; else read-only
/// ```
///
/// A snapshot over a parent begins as a clone of it, which costs the same whatever the size. The
/// label [`MAX_SIZE_LABEL`](crate::MAX_SIZE_LABEL) limits what it has for itself alone, where the
/// filesystem counts (`btrfs quota enable`).
pub type Btrfs = Layered<BtrfsDriver>;

/// What is particular to [`Btrfs`].
#[derive(Debug)]
pub struct BtrfsDriver {
    /// What the filesystem is mounted from.
    device: String,
}

impl Btrfs {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    ///
    /// `FailedPrecondition` when that is not on btrfs.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = std::path::absolute(root)?;
        fs::create_dir_all(&root)?;
        let entry = mountinfo::lookup(&root)?;
        if entry.kind != "btrfs" {
            let (root, kind) = (root.display(), entry.kind);
            return Err(Error::failed_precondition(format!(
                "path {root} ({kind}) must be a btrfs filesystem to be used with the btrfs snapshotter"
            )));
        }
        let device = entry.source.to_string_lossy().into_owned();
        Self::with_driver(&root, BtrfsDriver { device }, false)
    }
}

impl Driver for BtrfsDriver {
    fn create(&self, layers: &Layers) -> Result<()> {
        let path = &layers.directory;
        if !path.try_exists()? {
            match layers.parents.first() {
                None => {
                    btrfs::create(path).context(|| "failed to create subvolume")?;
                    failpoint::reach("btrfs.create.subvolume")?;
                    fs::set_permissions(path, PermissionsExt::from_mode(0o755))?;
                }
                Some(parent) => {
                    let read_only = layers.kind == Kind::View;
                    btrfs::snapshot(parent, path, read_only)
                        .context(|| "failed to snapshot subvolume")?;
                    failpoint::reach("btrfs.create.snapshot")?;
                }
            }
        }
        match quota::max_size(&layers.labels) {
            Some(size) if layers.kind == Kind::Active => limit(path, size),
            _ => Ok(()),
        }
    }

    /// As containerd's (`plugins/snapshots/btrfs/btrfs.go`): by number, which needs no path.
    fn plan(&self, layers: &Layers) -> Result<Vec<Mount>> {
        let id = btrfs::id(&layers.directory)
            .context(|| format!("failed to get the subvolume of {}", layers.directory.display()))?;
        let read_only = (layers.kind != Kind::Active).then(|| "ro".to_owned());
        let options = [format!("subvolid={id}")].into_iter().chain(read_only).collect();
        Ok(vec![Mount {
            kind: "btrfs".to_owned(),
            source: self.device.clone(),
            target: String::new(),
            options,
        }])
    }

    fn content(&self, layers: &Layers) -> PathBuf {
        layers.directory.clone()
    }

    /// What is not as it is in the parent.
    fn measure(&self, layers: &Layers) -> Result<Usage> {
        match layers.parents.first() {
            None => Ok(tree::usage(&layers.directory)?),
            Some(parent) => Ok(tree::usage_since(&layers.directory, parent)?),
        }
    }

    /// A subvolume is durable once the filesystem's transaction is.
    fn seal(&self, layers: &Layers) -> Result<Usage> {
        tree::sync_filesystem(&layers.directory)?;
        self.measure(layers)
    }

    fn settle(&self, layers: &Layers) -> Result<()> {
        btrfs::set_read_only(&layers.directory, true)
            .context(|| format!("failed to set {} read-only", layers.directory.display()))
    }

    fn remove(&self, directory: &Path) -> Result<()> {
        match btrfs::is_subvolume(directory) {
            Ok(true) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            _ => return Ok(tree::remove(directory)?),
        }
        if btrfs::destroy(directory).is_ok() {
            return Ok(());
        }
        // A container may have made subvolumes of its own in it, which go with what else there is.
        btrfs::set_read_only(directory, false)?;
        Ok(tree::remove(directory)?)
    }
}

/// Without a count there is no limit, which is said in the log.
fn limit(path: &Path, size: u64) -> Result<()> {
    match btrfs::limit(path, size) {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => {
            tracing::warn!(
                label = quota::MAX_SIZE_LABEL,
                "the filesystem has no quotas (btrfs quota enable): the size is not limited"
            );
            Ok(())
        }
        limited => {
            limited.context(|| format!("failed to limit {} to {size} bytes", path.display()))
        }
    }
}
