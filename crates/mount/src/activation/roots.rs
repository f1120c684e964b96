// SPDX-License-Identifier: Apache-2.0
//! The directories below which a manager makes things on behalf of a caller.
use std::{
    ffi::OsString,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use types::{Error, Kind, Result};

use crate::failure::failed;

/// Directories, none of which a path below can lead out of: not by `..`, not by a link.
#[derive(Clone, Debug)]
pub(super) struct Roots(pub(super) Vec<PathBuf>);

/// A place that may not exist yet: its parent, held open, and its name there.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) parent: OwnedFd,
    pub(super) name: OsString,
}

impl Roots {
    /// The place that an absolute path means. `user` says who asks, for the error.
    ///
    /// Errors: `Unimplemented` outside of all roots, as in Go (`core/mount/manager/transformer.go`).
    pub(super) fn place(&self, path: &str, user: &str) -> Result<Place> {
        let outside = || Error::unimplemented(format!("no root {path:?} configured for {user}"));
        let whole = Path::new(path);
        let holding = self.0.iter().filter(|root| whole.starts_with(root));
        let root = holding.max_by_key(|root| root.as_os_str().len()).ok_or_else(outside)?;
        let below = whole.strip_prefix(root).unwrap_or(whole);
        let Some(Component::Normal(name)) = below.components().next_back() else {
            return Err(outside());
        };
        let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = || {
            let root = openat(CWD, root, flags, Mode::empty())?;
            let parent = parent.unwrap_or(Path::new("."));
            openat2(&root, parent, flags, Mode::empty(), ResolveFlags::BENEATH)
        };
        let parent = open().map_err(|error| failed("open the directory of", whole, error))?;
        Ok(Place { parent, name: name.to_owned() })
    }
}

impl Place {
    /// Where it is, for programs that want a path.
    pub(super) fn path(&self) -> Result<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.parent.as_raw_fd());
        let parent = rustix::fs::readlink(link, Vec::new())
            .map_err(|error| Error::caused(Kind::Unknown, "read link of a directory", error))?;
        let parent = PathBuf::from(parent.to_string_lossy().into_owned());
        Ok(parent.join(&self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use fs_err as fs;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_place_is_below_the_longest_root() {
        let folder = TempDir::new().unwrap();
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let roots = Roots(vec![folder.path().to_owned(), inner.clone()]);
        let place = roots.place(&format!("{}/x", inner.display()), "mkdir").unwrap();
        assert_eq!(place.path().unwrap(), inner.join("x"));
    }

    #[test]
    fn nothing_leads_out_of_a_root() {
        let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        symlink(other.path(), folder.path().join("out")).unwrap();
        let roots = Roots(vec![folder.path().to_owned()]);
        let root = folder.path().display();
        for path in ["/etc/x", &format!("{root}"), &format!("{root}2/x"), &format!("{root}/..")] {
            let error = roots.place(path, "mkdir").unwrap_err();
            assert_eq!(error.kind(), Kind::Unimplemented, "{path}: {error}");
        }
        for path in ["out/x", "../x", "a/../../x"] {
            let error = roots.place(&format!("{root}/{path}"), "mkdir").unwrap_err();
            assert_eq!(error.kind(), Kind::Unknown, "{path}: {error}");
        }
    }
}
