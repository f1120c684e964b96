// SPDX-License-Identifier: Apache-2.0
//! Random changes to a tree, and what a layer has to keep of one.
use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, UTIME_OMIT, XattrFlags, lremovexattr,
    lsetxattr, mknodat, utimensat,
};
use types::Digest;

/// Numbers that look random and follow from a seed (`splitmix64`).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn index(&mut self, limit: usize) -> usize {
        self.below(limit as u64) as usize
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }

    /// Few names, so that changes meet; some that need more than a plain header.
    fn path(&mut self) -> String {
        let long = "long".repeat(40);
        let names = ["a", "b", "c.d", "é", " \n", long.as_str()];
        let depth = 1 + self.below(3);
        let parts: Vec<_> = (0..depth).map(|_| self.of(&names[..])).collect();
        parts.join("/")
    }

    fn content(&mut self) -> Content {
        let length = self.of(&[0, 1, 511, 512, 513, 4096, 70_000]);
        Content { length, seed: self.next() as u8 }
    }
}

/// Bytes that need not be shown to be known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Content {
    length: usize,
    seed: u8,
}

impl Content {
    fn bytes(self) -> Vec<u8> {
        (0..self.length).map(|at| (at as u8).wrapping_mul(31) ^ self.seed).collect()
    }
}

/// One thing that a program may do to a tree. What does not fit the tree does nothing.
#[derive(Debug)]
pub(crate) enum Change {
    Write(String, Content),
    /// A file with nothing between its start and its end.
    Sparse(String, u64),
    Append(String, Content),
    Directory(String),
    Symlink(String, &'static str),
    Special(String, FileType, (u32, u32)),
    Link(String, String),
    Remove(String),
    /// Also of directories, where the filesystem can.
    Rename(String, String),
    Mode(String, u32),
    Owner(String, u32, u32),
    Attribute(String, Content),
    Capability(String),
    WithoutAttribute(String),
    Time(String, i64),
}

/// `CAP_NET_RAW`, permitted and effective (`linux/capability.h`, `vfs_cap_data`, version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

impl Change {
    pub(crate) fn random(chance: &mut Chance) -> Self {
        let path = chance.path();
        match chance.below(24) {
            0..=3 => Self::Write(path, chance.content()),
            4 => Self::Sparse(path, 1 + chance.below(300_000)),
            5 => Self::Append(path, chance.content()),
            6..=9 => Self::Directory(path),
            10 => Self::Symlink(path, chance.of(&["../a", "/b", "nowhere"])),
            11 => Self::Special(path, FileType::Fifo, (0, 0)),
            12 => Self::Special(path, FileType::CharacterDevice, (1, 3)),
            13 => Self::Special(path, FileType::BlockDevice, (7, 300)),
            14 => Self::Link(path, chance.path()),
            15 | 16 => Self::Remove(path),
            17 => Self::Rename(path, chance.path()),
            18 => Self::Mode(path, chance.below(0o10000) as u32),
            19 => Self::Owner(path, chance.below(3) as u32, chance.below(70_000) as u32),
            20 => {
                Self::Attribute(path, Content { length: 1 + chance.below(600) as usize, seed: 7 })
            }
            21 => Self::Capability(path),
            22 => Self::WithoutAttribute(path),
            _ => Self::Time(path, chance.below(4) as i64 * 1_000_000_000),
        }
    }

    /// Does it, and answers whether it could be done.
    pub(crate) fn make(&self, root: &Path) -> bool {
        self.attempt(root).is_ok()
    }

