// SPDX-License-Identifier: Apache-2.0
//! What is gone, where whiteouts remove files.
use super::{
    archive::{dir, file, link, symlink, tar, unpack},
    tree::{make_dir, paths, read, temp, write},
};

/// Unpacks onto a tree of a few files and tells what is left.
fn check(entries: Vec<(diff::tar::Entry, Vec<u8>)>, want: &[&str]) {
    let root = temp();
    for name in ["a/one", "a/two", "a/sub/three", "b"] {
        write(root.path(), name, "lower");
    }
    unpack(&tar(entries), root.path()).unwrap();
    assert_eq!(paths(root.path()), want);
}

#[test]
fn a_whiteout_removes_what_is_beneath() {
    check(vec![file("a/.wh.one", "")], &["a", "a/sub", "a/sub/three", "a/two", "b"]);
    check(vec![file(".wh.a", "")], &["b"]);
    check(vec![file(".wh.nothing", ""), file("a/.wh.sub", "")], &["a", "a/one", "a/two", "b"]);
}

#[test]
fn a_whiteout_leaves_what_the_layer_itself_brings() {
    let brought = || file("a/one", "new");
    let kept = ["a", "a/one", "a/sub", "a/sub/three", "a/two", "b"];
    check(vec![file("a/.wh.one", ""), brought()], &kept);
    check(vec![brought(), file("a/.wh.one", "")], &kept);
    let root = temp();
    write(root.path(), "a/one", "old");
    unpack(&tar([brought(), file("a/.wh.one", "")]), root.path()).unwrap();
    assert_eq!(read(root.path(), "a/one"), "new");
    // Of a directory that the layer brings, what was there before goes.
    check(vec![dir("a"), file("a/new", ""), file(".wh.a", "")], &["a", "a/new", "b"]);
}

#[test]
fn an_opaque_directory_keeps_only_what_the_layer_brings() {
    let opaque = || file("a/.wh..wh..opq", "");
    check(vec![opaque()], &["a", "b"]);
    check(vec![opaque(), file("a/new", "")], &["a", "a/new", "b"]);
    check(vec![file("a/new", ""), opaque()], &["a", "a/new", "b"]);
    check(
        vec![file("a/sub/new", ""), opaque(), file("a/two", "")],
        &["a", "a/sub", "a/sub/new", "a/two", "b"],
    );
    check(vec![file(".wh..wh..opq", ""), file("c", "")], &["c"]);
}

#[test]
fn directories_are_the_same_under_any_name() {
    let root = temp();
    write(root.path(), "usr/lib/old", "");
    let bytes = tar([
        symlink("lib", "usr/lib"),
        file("lib/new", "through the link"),
        file("usr/lib/.wh..wh..opq", ""),
        link("lib/linked", "usr/lib/new"),
        file("usr/lib/.wh.linked", ""),
    ]);
    unpack(&bytes, root.path()).unwrap();
    assert_eq!(paths(root.path()), ["lib", "usr", "usr/lib", "usr/lib/linked", "usr/lib/new"]);
}

#[test]
fn bookkeeping_of_aufs_is_ignored() {
    check(
        vec![
            dir(".wh..wh.plnk/"),
            file(".wh..wh.plnk/163.1", "linked"),
            file(".wh..wh.aufs", ""),
            dir(".wh..wh.orph/"),
        ],
        &["a", "a/one", "a/sub", "a/sub/three", "a/two", "b"],
    );
}

#[test]
fn a_file_takes_the_place_of_a_tree_and_a_tree_that_of_a_file() {
    check(vec![file("a", "file")], &["a", "b"]);
    check(
        vec![dir("b"), file("b/in", "")],
        &["a", "a/one", "a/sub", "a/sub/three", "a/two", "b", "b/in"],
    );
    let root = temp();
    make_dir(root.path(), "d/e");
    unpack(&tar([symlink("d", "/elsewhere")]), root.path()).unwrap();
    assert_eq!(paths(root.path()), ["d"]);
}
