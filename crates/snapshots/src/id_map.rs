// SPDX-License-Identifier: Apache-2.0
//! Snapshots whose owners are shifted by labels.
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use fs_err as fs;
use types::{Context, Error, Labels, Result};

/// How the user ids of a snapshot are shifted, as `container:host:size,...` (containerd
/// `core/snapshots/snapshotter.go`).
pub const UID_MAPPING_LABEL: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
pub const GID_MAPPING_LABEL: &str = "containerd.io/snapshot/gidmapping";

/// The mount options that shift owners as the labels say.
pub(crate) fn options(labels: &Labels) -> Vec<String> {
    let option = |name, label| Some(format!("{name}={}", labels.get(label)?));
    [option("uidmap", UID_MAPPING_LABEL), option("gidmap", GID_MAPPING_LABEL)]
        .into_iter()
        .flatten()
        .collect()
}

/// Who root inside is outside, if the labels shift owners. One label without the other is
/// `InvalidArgument` (containerd `internal/userns/idmap.go`).
pub(crate) fn root(labels: &Labels) -> Result<Option<(u32, u32)>> {
    let (uids, gids) = (labels.get(UID_MAPPING_LABEL), labels.get(GID_MAPPING_LABEL));
    let (uids, gids) = match (uids, gids) {
        (None, None) => return Ok(None),
        (Some(uids), Some(gids)) => (uids, gids),
        _ => return Err(Error::invalid("snapshot has only one of the two ID mapped labels")),
    };
    let outside = |map: &str| {
        mount::host_id(map, 0)?.ok_or_else(|| Error::invalid(format!("{map:?} does not map root")))
    };
    let pair = || -> Result<_> { Ok(Some((outside(uids)?, outside(gids)?))) };
    pair().context(|| "failed to unmarshal snapshot ID mapped labels")
}

/// Gives the root of a new snapshot its owner and mode: an overlay's root looks like its topmost
/// layer's, so a new layer takes after its parent's, which `parent` is; whoever is root inside owns it
/// if ids are shifted.
pub(crate) fn inherit(new: &Path, parent: Option<&Path>, labels: &Labels) -> Result<()> {
    let parent = parent.map(fs::metadata).transpose().context(|| "failed to stat parent")?;
    let owner = match root(labels)? {
        None => parent.as_ref().map(|parent| (parent.uid(), parent.gid())),
        mapped => mapped,
    };
    if let Some((uid, gid)) = owner {
        fs::os::unix::fs::lchown(new, Some(uid), Some(gid)).context(|| "failed to chown")?;
    }
    if let Some(parent) = parent {
        let mode = parent.permissions().mode() & 0o7777;
        fs::set_permissions(new, PermissionsExt::from_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use types::Kind;

    use super::*;

    fn labels(uids: &str, gids: &str) -> Labels {
        [(UID_MAPPING_LABEL, uids), (GID_MAPPING_LABEL, gids)]
            .into_iter()
            .filter(|(_, map)| !map.is_empty())
            .map(|(label, map)| (label.to_owned(), map.to_owned()))
            .collect()
    }

    #[test]
    fn root_is_who_the_range_with_zero_says() {
        assert_eq!(root(&Labels::new()).unwrap(), None);
        let shifted = labels("0:1000:10", "0:2000:10");
        assert_eq!(root(&shifted).unwrap(), Some((1000, 2000)));
        assert_eq!(options(&shifted), ["uidmap=0:1000:10", "gidmap=0:2000:10"]);
        let ranges = labels("1:1:9,0:1000:1", "0:7:1");
        assert_eq!(root(&ranges).unwrap(), Some((1000, 7)));
    }

    #[test]
    fn labels_that_map_nothing_are_invalid() {
        for (uids, gids) in [("0:1:1", ""), ("1:1:1", "0:1:1"), ("x", "0:1:1")] {
            let error = root(&labels(uids, gids)).unwrap_err();
            assert_eq!(error.kind(), Kind::InvalidArgument, "{uids} {gids}");
        }
    }
}
