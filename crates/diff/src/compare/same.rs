// SPDX-License-Identifier: Apache-2.0
//! Whether a file is the same in two trees, told by as little reading as possible
//! (continuity `fs/path.go`, `sameFile`).
use fs_err::File;
use rustix::{
    fs::{FileType, Mode, OFlags, Stat},
    io::Errno,
};
use types::Result;

use super::walk::Found;
use crate::{
    inflate::read_full,
    root::{self, from_errno},
    xattrs::{self, Xattr},
};

/// How much is compared at a time.
const STEP: usize = 64 * 1024;

/// Whether two files are the same: mode, owner, device and attributes; and for all but directories
/// length, time and, where the time may have lost its fraction in an archive, content.
pub(super) fn file(lower: Found<'_>, upper: Found<'_>) -> Result<bool> {
    let (a, b) = (lower.stat, upper.stat);
    if root::id(a) == root::id(b) {
        return Ok(true);
    }
    let described = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_rdev);
    if described(a) != described(b) || attributes(lower)? != attributes(upper)? {
        return Ok(false);
    }
    let written = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    match root::kind(b) {
        FileType::Directory => Ok(true),
        _ if written(a) != written(b) => Ok(false),
        FileType::Symlink if b.st_mtime_nsec == 0 => Ok(target(lower)? == target(upper)?),
        FileType::RegularFile if b.st_mtime_nsec == 0 => content(lower, upper),
        _ => Ok(true),
    }
}

/// The extended attributes that a layer holds.
pub(super) fn attributes(file: Found<'_>) -> Result<Vec<Xattr>> {
    xattrs::at(file.directory, file.name, &xattrs::is_layered).map_err(from_errno)
}

/// What a symbolic link points to.
pub(super) fn target(file: Found<'_>) -> Result<Vec<u8>> {
    rustix::fs::readlinkat(file.directory, file.name, Vec::new())
        .map(std::ffi::CString::into_bytes)
        .map_err(from_errno)
}

/// Opens a regular file. Should it be something else by now, that is neither followed nor waited for.
pub(super) fn open(file: Found<'_>) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(file.directory, file.name, flags, Mode::empty())?;
    let name = String::from_utf8_lossy(file.name).into_owned();
    Ok(File::from_parts(fd.into(), name))
}

fn content(lower: Found<'_>, upper: Found<'_>) -> Result<bool> {
    let (mut a, mut b) = (open(lower).map_err(from_errno)?, open(upper).map_err(from_errno)?);
    let (mut left, mut right) = (vec![0; STEP], vec![0; STEP]);
    loop {
        let (i, j) = (read_full(&mut a, &mut left)?, read_full(&mut b, &mut right)?);
        if left[..i] != right[..j] {
            return Ok(false);
        }
        if i < STEP {
            return Ok(true);
        }
    }
}
