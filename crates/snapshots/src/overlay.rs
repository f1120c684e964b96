// SPDX-License-Identifier: Apache-2.0
mod probe;

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use fs_err as fs;
use mount::Mount;
use types::{Context, Labels, Result};

use crate::{Capability, Driver, Kind, Layered, Layers, tree};

/// Where a snapshot's changes lie, as a label (containerd `plugins/snapshots/overlay/overlay.go`).
pub const UPPERDIR_LABEL: &str = "containerd.io/snapshot/overlay.upperdir";

/// Lays layers over each other with overlayfs, in the directories of containerd's `overlayfs`.
///
/// ```text
/// <root>/snapshots/<id>/fs      what the layer changes
/// <root>/snapshots/<id>/work    overlayfs' own, of active snapshots
/// ```
pub type Overlay = Layered<OverlayDriver>;

/// How an [`Overlay`] is to behave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave the data of removed snapshots to the next [`cleanup`](crate::Snapshotter::cleanup).
    pub async_remove: bool,
    /// Give every snapshot the label [`UPPERDIR_LABEL`].
    pub upperdir_label: bool,
    /// Further options for every overlay mount; bind mounts do not get them.
    pub mount_options: Vec<String>,
}

/// What is particular to [`Overlay`].
#[derive(Debug)]
pub struct OverlayDriver {
    upperdir_label: bool,
    options: Vec<String>,
}

impl Overlay {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    ///
    /// `FailedPrecondition` when overlayfs does not work there, found out by mounting one.
    pub fn open(root: impl AsRef<Path>, options: Options) -> Result<Self> {
        let root = std::path::absolute(root)?;
        let driver = OverlayDriver {
            upperdir_label: options.upperdir_label,
            options: probe::options(&root, options.mount_options)?,
        };
        Self::with_driver(&root, driver, options.async_remove)
    }
}

impl Driver for OverlayDriver {
    fn capabilities(&self) -> &[Capability] {
        &[Capability::Rebase]
    }

    fn create(&self, layers: &Layers) -> Result<()> {
        tree::make_directory(&layers.directory, 0o700)?;
        let upper = upper(&layers.directory);
        if !upper.try_exists()? {
            tree::make_directory(&upper, 0o755)?;
            inherit(&upper, layers)?;
        }
        if layers.kind == Kind::Active {
            tree::make_directory(&work(&layers.directory), 0o711)?;
        }
        Ok(())
    }

    fn plan(&self, layers: &Layers) -> Vec<Mount> {
        plan(layers, &self.options)
    }

    fn content(&self, directory: &Path) -> PathBuf {
        upper(directory)
    }

    fn label(&self, directory: &Path, labels: &mut Labels) {
        if self.upperdir_label {
            let upper = upper(directory).to_string_lossy().into_owned();
            labels.insert(UPPERDIR_LABEL.to_owned(), upper);
        }
    }
}

/// The root of an overlay looks like its topmost layer's, so a new layer takes after its parent.
fn inherit(upper_directory: &Path, layers: &Layers) -> Result<()> {
    let Some(parent) = layers.parents.first() else { return Ok(()) };
    let metadata = fs::metadata(upper(parent)).context(|| "failed to stat parent")?;
    fs::os::unix::fs::lchown(upper_directory, Some(metadata.uid()), Some(metadata.gid()))
        .context(|| "failed to chown")?;
    let mode = metadata.permissions().mode() & 0o7777;
    Ok(fs::set_permissions(upper_directory, PermissionsExt::from_mode(mode))?)
}

fn upper(directory: &Path) -> PathBuf {
    directory.join("fs")
}

fn work(directory: &Path) -> PathBuf {
    directory.join("work")
}

/// Plans the mounts of a snapshot.
///
/// Overlay needs two directories to overlay, so a snapshot with only one gets a bind mount. A view
/// is given no upper directory, and so stays read-only whatever flags it is mounted with.
///
/// Options come in the order of containerd's (`plugins/snapshots/overlay/overlay.go`, `mounts`),
/// since there are clients that take them apart.
fn plan(layers: &Layers, options: &[String]) -> Vec<Mount> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let own = || text(upper(&layers.directory));
    let lower: Vec<_> = layers.parents.iter().map(|parent| text(upper(parent))).collect();
    let access = if layers.kind == Kind::Active { "rw" } else { "ro" };
    let mut mount = match (layers.kind, lower.as_slice()) {
        (_, []) => return vec![Mount::bind(own(), [access, "rbind"])],
        (Kind::Active, lower) => {
            Mount::overlay(lower, Some((&own(), &text(work(&layers.directory)))), [])
        }
        (_, [parent]) => return vec![Mount::bind(parent, ["ro", "rbind"])],
        (_, lower) => Mount::overlay(lower, None, []),
    };
    mount.options.extend_from_slice(options);
    vec![mount]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, parents: &[&str], want: &str) {
        let parents = parents.iter().map(PathBuf::from).collect();
        let layers = Layers { kind, directory: "/s/9".into(), parents };
        let planned: Vec<_> =
            plan(&layers, &["index=off".to_owned()]).iter().map(ToString::to_string).collect();
        assert_eq!(planned, [want]);
    }

    #[test]
    fn a_snapshot_without_parents_is_a_directory() {
        check(Kind::Active, &[], "bind /s/9/fs rw,rbind");
        check(Kind::View, &[], "bind /s/9/fs ro,rbind");
    }

    #[test]
    fn an_active_snapshot_is_written_over_its_parents() {
        let own = "workdir=/s/9/work,upperdir=/s/9/fs";
        let want = format!("overlay overlay {own},lowerdir=/s/1/fs,index=off");
        check(Kind::Active, &["/s/1"], &want);
        let want = format!("overlay overlay {own},lowerdir=/s/3/fs:/s/1/fs,index=off");
        check(Kind::Active, &["/s/3", "/s/1"], &want);
    }

    #[test]
    fn a_view_of_one_layer_is_that_layer_read_only() {
        check(Kind::View, &["/s/1"], "bind /s/1/fs ro,rbind");
    }

    #[test]
    fn a_view_of_many_layers_has_nowhere_to_write() {
        check(Kind::View, &["/s/3", "/s/1"], "overlay overlay lowerdir=/s/3/fs:/s/1/fs,index=off");
    }
}
