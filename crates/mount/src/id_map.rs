// SPDX-License-Identifier: Apache-2.0
//! Id-mapped mounts: files keep their owners on disk and are seen with others.
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use fs_err as fs;
use rustix::{
    fs::CWD,
    mount::{
        MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount,
        open_tree,
    },
};
use sys::{
    mount_attr::{self, Change},
    user_namespace::{self, IdRange},
};
use types::{Error, Kind, Result};

use crate::{failure::failed, options::Options};

/// Replaces a mount by itself with owners shifted.
pub(crate) fn remap(target: &Path, uids: &str, gids: &str, options: &Options) -> Result<()> {
    let recursive = options.flags.contains(MountFlags::BIND | MountFlags::REC);
    let shifted = shifted_copy(target, uids, gids, recursive, None)?;
    rustix::mount::unmount(target, UnmountFlags::DETACH)
        .map_err(|error| failed("unmount", target, error))?;
    attach(&shifted, target)
}

/// A read-only copy of a directory tree with owners shifted, mounted in a temporary place. It goes
/// away when dropped.
#[derive(Debug)]
pub(crate) struct ShiftedTree {
    dir: PathBuf,
    mounted: bool,
}

impl ShiftedTree {
    pub(crate) fn mount(source: &Path, uids: &str, gids: &str) -> Result<Self> {
        let read_only = Some(MountAttrFlags::MOUNT_ATTR_RDONLY);
        let shifted = shifted_copy(source, uids, gids, false, read_only)?;
        let dir = tempfile::Builder::new().prefix("ovl-idmapped").tempdir()?.keep();
        let mut tree = Self { dir, mounted: false };
        attach(&shifted, &tree.dir)?;
        tree.mounted = true;
        Ok(tree)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for ShiftedTree {
    /// Never removes more than an empty directory: below a mount would be the real layers.
    fn drop(&mut self) {
        if self.mounted {
            _ = rustix::mount::unmount(&self.dir, UnmountFlags::DETACH);
        }
        drop(fs::remove_dir(&self.dir));
    }
}

fn shifted_copy(
    source: &Path,
    uids: &str,
    gids: &str,
    recursive: bool,
    set: Option<MountAttrFlags>,
) -> Result<OwnedFd> {
    let namespace = user_namespace::open(&parse(uids)?, &parse(gids)?).map_err(|error| {
        Error::said(
            Kind::Unknown,
            format!("failed to open a user namespace: {}", sys::errno::text(&error)),
        )
    })?;
    let depth = if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | depth;
    let tree =
        open_tree(CWD, source, flags).map_err(|error| failed("open tree for", source, error))?;
    let change = Change { set, clear: None, id_map: Some(namespace.as_fd()), recursive };
    mount_attr::change(&tree, &change)
        .map_err(|error| failed("shift GID/UID for", source, error))?;
    Ok(tree)
}

fn attach(tree: &OwnedFd, target: &Path) -> Result<()> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| failed("attach mount tree to", target, error))
}

/// Who an id inside is outside, by ranges `container:host:size,...`; `None` if no range has it.
///
/// Errors: `InvalidArgument` where the text is no ranges.
pub fn host_id(ranges: &str, id: u32) -> Result<Option<u32>> {
    let has = |range: &IdRange| id.checked_sub(range.container).filter(|&at| at < range.size);
    let ranges = parse(ranges)?;
    Ok(ranges.iter().find_map(|range| has(range).and_then(|at| range.host.checked_add(at))))
}

/// Reads `container:host:size[,...]`.
fn parse(ranges: &str) -> Result<Vec<IdRange>> {
    ranges.split(',').map(parse_range).collect()
}

fn parse_range(range: &str) -> Result<IdRange> {
    let parts: Vec<_> = range.split(':').collect();
    let [container, host, size] = parts[..] else {
        let message = "user namespace mappings require the format `container-id:host-id:size`";
        return Err(Error::said(Kind::InvalidArgument, message));
    };
    let number = |what: &str, text: &str| {
        let message = || format!("invalid {what} for user namespace remapping, {text:?}");
        text.parse::<u32>().map_err(|error| Error::caused(Kind::InvalidArgument, message(), error))
    };
    Ok(IdRange {
        container: number("container id", container)?,
        host: number("host id", host)?,
        size: number("size", size)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_inside_is_another_outside() {
        let map = "0:1000:2,2:5000:10";
        assert_eq!(host_id(map, 0).unwrap(), Some(1000));
        assert_eq!(host_id(map, 3).unwrap(), Some(5001));
        assert_eq!(host_id(map, 12).unwrap(), None);
        host_id("", 0).unwrap_err();
    }

    #[test]
    fn ranges_are_read_in_order() {
        let ranges = parse("0:100000:65536,65536:1:1").unwrap();
        assert_eq!(ranges[0], IdRange { container: 0, host: 100_000, size: 65_536 });
        assert_eq!(ranges[1], IdRange { container: 65_536, host: 1, size: 1 });
    }

    #[test]
    fn a_range_that_is_none_is_invalid() {
        for range in ["", "0:1", "0:1:2:3", "a:1:2", "-1:1:2", "0:1:"] {
            assert_eq!(parse(range).unwrap_err().kind(), Kind::InvalidArgument, "{range}");
        }
    }
}