    fn attempt(&self, root: &Path) -> io::Result<()> {
        let at = |path: &str| inside(root, path);
        let attribute = |path: &str, name: &str, value: &[u8]| {
            let path = at(path)?;
            Ok(lsetxattr(&path, name, value, XattrFlags::empty())?)
        };
        match self {
            Self::Write(path, content) => fs::write(no_link(at(path)?)?, content.bytes()),
            Self::Sparse(path, length) => fs::File::create(no_link(at(path)?)?)?.set_len(*length),
            Self::Append(path, content) => {
                let file = fs::OpenOptions::new().append(true).open(no_link(at(path)?)?)?;
                io::Write::write_all(&mut { file }, &content.bytes())
            }
            Self::Directory(path) => fs::create_dir(at(path)?),
            Self::Symlink(path, target) => symlink(target, at(path)?),
            Self::Special(path, kind, (major, minor)) => {
                let device = rustix::fs::makedev(*major, *minor);
                Ok(mknodat(CWD, at(path)?, *kind, Mode::from_raw_mode(0o640), device)?)
            }
            Self::Link(from, to) => fs::hard_link(at(from)?, at(to)?),
            Self::Remove(path) => {
                let path = at(path)?;
                fs::remove_file(&path).or_else(|_not_a_file| fs::remove_dir_all(&path))
            }
            Self::Rename(from, to) => fs::rename(at(from)?, at(to)?),
            Self::Mode(path, mode) => {
                fs::set_permissions(no_link(at(path)?)?, PermissionsExt::from_mode(*mode))
            }
            Self::Owner(path, uid, gid) => lchown(at(path)?, Some(*uid), Some(*gid)),
            Self::Attribute(path, value) => attribute(path, "user.x", &value.bytes()),
            Self::Capability(path) => {
                let is_file = fs::symlink_metadata(at(path)?)?.is_file();
                if is_file { attribute(path, "security.capability", &CAPABILITY) } else { Ok(()) }
            }
            Self::WithoutAttribute(path) => Ok(lremovexattr(&at(path)?, "user.x")?),
            Self::Time(path, seconds) => {
                let modified = Timespec { tv_sec: *seconds, tv_nsec: 0 };
                let accessed = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
                let times = Timestamps { last_access: accessed, last_modification: modified };
                Ok(utimensat(CWD, at(path)?, &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
        }
    }
}

/// Cuts the times of files to seconds, as layers do: of what nobody has written to they are.
pub(crate) fn cut_times(root: &Path) {
    let mut paths = Vec::new();
    add(root, "", &mut paths);
    for path in paths {
        let it = fs::symlink_metadata(root.join(&path)).unwrap();
        if !it.is_dir() && it.mtime_nsec() != 0 {
            assert!(Change::Time(path, it.mtime()).make(root));
        }
    }
}

/// A path below a root, through directories only: links may lead anywhere.
fn inside(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut at = root.to_owned();
    for part in path.split('/') {
        if !fs::symlink_metadata(&at)?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        at.push(part);
    }
    Ok(at)
}

/// What is neither followed nor waited for, nor is a device of this machine: a file, a directory, or
/// nothing at all.
fn no_link(path: PathBuf) -> io::Result<PathBuf> {
    match fs::symlink_metadata(&path) {
        Ok(it) if !it.is_file() && !it.is_dir() => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(path),
    }
}

/// Everything below a directory that a layer has to preserve, a line for each path.
///
/// Layers keep whole seconds of the times of files, and those of directories only where they tell of
/// the directory for another reason. Names of one file are told by the first of them.
pub(crate) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    add(root, "", &mut paths);
    paths.sort();
    let mut first_names = BTreeMap::new();
    let line = |path: String| {
        let full = root.join(&path);
        let it = fs::symlink_metadata(&full).unwrap();
        let first = first_names.entry((it.dev(), it.ino())).or_insert_with(|| path.clone());
        let line = describe(&full, &it, if it.is_dir() { "" } else { first });
        (path, line)
    };
    paths.into_iter().map(line).collect()
}

fn add(root: &Path, path: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let below = if path.is_empty() { name } else { format!("{path}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            add(root, &below, paths);
        }
        paths.push(below);
    }
}

fn describe(path: &Path, it: &std::fs::Metadata, first: &str) -> String {
    let time = if it.is_dir() { 0 } else { it.mtime() };
    let content = if it.is_symlink() {
        fs::read_link(path).unwrap().display().to_string()
    } else if it.is_file() {
        format!("{} {}", it.len(), &Digest::of(fs::read(path).unwrap()).hex()[..12])
    } else {
        it.rdev().to_string()
    };
    let content = if it.is_dir() { String::new() } else { content };
    let attributes = ["user.x", "security.capability"].map(|name| attribute(path, name));
    let (mode, uid, gid) = (it.mode(), it.uid(), it.gid());
    format!("{mode:06o} {uid}:{gid} {time} {content} = {first:?} {attributes:?}")
}

fn attribute(path: &Path, name: &str) -> Option<String> {
    let mut value = [0; 1024];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(format!("{length} {}", &Digest::of(&value[..length]).hex()[..8]))
}
