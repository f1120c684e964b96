// SPDX-License-Identifier: Apache-2.0
//! From two trees to an archive of how they differ.
mod layer;
mod same;
mod walk;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use mount::{Mount, Temporary};
use types::{Context, Result};

use self::{layer::Layer, walk::Trees};
use crate::{
    deflate::{self, Made},
    media::Compression,
    root::Root,
    tar::Time,
};

/// Writes how `upper` differs from `lower` into `sink` as a tar archive, and gives `sink` back.
/// Without `lower`, everything in `upper` is new.
///
/// `changed` may name a directory that holds all changes, such as the topmost layer of an overlay that
/// is mounted at `upper`: then only what is in it is looked at. The outcome is the same.
pub fn compare<W: Write>(
    lower: Option<&Path>,
    upper: &Path,
    changed: Option<&Path>,
    source_date_epoch: Option<SystemTime>,
    sink: W,
) -> Result<W> {
    let lower = lower.map(Root::open).transpose()?;
    let upper = Root::open(upper)?;
    let changed = changed.map(Root::open).transpose()?;
    let trees = Trees { lower: lower.as_ref(), upper: &upper, changed: changed.as_ref() };
    let mut layer = Layer::new(sink, &upper, source_date_epoch.map(time));
    walk::walk(&trees, &mut |change| layer.add(change))
        .context(|| "failed to create diff tar stream")?;
    layer.finish()
}

/// Mounts what has to be mounted, compares, compresses, and sends the blob piece by piece.
pub(crate) fn compare_mounts(
    lower: &[Mount],
    upper: &[Mount],
    compression: Compression,
    source_date_epoch: Option<SystemTime>,
    scratch: &Path,
    send: &mut (dyn FnMut(Bytes) -> Result<()> + Send),
) -> Result<Made> {
    let changed = changed(lower, upper);
    let lower = if lower.is_empty() { None } else { Some(Tree::open(lower, scratch)?) };
    let upper = Tree::open(upper, scratch)?;
    let made = deflate::run(compression, send, |sink| {
        let lower = lower.as_ref().map(Tree::path);
        compare(lower, upper.path(), changed.as_deref(), source_date_epoch, sink).map(drop)
    })?;
    upper.close()?;
    lower.map_or(Ok(()), Tree::close)?;
    Ok(made)
}

/// A tree to be looked at.
enum Tree {
    /// It is a directory anyway.
    Bound(PathBuf),
    Mounted(Temporary),
}

impl Tree {
    fn open(mounts: &[Mount], scratch: &Path) -> Result<Self> {
        match mounts {
            [mount] if mount.kind == "bind" && is_plain(mount) => {
                Ok(Self::Bound(mount.source.clone().into()))
            }
            _ => Temporary::read_only(mounts, scratch).map(Self::Mounted),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Bound(path) => path,
            Self::Mounted(mounted) => mounted.path(),
        }
    }

    fn close(self) -> Result<()> {
        match self {
            Self::Bound(_) => Ok(()),
            Self::Mounted(mounted) => mounted.close(),
        }
    }
}

/// The directory that holds all changes: the topmost layer, if the others are just what is beneath.
fn changed(lower: &[Mount], upper: &[Mount]) -> Option<PathBuf> {
    let (lower, upper) = (layers(lower)?, layers(upper)?);
    match upper.split_first() {
        Some((top, rest)) if rest == lower => Some(top.into()),
        _ => None,
    }
}

/// The directories that are laid over each other, topmost first.
fn layers(mounts: &[Mount]) -> Option<Vec<String>> {
    let [mount] = mounts else { return None };
    match mount.kind.as_str() {
        "bind" if is_plain(mount) => Some(vec![mount.source.clone()]),
        "overlay" if mount.target.is_empty() => {
            let top = mount.option("upperdir").map(String::from);
            Some(top.into_iter().chain(mount.lower_dirs()).collect())
        }
        _ => None,
    }
}

fn is_plain(mount: &Mount) -> bool {
    mount.target.is_empty() && mount.option("uidmap").or(mount.option("gidmap")).is_none()
}

fn time(time: SystemTime) -> Time {
    let after = |duration: std::time::Duration| Time {
        seconds: duration.as_secs() as i64,
        nanos: duration.subsec_nanos(),
    };
    // Whoever asks for a time before 1970 gets 1970.
    time.duration_since(UNIX_EPOCH).map(after).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &str) -> Vec<Mount> {
        let options = options.split(',').map(String::from).collect();
        vec![Mount { kind: "overlay".into(), options, ..Mount::default() }]
    }

    fn check(lower: &[Mount], upper: &[Mount], want: Option<&str>) {
        assert_eq!(changed(lower, upper).as_deref(), want.map(Path::new), "{lower:?} {upper:?}");
    }

    #[test]
    fn the_layer_on_top_of_the_others_holds_all_changes() {
        let active = overlay("upperdir=/3,workdir=/w,lowerdir=/2:/1");
        check(&overlay("lowerdir=/2:/1"), &active, Some("/3"));
        check(&overlay("lowerdir=/2:/1"), &overlay("lowerdir=/3:/2:/1"), Some("/3"));
        let one = [Mount::bind("/1", ["ro"])];
        check(&one, &overlay("upperdir=/2,workdir=/w,lowerdir=/1"), Some("/2"));
    }

    #[test]
    fn layers_that_do_not_lie_on_each_other_are_walked_in_full() {
        let active = overlay("upperdir=/3,workdir=/w,lowerdir=/2:/1");
        check(&[], &active, None);
        check(&overlay("lowerdir=/1"), &active, None);
        check(&overlay("lowerdir=/1:/2"), &active, None);
        check(&[Mount::bind("/1", ["ro"])], &[Mount::bind("/2", ["ro"])], None);
        check(&[Mount::bind("/1", ["uidmap=0:1:1"])], &overlay("lowerdir=/2:/1"), None);
    }
}
