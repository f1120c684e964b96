// SPDX-License-Identifier: Apache-2.0
//! What is on disk, and what a crash or a power cut may leave there.
use std::{collections::BTreeSet, path::Path};

use fs_err as fs;
use snapshots::{Commit, Native, Options, Overlay, Snapshotter};
use types::Labels;

fn overlay(root: &Path) -> Overlay {
    Overlay::open(root, Options::default()).unwrap()
}

fn directories(root: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(root.join("snapshots")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

async fn prepare(snapshots: &impl Snapshotter, key: &str, parent: Option<&str>) {
    snapshots.prepare(key, parent, Labels::new()).await.unwrap();
}

async fn commit(snapshots: &impl Snapshotter, name: &str, key: &str) {
    snapshots.commit(name, key, Commit::default()).await.unwrap();
}

#[tokio::test]
async fn snapshots_lie_on_disk_as_containerd_lays_them() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "key", None).await;
    commit(&snapshots, "name", "key").await;
    snapshots.view("view", Some("name"), Labels::new()).await.unwrap();
    assert_eq!(directories(root.path()), set(["1", "2"]));
    assert!(root.path().join("snapshots/1/fs").is_dir());
    assert!(root.path().join("snapshots/1/work").is_dir());
    assert!(!root.path().join("snapshots/2/work").exists());
    assert!(!root.path().join("probe").exists());
}

#[tokio::test]
async fn snapshots_survive_their_process() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "key", None).await;
    commit(&snapshots, "name", "key").await;
    prepare(&snapshots, "active", Some("name")).await;
    let (info, mounts) =
        (snapshots.stat("name").await.unwrap(), snapshots.mounts("active").await.unwrap());
    drop(snapshots);
    let snapshots = overlay(root.path());
    assert_eq!(snapshots.stat("name").await.unwrap(), info);
    assert_eq!(snapshots.mounts("active").await.unwrap(), mounts);
}

#[tokio::test]
async fn an_id_is_never_given_again() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "one", None).await;
    prepare(&snapshots, "two", None).await;
    snapshots.remove("two").await.unwrap();
    drop(snapshots);
    let snapshots = overlay(root.path());
    prepare(&snapshots, "three", None).await;
    assert_eq!(directories(root.path()), set(["1", "3"]));
}

/// Killed between making the directory and its record, or between removing the record and it.
#[tokio::test]
async fn a_directory_without_a_record_is_cleaned_up() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "key", None).await;
    drop(snapshots);
    for name in ["7/fs/deep/down", "7/work", "new-1234/fs", "rm-3"] {
        fs::create_dir_all(root.path().join("snapshots").join(name)).unwrap();
    }
    let snapshots = overlay(root.path());
    prepare(&snapshots, "next", None).await;
    assert!(directories(root.path()).contains("8"), "not mistaken for the one left behind");
    snapshots.cleanup().await.unwrap();
    assert_eq!(directories(root.path()), set(["1", "8"]));
    snapshots.mounts("key").await.unwrap();
}

#[tokio::test]
async fn data_of_a_removed_snapshot_may_go_later() {
    let root = tempfile::tempdir().unwrap();
    let options = Options { async_remove: true, ..Options::default() };
    let snapshots = Overlay::open(root.path(), options).unwrap();
    prepare(&snapshots, "key", None).await;
    snapshots.remove("key").await.unwrap();
    assert_eq!(directories(root.path()), set(["1"]));
    prepare(&snapshots, "key", None).await;
    snapshots.cleanup().await.unwrap();
    assert_eq!(directories(root.path()), set(["2"]));
}

/// A power cut may take the directory of an active snapshot: nothing in it was synced.
#[tokio::test]
async fn an_active_snapshot_without_its_directory_is_made_anew() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "key", None).await;
    commit(&snapshots, "name", "key").await;
    prepare(&snapshots, "gone", Some("name")).await;
    prepare(&snapshots, "half", Some("name")).await;
    drop(snapshots);
    fs::remove_dir_all(root.path().join("snapshots/2")).unwrap();
    fs::remove_dir_all(root.path().join("snapshots/3/work")).unwrap();
    let snapshots = overlay(root.path());
    for key in ["gone", "half"] {
        let mounts = snapshots.mounts(key).await.unwrap();
        mount::Temporary::mount(&mounts, root.path()).unwrap().close().unwrap();
    }
}

#[tokio::test]
async fn a_damaged_snapshot_does_not_keep_the_others_away() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    for name in ["good", "bad"] {
        prepare(&snapshots, "key", None).await;
        commit(&snapshots, name, "key").await;
    }
    prepare(&snapshots, "on bad", Some("bad")).await;
    drop(snapshots);
    fs::remove_dir_all(root.path().join("snapshots/2")).unwrap();
    fs::remove_dir_all(root.path().join("snapshots/3")).unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "on good", Some("good")).await;
    let error = snapshots.prepare("on bad too", Some("bad"), Labels::new()).await.unwrap_err();
    assert!(error.to_string().contains("failed to stat parent"), "{error}");
    snapshots.remove("on bad").await.unwrap();
    snapshots.remove("bad").await.unwrap();
}

#[tokio::test]
async fn a_failed_copy_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = Native::open(root.path()).unwrap();
    prepare(&snapshots, "key", None).await;
    commit(&snapshots, "name", "key").await;
    fs::remove_dir(root.path().join("snapshots/1")).unwrap();
    let error = snapshots.prepare("next", Some("name"), Labels::new()).await.unwrap_err();
    assert!(error.to_string().contains("copying of parent failed"), "{error}");
    assert_eq!(directories(root.path()), set([]));
    assert!(snapshots.stat("next").await.unwrap_err().is_not_found());
}

/// An unpacked layer may be mounted somewhere still when its snapshot is removed.
#[tokio::test]
async fn a_mount_in_the_way_does_not_keep_a_snapshot() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = overlay(root.path());
    prepare(&snapshots, "key", None).await;
    let target = root.path().join("snapshots/1/fs/mnt");
    fs::create_dir(&target).unwrap();
    let tmpfs = mount::Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
    mount::one(&tmpfs, &target).unwrap();
    snapshots.remove("key").await.unwrap();
    assert_eq!(directories(root.path()), set([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cleaning_up_spares_what_is_in_the_making() {
    let root = tempfile::tempdir().unwrap();
    let snapshots = std::sync::Arc::new(overlay(root.path()));
    let makers = (0..4).map(|maker| {
        let snapshots = snapshots.clone();
        tokio::spawn(async move {
            for number in 0..25 {
                prepare(&*snapshots, &format!("{maker}-{number}"), None).await;
            }
        })
    });
    let makers: Vec<_> = makers.collect();
    while !makers.iter().all(tokio::task::JoinHandle::is_finished) {
        snapshots.cleanup().await.unwrap();
    }
    for maker in makers {
        maker.await.unwrap();
    }
    assert_eq!(directories(root.path()).len(), 100);
}
