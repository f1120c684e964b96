// SPDX-License-Identifier: Apache-2.0
//! The directories that files are unpacked into: found, remembered, and made where they are missing.
use std::{
    collections::{HashSet, VecDeque},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};
use types::{Context, Error, Kind as ErrorKind, Result};

use super::{attributes::Node, remove};
use crate::{
    names,
    root::{self, Id, Root, from_errno},
    xattrs,
};

/// How many directories are kept open. Archives go through trees in order, so few are enough.
const RECENT: usize = 16;

/// The mode of directories that no layer describes (containerd `pkg/archive/tar.go`, `mkparent`).
const DEFAULT_MODE: Mode = Mode::from_raw_mode(0o755);

/// An open directory.
pub(super) struct Directory {
    fd: OwnedFd,
    pub(super) id: Id,
}

impl Directory {
    fn new(fd: OwnedFd) -> Result<Rc<Self>, Errno> {
        let id = root::id(&rustix::fs::fstat(&fd)?);
        Ok(Rc::new(Self { fd, id }))
    }

    /// Opens the directory so that it can be read.
    pub(super) fn readable(&self) -> Result<OwnedFd, Errno> {
        remove::open(self.fd.as_fd(), b".")
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub(super) struct Directories<'a> {
    root: &'a Root,
    /// The layers beneath, topmost first, where they are known.
    parents: &'a [Root],
    /// The path each was asked for by, and the directory, most recently used last.
    recent: VecDeque<(Vec<u8>, Rc<Directory>)>,
    /// The root, and every directory that the layer itself describes.
    described: HashSet<Id>,
    /// Times that are set when nothing more is put into the directories.
    times: Vec<(Vec<u8>, Timestamps)>,
    /// Whether a directory was used that the layer had not described before.
    pub(super) relied_on_parent: bool,
}

impl<'a> Directories<'a> {
    pub(super) fn new(root: &'a Root, parents: &'a [Root]) -> Result<Self> {
        let top = rustix::fs::fstat(root).map_err(from_errno)?;
        Ok(Self {
            root,
            parents,
            recent: VecDeque::new(),
            described: HashSet::from([root::id(&top)]),
            times: Vec::new(),
            relied_on_parent: false,
        })
    }

    /// The directory at a clean path. What is missing on the way is made, like the directory in the
    /// nearest layer beneath that has it.
    pub(super) fn at(&mut self, path: &[u8]) -> Result<Rc<Directory>> {
        if let Some(directory) = self.recall(path) {
            return Ok(directory);
        }
        let fd = match self.root.directory(path) {
            Ok(fd) => fd,
            Err(_) => self.walk(path)?,
        };
        let directory = Directory::new(fd).map_err(from_errno)?;
        self.relied_on_parent |= !self.described.contains(&directory.id);
        self.remember(path.to_vec(), directory.clone());
        Ok(directory)
    }

    /// The directory at a clean path, if there is one.
    pub(super) fn existing(&mut self, path: &[u8]) -> Result<Option<Rc<Directory>>> {
        if let Some(directory) = self.recall(path) {
            return Ok(Some(directory));
        }
        let found = existing(self.root, path)?;
        found.map(Directory::new).transpose().map_err(from_errno)
    }

    /// Notes a directory that the layer describes, and the times it is to have in the end.
    pub(super) fn described(
        &mut self,
        path: Vec<u8>,
        fd: OwnedFd,
        times: Timestamps,
    ) -> Result<()> {
        let directory = Directory::new(fd).map_err(from_errno)?;
        self.described.insert(directory.id);
        self.times.push((path.clone(), times));
        self.remember(path, directory);
        Ok(())
    }

    /// Forgets which directory is where, because one of them may have been removed.
    pub(super) fn forget(&mut self) {
        self.recent.clear();
    }

