// SPDX-License-Identifier: Apache-2.0
//! Finds out whether overlayfs works in a directory, and with which options.
//!
//! What is asked is what counts, so it is asked by mounting: two layers below, one above (containerd
//! `plugins/snapshots/overlay/overlayutils/check.go`).
use std::path::{Path, PathBuf};

use fs_err as fs;
use mount::{Mount, UnmountFlags};
use rustix::fs::FileType;
use types::{Error, Kind, Result};

use crate::tree;

/// `TMPFS_MAGIC`, statfs(2).
const TMPFS: u64 = 0x0102_1994;

/// What a directory offers.
pub(crate) struct Found {
    /// The options that every overlay is to be mounted with.
    pub(crate) options: Vec<String>,
    /// Whether owners can be shifted by mounting: Linux 5.19 and a filesystem that takes part.
    pub(crate) shifts_ids: bool,
}

/// Tries overlays below `root` with the `given` options, and those that are needed here too.
pub(crate) fn options(root: &Path, given: Vec<String>) -> Result<Found> {
    let probe = Probe::new(root).map_err(|error| useless(root, error))?;
    probe.check_types(root)?;
    let mut options = given;
    if !options.iter().any(|option| option == "userxattr") && probe.needs_user_xattr()? {
        options.push("userxattr".to_owned());
    }
    if !options.iter().any(|option| option.starts_with("index=")) && knows_index() {
        options.push("index=off".to_owned());
    }
    let shifts_ids = probe.shifts_ids(&options);
    probe.mount(&options).map_err(|error| useless(root, error))?;
    Ok(Found { options, shifts_ids })
}

fn useless(root: &Path, error: Error) -> Error {
    let root = root.display();
    let text = format!(
        "overlayfs does not work in {root}, which needs another filesystem or the native snapshotter"
    );
    Error::caused(Kind::FailedPrecondition, text, error)
}

/// An index would make a layer refuse to be mounted twice.
fn knows_index() -> bool {
    Path::new("/sys/module/overlay/parameters/index").exists()
}

/// A few directories to try things in. They go when this does, mounts and all.
struct Probe {
    path: PathBuf,
}

impl Probe {
    /// The name is fixed, so that what a crash left is found and removed.
    fn new(root: &Path) -> Result<Self> {
        let probe = Self { path: root.join("probe") };
        probe.clear()?;
        for name in ["lower1", "lower2", "upper", "work", "merged"] {
            fs::create_dir_all(probe.path.join(name))?;
        }
        Ok(probe)
    }

    fn clear(&self) -> Result<()> {
        mount::unmount_recursive(&self.path, UnmountFlags::DETACH)?;
        Ok(tree::remove(&self.path)?)
    }

    /// Without types in its directories, a filesystem cannot hold whiteouts.
    fn check_types(&self, root: &Path) -> Result<()> {
        if tree::entry_type(&self.path)? != Some(FileType::Unknown) {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "{} does not support d_type. If the backing filesystem is xfs, please reformat with ftype=1 to enable d_type support",
            root.display()
        )))
    }

    /// In a user namespace overlayfs may not write `trusted.overlay.*` and needs to be told to write
    /// `user.overlay.*`, which kernels know since 5.11 and tmpfs does not have.
    fn needs_user_xattr(&self) -> Result<bool> {
        if !in_user_namespace()? {
            return Ok(false);
        }
        let filesystem = rustix::fs::statfs(&self.path).map_err(std::io::Error::from)?;
        let option = ["userxattr".to_owned()];
        Ok(filesystem.f_type as u64 != TMPFS && self.mount(&option).is_ok())
    }

    fn shifts_ids(&self, options: &[String]) -> bool {
        let shift = ["uidmap=0:65534:1".to_owned(), "gidmap=0:65534:1".to_owned()];
        // An overlay that was `volatile` once is not mounted a second time.
        let others = options.iter().filter(|option| *option != "volatile").cloned();
        self.mount(&shift.into_iter().chain(others).collect::<Vec<_>>()).is_ok()
    }

    fn mount(&self, options: &[String]) -> Result<()> {
        let path = |name: &str| self.path.join(name).to_string_lossy().into_owned();
        let lower = [path("lower2"), path("lower1")];
        let mut overlay = Mount::overlay(&lower, Some((&path("upper"), &path("work"))), []);
        overlay.options.extend_from_slice(options);
        let target = self.path.join("merged");
        mount::one(&overlay, &target)?;
        mount::unmount(&target, UnmountFlags::DETACH)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, path = %self.path.display(), "failed to remove check directory");
        }
    }
}

/// The first user namespace maps all ids, one to one.
fn in_user_namespace() -> Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(!map.split_whitespace().eq(["0", "0", "4294967295"]))
}
