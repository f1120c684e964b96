// SPDX-License-Identifier: Apache-2.0
use std::path::{Path, PathBuf};

use mount::Mount;
use sys::failpoint;
use types::{Context, Result};

use crate::{Driver, Kind, Layered, Layers, tree};

/// Copies each layer: works on every filesystem, at the price of a copy for each snapshot.
///
/// ```text
/// <root>/snapshots/<id>/      the root filesystem of the snapshot, whole
/// ```
///
/// Where the filesystem can share data between files (btrfs, xfs), the copy costs little.
pub type Native = Layered<NativeDriver>;

/// What is particular to [`Native`].
#[derive(Debug)]
pub struct NativeDriver(());

impl Native {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::with_driver(&std::path::absolute(root)?, NativeDriver(()), false)
    }
}

impl Driver for NativeDriver {
    /// A view of a parent is the parent itself, read-only. Whatever else there is was made by one
    /// call to the end: a copy cut short has no record, and is removed.
    fn create(&self, layers: &Layers) -> Result<()> {
        if layers.directory.try_exists()? {
            return Ok(());
        }
        match (layers.kind, layers.parents.first()) {
            (Kind::View, Some(_)) => Ok(()),
            (_, Some(parent)) => {
                tree::copy(parent, &layers.directory).context(|| "copying of parent failed")?;
                failpoint::reach("native.create.copied")?;
                Ok(tree::sync_filesystem(&layers.directory)?)
            }
            (_, None) => Ok(tree::make_directory(&layers.directory, 0o755)?),
        }
    }

    fn plan(&self, layers: &Layers) -> Result<Vec<Mount>> {
        Ok(plan(layers))
    }

    fn has_data(&self, kind: Kind, has_parent: bool) -> bool {
        kind != Kind::View || !has_parent
    }

    fn content(&self, layers: &Layers) -> PathBuf {
        layers.directory.clone()
    }
}

/// Plans a bind mount of the snapshot's own directory, or of the parent's, which a view shares. The
/// options are in the order of containerd's (`plugins/snapshots/native/native.go`).
fn plan(layers: &Layers) -> Vec<Mount> {
    let access = if layers.kind == Kind::View { "ro" } else { "rw" };
    let source = match (layers.kind, layers.parents.first()) {
        (Kind::View, Some(parent)) => parent,
        _ => &layers.directory,
    };
    vec![Mount::bind(source.to_string_lossy(), ["rbind", access])]
}

#[cfg(test)]
mod tests {
    use types::Labels;

    use super::*;

    #[track_caller]
    fn check(kind: Kind, parents: &[&str], want: &str) {
        let parents = parents.iter().map(PathBuf::from).collect();
        let layers = Layers { kind, directory: "/s/9".into(), parents, labels: Labels::new() };
        let planned: Vec<_> = plan(&layers).iter().map(ToString::to_string).collect();
        assert_eq!(planned, [want]);
    }

    #[test]
    fn an_active_snapshot_is_its_own_directory() {
        check(Kind::Active, &[], "bind /s/9 rbind,rw");
        check(Kind::Active, &["/s/2", "/s/1"], "bind /s/9 rbind,rw");
    }

    #[test]
    fn a_view_is_its_parent_read_only() {
        check(Kind::View, &[], "bind /s/9 rbind,ro");
        check(Kind::View, &["/s/2", "/s/1"], "bind /s/2 rbind,ro");
    }
}
