// SPDX-License-Identifier: Apache-2.0
mod probe;

use std::path::{Path, PathBuf};

use mount::Mount;
use sys::failpoint;
use types::{Labels, Result};

pub(crate) use self::probe::Probe;
use crate::{
    Capability, Driver, Kind, Layered, Layers, Usage,
    id_map::{self, inherit},
    quota::Projects,
    tree,
};

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
    /// Allow a caller that wants other owners to change them file by file, where the kernel cannot
    /// shift them. It takes as long as there are files.
    pub slow_chown: bool,
    /// Further options for every overlay mount; bind mounts do not get them.
    pub mount_options: Vec<String>,
}

/// What is particular to [`Overlay`].
#[derive(Debug)]
pub struct OverlayDriver {
    upperdir_label: bool,
    capabilities: Vec<Capability>,
    options: Vec<String>,
    projects: Projects,
}

impl Overlay {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    ///
    /// `FailedPrecondition` when overlayfs does not work there, found out by mounting one.
    pub fn open(root: impl AsRef<Path>, options: Options) -> Result<Self> {
        let root = std::path::absolute(root)?;
        let probe = Probe::new(&root)?;
        let mount_options = probe.options(options.mount_options)?;
        let shifts_ids = probe.shifts_ids(&mount_options);
        drop(probe);
        let driver = OverlayDriver {
            upperdir_label: options.upperdir_label,
            capabilities: capabilities(shifts_ids, options.slow_chown),
            options: mount_options,
            projects: Projects::of(&root),
        };
        Self::with_driver(&root, driver, options.async_remove)
    }
}

impl Driver for OverlayDriver {
    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    fn create(&self, layers: &Layers) -> Result<()> {
        tree::make_directory(&layers.directory, 0o700)?;
        failpoint::reach("overlayfs.create.directory")?;
        if layers.kind == Kind::Active {
            // Before there is anything below, which takes after it.
            self.projects.limit(&layers.directory, &layers.labels)?;
        }
        let own = upper(&layers.directory);
        if fs_err::symlink_metadata(&own).is_err() {
            tree::make_directory(&own, 0o755)?;
            let parent = layers.parents.first().map(|parent| upper(parent));
            // An overlay's own directory is not shifted by its mount; one that is bound is.
            let bound = parent.is_none() && self.capabilities.contains(&Capability::RemapIds);
            let labels = if bound { &Labels::new() } else { &layers.labels };
            id_map::root(&layers.labels)?;
            inherit(&own, parent.as_deref(), labels)?;
        }
        failpoint::reach("overlayfs.create.upper")?;
        if layers.kind == Kind::Active {
            tree::make_directory(&work(&layers.directory), 0o711)?;
        }
        Ok(())
    }

    fn plan(&self, layers: &Layers) -> Result<Vec<Mount>> {
        let shifts = self.capabilities.contains(&Capability::RemapIds);
        let shift = if shifts { id_map::options(&layers.labels) } else { Vec::new() };
        Ok(plan(layers, shift, &self.options))
    }

    fn content(&self, layers: &Layers) -> PathBuf {
        upper(&layers.directory)
    }

    /// Of a snapshot with a limit the filesystem knows, with what overlayfs has for itself.
    fn measure(&self, layers: &Layers) -> Result<Usage> {
        match self.projects.usage(&layers.directory) {
            Some(usage) => Ok(usage),
            None => Ok(tree::usage(&self.content(layers))?),
        }
    }

    fn remove(&self, directory: &Path) -> Result<()> {
        self.projects.release(directory);
        failpoint::reach("overlayfs.remove.released")?;
        Ok(tree::remove(directory)?)
    }

    fn label(&self, directory: &Path, labels: &mut Labels) {
        if self.upperdir_label {
            let upper = upper(directory).to_string_lossy().into_owned();
            labels.insert(UPPERDIR_LABEL.to_owned(), upper);
        }
    }
}

/// In the order of containerd's (`plugins/snapshots/overlay/plugin/plugin.go`).
fn capabilities(shifts_ids: bool, slow_chown: bool) -> Vec<Capability> {
    let remap = shifts_ids.then_some(Capability::RemapIds);
    let only = (!slow_chown).then_some(Capability::OnlyRemapIds);
    remap.into_iter().chain(only).chain([Capability::Rebase]).collect()
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
fn plan(layers: &Layers, shift: Vec<String>, options: &[String]) -> Vec<Mount> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let own = || text(upper(&layers.directory));
    let lower: Vec<_> = layers.parents.iter().map(|parent| text(upper(parent))).collect();
    let access = if layers.kind == Kind::Active { "rw" } else { "ro" };
    let bind = |source: String, access: &str, mut options: Vec<String>| {
        options.extend([access.to_owned(), "rbind".to_owned()]);
        vec![Mount::bind(source, options)]
    };
    let mut mount = match (layers.kind, lower.as_slice()) {
        (_, []) => return bind(own(), access, shift),
        (Kind::Active, lower) => {
            Mount::overlay(lower, Some((&own(), &text(work(&layers.directory)))), shift)
        }
        (_, [parent]) => return bind(parent.clone(), "ro", shift),
        (_, lower) => Mount::overlay(lower, None, shift),
    };
    mount.options.extend_from_slice(options);
    vec![mount]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: Kind, parents: &[&str], want: &str) {
        check_shifted(kind, parents, &[], want);
    }

    #[track_caller]
    fn check_shifted(kind: Kind, parents: &[&str], shift: &[&str], want: &str) {
        let parents = parents.iter().map(PathBuf::from).collect();
        let layers = Layers { kind, directory: "/s/9".into(), parents, labels: Labels::new() };
        let shift = shift.iter().map(|&option| option.to_owned()).collect();
        let planned = plan(&layers, shift, &["index=off".to_owned()]);
        let planned: Vec<_> = planned.iter().map(ToString::to_string).collect();
        assert_eq!(planned, [want]);
    }

    #[test]
    fn owners_are_shifted_by_the_first_options() {
        let shift = ["uidmap=0:1:2", "gidmap=0:3:4"];
        let maps = shift.join(",");
        let want = format!("bind /s/9/fs {maps},rw,rbind");
        check_shifted(Kind::Active, &[], &shift, &want);
        let own = "workdir=/s/9/work,upperdir=/s/9/fs";
        let want = format!("overlay overlay {maps},{own},lowerdir=/s/1/fs,index=off");
        check_shifted(Kind::Active, &["/s/1"], &shift, &want);
        let want = format!("bind /s/1/fs {maps},ro,rbind");
        check_shifted(Kind::View, &["/s/1"], &shift, &want);
    }

    #[test]
    fn what_it_can_do_depends_on_the_kernel_and_the_config() {
        let names = |shifts, slow| {
            let able = capabilities(shifts, slow);
            able.into_iter().map(Capability::name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(true, false), "remap-ids only-remap-ids rebase");
        assert_eq!(names(true, true), "remap-ids rebase");
        assert_eq!(names(false, true), "rebase");
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
