// SPDX-License-Identifier: Apache-2.0
//! Filesystems of all sorts, in files.
use std::path::{Path, PathBuf};
use std::process::Command;

use ::mount::{Mount, Temporary, UnmountFlags};
use fs_err as fs;
use tempfile::TempDir;

/// A filesystem in a file, mounted until it is dropped.
pub(crate) struct Disk {
    /// Holds the file and the mount point.
    dir: TempDir,
}

impl Disk {
    /// A new filesystem; none, and a word about it, where this machine cannot make one.
    pub(crate) fn new(kind: &str) -> Option<Self> {
        // In memory: what is synced here does not have to survive anything.
        let disk = Self { dir: TempDir::new().unwrap() };
        ::mount::one(&mount_of("tmpfs", "tmpfs", &[]), disk.dir.path()).unwrap();
        fs::create_dir(disk.path()).unwrap();
        let file = disk.dir.path().join("image");
        if !make(kind, &[], &file, 1 << 30) {
            return None;
        }
        match ::mount::one(&mount_of(kind, &file.to_string_lossy(), &["loop"]), &disk.path()) {
            Ok(()) => Some(disk),
            Err(error) => {
                println!("skipped: {kind} cannot be mounted here: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        ::mount::unmount_recursive(self.dir.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn mount_of(kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.into(),
        target: String::new(),
        options: options.iter().map(|&option| option.into()).collect(),
    }
}

/// Makes a filesystem in a file; says why where that cannot be.
fn make(kind: &str, words: &[&str], file: &Path, size: u64) -> bool {
    fs::File::create(file).unwrap().set_len(size).unwrap();
    let program = format!("mkfs.{kind}");
    let made = Command::new(&program).arg("-q").args(words).arg(file).output();
    let is_made = made.as_ref().is_ok_and(|output| output.status.success());
    if !is_made {
        println!("skipped: {program}: {made:?}");
    }
    is_made
}

/// An ext4 in a file in `directory`, as a scratch file has to be: nothing is in a snapshot that nobody
/// has written to, not even `lost+found`.
pub(crate) fn scratch(directory: &Path, megabytes: u64) -> Option<PathBuf> {
    let file = directory.join("scratch-file");
    let words = ["-E", "lazy_itable_init=0,lazy_journal_init=0", "-O", "^has_journal"];
    if !make("ext4", &words, &file, megabytes << 20) {
        return None;
    }
    let image = mount_of("ext4", &file.to_string_lossy(), &["loop"]);
    let mounted = Temporary::mount(&[image], directory).unwrap();
    fs::remove_dir(mounted.path().join("lost+found")).unwrap();
    mounted.close().unwrap();
    Some(file)
}
