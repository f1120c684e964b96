// SPDX-License-Identifier: Apache-2.0
//! What is in a directory, to be compared.
use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path};

use fs_err as fs;

/// Everything below a directory that a layer has to preserve, by path: mode, owner, device, number of
/// names, and content or target.
pub(super) fn listing(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    add(root, "", &mut found);
    found
}

fn add(root: &Path, path: &str, found: &mut BTreeMap<String, String>) {
    let full = root.join(path);
    let it = fs::symlink_metadata(&full).expect("it is there");
    let content = if it.is_file() {
        String::from_utf8_lossy(&fs::read(&full).expect("it is read")).into_owned()
    } else if it.is_symlink() {
        fs::read_link(&full).expect("it is read").to_string_lossy().into_owned()
    } else {
        String::new()
    };
    let links = if it.is_file() { it.nlink() } else { 0 };
    let (mode, uid, gid) = (it.mode(), it.uid(), it.gid());
    found.insert(path.to_owned(), format!("{mode:o} {uid}:{gid} {} {links} {content}", it.rdev()));
    if !it.is_dir() {
        return;
    }
    for entry in fs::read_dir(&full).expect("it is listed") {
        let name = entry.expect("it is listed").file_name().to_string_lossy().into_owned();
        let below = if path.is_empty() { name } else { format!("{path}/{name}") };
        add(root, &below, found);
    }
}

/// Writes a file and its parent directories.
pub(super) fn write(root: &Path, path: &str, content: &str) {
    let full = root.join(path);
    fs::create_dir_all(full.parent().expect("a file has a parent")).expect("it is made");
    fs::write(full, content).expect("it is written");
}

/// Removes a directory and what is in it.
pub(super) fn remove(root: &Path, path: &str) {
    fs::remove_dir_all(root.join(path)).expect("it is removed");
}
