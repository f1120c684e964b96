// SPDX-License-Identifier: Apache-2.0
//! Writing changes as a layer (OCI image spec, `layer.md`; containerd `pkg/archive/tar.go`,
//! `ChangeWriter`).
//!
//! * A directory stands before what is in it, even if it has not changed itself.
//! * A file with several names is written under the first, the others are links to it. That includes
//!   names that have not changed, because a link can only lead to what is in the layer.
use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    os::fd::AsFd,
};

use rustix::fs::{FileType, OFlags, Stat};
use tracing::warn;
use types::{Context, Error, Result};

use super::{
    same,
    walk::{Change, Found, Kind},
};
use crate::{
    apply::whiteout,
    names,
    root::{self, Id, Root, from_errno},
    tar::{self, Entry, Time, Writer},
};

/// A layer being written.
pub(super) struct Layer<'a, W> {
    archive: Writer<W>,
    /// Where changed files are.
    root: &'a Root,
    /// Times later than this are written as this.
    latest: Option<Time>,
    /// The first name of each file that has several.
    first_names: HashMap<Id, Vec<u8>>,
    /// Names of files that have not changed as far as is known.
    other_names: HashMap<Id, Vec<Vec<u8>>>,
    /// Directories that are in the layer.
    directories: HashSet<Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Layer<'a, W> {
    pub(super) fn new(sink: W, root: &'a Root, latest: Option<Time>) -> Self {
        Self {
            archive: Writer::new(sink),
            root,
            latest,
            first_names: HashMap::new(),
            other_names: HashMap::new(),
            directories: HashSet::new(),
            buffer: vec![0; 128 * 1024],
        }
    }

    /// Adds a change. Sockets are left out, and names that would be taken for whiteouts.
    pub(super) fn add(&mut self, change: &Change<'_>) -> Result<()> {
        if change.path.split(|&byte| byte == b'/').any(whiteout::is_marker) {
            warn!("left {} out of the layer", names::show(change.path));
            return Ok(());
        }
        match change.file {
            None => self.whiteout(change.path),
            Some(file) if root::kind(file.stat) == FileType::Socket => Ok(()),
            Some(file) => self.file(change.kind, change.path, file),
        }
    }

    /// Ends the layer and gives back what it was written to.
    pub(super) fn finish(self) -> Result<W> {
        self.archive.finish()
    }

    /// Compat: the time of whiteouts is 1970, whatever times files are written with.
    fn whiteout(&mut self, path: &[u8]) -> Result<()> {
        let (parent, name) = names::split(path);
        let name = names::join(parent, &whiteout::of(name));
        self.append(&Entry { name, ..Entry::default() })
    }

    fn file(&mut self, kind: Kind, path: &[u8], file: Found<'_>) -> Result<()> {
        let id = root::id(file.stat);
        let is_linked = root::kind(file.stat) != FileType::Directory && file.stat.st_nlink > 1;
        if is_linked && let Some(first) = self.first_names.get(&id).cloned() {
            return self.link(path, file, first);
        }
        if kind == Kind::Unmodified {
            self.other_names.entry(id).or_default().push(path.to_vec());
            return Ok(());
        }
        self.content(path, file)?;
        if is_linked {
            self.first_names.insert(id, path.to_vec());
            for other in self.other_names.remove(&id).unwrap_or_default() {
                self.link(&other, file, path.to_vec())?;
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], file: Found<'_>, first: Vec<u8>) -> Result<()> {
        let entry = self.entry(path, file, file.stat)?;
        self.append(&Entry { kind: tar::Kind::Link, link: first, size: 0, ..entry })
    }

    /// Writes a file with everything in it. Its length is what it is when it is opened: a file that is
    /// still being written to does not spoil the layer, one that is cut short meanwhile does.
    fn content(&mut self, path: &[u8], file: Found<'_>) -> Result<()> {
        let is_file = root::kind(file.stat) == FileType::RegularFile;
        if !is_file || file.stat.st_size == 0 {
            let entry = self.entry(path, file, file.stat)?;
            return self.append(&entry);
        }
        let mut source = same::open(file).map_err(from_errno).context(|| "failed to open path")?;
        let stat = rustix::fs::fstat(source.as_fd()).map_err(from_errno)?;
        if root::kind(&stat) != FileType::RegularFile {
            return Err(Error::failed_precondition("replaced while it was read"));
        }
        let entry = self.entry(path, file, &stat)?;
        self.append(&entry)?;
        self.copy(&mut source, entry.size)
    }

    fn copy(&mut self, source: &mut impl Read, mut left: u64) -> Result<()> {
        while left > 0 {
            let step = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let length = source.read(&mut self.buffer[..step]).context(|| "failed to copy")?;
            if length == 0 {
                return Err(Error::said(types::Kind::Unknown, "short write copying file"));
            }
            self.archive.data(&self.buffer[..length])?;
            left -= length as u64;
        }
        Ok(())
    }

    /// Writes an entry, after the directories that it is in.
    fn append(&mut self, entry: &Entry) -> Result<()> {
        let path = names::clean(&entry.name);
        self.parents(names::split(&path).0)?;
        if entry.kind == tar::Kind::Directory {
            self.directories.insert(path);
        }
        self.archive.append(entry).context(|| "failed to write file header")
    }

    fn parents(&mut self, path: &[u8]) -> Result<()> {
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(end, _)| end);
        let ends: Vec<_> = ends.chain([path.len()]).filter(|&end| end > 0).collect();
        for end in ends {
            let (parent, name) = names::split(&path[..end]);
            if !self.directories.insert(path[..end].to_vec()) {
                continue;
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let directory = self.root.exact(parent, flags).map_err(from_errno)?;
            let stat = root::stat(directory.as_fd(), name).map_err(from_errno)?;
            let found = Found { directory: directory.as_fd(), name, stat: &stat };
            let entry = self.entry(&path[..end], found, &stat)?;
            self.archive.append(&entry).context(|| "failed to write file header")?;
        }
        Ok(())
    }

    /// Compat: times are cut to seconds, and names of owners are left out: they are the host's.
    fn entry(&self, path: &[u8], file: Found<'_>, stat: &Stat) -> Result<Entry> {
        let kind = entry_kind(root::kind(stat));
        let mut name = path.to_vec();
        if kind == tar::Kind::Directory {
            name.push(b'/');
        }
        let modified = Time { seconds: stat.st_mtime, nanos: stat.st_mtime_nsec as u32 };
        let modified = self.latest.map_or(modified, |latest| modified.min(latest));
        let is_device = matches!(kind, tar::Kind::Char | tar::Kind::Block);
        let device = if is_device { stat.st_rdev } else { 0 };
        Ok(Entry {
            name,
            kind,
            link: if kind == tar::Kind::Symlink { same::target(file)? } else { Vec::new() },
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid.into(),
            gid: stat.st_gid.into(),
            size: if kind == tar::Kind::File { stat.st_size as u64 } else { 0 },
            modified: Time { nanos: 0, ..modified },
            accessed: None,
            device: (rustix::fs::major(device).into(), rustix::fs::minor(device).into()),
            xattrs: same::attributes(file)?,
        })
    }
}

fn entry_kind(kind: FileType) -> tar::Kind {
    match kind {
        FileType::Directory => tar::Kind::Directory,
        FileType::Symlink => tar::Kind::Symlink,
        FileType::CharacterDevice => tar::Kind::Char,
        FileType::BlockDevice => tar::Kind::Block,
        FileType::Fifo => tar::Kind::Fifo,
        _ => tar::Kind::File,
    }
}
