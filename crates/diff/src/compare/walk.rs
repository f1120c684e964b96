// SPDX-License-Identifier: Apache-2.0
//! Walking two trees side by side, in the order of their paths.
//!
//! Where it is known which directory holds all changes (the top layer of an overlay), only what has a
//! name there is looked at, and the walk costs as much as the changes. What is looked at is still the
//! overlay itself, so the outcome is the same.
use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use types::{Context, Result};

use super::same;
use crate::{
    names,
    root::{self, Root, from_errno},
    xattrs,
};

/// What became of a path between the lower and the upper tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Added,
    Modified,
    Deleted,
    /// Nothing, but the file has other names, and one of those may be new.
    Unmodified,
}

/// A path and what became of it.
pub(super) struct Change<'a> {
    pub(super) kind: Kind,
    pub(super) path: &'a [u8],
    /// The file in the upper tree, unless it was deleted.
    pub(super) file: Option<Found<'a>>,
}

/// A file that was found: by its name in an open directory.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) directory: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
    pub(super) stat: &'a Stat,
}

/// The trees to walk. `changed` is the directory that holds all changes, if there is one.
pub(super) struct Trees<'a> {
    pub(super) lower: Option<&'a Root>,
    pub(super) upper: &'a Root,
    pub(super) changed: Option<&'a Root>,
}

type Visit<'a> = &'a mut dyn FnMut(&Change<'_>) -> Result<()>;

/// Calls `visit` for every path that is not the same in both trees, sorted, directories before what
/// is in them. What is in a deleted directory is not mentioned.
pub(super) fn walk(trees: &Trees<'_>, visit: Visit<'_>) -> Result<()> {
    let open = |root: &Root| open(root.as_fd(), b".").map_err(from_errno);
    let sides = Sides {
        lower: trees.lower.map(open).transpose()?,
        upper: open(trees.upper)?,
        changed: trees.changed.map(open).transpose()?,
    };
    let mut levels = vec![Level::read(sides, Vec::new())?];
    while let Some(level) = levels.last_mut() {
        let Some(item) = level.items.next() else {
            levels.pop();
            continue;
        };
        let path = names::join(&level.path, &item.name);
        let below = level.visit(&item, &path, visit).context(|| names::show(&path))?;
        if let Some(sides) = below {
            levels.push(Level::read(sides, path)?);
        }
    }
    Ok(())
}

/// One directory, on every side that has it.
struct Sides {
    lower: Option<OwnedFd>,
    upper: OwnedFd,
    changed: Option<OwnedFd>,
}

/// A directory being walked.
struct Level {
    sides: Sides,
    path: Vec<u8>,
    items: std::vec::IntoIter<Item>,
}

/// A name in a directory, and the files that have it.
struct Item {
    name: Vec<u8>,
    lower: Option<Stat>,
    upper: Option<Stat>,
}

impl Level {
    fn read(sides: Sides, path: Vec<u8>) -> Result<Self> {
        let items = sides.read().map_err(from_errno).context(|| names::show(&path))?;
        Ok(Self { sides, path, items: items.into_iter() })
    }

    /// Reports an item, and tells where to go on if there may be changes below it.
    fn visit(&self, item: &Item, path: &[u8], visit: Visit<'_>) -> Result<Option<Sides>> {
        let found = |stat| Found { directory: self.sides.upper.as_fd(), name: &item.name, stat };
        let mut report = |kind, stat| visit(&Change { kind, path, file: Option::map(stat, found) });
        let (Some(lower), Some(upper)) = (&item.lower, &item.upper) else {
            return match &item.upper {
                Some(upper) => {
                    report(Kind::Added, Some(upper))?;
                    self.below(item, false)
                }
                None if item.lower.is_some() => report(Kind::Deleted, None).map(|()| None),
                None => Ok(None),
            };
        };
        let lower_file = self.sides.lower.as_ref().map(|directory| Found {
            directory: directory.as_fd(),
            name: &item.name,
            stat: lower,
        });
        let is_same = lower_file.map_or(Ok(false), |lower| same::file(lower, found(upper)))?;
        let (was_directory, is_directory) = (is_directory(lower), is_directory(upper));
        if !is_same {
            report(Kind::Modified, Some(upper))?;
        } else if !is_directory && upper.st_nlink > 1 {
            report(Kind::Unmodified, Some(upper))?;
        }
        self.below(item, was_directory && is_directory)
    }

    /// Opens the directory that an item is in the upper tree, if it is one, on all sides that matter.
    fn below(&self, item: &Item, in_both: bool) -> Result<Option<Sides>> {
        if !item.upper.as_ref().is_some_and(is_directory) {
            return Ok(None);
        }
        let name = item.name.as_slice();
        let open_in = |side: &Option<OwnedFd>| {
            side.as_ref().map(|directory| open(directory.as_fd(), name)).transpose()
        };
        let sides = || {
            let upper = open(self.sides.upper.as_fd(), name)?;
            let lower = if in_both { open_in(&self.sides.lower)? } else { None };
            let changed = if in_both { open_in(&self.sides.changed)? } else { None };
            Ok(Sides { lower, upper, changed: changed.filter(is_merged) })
        };
        match sides() {
            // It has gone since it was listed.
            Err(Errno::NOENT) => Ok(None),
            sides => sides.map(Some).map_err(from_errno),
        }
    }
}

impl Sides {
    /// The items of the directory, sorted by name.
    fn read(&self) -> Result<Vec<Item>, Errno> {
        let mut items = BTreeMap::<Vec<u8>, (Option<Stat>, Option<Stat>)>::new();
        if let Some(changed) = &self.changed {
            for name in list(changed)? {
                let lower = self.lower.as_ref().map_or(Ok(None), |lower| stat(lower, &name))?;
                let upper = stat(&self.upper, &name)?;
                items.insert(name, (lower, upper));
            }
        } else {
            if let Some(lower) = &self.lower {
                for name in list(lower)? {
                    let stat = stat(lower, &name)?;
                    items.entry(name).or_default().0 = stat;
                }
            }
            for name in list(&self.upper)? {
                let stat = stat(&self.upper, &name)?;
                items.entry(name).or_default().1 = stat;
            }
        }
        let item = |(name, (lower, upper))| Item { name, lower, upper };
        Ok(items.into_iter().map(item).collect())
    }
}

/// Whether a directory of an overlay's layer is laid over the one of the same path beneath, so that it
/// holds all changes to it. One that is opaque, or was renamed, is not.
fn is_merged(directory: &OwnedFd) -> bool {
    xattrs::of(directory.as_fd()).is_ok_and(|xattrs| {
        !xattrs.iter().any(|(key, _)| {
            key.ends_with(b".overlay.opaque") || key.ends_with(b".overlay.redirect")
        })
    })
}

fn is_directory(stat: &Stat) -> bool {
    root::kind(stat) == FileType::Directory
}

fn open(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

fn list(directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn stat(directory: &OwnedFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match root::stat(directory.as_fd(), name) {
        Err(Errno::NOENT) => Ok(None),
        result => result.map(Some),
    }
}
