// SPDX-License-Identifier: Apache-2.0
//! Removing trees by descriptor: no link is followed, and no depth overflows the stack.
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

use crate::root::{Id, id, stat};

/// Tells whether the thing with this name in the directory with this id is to be kept.
pub(super) type Keep<'a> = &'a dyn Fn(Id, &[u8]) -> bool;

/// Removes a file, or a directory with everything in it. Nothing there is fine, too.
pub(super) fn all(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {
            unkept(open(parent, name)?, &|_, _| false)?;
            rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
        }
        result => result,
    }
}

/// Removes everything in a directory but what is to be kept, and the directories that are needed to
/// keep it.
pub(super) fn unkept(directory: OwnedFd, keep: Keep<'_>) -> Result<(), Errno> {
    let mut levels = vec![Level::read(directory, None)?];
    while let Some(level) = levels.last_mut() {
        if let Some((name, kind)) = level.entries.pop() {
            let is_kept = keep(level.id, &name);
            if kind == FileType::Directory {
                let below = open(level.fd.as_fd(), &name)?;
                let done = (!is_kept).then_some(name);
                levels.push(Level::read(below, done)?);
            } else if !is_kept {
                missing_is_fine(rustix::fs::unlinkat(&level.fd, &name, AtFlags::empty()))?;
            }
        } else if let Some(Level { name: Some(name), .. }) = levels.pop()
            && let Some(parent) = levels.last()
        {
            match rustix::fs::unlinkat(&parent.fd, &name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                result => missing_is_fine(result)?,
            }
        }
    }
    Ok(())
}

/// A directory being emptied.
struct Level {
    fd: OwnedFd,
    id: Id,
    entries: Vec<(Vec<u8>, FileType)>,
    /// Its name, if it is to be removed once it is empty.
    name: Option<Vec<u8>>,
}

impl Level {
    fn read(fd: OwnedFd, name: Option<Vec<u8>>) -> Result<Self, Errno> {
        let id = id(&rustix::fs::fstat(&fd)?);
        let mut entries = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => crate::root::kind(&stat(fd.as_fd(), name)?),
                kind => kind,
            };
            entries.push((name.to_vec(), kind));
        }
        Ok(Self { fd, id, entries, name })
    }
}

/// Opens a directory for reading, if it is one itself.
pub(super) fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn missing_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}
