// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
};

use fs_err as fs;

use super::{
    Claim, Suite, list,
    tree::{listing, remove, write},
};

pub(super) const CLAIMS: &[Claim] = list![
    a_new_root_is_open_to_all,
    a_root_takes_after_its_parent,
    an_active_snapshot_is_its_own,
    a_view_is_read_only,
    a_view_of_one_layer_is_read_only,
    a_committed_layer_never_changes,
    a_root_of_odd_owner_and_mode_survives,
];

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("its mode is set");
}

async fn a_new_root_is_open_to_all(suite: Suite<'_>) {
    let mounts = suite.prepare("key", None).await;
    suite.within(&mounts, |root| assert_eq!(mode(root), 0o755));
    let mounts = suite.view("view", None).await;
    suite.within(&mounts, |root| assert_eq!(mode(root), 0o755));
}

async fn a_root_takes_after_its_parent(suite: Suite<'_>) {
    suite.layer("one", None, |root| set_mode(root, 0o1750)).await;
    suite.layer("two", Some("one"), |root| assert_eq!(mode(root), 0o1750)).await;
    let mounts = suite.view("view", Some("two")).await;
    suite.within(&mounts, |root| assert_eq!(mode(root), 0o1750));
}

async fn a_root_of_odd_owner_and_mode_survives(suite: Suite<'_>) {
    suite
        .layer("one", None, |root| {
            fs::os::unix::fs::chown(root, Some(1234), Some(567)).expect("its owner is set");
        })
        .await;
    let mounts = suite.prepare("two", Some("one")).await;
    suite.within(&mounts, |root| {
        let metadata = fs::metadata(root).expect("it is there");
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 567));
    });
}

/// Two containers of one image do not see what the other writes.
async fn an_active_snapshot_is_its_own(suite: Suite<'_>) {
    suite.layer("image", None, |root| write(root, "etc/conf", "default")).await;
    let one = suite.prepare("one", Some("image")).await;
    let two = suite.prepare("two", Some("image")).await;
    suite.within(&one, |one| {
        suite.within(&two, |two| {
            write(one, "etc/conf", "one");
            write(two, "etc/new", "two");
            assert_eq!(fs::read_to_string(two.join("etc/conf")).expect("it is read"), "default");
            assert!(!one.join("etc/new").exists());
        });
    });
    // What was written is there again.
    suite.within(&one, |root| {
        assert_eq!(fs::read_to_string(root.join("etc/conf")).expect("it is read"), "one");
    });
}

async fn a_view_is_read_only(suite: Suite<'_>) {
    suite.layer("one", None, |root| write(root, "a", "1")).await;
    suite.layer("two", Some("one"), |root| write(root, "b", "2")).await;
    check_read_only(suite, "two").await;
}

async fn a_view_of_one_layer_is_read_only(suite: Suite<'_>) {
    suite.layer("one", None, |root| write(root, "a", "1")).await;
    check_read_only(suite, "one").await;
}

/// The words in the options are not enough: it is tried.
async fn check_read_only(suite: Suite<'_>, parent: &str) {
    let mounts = suite.view("view", Some(parent)).await;
    suite.within(&mounts, |root| {
        for outcome in [
            fs::write(root.join("new"), "x"),
            fs::write(root.join("a"), "x"),
            fs::remove_file(root.join("a")),
            fs::create_dir(root.join("directory")),
        ] {
            let error = outcome.expect_err("nothing can be written");
            assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{error}");
        }
        assert_eq!(fs::read_to_string(root.join("a")).expect("it is read"), "1");
    });
}

async fn a_committed_layer_never_changes(suite: Suite<'_>) {
    suite
        .layer("base", None, |root| {
            write(root, "etc/conf", "default");
            write(root, "etc/gone", "here");
        })
        .await;
    let view = suite.view("view", Some("base")).await;
    let before = suite.within(&view, listing);
    suite
        .layer("next", Some("base"), |root| {
            write(root, "etc/conf", "changed");
            remove(root, "etc");
            set_mode(root, 0o700);
        })
        .await;
    assert_eq!(suite.within(&view, listing), before);
}
