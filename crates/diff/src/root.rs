// SPDX-License-Identifier: Apache-2.0
//! A directory that nothing reached through it can leave.
//!
//! The kernel resolves paths for us, with `openat2(2)` and the root taken for `/`: `..` stops there,
//! and absolute symbolic links start there. Where it cannot (before Linux 5.6, or under an old
//! seccomp profile), and where directories have to be made on the way, [`Root::walk`] does the same one
//! part at a time, by descriptors that do not follow links.
use std::{
    collections::VecDeque,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
};
use types::{Context, Error, Result};

use crate::names;

/// Compat: how many symbolic links one path may lead through (continuity `fs/path.go`).
const MAX_LINKS: usize = 255;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const ITSELF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory, the top of everything that is reached through it.
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// What is called for a part that is missing: with the directory that it should be in, its name, and
/// its path.
pub(crate) type Missing<'a> = &'a mut dyn FnMut(BorrowedFd<'_>, &[u8], &[u8]) -> Result<()>;

/// What tells a directory from every other: device and inode.
pub(crate) type Id = (u64, u64);

pub(crate) fn id(stat: &Stat) -> Id {
    (stat.st_dev, stat.st_ino)
}

pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl Root {
    /// Opens a directory as a root.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .context(|| format!("failed to open {}", path.display()))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the directory at a clean path, through whatever symbolic links are on the way.
    ///
    /// It is good for reaching what is in it; reading it needs another open.
    pub(crate) fn directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.fd, dot(path), DIRECTORY, Mode::empty(), resolve)
    }

    /// Opens what is at a clean path none of whose parts is a symbolic link, such as one that a walk
    /// has found: should a link have taken its place meanwhile, this fails.
    pub(crate) fn exact(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (parent, name) = names::split(path);
        let how = resolve | ResolveFlags::NO_SYMLINKS;
        match rustix::fs::openat2(&self.fd, dot(parent), DIRECTORY, Mode::empty(), how) {
            Ok(parent) => rustix::fs::openat(parent, dot(name), flags, Mode::empty()),
            Err(Errno::NOSYS | Errno::PERM) => {
                let parent = self.step_by_step(parent)?;
                rustix::fs::openat(parent, dot(name), flags, Mode::empty())
            }
            Err(error) => Err(error),
        }
    }

    fn step_by_step(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let mut fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        for part in path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            fd = rustix::fs::openat(fd, part, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        }
        Ok(fd)
    }

    /// Opens the directory at a clean path like [`Root::directory`], and calls `missing` for each part
    /// that does not exist, with where it should be, its name, and its path without any links.
    /// Unless that makes the directory, the walk ends with `ENOENT`.
    pub(crate) fn walk(&self, path: &[u8], missing: Missing<'_>) -> Result<OwnedFd> {
        let mut walk = Walk { root: self, trail: Vec::new(), todo: VecDeque::new(), links: 0 };
        walk.push_front(path);
        while let Some(part) = walk.todo.pop_front() {
            walk.step(part, missing).context(|| format!("lookup {}", names::show(path)))?;
        }
        match walk.trail.pop() {
            Some((fd, _)) => Ok(fd),
            None => rustix::io::fcntl_dupfd_cloexec(&self.fd, 0).map_err(from_errno),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A walk under way: the directories it went through, and the parts still to go.
struct Walk<'a> {
    root: &'a Root,
    trail: Vec<(OwnedFd, Vec<u8>)>,
    todo: VecDeque<Vec<u8>>,
    links: usize,
}

impl Walk<'_> {
    fn step(&mut self, part: Vec<u8>, missing: Missing<'_>) -> Result<()> {
        if part == b".." {
            // The way back is the way it came: a directory that is moved meanwhile changes nothing.
            self.trail.pop();
            return Ok(());
        }
        let here = self.trail.last().map_or(self.root.as_fd(), |(fd, _)| fd.as_fd());
        let fd = match rustix::fs::openat(here, part.as_slice(), ITSELF, Mode::empty()) {
            Err(Errno::NOENT) => {
                missing(here, &part, &self.path_of(&part))?;
                rustix::fs::openat(here, part.as_slice(), ITSELF, Mode::empty())
            }
            result => result,
        }
        .map_err(from_errno)?;
        match kind(&rustix::fs::fstat(&fd).map_err(from_errno)?) {
            FileType::Directory => self.trail.push((fd, part)),
            FileType::Symlink => self.follow(&fd)?,
            _ => {
                let text = format!("{}: not a directory", names::show(&self.path_of(&part)));
                return Err(Error::said(types::Kind::InvalidArgument, text));
            }
        }
        Ok(())
    }

    fn follow(&mut self, link: &OwnedFd) -> Result<()> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Error::said(types::Kind::InvalidArgument, "too many links"));
        }
        let target = rustix::fs::readlinkat(link, c"", Vec::new()).map_err(from_errno)?;
        if target.as_bytes().starts_with(b"/") {
            self.trail.clear();
        }
        self.push_front(target.as_bytes());
        Ok(())
    }

    fn push_front(&mut self, path: &[u8]) {
        let parts = path.split(|&byte| byte == b'/').rev();
        for part in parts.filter(|part| !matches!(*part, b"" | b".")) {
            self.todo.push_front(part.to_vec());
        }
    }

    fn path_of(&self, part: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for (_, name) in &self.trail {
            path = names::join(&path, name);
        }
        names::join(&path, part)
    }
}

