// SPDX-License-Identifier: Apache-2.0
use std::{
    ffi::{CStr, CString},
    io,
    os::fd::OwnedFd,
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
};

use super::{DIRECTORY, at, names};

/// How deep directories are descended into. What is deeper is moved up, so that neither the stack
/// nor the number of descriptors grows with what a container made.
const DEPTH: usize = 64;

/// Removes whatever is at `path`, with all below it. That nothing is there is fine.
///
/// It can be cut short at any point and begun again. A mount below is `EBUSY`.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    remove_at(path).map_err(|error| at(path, error))
}

/// Removes all that is in the directory `path`, which stays.
pub(crate) fn empty(path: &Path) -> io::Result<()> {
    let emptied = || {
        let root = openat(CWD, path, DIRECTORY, Mode::empty())?;
        let mut removal = Removal { root: &root, moved: 0 };
        while removal.empty(&root, 0)? {}
        Ok(())
    };
    emptied().map_err(|error| at(path, error))
}

fn remove_at(path: &Path) -> rustix::io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says the first of a directory, POSIX the second.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    let root = openat(CWD, path, DIRECTORY, Mode::empty())?;
    // What is too deep arrives here while this goes on.
    let mut removal = Removal { root: &root, moved: 0 };
    while removal.empty(&root, 0)? {}
    unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

struct Removal<'a> {
    root: &'a OwnedFd,
    moved: u64,
}

impl Removal<'_> {
    /// Removes all that is in `directory`; answers whether there was anything.
    fn empty(&mut self, directory: &OwnedFd, depth: usize) -> rustix::io::Result<bool> {
        let names = names(directory)?;
        for (name, _) in &names {
            self.remove(directory, name, depth)?;
        }
        Ok(!names.is_empty())
    }

    fn remove(&mut self, parent: &OwnedFd, name: &CStr, depth: usize) -> rustix::io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) if depth < DEPTH => {
                let directory = openat(parent, name, DIRECTORY, Mode::empty())?;
                while self.empty(&directory, depth + 1)? {}
                unlinkat(parent, name, AtFlags::REMOVEDIR)
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => self.move_up(parent, name),
            Err(Errno::NOENT) => Ok(()),
            removed => removed,
        }
    }

    fn move_up(&mut self, parent: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
        loop {
            self.moved += 1;
            let higher =
                CString::new(format!(".deep-{}", self.moved)).expect("digits contain no zero byte");
            match renameat_with(parent, name, self.root, &higher, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                moved => return moved,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use fs_err as fs;
    use rustix::fs::mkdirat;

    use super::*;

    #[test]
    fn a_tree_is_removed_and_what_it_points_at_is_not() {
        let root = tempfile::tempdir().unwrap();
        let (tree, other) = (root.path().join("tree"), root.path().join("other"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("precious"), "").unwrap();
        fs::os::unix::fs::symlink(&other, tree.join("a/link")).unwrap();
        fs::hard_link(other.join("precious"), tree.join("a/b/file")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists());
        assert!(other.join("precious").exists());
        remove(&tree).unwrap();
    }

    #[test]
    fn a_file_is_removed_too() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("f"), "").unwrap();
        remove(&root.path().join("f")).unwrap();
        assert!(!root.path().join("f").exists());
    }

    /// A recursive removal overflows its stack on this, and takes the daemon with it.
    #[test]
    fn depth_does_no_harm() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut directory = openat(CWD, &tree, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..2000 {
            mkdirat(&directory, "d", Mode::RWXU).unwrap();
            mkdirat(&directory, ".deep-1", Mode::RWXU).unwrap();
            directory = openat(&directory, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(super::super::usage(&tree).unwrap().inodes, 4001);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }
}
