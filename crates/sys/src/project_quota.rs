// SPDX-License-Identifier: Apache-2.0
//! Project quotas: how much a directory tree may take, on the filesystems that count it (xfs and ext4
//! with `prjquota`).
//!
//! Every inode belongs to a project, a number. A directory can hand its project on to what is made in
//! it, and the filesystem counts and limits each project: see `quotactl(2)`, `linux/fs.h`.
use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::io::Errno;

// linux/fs.h
const FS_IOC_FSGETXATTR: libc::c_ulong = 0x801c_581f;
const FS_IOC_FSSETXATTR: libc::c_ulong = 0x401c_5820;
const FS_XFLAG_PROJINHERIT: u32 = 0x200;
// linux/quota.h
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
const PRJQUOTA: u32 = 2;
const QIF_BLIMITS: u32 = 1;
/// Limits are counted in blocks of this size, whatever the filesystem's are.
const BLOCK: u64 = 1024;

/// What a project takes, and may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes that it may take; 0 is no limit.
    pub limit: u64,
    /// Bytes that it takes.
    pub size: u64,
    /// Files, directories and the like that it has.
    pub inodes: u64,
}

/// The project of a file or directory.
pub fn project(file: impl AsFd) -> io::Result<u32> {
    Ok(attributes(&file)?.project)
}

/// Makes a directory part of a project, and whatever is made in it from now on.
pub fn assign(directory: impl AsFd, project: u32) -> io::Result<()> {
    let mut attributes = attributes(&directory)?;
    attributes.project = project;
    attributes.flags |= FS_XFLAG_PROJINHERIT;
    let fd = directory.as_fd().as_raw_fd();
    // SAFETY: `attributes` is laid out as the kernel's struct fsxattr and outlives the call.
    let result = unsafe { libc::ioctl(fd, FS_IOC_FSSETXATTR, &raw const attributes) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn attributes(file: &impl AsFd) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `attributes` is laid out as the kernel's struct fsxattr, which this request fills.
    let result = unsafe { libc::ioctl(fd, FS_IOC_FSGETXATTR, &raw mut attributes) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(attributes) }
}

/// What a project takes on the filesystem that `file` is on. One never used takes nothing.
///
/// Errors: `ESRCH`, `ENOSYS` and others where the filesystem, or the kernel (before Linux 5.14), does
/// not count projects.
pub fn get(file: impl AsFd, project: u32) -> io::Result<Quota> {
    let mut block = Record::default();
    match quotactl(&file, Q_GETQUOTA, project, &mut block) {
        // XFS says so of projects that have nothing.
        Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
            Ok(Quota::default())
        }
        Err(error) => Err(error),
        Ok(()) => {
            Ok(Quota { limit: block.hard_limit * BLOCK, size: block.space, inodes: block.inodes })
        }
    }
}

/// Limits what a project may take to so many bytes, rounded up to 1024; 0 is no limit.
pub fn limit(file: impl AsFd, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(BLOCK);
    let mut block =
        Record { hard_limit: blocks, soft_limit: blocks, valid: QIF_BLIMITS, ..Record::default() };
    quotactl(&file, Q_SETQUOTA, project, &mut block)
}

fn quotactl(file: &impl AsFd, request: u32, project: u32, block: &mut Record) -> io::Result<()> {
    let fd = file.as_fd().as_raw_fd();
    let request = (request << 8) | PRJQUOTA;
    // SAFETY: `block` is laid out as the kernel's struct if_dqblk, which the two requests used here
    // read or fill.
    let result = unsafe {
        libc::syscall(libc::SYS_quotactl_fd, fd, request, project, std::ptr::from_mut(block))
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `struct fsxattr` (linux/fs.h).
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    padding: [u8; 8],
}

/// `struct if_dqblk` (linux/quota.h).
#[repr(C)]
#[derive(Default)]
struct Record {
    hard_limit: u64,
    soft_limit: u64,
    space: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    inodes: u64,
    space_time: u64,
    inode_time: u64,
    valid: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<Record>(), 72);
    }

    #[test]
    fn a_filesystem_that_counts_nothing_says_so() {
        let proc = fs_err::File::open("/proc").unwrap();
        get(&proc, 1).unwrap_err();
        assign(&proc, 1).unwrap_err();
    }
}
