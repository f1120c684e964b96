// SPDX-License-Identifier: Apache-2.0
//! Layers of overlays that are really mounted.
use std::path::{Path, PathBuf};

use diff::{Options, apply_to_mounts};
use fs_err as fs;
use mount::{Mount, Temporary};
use types::media_types;

use super::{
    archive::{dir, file, symlink, tar, unpack, unpack_upper, unsynced},
    tree::{listing, make_dir, paths, read, temp, write, xattrs},
};

/// Layers on top of each other, each a directory.
pub(super) struct Layers {
    top: tempfile::TempDir,
    directories: Vec<PathBuf>,
}

impl Layers {
    pub(super) fn new() -> Self {
        Self { top: temp(), directories: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        self.top.path()
    }

    /// Adds an empty layer.
    pub(super) fn push(&mut self) -> PathBuf {
        let directory = make_dir(self.top.path(), &self.directories.len().to_string());
        self.directories.push(directory.clone());
        directory
    }

    /// Unpacks an archive as the next layer.
    pub(super) fn apply(&mut self, archive: &[u8]) -> diff::Applied {
        let parents: Vec<_> = self.directories.iter().rev().cloned().collect();
        let parents: Vec<_> = parents.iter().map(PathBuf::as_path).collect();
        let upper = self.push();
        unpack_upper(archive, &upper, &parents).unwrap()
    }

    /// How to see `count` layers through each other, without changing them.
    pub(super) fn view(&self, count: usize) -> Vec<Mount> {
        match &self.directories[..count] {
            [] => vec![],
            [one] => vec![Mount::bind(one.to_str().unwrap(), ["ro", "rbind"])],
            many => vec![Mount::overlay(&down(many), None, ["index=off".to_owned()])],
        }
    }

    /// How to change the topmost layer.
    pub(super) fn active(&self) -> Vec<Mount> {
        let (upper, lower) = self.directories.split_last().unwrap();
        let work = make_dir(self.top.path(), "work");
        let upper = Some((upper.to_str().unwrap(), work.to_str().unwrap()));
        vec![Mount::overlay(&down(lower), upper, ["index=off".to_owned()])]
    }

    pub(super) fn mounted(&self) -> Temporary {
        Temporary::mount(&self.view(self.directories.len()), Path::new("/tmp")).unwrap()
    }
}

fn down(directories: &[PathBuf]) -> Vec<&str> {
    directories.iter().rev().map(|directory| directory.to_str().unwrap()).collect()
}

/// Two layers seen through an overlay have to look like both unpacked in one place.
fn check(lower: &[u8], upper: &[u8]) {
    let plain = temp();
    unpack(lower, plain.path()).unwrap();
    unpack(upper, plain.path()).unwrap();
    let mut layers = Layers::new();
    layers.apply(lower);
    layers.apply(upper);
    let mounted = layers.mounted();
    assert_eq!(listing(mounted.path()), listing(plain.path()));
    mounted.close().unwrap();
}

fn lower() -> Vec<u8> {
    tar([
        dir("a"),
        file("a/one", "lower"),
        dir("a/sub"),
        file("a/sub/two", "lower"),
        file("b", "lower"),
        dir("c"),
        file("c/three", ""),
    ])
}

#[test]
fn a_whiteout_hides_what_is_beneath() {
    check(&lower(), &tar([dir("a"), file("a/.wh.one", ""), file(".wh.b", ""), file(".wh.c", "")]));
}

#[test]
fn an_opaque_directory_hides_what_is_beneath_but_not_what_the_layer_brings() {
    check(&lower(), &tar([dir("a"), file("a/.wh..wh..opq", ""), file("a/new", "")]));
    check(&lower(), &tar([dir("a"), file("a/new", ""), file("a/.wh..wh..opq", "")]));
}

#[test]
fn the_order_of_a_whiteout_and_its_replacement_does_not_matter() {
    let replacements = [file("c", "now a file"), dir("c"), symlink("c", "a")];
    for replacement in replacements {
        check(&lower(), &tar([file(".wh.c", ""), replacement.clone()]));
        check(&lower(), &tar([replacement.clone(), file(".wh.c", "")]));
    }
    check(&lower(), &tar([file("c", "file"), dir("c"), file("c/new", "")]));
}

#[test]
fn a_tree_and_a_file_replace_each_other() {
    check(&lower(), &tar([file("a", "file"), dir("b"), file("b/in", "")]));
}

#[test]
fn the_marks_are_those_that_the_kernel_knows() {
    let mut layers = Layers::new();
    layers.apply(&tar([dir("a"), file("a/.wh..wh..opq", ""), file("a/.wh.gone", "")]));
    let upper = layers.path().join("0");
    assert_eq!(xattrs(&upper.join("a"))["trusted.overlay.opaque"], b"y");
    assert!(listing(&upper)["a/gone"].starts_with("020000 0:0 "));
    assert!(listing(&upper)["a/gone"].ends_with("dev 0"));
}

#[test]
fn an_overlay_is_unpacked_into_its_upper_directory() {
    let mut layers = Layers::new();
    layers.apply(&lower());
    layers.push();
    let bytes = tar([file("a/sub/new", "1"), file(".wh.b", "")]);
    let mounts = layers.active();
    let applied = apply_to_mounts(&*bytes, media_types::LAYER, &mounts, &unsynced()).unwrap();
    assert!(applied.needs_parent);
    let upper = layers.path().join("1");
    assert_eq!(paths(&upper), ["a", "a/sub", "a/sub/new", "b"]);
    assert_eq!(listing(&upper)["a/sub"], listing(&layers.path().join("0"))["a/sub"]);
}

#[test]
fn a_bound_directory_may_become_a_layer_later() {
    let root = temp();
    write(root.path(), "b", "");
    let mounts = [Mount::bind(root.path().to_str().unwrap(), ["rw", "rbind"])];
    let bytes = tar([file(".wh.b", ""), file(".wh.c", "")]);
    apply_to_mounts(&*bytes, media_types::LAYER, &mounts, &Options::default()).unwrap();
    assert!(paths(root.path()).is_empty());
    let options = Options { overlay_bind: true, ..unsynced() };
    apply_to_mounts(&*bytes, media_types::LAYER, &mounts, &options).unwrap();
    assert_eq!(paths(root.path()), ["b", "c"]);
}

#[test]
fn any_other_mounts_are_mounted_first() {
    let root = temp();
    let source = root.path().to_str().unwrap();
    make_dir(root.path(), "below");
    let bind = Mount::bind(source, ["rw", "rbind"]);
    let below = Mount { kind: "tmpfs".into(), target: "below".into(), ..Mount::default() };
    let bytes = tar([file("f", "on disk"), file("below/g", "in memory")]);
    let mounts = [bind, below];
    apply_to_mounts(&*bytes, media_types::LAYER, &mounts, &Options::default()).unwrap();
    assert_eq!(paths(root.path()), ["below", "f"]);
    assert_eq!(read(root.path(), "f"), "on disk");
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(source));
}
