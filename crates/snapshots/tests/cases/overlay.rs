// SPDX-License-Identifier: Apache-2.0
use std::os::unix::fs::{MetadataExt, chown};

use fs_err as fs;
use futures_util::TryStreamExt;
use mount::Temporary;
use snapshots::{
    Commit, GID_MAPPING_LABEL, Info, Options, Overlay, Snapshotter, UID_MAPPING_LABEL,
    UPPERDIR_LABEL,
};
use types::{FieldMask, Filters, Kind, Labels};

use snapshots::suite::Disk;

#[tokio::test]
async fn mounts_read_as_gos() {
    let root = tempfile::tempdir().unwrap();
    let options = Options { mount_options: vec!["xino=off".into()], ..Options::default() };
    let snapshots = Overlay::open(root.path(), options).unwrap();
    let path = |name: &str| root.path().join("snapshots").join(name).display().to_string();
    let mounts = snapshots.prepare("a", None, Labels::new()).await.unwrap();
    assert_eq!(mounts[0].to_string(), format!("bind {} rw,rbind", path("1/fs")));
    snapshots.commit("A", "a", Commit::default()).await.unwrap();
    let mounts = snapshots.prepare("b", Some("A"), Labels::new()).await.unwrap();
    let (work, upper, lower) = (path("2/work"), path("2/fs"), path("1/fs"));
    let want = format!(
        "overlay overlay workdir={work},upperdir={upper},lowerdir={lower},xino=off,index=off"
    );
    assert_eq!(mounts[0].to_string(), want);
}

#[tokio::test]
async fn the_upper_directory_is_told_as_a_label() {
    let root = tempfile::tempdir().unwrap();
    let options = Options { upperdir_label: true, ..Options::default() };
    let snapshots = Overlay::open(root.path(), options).unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let upper = root.path().join("snapshots/1/fs").display().to_string();
    let want = Labels::from([(UPPERDIR_LABEL.to_owned(), upper)]);
    let info = snapshots.stat("key").await.unwrap();
    assert_eq!(info.labels, want);
    let walked: Vec<Info> = snapshots.walk(Filters::default()).try_collect().await.unwrap();
    assert_eq!(walked, std::slice::from_ref(&info));
    let updated = snapshots.update(info, &FieldMask::default()).await.unwrap();
    assert_eq!(updated.labels, want);
}

/// A container of other users sees its image as its own, and nothing on disk was changed.
#[tokio::test]
async fn owners_are_shifted_by_labels() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let snapshots = Overlay::open(disk.path(), Options::default()).unwrap();
    let names: Vec<_> = snapshots.capabilities().iter().map(|it| it.name()).collect();
    if !names.contains(&"remap-ids") {
        println!("skipped: this kernel shifts no owners below an overlay: {names:?}");
        return;
    }
    assert_eq!(names, ["remap-ids", "only-remap-ids", "rebase"]);
    for (name, parent) in [("a", None), ("b", Some("a"))] {
        let mounts = snapshots.prepare("key", parent, Labels::new()).await.unwrap();
        let mounted = Temporary::mount(&mounts, &disk.path()).unwrap();
        fs::write(mounted.path().join(name), "").unwrap();
        chown(mounted.path().join(name), Some(7), Some(8)).unwrap();
        mounted.close().unwrap();
        snapshots.commit(name, "key", Commit::default()).await.unwrap();
    }
    let labels: Labels =
        [(UID_MAPPING_LABEL, "0:100000:65536"), (GID_MAPPING_LABEL, "0:200000:65536")]
            .map(|(label, map)| (label.to_owned(), map.to_owned()))
            .into();
    for (key, parent) in [("none", None), ("one", Some("a")), ("two", Some("b"))] {
        let mounts = snapshots.prepare(key, parent, labels.clone()).await.unwrap();
        assert!(mounts[0].options[0].starts_with("uidmap=0:100000"), "{}", mounts[0]);
        let mounted = Temporary::mount(&mounts, &disk.path()).unwrap();
        let owner = |name: &str| {
            let it = fs::symlink_metadata(mounted.path().join(name)).unwrap();
            (it.uid(), it.gid())
        };
        assert_eq!(owner(""), (100_000, 200_000), "{key}");
        if parent.is_some() {
            assert_eq!(owner("a"), (100_007, 200_008), "{key}");
        }
        mounted.close().unwrap();
    }
    let untouched = fs::symlink_metadata(disk.path().join("snapshots/1/fs/a")).unwrap();
    assert_eq!((untouched.uid(), untouched.gid()), (7, 8));
}

#[tokio::test]
async fn labels_that_map_nothing_make_no_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Overlay::open(root.path(), Options::default()).unwrap();
    let labels = Labels::from([(UID_MAPPING_LABEL.to_owned(), "0:1:1".to_owned())]);
    let error = snapshots.prepare("key", None, labels).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert!(snapshots.stat("key").await.unwrap_err().is_not_found());
}

#[test]
fn where_overlayfs_does_not_work_opening_says_so() {
    let root = tempfile::tempdir().unwrap();
    let options = Options { mount_options: vec!["no-such-option".into()], ..Options::default() };
    let error = Overlay::open(root.path(), options).err().unwrap();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let text = error.to_string();
    assert!(text.starts_with("overlayfs does not work in "), "{text}");
    assert!(text.contains("native snapshotter"), "{text}");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

/// What is mounted is what was asked for: a colon in the path would make two layers of one.
#[test]
fn a_root_that_overlayfs_cannot_name_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let error = Overlay::open(root.path().join("a:b"), Options::default()).err().unwrap();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
}
