// SPDX-License-Identifier: Apache-2.0
use fs_err as fs;
use futures_util::TryStreamExt;
use snapshots::{Commit, Info, Options, Overlay, Snapshotter, UPPERDIR_LABEL};
use types::{FieldMask, Filters, Kind, Labels};

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