/// The empty path is the directory itself.
fn dot(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}

pub(crate) fn from_errno(errno: Errno) -> Error {
    Error::from(std::io::Error::from(errno))
}

/// A path by which calls that take no descriptor reach `name` in an open directory, without
/// following a link in its place if they do not follow links at all.
pub(crate) fn through(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat()
}

/// A path by which calls that follow links reach just what is open, be it a link itself.
pub(crate) fn itself(fd: BorrowedFd<'_>) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes()
}

/// Looks at `name` in an open directory, not through it.
pub(crate) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, dot(name), AtFlags::SYMLINK_NOFOLLOW)
}

#[cfg(test)]
mod tests {
    use fs_err::os::unix::fs::symlink;

    use super::*;

    fn refuse(_: BorrowedFd<'_>, _: &[u8], _: &[u8]) -> Result<()> {
        Err(Error::not_found("part"))
    }

    fn id_of(fd: &OwnedFd) -> Id {
        id(&rustix::fs::fstat(fd).unwrap())
    }

    /// The kernel's way and ours have to agree on every path.
    #[test]
    fn no_path_leaves_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("root");
        fs_err::create_dir_all(top.join("a/b")).unwrap();
        fs_err::create_dir_all(dir.path().join("etc")).unwrap();
        fs_err::create_dir_all(top.join("etc")).unwrap();
        for (target, link) in
            [("/etc", "abs"), ("../../../etc", "up"), ("b/..", "a/here"), ("loop", "loop")]
        {
            symlink(target, top.join(link)).unwrap();
        }
        let root = Root::open(&top).unwrap();
        let inside = id(&stat(root.as_fd(), b"etc").unwrap());
        let a = id(&stat(root.as_fd(), b"a").unwrap());
        let cases = [(&b"abs"[..], inside), (b"up", inside), (b"etc", inside), (b"a/here", a)];
        for (path, want) in cases {
            assert_eq!(id_of(&root.directory(path).unwrap()), want);
            assert_eq!(id_of(&root.walk(path, &mut refuse).unwrap()), want);
        }
        assert!(root.directory(b"loop").is_err());
        let error = root.walk(b"loop", &mut refuse).unwrap_err();
        assert_eq!(error.to_string(), "lookup loop: too many links");
        assert!(root.exact(b"abs", OFlags::PATH | OFlags::DIRECTORY).is_err());
        assert!(root.exact(b"a/here/b", OFlags::PATH).is_err());
        assert!(root.exact(b"a/b", OFlags::PATH).is_ok());
        assert_eq!(id_of(&root.step_by_step(b"a").unwrap()), a);
        assert!(root.step_by_step(b"a/here").is_err());
    }
}
