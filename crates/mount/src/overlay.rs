// SPDX-License-Identifier: Apache-2.0
//! Overlays: as many layers as an image has, although `mount(2)` takes one page of options.
//!
//! ```text
//! options fit in a page? --yes--> mount(2)
//!          | no
//!          v
//!   fsopen, one call per layer --kernel too old--> mount(2) with relative paths,
//!                                                  on a thread that stands in their directory
//! ```
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use fs_err as fs;
use types::{Error, Kind, Result};

use crate::{Mount, attach, failure::failed, id_map::ShiftedTree, options::Options};

mod layers;

/// What options and their separators may take before they are split up (containerd
/// `core/mount/mount_linux.go`: a page less 512 bytes).
const MARGIN: usize = 512;

pub(crate) fn mount(mount: &Mount, target: &Path, options: &Options) -> Result<()> {
    match options.id_maps() {
        None => mount_layers(mount, target, options),
        Some((uids, gids)) => mount_shifted(mount, target, options, uids, gids),
    }
}

/// Mounts over copies of the lower directories in which owners are shifted: the overlay itself
/// cannot be id-mapped. The overlay keeps copies of its own, so ours end with this call.
fn mount_shifted(
    mount: &Mount,
    target: &Path,
    options: &Options,
    uids: &str,
    gids: &str,
) -> Result<()> {
    let lower = mount.lower_dirs();
    let copies = Copies::of(&lower, uids, gids)
        .map_err(|error| error.context("failed to prepare idmapped overlay"))?;
    let shifted = copies.dirs.iter().map(|dir| dir.to_string_lossy().into_owned());
    let mut options = options.clone();
    options.data.retain(|option| !option.starts_with("lowerdir="));
    options.data.push(format!("lowerdir={}", join(shifted)));
    mount_layers(mount, target, &options)
}

/// Directories whose owners are shifted, for as long as this lives.
struct Copies {
    dirs: Vec<PathBuf>,
    _trees: Vec<ShiftedTree>,
}

impl Copies {
    /// Copies what all of `lower` are in, once. Where some of them are filesystems of their own, as
    /// erofs layers are, they would not come along: then each is copied.
    fn of(lower: &[String], uids: &str, gids: &str) -> Result<Self> {
        let copy = |dir: &str| ShiftedTree::mount(Path::new(dir), uids, gids);
        match common_parent(lower) {
            Some(common) if !has_mounts(&common, lower)? => {
                let tree = copy(&common)?;
                let below = |dir: &String| dir[common.len()..].trim_start_matches('/').to_owned();
                let dirs = lower.iter().map(|dir| tree.path().join(below(dir))).collect();
                Ok(Self { dirs, _trees: vec![tree] })
            }
            None if lower.is_empty() => {
                Err(Error::said(Kind::Unknown, "there are no lower directories"))
            }
            _ => {
                let trees = lower.iter().map(|dir| copy(dir)).collect::<Result<Vec<_>>>()?;
                let dirs = trees.iter().map(|tree| tree.path().to_owned()).collect();
                Ok(Self { dirs, _trees: trees })
            }
        }
    }
}

/// Whether some of `dirs` are on other filesystems than `common`, which they are in.
fn has_mounts(common: &str, dirs: &[String]) -> Result<bool> {
    let device = fs::metadata(common)?.dev();
    let is_other = |dir: &String| Ok(fs::metadata(dir)?.dev() != device);
    dirs.iter().map(is_other).try_fold(false, |some, other: Result<bool>| Ok(some || other?))
}

fn mount_layers(mount: &Mount, target: &Path, options: &Options) -> Result<()> {
    let data = options.data_string();
    if data.len() < rustix::param::page_size() - MARGIN {
        return attach::call(&mount.source, target, &mount.kind, options.flags, &data);
    }
    let unsupported = layers::mount(&mount.source, target, options)?;
    if unsupported { mount_from_inside(mount, target, options) } else { Ok(()) }
}

/// Mounts with paths relative to the directory that all layers are in.
fn mount_from_inside(mount: &Mount, target: &Path, options: &Options) -> Result<()> {
    let target = fs::canonicalize(target)?;
    let (dir, options) = compact(options);
    let call =
        || attach::call(&mount.source, &target, &mount.kind, options.flags, &options.data_string());
    let Some(dir) = dir else { return call() };
    sys::thread::with(sys::thread::Own::Directory, || {
        std::env::set_current_dir(&dir).map_err(|error| failed("change to", &dir, error))?;
        call()
    })
    .map_err(|error| failed("leave for", &dir, error))?
}

