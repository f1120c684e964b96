// SPDX-License-Identifier: Apache-2.0
//! What the demo could leave behind, and the proof that it did not.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use e2e::{Failure, Outcome};

/// Where shims, `ctr` and runc put things outside of any root or state: sockets, fifos, records.
const RUN: [&str; 4] =
    ["/run/containerd", "/run/containerd/s", "/run/containerd/fifo", "/run/containerd/runc"];

/// What was there before.
pub(super) struct Surroundings {
    entries: BTreeSet<PathBuf>,
}

impl Surroundings {
    pub(super) fn look() -> Self {
        Self { entries: entries() }
    }

    /// Removes the empty directories that were made on the way, and fails if anything else is left:
    /// a process, a mount, a cgroup, a file.
    pub(super) fn assert_unchanged(&self) -> Outcome {
        let mut made: Vec<PathBuf> = entries().difference(&self.entries).cloned().collect();
        made.reverse();
        for path in &made {
            // Only an empty directory goes.
            drop(fs_err::remove_dir(path));
        }
        let mut left = e2e::traces();
        let files = made.iter().filter(|path| path.exists() && !listening(path));
        left.extend(files.map(|path| format!("file {}", path.display())));
        if left.is_empty() {
            println!("\nno process, mount, cgroup or file of the demo is left");
            return Ok(());
        }
        Err(Failure::new(format!("left behind:\n  {}", left.join("\n  "))))
    }
}

/// Everything in those places, parents before children.
fn entries() -> BTreeSet<PathBuf> {
    let dirs = RUN.map(PathBuf::from).into_iter().filter(|dir| dir.exists());
    let mut found: BTreeSet<PathBuf> = dirs.collect();
    for dir in RUN.iter().skip(1) {
        let Ok(inside) = fs_err::read_dir(dir) else { continue };
        found.extend(inside.filter_map(Result::ok).map(|entry| entry.path()));
    }
    found
}

/// Whether somebody listens on a socket: then it belongs to a containerd beside ours.
fn listening(path: &Path) -> bool {
    let table = fs_err::read_to_string("/proc/net/unix").unwrap_or_default();
    table.lines().any(|line| line.ends_with(&format!(" {}", path.display())))
}
