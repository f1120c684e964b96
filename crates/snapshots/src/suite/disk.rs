// SPDX-License-Identifier: Apache-2.0
//! Filesystems of all sorts, in files, for those who try snapshotters on them.
use std::path::{Path, PathBuf};

use fs_err as fs;
use mount::{Mount, Temporary, UnmountFlags};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// A filesystem in a file, or in memory, mounted until it is dropped.
#[derive(Debug)]
pub struct Disk {
    /// Holds the file and the mount point.
    dir: TempDir,
}

impl Disk {
    /// A new filesystem, made with `mkfs` as arguments and mounted with `options`; none, and a word
    /// about it, where this machine cannot make one.
    pub fn new(kind: &str, mkfs: &[&str], options: &[&str]) -> Option<Self> {
        // In memory: what is synced here does not have to survive anything.
        let disk = Self { dir: TempDir::new().expect("there is a place for temporary files") };
        let memory = mount_of("tmpfs", "tmpfs", &[]);
        mount::one(&memory, disk.dir.path()).expect("memory can be mounted");
        fs::create_dir(disk.path()).expect("it is empty");
        if kind == "tmpfs" {
            return Some(disk);
        }
        let file = disk.dir.path().join("image");
        if !make(kind, mkfs, &file, 1024 * MIB) {
            return None;
        }
        let options = [options, &["loop"]].concat();
        match mount::one(&mount_of(kind, &file.to_string_lossy(), &options), &disk.path()) {
            Ok(()) => Some(disk),
            Err(error) => {
                println!("skipped: this kernel does not mount {kind} {options:?}: {error}");
                None
            }
        }
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        mount::unmount_recursive(self.dir.path(), UnmountFlags::DETACH)
            .expect("what is mounted can be detached");
    }
}

/// An ext4 in a file in `directory`, as a scratch file has to be: nothing is in a snapshot that nobody
/// has written to, not even `lost+found`.
pub fn scratch(directory: &Path, megabytes: u64) -> Option<PathBuf> {
    let file = directory.join("scratch-file");
    let words = ["-E", "lazy_itable_init=0,lazy_journal_init=0", "-O", "^has_journal"];
    if !make("ext4", &words, &file, megabytes * MIB) {
        return None;
    }
    let image = mount_of("ext4", &file.to_string_lossy(), &["loop"]);
    let mounted = Temporary::mount(&[image], directory).expect("a new ext4 can be mounted");
    fs::remove_dir(mounted.path().join("lost+found")).expect("it is empty");
    mounted.close().expect("nobody uses it");
    Some(file)
}

/// Makes a filesystem in a file. Where the program is missing it says so; that it fails is a failure.
fn make(kind: &str, words: &[&str], file: &Path, size: u64) -> bool {
    let made = fs::File::create(file).and_then(|file| file.set_len(size));
    made.expect("there is room for a sparse file");
    let program = format!("mkfs.{kind}");
    match sys::Command::new(&program).arg("-q").args(words).arg(file).combined_output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.exit.success(), "{program}: {said}");
            true
        }
        Err(error) => {
            println!("skipped: {program}: {error}");
            false
        }
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
