// SPDX-License-Identifier: Apache-2.0
//! Turning entries into files.
//!
//! Whiteouts hide what is beneath the layer and never what the layer itself brings, in whatever
//! order the archive has them. In an overlay they become marks that the kernel understands; elsewhere
//! they remove files, and so it has to be remembered which files the layer brought.
use std::{
    collections::{HashMap, HashSet},
    io::BufRead,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use tracing::warn;
use types::{Context, Error, Kind as ErrorKind, Result};

use super::{
    Whiteouts,
    attributes::{self, Node, Reserved},
    directories::{Directories, Directory, make_opaque},
    remove,
    whiteout::{Marker, marker},
};
use crate::{
    names,
    root::{self, Id, Root, from_errno},
    tar::{Archive, Entry, Kind},
};

/// The longest path that the kernel takes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

pub(super) struct Unpacker<'a> {
    directories: Directories<'a>,
    whiteouts: Whiteouts,
    /// Devices cannot be made in a user namespace.
    skip_devices: bool,
    /// What the layer brought, by directory and name. Not needed in an overlay.
    brought: HashMap<Id, HashSet<Vec<u8>>>,
}

impl<'a> Unpacker<'a> {
    /// Unpacks into `root`, on top of the layers `parents` where they are known.
    pub(super) fn new(
        root: &'a Root,
        parents: &'a [Root],
        whiteouts: Whiteouts,
        skip_devices: bool,
    ) -> Result<Self> {
        let directories = Directories::new(root, parents)?;
        Ok(Self { directories, whiteouts, skip_devices, brought: HashMap::new() })
    }

    /// Unpacks a whole archive, and tells whether that relied on anything beneath the layer.
    pub(super) fn unpack<R: BufRead>(mut self, archive: &mut Archive<R>) -> Result<bool> {
        while let Some(entry) = archive.next_entry()? {
            self.entry(&entry, archive)?;
        }
        self.directories.finish()?;
        Ok(self.directories.relied_on_parent)
    }

    fn entry<R: BufRead>(&mut self, entry: &Entry, archive: &mut Archive<R>) -> Result<()> {
        let path = names::clean(&entry.name);
        let (parent, name) = names::split(&path);
        let marker = marker(parent, name)?;
        // Compat: what an archive says of the root itself is ignored.
        if path.is_empty() || marker == Marker::Reserved || self.skips(entry) {
            return Ok(());
        }
        if path.len() >= MAX_PATH {
            let text = format!("{}: file name too long", names::show(&path));
            return Err(Error::said(ErrorKind::InvalidArgument, text));
        }
        let directory = self.directories.at(parent)?;
        match marker {
            Marker::Opaque => self.opaque(&directory),
            Marker::Gone(gone) => self.gone(&directory, gone, entry),
            Marker::None | Marker::Reserved => {
                self.create(&directory, name, entry, archive).map(|()| self.note(&directory, name))
            }
        }
        .context(|| names::show(&path))
    }

    fn skips(&self, entry: &Entry) -> bool {
        let skips = self.skip_devices && matches!(entry.kind, Kind::Char | Kind::Block);
        if skips {
            let name = names::show(&entry.name);
            warn!("file {name:?} ignored: archive may not be supported on system");
        }
        skips
    }

    fn create<R: BufRead>(
        &mut self,
        directory: &Directory,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<()> {
        let at = directory.as_fd();
        match entry.kind {
            Kind::File => return self.file(directory, name, entry, archive),
            Kind::Directory => return self.directory(directory, name, entry),
            Kind::Link => self.link(directory, name, entry)?,
            Kind::Symlink => self
                .make(directory, name, || rustix::fs::symlinkat(entry.link.as_slice(), at, name))?,
            Kind::Fifo => self.node(directory, name, entry, FileType::Fifo)?,
            Kind::Char => self.node(directory, name, entry, FileType::CharacterDevice)?,
            Kind::Block => self.node(directory, name, entry, FileType::BlockDevice)?,
            Kind::Other(flag) => {
                let text = format!("unhandled tar header type {flag}");
                return Err(Error::said(ErrorKind::InvalidArgument, text));
            }
        }
        Node::Named(at, name).settle(entry, self.reserved())
    }

    fn file<R: BufRead>(
        &mut self,
        directory: &Directory,
        name: &[u8],
        entry: &Entry,
        archive: &mut Archive<R>,
    ) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file =
            self.make(directory, name, || rustix::fs::openat(directory, name, flags, mode))?;
        let mut end = 0;
        while let Some(fragment) = archive.fragment()? {
            write_at(&file, fragment.data, fragment.offset).map_err(from_errno)?;
            end = fragment.offset + fragment.data.len() as u64;
        }
        if end < entry.size {
            rustix::fs::ftruncate(&file, entry.size).map_err(from_errno)?;
        }
        Node::Open(file.as_fd()).settle(entry, self.reserved())
    }

    /// Makes a directory, or describes the one that is there anew: directories are merged.
    fn directory(&mut self, directory: &Directory, name: &[u8], entry: &Entry) -> Result<()> {
        let make = || rustix::fs::mkdirat(directory, name, Mode::RWXU);
        let open = || remove::open(directory.as_fd(), name).map_err(from_errno);
        let fd = match make() {
            Ok(()) => open()?,
            Err(Errno::EXIST) if is_directory(directory, name)? => {
                let fd = open()?;
                attributes::remove_others(fd.as_fd(), entry).map_err(from_errno)?;
                fd
            }
            Err(Errno::EXIST) => {
                self.make(directory, name, make)?;
                let fd = open()?;
                if let Whiteouts::Overlay { .. } = self.whiteouts {
                    // What was replaced, such as a whiteout, hid a directory that must stay hidden.
                    self.hide_beneath(&fd)?;
                }
                fd
            }
            Err(errno) => return Err(from_errno(errno)),
        };
        Node::Open(fd.as_fd()).settle(entry, self.reserved())?;
        self.directories.described(names::clean(&entry.name), fd, attributes::times(entry))
    }

