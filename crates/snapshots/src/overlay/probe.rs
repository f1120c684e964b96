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
pub(crate) struct Probe {
    root: PathBuf,
    path: PathBuf,
}

impl Probe {
    /// The name is fixed, so that what a crash left is found and removed.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let probe = Self { root: root.to_owned(), path: root.join("probe") };
        probe.make().map_err(|error| useless(root, error))?;
        Ok(probe)
    }

    fn make(&self) -> Result<()> {
        self.clear()?;
        for name in ["lower1", "lower2", "merged"] {
            fs::create_dir_all(self.path.join(name))?;
        }
        Ok(())
    }

    /// The options that every overlay here is to be mounted with: the `given`, and those that are
    /// needed too. `FailedPrecondition` when overlays do not work here.
    pub(crate) fn options(&self, given: Vec<String>) -> Result<Vec<String>> {
        self.check_types()?;
        let mut options = given;
        if !options.iter().any(|option| option == "userxattr") && self.needs_user_xattr()? {
            options.push("userxattr".to_owned());
        }
        if !options.iter().any(|option| option.starts_with("index=")) && knows_index() {
            options.push("index=off".to_owned());
        }
        self.mount(&options).map_err(|error| useless(&self.root, error))?;
        Ok(options)
    }

    /// Whether owners can be shifted by mounting: Linux 5.19 and a filesystem that takes part.
    pub(crate) fn shifts_ids(&self, options: &[String]) -> bool {
        let shift = ["uidmap=0:65534:1".to_owned(), "gidmap=0:65534:1".to_owned()];
        self.mount(&[&shift, options].concat()).is_ok()
    }

    fn clear(&self) -> Result<()> {
        mount::unmount_recursive(&self.path, UnmountFlags::DETACH)?;
        Ok(tree::remove(&self.path)?)
    }

    /// Without types in its directories, a filesystem cannot hold whiteouts.
    fn check_types(&self) -> Result<()> {
        if tree::entry_type(&self.path)? != Some(FileType::Unknown) {
            return Ok(());
        }
        Err(Error::failed_precondition(format!(
            "{} does not support d_type. If the backing filesystem is xfs, please reformat with ftype=1 to enable d_type support",
            self.root.display()
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

    /// Unmounting an overlay syncs all of the filesystem that it writes to, which takes seconds where
    /// others write much, unless it is volatile: Linux 5.10 and newer know that.
    fn mount(&self, options: &[String]) -> Result<()> {
        let volatile = [options, &["volatile".to_owned()]].concat();
        self.mount_anew(&volatile).or_else(|_unknown| self.mount_anew(options))
    }

    /// What was volatile once is not mounted a second time, so there is a new upper layer each time.
    fn mount_anew(&self, options: &[String]) -> Result<()> {
        for name in ["upper", "work"] {
            tree::remove(&self.path.join(name))?;
            fs::create_dir(self.path.join(name))?;
        }
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
