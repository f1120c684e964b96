// SPDX-License-Identifier: Apache-2.0
//! What changes become.
use std::{
    path::Path,
    time::{Duration, UNIX_EPOCH},
};

use diff::tar::{Archive, Entry, Kind};
use fs_err as fs;

use super::overlays::Layers;
use super::{
    archive::{dir, file, link, tar, unpack},
    tree::{make_dir, set_time, temp, write},
};

fn compare(lower: Option<&Path>, upper: &Path) -> Vec<u8> {
    diff::compare(lower, upper, None, None, Vec::new()).unwrap()
}

fn entries(archive: &[u8]) -> Vec<Entry> {
    let mut archive = Archive::new(archive);
    std::iter::from_fn(|| archive.next_entry().unwrap()).collect()
}

fn names(archive: &[u8]) -> Vec<String> {
    let name = |entry: &Entry| match entry.kind {
        Kind::Link => format!(
            "{} = {}",
            String::from_utf8_lossy(&entry.name),
            String::from_utf8_lossy(&entry.link)
        ),
        _ => String::from_utf8_lossy(&entry.name).into_owned(),
    };
    entries(archive).iter().map(name).collect()
}

/// A lower tree, and an upper one that starts as its copy.
fn trees(base: &[&str]) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let top = temp();
    let part = |name: &&str| if name.ends_with('/') { dir(name) } else { file(name, "base") };
    let bytes = tar(base.iter().map(part));
    let [lower, upper] = ["lower", "upper"].map(|name| make_dir(top.path(), name));
    unpack(&bytes, &lower).unwrap();
    unpack(&bytes, &upper).unwrap();
    (top, lower, upper)
}

#[test]
fn equal_trees_differ_by_nothing() {
    let (_top, lower, upper) = trees(&["a/", "a/b", "c"]);
    assert_eq!(compare(Some(&lower), &upper), vec![0; 1024]);
}

#[test]
fn added_changed_and_removed_files_are_told_in_order() {
    let (_top, lower, upper) = trees(&["a/", "a.b", "a/gone", "a/same", "d/", "d/x", "e", "f"]);
    fs::remove_file(upper.join("a/gone")).unwrap();
    fs::remove_dir_all(upper.join("d")).unwrap();
    write(&upper, "a/new", "1");
    write(&upper, "a.b", "other");
    fs::remove_file(upper.join("e")).unwrap();
    write(&upper, "e/file", "was one itself");
    let want = ["a/", "a/.wh.gone", "a/new", "a.b", ".wh.d", "e/", "e/file"];
    assert_eq!(names(&compare(Some(&lower), &upper)), want);
}

#[test]
fn without_a_lower_tree_everything_is_new() {
    let (_top, lower, _) = trees(&["a/", "a/b", "c"]);
    assert_eq!(names(&compare(None, &lower)), ["a/", "a/b", "c"]);
}

#[test]
fn a_tree_that_became_a_file_needs_no_whiteouts() {
    let (_top, lower, upper) = trees(&["a/", "a/b", "a/c/", "z"]);
    fs::remove_dir_all(upper.join("a")).unwrap();
    write(&upper, "a", "file");
    assert_eq!(names(&compare(Some(&lower), &upper)), ["a"]);
}

#[test]
fn attributes_are_changes_and_times_of_directories_are_not() {
    let (_top, lower, upper) = trees(&["d/", "mode", "owner", "time", "xattr", "same", "dir/"]);
    use std::os::unix::fs::PermissionsExt;
    let mode = |bits| std::fs::Permissions::from_mode(bits);
    fs::set_permissions(upper.join("mode"), mode(0o600)).unwrap();
    fs::set_permissions(upper.join("dir"), mode(0o700)).unwrap();
    std::os::unix::fs::chown(upper.join("owner"), Some(1), None).unwrap();
    set_time(&upper.join("time"), 1_700_000_001, 0);
    set_time(&upper.join("d"), 5, 0);
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(upper.join("xattr"), "user.a", b"1", flags).unwrap();
    let want = ["dir/", "mode", "owner", "time", "xattr"];
    assert_eq!(names(&compare(Some(&lower), &upper)), want);
}

/// An archive may have cut the fraction off a time, so that only the content tells.
#[test]
fn content_is_compared_where_times_may_have_been_cut() {
    let (_top, lower, upper) = trees(&["cut", "same", "exact"]);
    for name in ["cut", "exact"] {
        fs::write(upper.join(name), "BASE").unwrap();
    }
    set_time(&upper.join("cut"), 1_700_000_000, 0);
    set_time(&upper.join("exact"), 1_700_000_000, 5);
    set_time(&lower.join("exact"), 1_700_000_000, 5);
    assert_eq!(names(&compare(Some(&lower), &upper)), ["cut"]);
}