/// Shortens the lower directories by what they have in common, if that helps.
fn compact(options: &Options) -> (Option<PathBuf>, Options) {
    let value = options.data.iter().find_map(|option| option.strip_prefix("lowerdir="));
    let lower = value.map(lower_dirs).unwrap_or_default();
    let Some(common) = common_parent(&lower).filter(|_| lower.len() > 1) else {
        return (None, options.clone());
    };
    let below = lower.iter().map(|dir| dir[common.len()..].trim_start_matches('/').to_owned());
    let mut compacted = options.clone();
    compacted.data.retain(|option| !option.starts_with("lowerdir="));
    compacted.data.push(format!("lowerdir={}", join(below)));
    (Some(PathBuf::from(common)), compacted)
}

/// The directory that all of these are below, if that is not the root.
fn common_parent(dirs: &[String]) -> Option<String> {
    let first = dirs.first()?;
    let shared = |dir: &String| first.bytes().zip(dir.bytes()).take_while(|(a, b)| a == b).count();
    let common = dirs.iter().map(shared).min()?;
    let end = first.as_bytes()[..common].iter().rposition(|byte| *byte == b'/')?;
    let parent = &first[..end];
    let proper = !parent.is_empty() && dirs.iter().all(|dir| dir.len() > end + 1);
    proper.then(|| parent.to_owned())
}

/// The directories of the option `lowerdir`: separated by colons, a backslash before what is none.
/// Layers after a double colon are of data only, and are not told apart here.
pub(crate) fn lower_dirs(value: &str) -> Vec<String> {
    layers::split(value).into_iter().map(|layer| layer.path).collect()
}

/// The inverse of [`lower_dirs`].
fn join(dirs: impl IntoIterator<Item = String>) -> String {
    let escaped = dirs.into_iter().map(|dir| dir.replace('\\', "\\\\").replace(':', "\\:"));
    escaped.collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(dirs: &[&str]) -> Option<String> {
        common_parent(&dirs.iter().map(|&dir| dir.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_common_parent_ends_at_a_directory() {
        assert_eq!(common(&["/s/12/fs", "/s/1/fs"]).as_deref(), Some("/s"));
        assert_eq!(common(&["/s/1/fs", "/s/1/fs2"]).as_deref(), Some("/s/1"));
        assert_eq!(common(&["/s/1/fs"]).as_deref(), Some("/s/1"));
    }

    #[test]
    fn the_root_and_nothing_are_no_common_parents() {
        assert_eq!(common(&["/a", "/b"]), None);
        assert_eq!(common(&["a", "b"]), None);
        assert_eq!(common(&["/s/", "/s/1"]), None);
        assert_eq!(common(&[]), None);
    }

    #[test]
    fn compacting_names_every_layer_from_the_common_directory() {
        let options = ["lowerdir=/s/2/fs:/s/1/fs".to_owned(), "index=off".to_owned()];
        let (dir, options) = compact(&Options::parse(&options));
        assert_eq!(dir.as_deref(), Some(Path::new("/s")));
        assert_eq!(options.data_string(), "index=off,lowerdir=2/fs:1/fs");
    }

    /// What a kernel before Linux 6.7 gets to see.
    #[test]
    fn many_layers_are_mounted_from_inside_when_the_kernel_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let layer = |n: usize| dir.path().join(format!("{n:03}/{}", "x".repeat(60)));
        (0..60).for_each(|n| fs::create_dir_all(layer(n).join(n.to_string())).unwrap());
        let lower: Vec<_> = (0..60).map(|n| layer(n).display().to_string()).collect();
        let mount = Mount::overlay(&lower, None, []);
        let target = tempfile::tempdir().unwrap();
        sys::thread::with(sys::thread::Own::Mounts, || {
            let options = Options::parse(&mount.options);
            assert!(options.data_string().len() > rustix::param::page_size() - MARGIN);
            // From inside it is still 60 * 65 bytes, which fit in a page.
            mount_from_inside(&mount, target.path(), &options).unwrap();
            assert!((0..60).all(|n| target.path().join(n.to_string()).is_dir()));
        })
        .unwrap();
    }

    #[test]
    fn a_single_layer_is_not_compacted() {
        let options = Options::parse(&["lowerdir=/s/1/fs".to_owned()]);
        assert_eq!(compact(&options), (None, options.clone()));
    }

    #[test]
    fn a_colon_in_a_name_survives_the_round_trip() {
        let dirs = ["/a:b".to_owned(), r"/c\d".to_owned()];
        let value = join(dirs.clone());
        assert_eq!(value, r"/a\:b:/c\\d");
        assert_eq!(lower_dirs(&value), dirs);
    }
}
