// SPDX-License-Identifier: Apache-2.0
use std::{collections::HashSet, ffi::CString, io, os::fd::OwnedFd, path::Path, rc::Rc};

use rustix::{
    fs::{AtFlags, FileType, Mode, Stat, fstat, openat, statat},
    io::Errno,
};

use super::{DIRECTORY, at, names, open};
use crate::Usage;

/// What a tree takes on disk, as `du` counts: blocks in use, and a file with several names once.
///
/// The tree may change meanwhile: what is gone when it is looked at is not counted.
pub(crate) fn usage(root: &Path) -> io::Result<Usage> {
    let directory = open(root)?;
    let mut tally = Tally::default();
    let stat = fstat(&directory).map_err(|error| at(root, error))?;
    tally.add(&stat);
    tally.walk(directory).map_err(|error| at(root, error))?;
    Ok(tally.usage)
}

#[derive(Default)]
struct Tally {
    usage: Usage,
    /// Files with several names that have been counted, as device and inode.
    seen: HashSet<(u64, u64)>,
}

impl Tally {
    fn add(&mut self, stat: &Stat) {
        let several = stat.st_nlink > 1 && !is_directory(stat);
        if several && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.size += stat.st_blocks as u64 * 512;
        self.usage.inodes += 1;
    }

    /// Depth first, by what is left to do instead of by recursion.
    fn walk(&mut self, root: OwnedFd) -> rustix::io::Result<()> {
        let mut pending: Vec<(Rc<OwnedFd>, CString)> = Vec::new();
        let mut directory = Rc::new(root);
        loop {
            for (name, _) in names(&directory)? {
                match statat(&*directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => {
                        self.add(&stat);
                        if is_directory(&stat) {
                            pending.push((Rc::clone(&directory), name));
                        }
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(error),
                }
            }
            match next(&mut pending)? {
                Some(next) => directory = Rc::new(next),
                None => return Ok(()),
            }
        }
    }
}

/// The next directory that is still one.
fn next(pending: &mut Vec<(Rc<OwnedFd>, CString)>) -> rustix::io::Result<Option<OwnedFd>> {
    while let Some((parent, name)) = pending.pop() {
        match openat(&*parent, &name, DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            opened => return opened.map(Some),
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