#[test]
fn links_lead_to_the_first_name_even_if_only_a_later_one_is_new() {
    let (_top, lower, upper) = trees(&["d/"]);
    let bytes = tar([file("d/a", "linked"), link("m", "d/a"), link("z", "d/a")]);
    unpack(&bytes, &upper).unwrap();
    let want = ["d/", "d/a", "m = d/a", "z = d/a"];
    assert_eq!(names(&compare(Some(&lower), &upper)), want);
    // Beneath, there is only the first name: it has to be told again for the others to be its links.
    unpack(&tar([file("d/a", "linked")]), &lower).unwrap();
    let want = ["m", "d/", "d/a = m", "z = m"];
    assert_eq!(names(&compare(Some(&lower), &upper)), want);
}

#[test]
fn sockets_and_names_of_whiteouts_are_left_out() {
    let (_top, lower, upper) = trees(&[]);
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    write(&upper, ".wh.etc", "");
    write(&upper, "d/.wh.x/y", "");
    write(&upper, "kept", "");
    assert_eq!(names(&compare(Some(&lower), &upper)), ["d/", "kept"]);
}

#[test]
fn no_time_is_later_than_the_source_date_epoch() {
    let (_top, lower, upper) = trees(&["gone"]);
    fs::remove_file(upper.join("gone")).unwrap();
    write(&upper, "early", "");
    write(&upper, "late", "");
    set_time(&upper.join("early"), 100, 700_000_000);
    let epoch = UNIX_EPOCH + Duration::from_secs(1000);
    let bytes = diff::compare(Some(&lower), &upper, None, Some(epoch), Vec::new()).unwrap();
    let times: Vec<_> = entries(&bytes).iter().map(|entry| entry.modified.seconds).collect();
    assert_eq!(names(&bytes), ["early", ".wh.gone", "late"]);
    assert_eq!(times, [100, 0, 1000]);
}

#[test]
fn the_layer_on_top_of_an_overlay_tells_as_much_as_the_whole() {
    let mut layers = Layers::new();
    let base = [
        dir("a"),
        file("a/1", "x"),
        file("a/2", "x"),
        dir("b"),
        file("b/3", "x"),
        dir("b/c"),
        file("b/c/4", "x"),
        file("e", "x"),
    ];
    layers.apply(&tar(base));
    layers.apply(&tar([
        dir("a"),
        file("a/.wh.1", ""),
        file("a/.wh.never", ""),
        file("a/2", "y"),
        dir("b"),
        file("b/.wh..wh..opq", ""),
        file("b/3", "x"),
        file("n/e/w", "z"),
        file("e", "x"),
    ]));
    let (lower, upper) = (layers.path().join("0"), layers.mounted());
    let top = layers.path().join("1");
    let whole = compare(Some(&lower), upper.path());
    let quick = diff::compare(Some(&lower), upper.path(), Some(&top), None, Vec::new()).unwrap();
    assert_eq!(names(&quick), ["a/", "a/.wh.1", "a/2", "b/", "b/.wh.c", "n/", "n/e/", "n/e/w"]);
    assert!(quick == whole);
    upper.close().unwrap();
}

/// Renaming a directory of a lower layer leaves only a mark in the upper one.
#[test]
fn a_renamed_directory_is_told_in_full() {
    let mut layers = Layers::new();
    layers.apply(&tar([dir("old"), file("old/f", "x"), dir("old/d"), file("old/d/g", "y")]));
    let top = layers.push();
    let mut mounts = layers.active();
    mounts[0].options.extend(["redirect_dir=on".to_owned(), "metacopy=on".to_owned()]);
    let active = mount::Temporary::mount(&mounts, Path::new("/tmp")).unwrap();
    fs::rename(active.path().join("old"), active.path().join("new")).unwrap();
    std::os::unix::fs::chown(active.path().join("new/f"), Some(3), None).unwrap();
    let lower = layers.path().join("0");
    let quick = diff::compare(Some(&lower), active.path(), Some(&top), None, Vec::new()).unwrap();
    assert_eq!(names(&quick), ["new/", "new/d/", "new/d/g", "new/f", ".wh.old"]);
    assert!(quick == compare(Some(&lower), active.path()));
    active.close().unwrap();
}
