// SPDX-License-Identifier: Apache-2.0
//! How much a writable snapshot may take.
//!
//! The label [`MAX_SIZE_LABEL`] says it. A snapshotter of directories makes each snapshot that has it
//! a project of its own, where the filesystem counts projects:
//!
//! ```text
//! snapshots/<id>/        project 0x20000000 + id, which everything made below inherits
//!            |-- fs/     (so that overlayfs can move between the two)
//!            `-- work/
//! ```
//!
//! The directory itself remembers its project, so there is nothing else to keep, and removing the
//! snapshot frees the project.
use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, open};
use sys::project_quota::{self, Quota};
use types::{Context, Error, Labels, Result};

use crate::Usage;

/// What a writable snapshot may take, in bytes (containerd `core/snapshots/snapshotter.go`,
/// `LabelSnapshotMaxSize`). Whoever cannot keep it may ignore it.
pub const MAX_SIZE_LABEL: &str = "containerd.io/snapshot/max-size";

/// Where our projects begin: people and other programs count from 1.
const FIRST: u32 = 0x2000_0000;
const COUNT: u32 = 0x1000_0000;
/// How many projects are tried until one is free.
const ATTEMPTS: u32 = 1000;

/// What the labels say that a snapshot may take. What is no size is told and not kept, as in
/// containerd (`plugins/snapshots/erofs/erofs.go`, `writableSize`).
pub(crate) fn max_size(labels: &Labels) -> Option<u64> {
    let text = labels.get(MAX_SIZE_LABEL)?;
    match text.parse::<i64>() {
        Ok(size) if size > 0 => Some(size as u64),
        _ => {
            tracing::warn!(label = MAX_SIZE_LABEL, value = text, "invalid max-size label, ignored");
            None
        }
    }
}

/// The projects of the filesystem that a directory is on, if it counts any.
#[derive(Debug)]
pub(crate) struct Projects {
    root: PathBuf,
    counted: bool,
}

impl Projects {
    /// Finds out whether the filesystem of `root` counts projects.
    pub(crate) fn of(root: &Path) -> Self {
        let counted = directory(root).is_ok_and(|root| project_quota::get(&root, FIRST).is_ok());
        Self { root: root.to_owned(), counted }
    }

    /// Makes an empty directory a project of its own and limits it, if the labels ask for that.
    ///
    /// Where nothing is counted this is ignored, and said in the log.
    pub(crate) fn limit(&self, path: &Path, labels: &Labels) -> Result<()> {
        let Some(size) = max_size(labels) else { return Ok(()) };
        if !self.counted {
            tracing::warn!(
                label = MAX_SIZE_LABEL,
                root = %self.root.display(),
                "the filesystem has no project quotas: the size of the snapshot is not limited"
            );
            return Ok(());
        }
        let limited = || {
            let directory = directory(path)?;
            let project = match ours(&directory)? {
                Some(project) => project,
                None => free(&directory, start(path))?,
            };
            // The limit first: what has a limit is nobody else's any more.
            project_quota::limit(&directory, project, size)?;
            project_quota::assign(&directory, project)
        };
        let context = || format!("failed to limit {} to {size} bytes", path.display());
        limited().map_err(Error::from).context(context)
    }

    /// What a directory takes, if it is a project: without looking into it.
    pub(crate) fn usage(&self, path: &Path) -> Option<Usage> {
        if !self.counted {
            return None;
        }
        let directory = directory(path).ok()?;
        let project = ours(&directory).ok()??;
        let Quota { size, inodes, .. } = project_quota::get(&directory, project).ok()?;
        Some(Usage { size, inodes })
    }

    /// Frees the project of a directory that is about to be removed.
    pub(crate) fn release(&self, path: &Path) {
        if !self.counted {
            return;
        }
        let released = || match directory(path) {
            Ok(directory) => match ours(&directory)? {
                Some(project) => project_quota::limit(&directory, project, 0),
                None => Ok(()),
            },
            // Not there, or no directory: so it has no project of ours.
            Err(_absent) => Ok(()),
        };
        if let Err(error) = released() {
            tracing::warn!(%error, path = %path.display(), "failed to free the project of a snapshot");
        }
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// The project of a directory, if we gave it one.
fn ours(directory: &OwnedFd) -> io::Result<Option<u32>> {
    let project = project_quota::project(directory)?;
    Ok((FIRST..FIRST + COUNT).contains(&project).then_some(project))
}

/// Where the search for a free project begins: numbers of snapshots are never used again.
fn start(path: &Path) -> u32 {
    let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    (id.unwrap_or(0_u64) % u64::from(COUNT)) as u32
}

/// A project that has nothing and no limit. Another daemon may have its snapshots on this filesystem
/// too.
fn free(directory: &OwnedFd, start: u32) -> io::Result<u32> {
    for step in 0..ATTEMPTS {
        let project = FIRST + (start + step) % COUNT;
        if project_quota::get(directory, project)? == Quota::default() {
            return Ok(project);
        }
    }
    Err(io::Error::other(format!("{ATTEMPTS} projects in a row are in use")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, want: Option<u64>) {
        let labels = Labels::from([(MAX_SIZE_LABEL.to_owned(), value.to_owned())]);
        assert_eq!(max_size(&labels), want, "{value}");
    }

    #[test]
    fn a_size_is_a_number_of_bytes() {
        check("1073741824", Some(1 << 30));
        check("0", None);
        check("-1", None);
        check("10GiB", None);
        assert_eq!(max_size(&Labels::new()), None);
    }

    #[test]
    fn projects_begin_at_the_number_of_the_snapshot() {
        assert_eq!(start(Path::new("/s/snapshots/17")), 17);
        assert_eq!(start(Path::new("/s/snapshots/x")), 0);
        assert_eq!(start(Path::new(&format!("/s/{}", u64::from(COUNT) + 3))), 3);
    }

    /// The filesystem of tests has no quotas, mostly; `/proc` never has.
    #[test]
    fn where_nothing_is_counted_there_is_no_limit() {
        let projects = Projects::of(Path::new("/proc"));
        assert!(!projects.counted);
        let labels = Labels::from([(MAX_SIZE_LABEL.to_owned(), "4096".to_owned())]);
        projects.limit(Path::new("/proc/self"), &labels).unwrap();
        assert_eq!(projects.usage(Path::new("/proc/self")), None);
        projects.release(Path::new("/proc/self"));
    }
}
