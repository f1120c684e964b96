// SPDX-License-Identifier: Apache-2.0
//! Directory trees as a whole: measured, copied, removed.
//!
//! A container may have written them, so names and depth are hostile: nothing here follows a
//! symbolic link or recurses without limit.
mod copy;
mod remove;
mod usage;

pub(crate) use copy::copy;
pub(crate) use remove::{empty, remove};
pub(crate) use usage::{file_usage, usage, usage_since};

use std::{
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
};

use fs_err as fs;
use rustix::fs::{Dir, FileType, Mode, OFlags};

/// How a directory is opened: never through a symbolic link.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::open(path, DIRECTORY, Mode::empty()).map_err(|error| at(path, error))
}

/// The names in a directory, and of what type each is as far as the filesystem says.
fn names(directory: &OwnedFd) -> rustix::io::Result<Vec<(CString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    Ok(names)
}

/// An error that names the path.
fn at(path: &Path, error: rustix::io::Errno) -> io::Error {
    let error = io::Error::from(error);
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Makes everything durable that is on the filesystem of `path`.
pub(crate) fn sync_filesystem(path: &Path) -> io::Result<()> {
    rustix::fs::syncfs(open(path)?).map_err(|error| at(path, error))
}

/// Makes a directory of exactly this mode, if it is missing.
pub(crate) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => fs::set_permissions(path, PermissionsExt::from_mode(mode)),
    }
}

/// Whether there is nothing in a directory.
pub(crate) fn is_empty(path: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(path)?.next().transpose()?.is_none())
}

/// What the filesystem says the type of the first entry of a directory is.
pub(crate) fn entry_type(path: &Path) -> io::Result<Option<FileType>> {
    let names = names(&open(path)?).map_err(|error| at(path, error))?;
    Ok(names.first().map(|(_, kind)| *kind))
}
