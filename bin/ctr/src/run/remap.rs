// SPDX-License-Identifier: Apache-2.0
//! Root filesystems for user namespaces where nobody maps the owners of files while they are looked
//! at: a layer is put over the image in which every file belongs to whom its owner is on the host.
//!
//! ```text
//! image --prepare, chown, commit--> image for this mapping --prepare--> container
//!                                     `-- made once, shared by all of the mapping
//! ```
//!
//! Compat: what `ctr run --uidmap` does without `--remap-labels` (containerd
//! `client/container_opts_unix.go`). Every file of the image is copied: a snapshotter that maps
//! owners itself costs nothing.
use std::{
    collections::HashSet,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use fs_err as fs;
use mount::{Mount, Temporary};
use snapshots::{Commit, Snapshotter};
use types::{Context as _, Error, Labels, Result};

/// Whose files become whose, as `container:host:size,...`.
#[derive(Clone, Debug)]
pub(super) struct Mapping {
    pub(super) uids: String,
    pub(super) gids: String,
}

/// Prepares the snapshot `key` over the image `parent`, with the owners of all files mapped.
pub(super) async fn prepare(
    snapshots: &dyn Snapshotter,
    key: &str,
    parent: &str,
    mapping: &Mapping,
    labels: Labels,
) -> Result<Vec<Mount>> {
    let name = format!("{parent}-{}-{}", plain(&mapping.uids), plain(&mapping.gids));
    match snapshots.prepare(key, Some(&name), labels.clone()).await {
        Err(error) if error.is_not_found() => {
            make(snapshots, &name, parent, mapping).await?;
            snapshots.prepare(key, Some(&name), labels).await
        }
        prepared => prepared,
    }
}

/// In snapshots' names colons and commas would be read as something else.
fn plain(mapping: &str) -> String {
    mapping.replace(':', "-").replace(',', "_")
}

/// Makes the layer. What fails leaves none.
async fn make(
    snapshots: &dyn Snapshotter,
    name: &str,
    parent: &str,
    mapping: &Mapping,
) -> Result<()> {
    let key = format!("{name}-remap-{}", std::process::id());
    let mounts = snapshots.prepare(&key, Some(parent), Labels::new()).await?;
    let mapping = mapping.clone();
    let shift = move || shift_mounts(&mounts, &mapping);
    let shifted = tokio::task::spawn_blocking(shift).await.expect("shifting does not panic");
    let made = match shifted {
        Ok(()) => snapshots.commit(name, &key, Commit::default()).await,
        Err(error) => Err(error),
    };
    if made.is_err() {
        // The error tells more than that nobody could clean up: the lease lets go of it.
        drop(snapshots.remove(&key).await);
    }
    match made {
        // Somebody else was faster, and theirs is as good.
        Err(error) if error.is_already_exists() => Ok(()),
        made => made.context(|| "failed to remap snapshot"),
    }
}

fn shift_mounts(mounts: &[Mount], mapping: &Mapping) -> Result<()> {
    let temporary = Temporary::mount(mounts, &std::env::temp_dir())?;
    let shifted = Shift { mapping, seen: HashSet::new() }.tree(temporary.path());
    shifted.and(temporary.close())
}

struct Shift<'a> {
    mapping: &'a Mapping,
    /// Files of several names: whose owner was mapped once is not to be mapped again.
    seen: HashSet<(u64, u64)>,
}

impl Shift<'_> {
    fn tree(&mut self, path: &Path) -> Result<()> {
        let metadata = fs::symlink_metadata(path)?;
        self.one(path, &metadata)?;
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                self.tree(&entry?.path())?;
            }
        }
        Ok(())
    }

    fn one(&mut self, path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
        let is_shared = metadata.nlink() > 1 && !metadata.is_dir();
        if is_shared && !self.seen.insert((metadata.dev(), metadata.ino())) {
            return Ok(());
        }
        let host = |ranges: &str, id: u32| -> Result<u32> {
            let unmapped = || Error::invalid(format!("{}: nobody is {id}", path.display()));
            mount::host_id(ranges, id)?.ok_or_else(unmapped)
        };
        let uid = host(&self.mapping.uids, metadata.uid())?;
        let gid = host(&self.mapping.gids, metadata.gid())?;
        fs::os::unix::fs::lchown(path, Some(uid), Some(gid))?;
        // The kernel takes these bits away from whatever changes hands.
        let mode = metadata.permissions().mode();
        if !metadata.is_symlink() && mode & 0o7000 != 0 {
            fs::set_permissions(path, PermissionsExt::from_mode(mode & 0o7777))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, as whoever gives files away does.
    #[test]
    fn every_file_changes_hands_once_and_keeps_its_bits() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).unwrap();
        fs::write(at("d/su"), "").unwrap();
        fs::os::unix::fs::lchown(at("d/su"), Some(5), Some(6)).unwrap();
        fs::set_permissions(at("d/su"), PermissionsExt::from_mode(0o4755)).unwrap();
        fs::hard_link(at("d/su"), at("d/again")).unwrap();
        fs::os::unix::fs::symlink("/nowhere", at("link")).unwrap();
        let mapping = Mapping { uids: "0:1000:2000".into(), gids: "0:3000:10,10:9000:10".into() };
        Shift { mapping: &mapping, seen: HashSet::new() }.tree(dir.path()).unwrap();
        let owner = |name: &str| {
            let metadata = fs::symlink_metadata(at(name)).unwrap();
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!(owner("d/su"), (1005, 3006, 0o4755));
        assert_eq!((owner("link").0, owner("d").1), (1000, 3000));
    }

    #[test]
    fn a_file_of_nobody_s_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mapping = Mapping { uids: "7:1000:1".into(), gids: "0:0:1".into() };
        let error = Shift { mapping: &mapping, seen: HashSet::new() }.tree(dir.path()).unwrap_err();
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }
}
