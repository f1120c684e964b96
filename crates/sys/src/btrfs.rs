// SPDX-License-Identifier: Apache-2.0
//! Subvolumes of btrfs: made, cloned, removed, limited (`linux/btrfs.h`).
//!
//! Who calls sees to it that the paths are on btrfs: elsewhere every request is `ENOTTY`.
use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
};

const SUBVOL_CREATE: libc::c_ulong = 0x5000_940e;
const SNAP_DESTROY: libc::c_ulong = 0x5000_940f;
const INO_LOOKUP: libc::c_ulong = 0xd000_9412;
const SNAP_CREATE_V2: libc::c_ulong = 0x5000_9417;
const SUBVOL_GETFLAGS: libc::c_ulong = 0x8008_9419;
const SUBVOL_SETFLAGS: libc::c_ulong = 0x4008_941a;
const QGROUP_LIMIT: libc::c_ulong = 0x8030_942b;

const SUBVOL_RDONLY: u64 = 1 << 1;
const QGROUP_LIMIT_MAX_EXCL: u64 = 1 << 1;
/// The inode of every subvolume's root, and of nothing else.
const ROOT: u64 = 256;

/// Makes an empty subvolume.
pub fn create(path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let args = Args::new(0, name)?;
    // SAFETY: `args` is laid out as the kernel's struct btrfs_ioctl_vol_args and outlives the call.
    check(unsafe { libc::ioctl(parent.as_raw_fd(), SUBVOL_CREATE, &raw const args) })
}

/// Makes a subvolume that shares everything with `source` and changes without it.
pub fn snapshot(source: &Path, path: &Path, read_only: bool) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let source = directory(source)?;
    let mut args = ArgsV2::new(source.as_raw_fd().into(), name)?;
    args.flags = if read_only { SUBVOL_RDONLY } else { 0 };
    // SAFETY: `args` is laid out as the kernel's struct btrfs_ioctl_vol_args_v2 and outlives the call.
    check(unsafe { libc::ioctl(parent.as_raw_fd(), SNAP_CREATE_V2, &raw const args) })
}

/// Removes a subvolume, whatever is in it but other subvolumes. Its space comes free in the
/// background.
pub fn destroy(path: &Path) -> io::Result<()> {
    let (parent, name) = split(path)?;
    let args = Args::new(0, name)?;
    // SAFETY: `args` is laid out as the kernel's struct btrfs_ioctl_vol_args and outlives the call.
    check(unsafe { libc::ioctl(parent.as_raw_fd(), SNAP_DESTROY, &raw const args) })
}

/// Whether a path is the root of a subvolume, supposing that it is on btrfs.
pub fn is_subvolume(path: &Path) -> io::Result<bool> {
    let stat = rustix::fs::lstat(path)?;
    let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
    Ok(stat.st_ino == ROOT && kind == rustix::fs::FileType::Directory)
}

/// The number of the subvolume that a path is in, as the mount option `subvolid=` wants it.
pub fn id(path: &Path) -> io::Result<u64> {
    let file = directory(path)?;
    let mut args = Lookup { tree: 0, object: ROOT, name: [0; 4080] };
    // SAFETY: `args` is laid out as the kernel's struct btrfs_ioctl_ino_lookup_args, which this fills.
    check(unsafe { libc::ioctl(file.as_raw_fd(), INO_LOOKUP, &raw mut args) })?;
    Ok(args.tree)
}

/// Makes a subvolume read-only, or writable.
pub fn set_read_only(path: &Path, read_only: bool) -> io::Result<()> {
    let file = directory(path)?;
    let mut flags: u64 = 0;
    // SAFETY: this request fills a number of 64 bits.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SUBVOL_GETFLAGS, &raw mut flags) })?;
    let wanted = if read_only { flags | SUBVOL_RDONLY } else { flags & !SUBVOL_RDONLY };
    if wanted == flags {
        return Ok(());
    }
    // SAFETY: this request reads a number of 64 bits.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SUBVOL_SETFLAGS, &raw const wanted) })
}

/// Limits what a subvolume may have for itself alone, in bytes.
///
/// Errors: `ENOTCONN` where the filesystem does not count (`btrfs quota enable`).
pub fn limit(path: &Path, bytes: u64) -> io::Result<()> {
    let file = directory(path)?;
    let args = Limit {
        group: 0, // the subvolume's own
        flags: QGROUP_LIMIT_MAX_EXCL,
        max_exclusive: bytes,
        ..Limit::default()
    };
    // SAFETY: `args` is laid out as the kernel's struct btrfs_ioctl_qgroup_limit_args.
    check(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), QGROUP_LIMIT, &raw const args) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

fn split(path: &Path) -> io::Result<(OwnedFd, &OsStr)> {
    let name = path.file_name().ok_or(Errno::INVAL)?;
    Ok((directory(path.parent().ok_or(Errno::INVAL)?)?, name))
}

/// A name in a field of `N` bytes, which ends with a zero.
fn field<const N: usize>(name: &OsStr) -> io::Result<[u8; N]> {
    let mut field = [0; N];
    let bytes = name.as_bytes();
    if bytes.len() >= N {
        return Err(Errno::NAMETOOLONG.into());
    }
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(field)
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct Args {
    fd: i64,
    name: [u8; 4088],
}

impl Args {
    fn new(fd: i64, name: &OsStr) -> io::Result<Self> {
        Ok(Self { fd, name: field(name)? })
    }
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct ArgsV2 {
    fd: i64,
    transaction: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

impl ArgsV2 {
    fn new(fd: i64, name: &OsStr) -> io::Result<Self> {
        Ok(Self { fd, transaction: 0, flags: 0, unused: [0; 4], name: field(name)? })
    }
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct Lookup {
    tree: u64,
    object: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
#[derive(Default)]
struct Limit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structs_are_as_large_as_the_kernels() {
        assert_eq!(size_of::<Args>(), 4096);
        assert_eq!(size_of::<ArgsV2>(), 4096);
        assert_eq!(size_of::<Lookup>(), 4096);
        assert_eq!(size_of::<Limit>(), 48);
    }

    #[test]
    fn elsewhere_there_are_no_subvolumes() {
        let error = create(Path::new("/proc/fs/subvolume")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        assert!(!is_subvolume(Path::new("/proc")).unwrap());
    }
}