    /// Sets the times of all directories. One that something else took the place of needs none.
    pub(super) fn finish(&mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times) {
            let (parent, name) = names::split(&path);
            let parent = match self.existing(parent) {
                Ok(Some(parent)) => parent,
                Err(error) if error.kind() != ErrorKind::InvalidArgument => return Err(error),
                _ => continue,
            };
            let is_directory = root::stat(parent.as_fd(), name)
                .is_ok_and(|stat| root::kind(&stat) == FileType::Directory);
            if is_directory {
                Node::Named(parent.as_fd(), name)
                    .set_times(&times)
                    .map_err(|errno| from_errno(errno).context(names::show(&path)))?;
            }
        }
        Ok(())
    }

    fn recall(&mut self, path: &[u8]) -> Option<Rc<Directory>> {
        let index = self.recent.iter().rposition(|(known, _)| known == path)?;
        if index + 1 < self.recent.len() {
            let used = self.recent.remove(index)?;
            self.recent.push_back(used);
        }
        self.recent.back().map(|(_, directory)| directory.clone())
    }

    fn remember(&mut self, path: Vec<u8>, directory: Rc<Directory>) {
        self.recent.retain(|(known, _)| *known != path);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((path, directory));
    }

    fn walk(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let (root, parents, times) = (self.root, self.parents, &mut self.times);
        root.walk(path, &mut |parent, name, path| {
            let made = make(parents, parent, name, path).context(|| names::show(path))?;
            times.extend(made.map(|made| (path.to_vec(), made)));
            Ok(())
        })
    }
}

/// Makes a directory that no layer describes here. The times it is to have in the end are those of
/// the directory that it is modelled on, if there is one.
fn make(
    parents: &[Root],
    at: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
) -> Result<Option<Timestamps>> {
    rustix::fs::mkdirat(at, name, DEFAULT_MODE).map_err(from_errno)?;
    let made = remove::open(at, name).map_err(from_errno)?;
    rustix::fs::fchmod(&made, DEFAULT_MODE).map_err(from_errno)?;
    model(parents, path).map(|model| copy_attributes(model.as_fd(), made.as_fd())).transpose()
}

/// The directory that shows through from beneath, unless something else took its place.
fn model(parents: &[Root], path: &[u8]) -> Option<OwnedFd> {
    parents.iter().find_map(|parent| existing(parent, path).transpose())?.ok()
}

fn existing(root: &Root, path: &[u8]) -> Result<Option<OwnedFd>> {
    match root.directory(path) {
        Ok(fd) => return Ok(Some(fd)),
        Err(Errno::NOENT) => return Ok(None),
        Err(_) => {}
    }
    let missing =
        &mut |_: BorrowedFd<'_>, _: &[u8], path: &[u8]| Err(Error::not_found(names::show(path)));
    match root.walk(path, missing) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes one directory like another: owner, mode, times, and all extended attributes but those that
/// an overlay keeps for itself. Tells the times.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Timestamps> {
    let stat = rustix::fs::fstat(from).map_err(from_errno)?;
    let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let node = Node::Open(to);
    node.chown(owner).map_err(from_errno)?;
    node.chmod(Mode::from_raw_mode(stat.st_mode)).map_err(from_errno)?;
    for (key, value) in xattrs::of(from).map_err(from_errno)? {
        if key.starts_with(b"trusted.") || key.starts_with(b"user.overlay.") {
            continue;
        }
        match rustix::fs::fsetxattr(to, &*key, &value, XattrFlags::CREATE) {
            Ok(()) | Err(Errno::NOTSUP | Errno::NODATA | Errno::EXIST) => {}
            Err(errno) => return Err(from_errno(errno).context(names::show(&key))),
        }
    }
    Ok(times_of(&stat))
}

fn times_of(stat: &Stat) -> Timestamps {
    let time = |tv_sec, nanos| Timespec { tv_sec, tv_nsec: nanos };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec as _),
    }
}

/// Marks a directory so that nothing shows through from beneath.
pub(super) fn make_opaque(directory: BorrowedFd<'_>, key: &[u8]) -> Result<(), Errno> {
    let flags = XattrFlags::empty();
    rustix::fs::setxattr(root::itself(directory), key, b"y", flags)
}