    /// Compat: a link to a symbolic link is another name of that link, not of its target
    /// (containerd `pkg/archive/tar.go`, `hardlinkRootPath`).
    fn link(&mut self, directory: &Directory, name: &[u8], entry: &Entry) -> Result<()> {
        let target = names::clean(&entry.link);
        let (parent, base) = names::split(&target);
        let missing = || {
            let text = format!("link to {}: no such file or directory", names::show(&target));
            Error::said(ErrorKind::FailedPrecondition, text)
        };
        let parent = self.directories.existing(parent)?.ok_or_else(missing)?;
        if let Whiteouts::Remove = self.whiteouts {
            self.directories.relied_on_parent |= !self.has_brought(parent.id, base);
        }
        let link = || rustix::fs::linkat(&*parent, base, directory, name, AtFlags::empty());
        if let Err(Errno::NOENT) = root::stat(parent.as_fd(), base).map(drop) {
            return Err(missing());
        }
        self.make(directory, name, link)
    }

    fn node(
        &mut self,
        directory: &Directory,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
    ) -> Result<()> {
        let (major, minor) = entry.device;
        let (Ok(major), Ok(minor)) = (u32::try_from(major), u32::try_from(minor)) else {
            let text = format!("device number {major}:{minor} out of range: invalid archive");
            return Err(Error::said(ErrorKind::InvalidArgument, text));
        };
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(major, minor),
        };
        let mode = Mode::from_raw_mode(entry.mode);
        self.make(directory, name, || rustix::fs::mknodat(directory, name, kind, mode, device))
    }

    /// Makes something new under a name. What has the name already is removed, whatever it is.
    fn make<T>(
        &mut self,
        directory: &Directory,
        name: &[u8],
        make: impl Fn() -> Result<T, Errno>,
    ) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {
                remove::all(directory.as_fd(), name).map_err(from_errno)?;
                self.directories.forget();
                make()
            }
            result => result,
        }
        .map_err(from_errno)
    }

    fn opaque(&mut self, directory: &Directory) -> Result<()> {
        let fd = directory.readable().map_err(from_errno)?;
        self.hide_beneath(&fd)
    }

    /// Sees to it that a directory has only what the layer puts there.
    fn hide_beneath(&mut self, directory: &OwnedFd) -> Result<()> {
        match self.whiteouts {
            Whiteouts::Overlay { .. } => {
                make_opaque(directory.as_fd(), self.whiteouts.opaque_key())
            }
            Whiteouts::Remove => {
                self.directories.forget();
                rustix::io::fcntl_dupfd_cloexec(directory, 0)
                    .and_then(|fd| remove::unkept(fd, &|id, name| self.has_brought(id, name)))
            }
        }
        .map_err(from_errno)
    }

    fn gone(&mut self, directory: &Directory, name: &[u8], entry: &Entry) -> Result<()> {
        match self.whiteouts {
            Whiteouts::Overlay { .. } => self.mark_gone(directory, name, entry),
            Whiteouts::Remove if self.has_brought(directory.id, name) => {
                self.hide_beneath_named(directory, name)
            }
            Whiteouts::Remove => {
                self.directories.forget();
                remove::all(directory.as_fd(), name).map_err(from_errno)
            }
        }
    }

    fn mark_gone(&mut self, directory: &Directory, name: &[u8], entry: &Entry) -> Result<()> {
        let kind = FileType::CharacterDevice;
        match rustix::fs::mknodat(directory, name, kind, Mode::empty(), 0) {
            Ok(()) => Node::Named(directory.as_fd(), name)
                .chown(attributes::owner(entry)?)
                .map_err(from_errno),
            // What the layer brought under this name hides what is beneath, unless it is a directory.
            Err(Errno::EXIST) => self.hide_beneath_named(directory, name),
            Err(errno) => Err(from_errno(errno)),
        }
    }

    fn hide_beneath_named(&mut self, directory: &Directory, name: &[u8]) -> Result<()> {
        if !is_directory(directory, name)? {
            return Ok(());
        }
        let fd = remove::open(directory.as_fd(), name).map_err(from_errno)?;
        self.hide_beneath(&fd)
    }

    fn note(&mut self, directory: &Directory, name: &[u8]) {
        if let Whiteouts::Remove = self.whiteouts {
            self.brought.entry(directory.id).or_default().insert(name.to_vec());
        }
    }

    fn has_brought(&self, directory: Id, name: &[u8]) -> bool {
        self.brought.get(&directory).is_some_and(|names| names.contains(name))
    }

    fn reserved(&self) -> Reserved {
        match self.whiteouts {
            Whiteouts::Overlay { userxattr: true } => Reserved::TrustedAndUserOverlay,
            _ => Reserved::Trusted,
        }
    }
}

fn is_directory(directory: &Directory, name: &[u8]) -> Result<bool> {
    let stat = root::stat(directory.as_fd(), name).map_err(from_errno)?;
    Ok(root::kind(&stat) == FileType::Directory)
}

fn write_at(file: &OwnedFd, mut data: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, offset) {
            Ok(written) => {
                data = &data[written..];
                offset += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
