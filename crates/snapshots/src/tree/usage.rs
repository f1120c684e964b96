// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashSet,
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    path::Path,
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, Stat, fstat, openat, statat},
    io::Errno,
};

use super::{DIRECTORY, at, names, open};
use crate::Usage;

/// What a tree takes on disk, as `du` counts: blocks in use, and a file with several names once.
///
/// The tree may change meanwhile: what is gone when it is looked at is not counted.
pub(crate) fn usage(root: &Path) -> io::Result<Usage> {
    count(open(root)?, None).map_err(|error| at(root, error))
}

/// The same of what is not as it is in `base`, of which the tree began as a clone: inodes keep their
/// numbers in a clone, and their change times until they change.
pub(crate) fn usage_since(root: &Path, base: &Path) -> io::Result<Usage> {
    count(open(root)?, Some(open(base)?)).map_err(|error| at(root, error))
}

/// What one file takes.
pub(crate) fn file_usage(file: &Path) -> io::Result<Usage> {
    let stat = statat(CWD, file, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| at(file, error))?;
    Ok(Usage { size: stat.st_blocks as u64 * 512, inodes: 1 })
}

fn count(root: OwnedFd, base: Option<OwnedFd>) -> rustix::io::Result<Usage> {
    let mut tally = Tally::default();
    let below = base.as_ref().map(fstat).transpose()?;
    tally.add(&fstat(&root)?, below.as_ref());
    tally.walk(Place { directory: Rc::new(root), base: base.map(Rc::new) })?;
    Ok(tally.usage)
}

/// A directory, and the one that it began as if there is one.
struct Place {
    directory: Rc<OwnedFd>,
    base: Option<Rc<OwnedFd>>,
}

#[derive(Default)]
struct Tally {
    usage: Usage,
    /// Files with several names that have been counted, as device and inode.
    seen: HashSet<(u64, u64)>,
}

impl Tally {
    fn add(&mut self, stat: &Stat, base: Option<&Stat>) {
        if base.is_some_and(|base| is_same(stat, base)) {
            return;
        }
        let several = stat.st_nlink > 1 && !is_directory(stat);
        if several && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.size += stat.st_blocks as u64 * 512;
        self.usage.inodes += 1;
    }

    /// Depth first, by what is left to do instead of by recursion.
    fn walk(&mut self, root: Place) -> rustix::io::Result<()> {
        let mut pending: Vec<(Place, CString)> = Vec::new();
        let mut place = root;
        loop {
            for (name, _) in names(&place.directory)? {
                let below = place.base.as_ref().and_then(|base| look(base, &name).ok());
                match look(&place.directory, &name) {
                    Ok(stat) => {
                        self.add(&stat, below.as_ref());
                        if is_directory(&stat) {
                            let Place { directory, base } = &place;
                            let here = Place { directory: directory.clone(), base: base.clone() };
                            pending.push((here, name));
                        }
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            match next(&mut pending)? {
                Some(next) => place = next,
                None => return Ok(()),
            }
        }
    }
}

fn look(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<Stat> {
    statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

fn is_same(stat: &Stat, base: &Stat) -> bool {
    let identity = |it: &Stat| (it.st_ino, it.st_ctime, it.st_ctime_nsec);
    identity(stat) == identity(base)
}

/// The next directory that is still one.
fn next(pending: &mut Vec<(Place, CString)>) -> rustix::io::Result<Option<Place>> {
    while let Some((Place { directory, base }, name)) = pending.pop() {
        let enter = |parent: &OwnedFd| openat(parent, &name, DIRECTORY, Mode::empty());
        match enter(&directory) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            opened => {
                let base = base.and_then(|base| enter(&base).ok());
                return opened.map(|opened| {
                    Some(Place { directory: Rc::new(opened), base: base.map(Rc::new) })
                });
            }
        }
    }
    Ok(None)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    #[test]
    fn blocks_and_inodes_are_counted_and_links_once() {
        let root = tempfile::tempdir().unwrap();
        let empty = usage(root.path()).unwrap();
        assert_eq!(empty.inodes, 1);
        fs::create_dir(root.path().join("d")).unwrap();
        fs::write(root.path().join("d/f"), vec![1; 100_000]).unwrap();
        fs::hard_link(root.path().join("d/f"), root.path().join("link")).unwrap();
        fs::os::unix::fs::symlink("/", root.path().join("root")).unwrap();
        let full = usage(root.path()).unwrap();
        assert_eq!(full.inodes, 4);
        let grown = full.size - empty.size;
        assert!((100_000..200_000).contains(&grown), "{grown}");
    }

    #[test]
    fn holes_take_no_space() {
        let root = tempfile::tempdir().unwrap();
        fs::File::create(root.path().join("f")).unwrap().set_len(1 << 30).unwrap();
        assert!(usage(root.path()).unwrap().size < 1 << 20);
    }

    #[test]
    fn a_missing_tree_is_named() {
        let error = usage(Path::new("/nonexistent/tree")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/nonexistent/tree"));
    }
}
