// SPDX-License-Identifier: Apache-2.0
use std::io;

use fs_err as fs;
use snapshots::{Btrfs, Commit, MAX_SIZE_LABEL, Snapshotter};
use types::{Kind, Labels};

use snapshots::suite::Disk;

#[test]
fn a_root_that_is_not_btrfs_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let error = Btrfs::open(root.path()).err().unwrap();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains("must be a btrfs filesystem"), "{error}");
}

#[tokio::test]
async fn mounts_read_as_gos() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let snapshots = Btrfs::open(disk.path().join("root")).unwrap();
    let mounts = snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let id = sys::btrfs::id(&disk.path().join("root/snapshots/1")).unwrap();
    assert!(mounts[0].to_string().starts_with("btrfs /dev/loop"), "{}", mounts[0]);
    assert_eq!(mounts[0].options, [format!("subvolid={id}")]);
    snapshots.commit("name", "key", Commit::default()).await.unwrap();
    let mounts = snapshots.view("view", Some("name"), Labels::new()).await.unwrap();
    assert_eq!(mounts[0].options[1], "ro");
}

/// The data of a committed layer is read-only also for who goes past the mounts.
#[tokio::test]
async fn a_committed_subvolume_cannot_be_written() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let snapshots = Btrfs::open(disk.path()).unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    fs::write(disk.path().join("snapshots/1/f"), "x").unwrap();
    snapshots.commit("name", "key", Commit::default()).await.unwrap();
    let error = fs::write(disk.path().join("snapshots/1/f"), "y").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[tokio::test]
async fn only_what_changed_counts() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let snapshots = Btrfs::open(disk.path()).unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    fs::create_dir(disk.path().join("snapshots/1/d")).unwrap();
    fs::write(disk.path().join("snapshots/1/d/big"), vec![1; 1 << 20]).unwrap();
    fs::write(disk.path().join("snapshots/1/d/small"), "1").unwrap();
    snapshots.commit("name", "key", Commit::default()).await.unwrap();
    assert!(snapshots.usage("name").await.unwrap().size >= 1 << 20);
    snapshots.prepare("next", Some("name"), Labels::new()).await.unwrap();
    let fresh = snapshots.usage("next").await.unwrap();
    assert!(fresh.size < 64 << 10 && fresh.inodes <= 1, "{fresh:?}");
    fs::write(disk.path().join("snapshots/2/d/small"), vec![2; 256 << 10]).unwrap();
    fs::File::open(disk.path().join("snapshots/2/d/small")).unwrap().sync_all().unwrap();
    let grown = snapshots.usage("next").await.unwrap();
    assert!(grown.size >= 256 << 10 && grown.size < 1 << 20, "{grown:?}");
}

/// A container that makes subvolumes must not make its snapshot stay.
#[tokio::test]
async fn subvolumes_inside_go_with_a_snapshot() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let snapshots = Btrfs::open(disk.path()).unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let inside = disk.path().join("snapshots/1/var");
    sys::btrfs::create(&inside).unwrap();
    fs::write(inside.join("f"), "x").unwrap();
    sys::btrfs::create(&inside.join("deeper")).unwrap();
    snapshots.remove("key").await.unwrap();
    assert!(!disk.path().join("snapshots/1").exists());
}

#[tokio::test]
async fn a_snapshot_takes_no_more_than_its_label_says() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let enabled = sys::Command::new("btrfs").args(["quota", "enable"]).arg(disk.path()).output();
    assert!(enabled.unwrap().exit.success());
    let snapshots = Btrfs::open(disk.path()).unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    fs::write(disk.path().join("snapshots/1/f"), vec![1; 8 << 20]).unwrap();
    snapshots.commit("name", "key", Commit::default()).await.unwrap();
    let labels = Labels::from([(MAX_SIZE_LABEL.to_owned(), (4 << 20).to_string())]);
    snapshots.prepare("small", Some("name"), labels).await.unwrap();
    let file = disk.path().join("snapshots/2/g");
    fs::write(&file, vec![2; 1 << 20]).unwrap();
    fs::File::open(&file).unwrap().sync_all().unwrap();
    let error = fs::write(&file, vec![3; 16 << 20])
        .and_then(|()| fs::File::open(&file)?.sync_all())
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
}
