// SPDX-License-Identifier: Apache-2.0
//! Disks that can be cloned while they are written to.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::ioctl_ficlone;
use rustix::mount::{UnmountFlags, unmount};

use crate::estate::Estate;
use crate::process::run;
use crate::wait::PATIENCE;
use crate::{Context, Outcome};

const MIB: u64 = 1 << 20;

/// What a daemon's root is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filesystem {
    /// With its journal, data before metadata, as it is made by default.
    Ext4,
    /// As it is made by default.
    Xfs,
}

impl Filesystem {
    /// Its name, as mount(8) knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    /// The smallest that its tools make is enough.
    fn size(self) -> u64 {
        match self {
            Self::Ext4 => 256 * MIB,
            Self::Xfs => 304 * MIB,
        }
    }
}

/// Where disks are kept: a filesystem in memory that shares blocks between files.
#[derive(Debug)]
pub(super) struct Host {
    estate: Estate,
    filesystem: Filesystem,
    made: Cell<usize>,
}

/// A disk.
#[derive(Debug)]
pub(super) struct Disk(PathBuf, Filesystem);

/// What a disk had at an instant.
#[derive(Debug)]
pub(super) struct Still(Disk);

impl Still {
    /// Mounts it, and has its journal replayed by that.
    pub(super) fn mount(&self, at: &Path) -> Outcome {
        self.0.mount(at)
    }

    /// Gives back its room, once nobody has it mounted any more.
    pub(super) fn forget(self) -> Outcome {
        Ok(fs_err::remove_file(self.0.0)?)
    }
}

impl Host {
    pub(super) fn new(filesystem: Filesystem) -> Outcome<Self> {
        let estate = Estate::new()?;
        let host = Self { estate, filesystem, made: Cell::new(0) };
        let (memory, disks) = (host.estate.home().join("memory"), host.disks());
        fs_err::create_dir(&memory)?;
        fs_err::create_dir(&disks)?;
        command("mount", &["-t", "tmpfs", "-o", "size=3g", "none"], &memory)?;
        let image = memory.join("host.img");
        fs_err::File::create(&image)?.set_len(2560 * MIB)?;
        command("mkfs.xfs", &["-q", "-m", "reflink=1"], &image)?;
        let image = image.to_string_lossy().into_owned();
        command("mount", &["-o", "loop,discard", &image], &disks)?;
        Ok(host)
    }

    fn disks(&self) -> PathBuf {
        self.estate.home().join("disks")
    }

    fn name(&self, kind: &str) -> PathBuf {
        self.made.set(self.made.get() + 1);
        self.disks().join(format!("{kind}{}.img", self.made.get()))
    }

    /// Makes an empty disk.
    pub(super) fn format(&self) -> Outcome<Disk> {
        let path = self.name("disk");
        fs_err::File::create(&path)?.set_len(self.filesystem.size())?;
        match self.filesystem {
            Filesystem::Ext4 => {
                // What is set up lazily would be set up meanwhile.
                let eager = "lazy_itable_init=0,lazy_journal_init=0";
                command("mkfs.ext4", &["-q", "-F", "-E", eager], &path)?;
            }
            Filesystem::Xfs => command("mkfs.xfs", &["-q"], &path)?,
        }
        Ok(Disk(path, self.filesystem))
    }

    /// Keeps what a disk has now.
    pub(super) fn clone_of(&self, disk: &Disk) -> Outcome<Still> {
        let path = self.name("cut");
        let (from, to) = (fs_err::File::open(&disk.0)?, fs_err::File::create(&path)?);
        ioctl_ficlone(&to, &from).context("clone a disk")?;
        Ok(Still(Disk(path, disk.1)))
    }
}

impl Disk {
    pub(super) fn mount(&self, at: &Path) -> Outcome {
        let image = self.0.to_string_lossy();
        // Clones have the same identity as what they were cloned from, which XFS minds.
        let options = match self.1 {
            Filesystem::Ext4 => "loop",
            Filesystem::Xfs => "loop,nouuid",
        };
        command("mount", &["-t", self.1.name(), "-o", options, &image], at)
    }

    /// Unmounts it and gives back its room.
    pub(super) fn unmount(self, at: &Path) -> Outcome {
        unmount(at, UnmountFlags::DETACH).context("unmount a disk")?;
        Ok(fs_err::remove_file(self.0)?)
    }
}

fn command(program: &str, options: &[&str], path: &Path) -> Outcome {
    run(Command::new(program).args(options).arg(path), PATIENCE)?.ok().map(drop)
}
