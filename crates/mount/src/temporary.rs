// SPDX-License-Identifier: Apache-2.0
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::mount::UnmountFlags;
use types::{Context, Result};

use crate::{Mount, all, read_only, unmount_all, unmount_mounts, without_volatile};

/// Mounts in a directory made for them, for as long as this lives.
///
/// [`Temporary::close`] unmounts and says if that failed; dropping unmounts too, and says nothing.
/// Either way the mounts are gone from sight afterwards, even if somebody still uses them.
///
/// ```no_run
/// # use std::path::Path;
/// # fn read(mounts: &[mount::Mount]) -> types::Result<()> {
/// let root = mount::Temporary::read_only(mounts, Path::new("/run/containerd/tmp"))?;
/// println!("{}", root.path().join("etc/passwd").exists());
/// root.close()
/// # }
/// ```
#[derive(Debug)]
pub struct Temporary {
    dir: PathBuf,
    mounts: Vec<Mount>,
}

impl Temporary {
    /// Mounts into a new directory below `base`, which must exist.
    pub fn mount(mounts: &[Mount], base: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("containerd-mount").tempdir_in(base);
        let dir = dir.context(|| "failed to create temp dir")?.keep();
        // From here on dropping cleans up, also when only some of the mounts succeed.
        let temporary = Self { dir, mounts: without_volatile(mounts) };
        all(&temporary.mounts, &temporary.dir)
            .context(|| format!("failed to mount {}", temporary.dir.display()))?;
        Ok(temporary)
    }

    /// Mounts for looking only, as [`read_only`] has it.
    pub fn read_only(mounts: &[Mount], base: &Path) -> Result<Self> {
        Self::mount(&read_only(mounts), base)
    }

    /// Where the mounts are.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Unmounts and removes the directory.
    pub fn close(mut self) -> Result<()> {
        let mounts = std::mem::take(&mut self.mounts);
        let closed = unmount_mounts(&mounts, &self.dir, UnmountFlags::empty())
            .context(|| format!("failed to unmount {}", self.dir.display()));
        if closed.is_err() {
            drop(unmount_all(&self.dir, UnmountFlags::DETACH));
        }
        closed
    }
}

impl Drop for Temporary {
    /// Only ever removes an empty directory. If unmounting failed there would be real data in it
    /// (containerd/containerd#1868).
    fn drop(&mut self) {
        let gently = unmount_mounts(&self.mounts, &self.dir, UnmountFlags::empty());
        if gently.is_err() {
            drop(unmount_all(&self.dir, UnmountFlags::DETACH));
        }
        drop(fs::remove_dir(&self.dir));
    }
}
