// SPDX-License-Identifier: Apache-2.0
//! Looking at trees on disk, and making them.
use std::{
    collections::BTreeMap,
    fmt::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use fs_err as fs;
use types::Digest;

/// What a tree holds: a line for each path, with everything a layer keeps of it. Hard links show by
/// the path of their first name.
pub(super) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                todo.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let name = String::from_utf8_lossy(name).into_owned();
        let first = first_names.entry(meta.ino()).or_insert_with(|| name.clone()).clone();
        lines.insert(name, describe(&path, &meta, &first));
    }
    lines
}

fn describe(path: &Path, meta: &std::fs::Metadata, first: &str) -> String {
    let mut line = format!(
        "{:06o} {}:{} {}.{:09}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    if meta.is_symlink() {
        write!(line, " -> {}", fs::read_link(path).unwrap().display()).unwrap();
    } else if meta.is_file() {
        let content = fs::read(path).unwrap();
        write!(line, " {} {}", content.len(), &Digest::of(content).hex()[..12]).unwrap();
    } else if meta.file_type().is_char_device() || meta.file_type().is_block_device() {
        write!(line, " dev {:x}", meta.rdev()).unwrap();
    }
    if !meta.is_dir() && meta.nlink() > 1 {
        write!(line, " = {first}").unwrap();
    }
    for (key, value) in xattrs(path) {
        write!(line, " {key}={value:?}").unwrap();
    }
    line
}

pub(super) fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = [0; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let mut xattrs = BTreeMap::new();
    for name in names {
        let mut value = [0; 4096];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        xattrs.insert(String::from_utf8_lossy(name).into_owned(), value[..length].to_vec());
    }
    xattrs
}

/// The paths of a tree, sorted.
pub(super) fn paths(root: &Path) -> Vec<String> {
    listing(root).into_keys().collect()
}

pub(super) fn read(root: &Path, name: &str) -> String {
    fs::read_to_string(root.join(name)).unwrap()
}

pub(super) fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub(super) fn make_dir(root: &Path, name: &str) -> std::path::PathBuf {
    let path = root.join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Writes a file whose time is a whole second of long ago, as layers have it.
pub(super) fn write(root: &Path, name: &str, content: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    set_time(&path, 1_600_000_000, 0);
}

pub(super) fn set_time(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}
