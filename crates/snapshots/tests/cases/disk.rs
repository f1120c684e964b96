// SPDX-License-Identifier: Apache-2.0
//! Filesystems of all sorts, in files.
use std::path::{Path, PathBuf};

use fs_err as fs;
use mount::{Mount, UnmountFlags};
use tempfile::TempDir;

/// A filesystem in a file, or in memory, mounted until it is dropped.
pub(super) struct Disk {
    /// Holds the file and the mount point.
    dir: TempDir,
}

impl Disk {
    /// A new filesystem; none, and a word about it, where this machine cannot make one.
    pub(super) fn new(kind: &str, mkfs: &[&str], options: &[&str]) -> Option<Self> {
        // In memory: what is synced here does not have to survive anything.
        let disk = Self { dir: tempfile::tempdir().unwrap() };
        mount::one(&mount_of("tmpfs", "tmpfs", &[]), disk.dir.path()).unwrap();
        fs::create_dir(disk.path()).unwrap();
        if kind == "tmpfs" {
            return Some(disk);
        }
        let file = disk.dir.path().join("image");
        fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
        let program = format!("mkfs.{kind}");
        let made = sys::Command::new(&program).arg("-q").args(mkfs).arg(&file).combined_output();
        match made {
            Ok(output) if output.exit.success() => {}
            Ok(output) => panic!("{program}: {}", String::from_utf8_lossy(&output.stdout)),
            Err(error) => {
                println!("skipped: {program}: {error}");
                return None;
            }
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
    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("mounted")
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

impl Drop for Disk {
    fn drop(&mut self) {
        mount::unmount_recursive(self.dir.path(), UnmountFlags::DETACH).unwrap();
    }
}

/// An empty ext4 in a file, as a scratch file has to be: without even `lost+found`.
pub(super) fn scratch(directory: &Path, megabytes: u64) -> Option<PathBuf> {
    let file = directory.join("scratch-file");
    fs::File::create(&file).unwrap().set_len(megabytes << 20).unwrap();
    let args = ["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-O", "^has_journal"];
    match sys::Command::new("mkfs.ext4").args(args).arg(&file).combined_output() {
        Ok(output) if output.exit.success() => {}
        other => {
            println!("skipped: mkfs.ext4: {other:?}");
            return None;
        }
    }
    let mounted =
        mount::Temporary::mount(&[mount_of("ext4", &file.to_string_lossy(), &["loop"])], directory)
            .unwrap();
    fs::remove_dir(mounted.path().join("lost+found")).unwrap();
    mounted.close().unwrap();
    Some(file)
}
