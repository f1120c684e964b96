// SPDX-License-Identifier: Apache-2.0
//! The size of a writable layer, on filesystems that count projects.
use std::{io, path::Path};

use fs_err as fs;
use snapshots::{Commit, MAX_SIZE_LABEL, Options, Overlay, Snapshotter};
use types::Labels;

use snapshots::suite::Disk;

const LIMIT: u64 = 8 << 20;

/// What to make and mount such that projects are counted.
const COUNTING: [(&str, &[&str]); 2] =
    [("xfs", &[]), ("ext4", &["-O", "project,quota", "-E", "quotatype=prjquota"])];

fn limited(size: u64) -> Labels {
    Labels::from([(MAX_SIZE_LABEL.to_owned(), size.to_string())])
}

fn project(path: &Path) -> u32 {
    sys::project_quota::project(fs::File::open(path).unwrap().file()).unwrap()
}

#[tokio::test]
async fn a_snapshot_takes_no_more_than_its_label_says() {
    for (kind, mkfs) in COUNTING {
        let Some(disk) = Disk::new(kind, mkfs, &["prjquota"]) else { continue };
        let snapshots = Overlay::open(disk.path(), Options::default()).unwrap();
        snapshots.prepare("key", None, Labels::new()).await.unwrap();
        fs::write(disk.path().join("snapshots/1/fs/base"), vec![1; 2 * LIMIT as usize]).unwrap();
        snapshots.commit("name", "key", Commit::default()).await.unwrap();
        let mounts = snapshots.prepare("small", Some("name"), limited(LIMIT)).await.unwrap();
        snapshots.prepare("large", Some("name"), Labels::new()).await.unwrap();

        let mounted = mount::Temporary::mount(&mounts, &disk.path()).unwrap();
        let half = vec![2; LIMIT as usize / 2];
        fs::write(mounted.path().join("half"), &half).unwrap();
        let error = fs::write(mounted.path().join("more"), vec![3; LIMIT as usize]).unwrap_err();
        let full = [io::ErrorKind::QuotaExceeded, io::ErrorKind::StorageFull];
        assert!(full.contains(&error.kind()), "{kind}: {error}");
        // Renamed within, copied up, removed: none of it crosses a border.
        fs::rename(mounted.path().join("half"), mounted.path().join("renamed")).unwrap();
        fs::remove_file(mounted.path().join("more")).unwrap();
        fs::remove_file(mounted.path().join("base")).unwrap();
        mounted.close().unwrap();
        fs::write(disk.path().join("snapshots/3/fs/f"), vec![4; 2 * LIMIT as usize]).unwrap();

        let usage = snapshots.usage("small").await.unwrap();
        assert!((LIMIT / 2..=LIMIT).contains(&usage.size), "{kind}: {usage:?}");
    }
}

/// Whether a project comes to have nothing: XFS lets go of removed files a little later.
fn comes_free(root: &fs::File, number: u32) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        let quota = sys::project_quota::get(root.file(), number).unwrap();
        quota == sys::project_quota::Quota::default()
    })
}

#[tokio::test]
async fn a_project_is_kept_by_a_restart_and_freed_by_removal() {
    for (kind, mkfs) in COUNTING {
        let Some(disk) = Disk::new(kind, mkfs, &["prjquota"]) else { continue };
        let snapshots = Overlay::open(disk.path(), Options::default()).unwrap();
        snapshots.prepare("key", None, limited(LIMIT)).await.unwrap();
        let own = disk.path().join("snapshots/1");
        let number = project(&own);
        assert_ne!(number, 0);
        assert_eq!(project(&own.join("fs")), number);
        drop(snapshots);
        let snapshots = Overlay::open(disk.path(), Options::default()).unwrap();
        assert_eq!(project(&own), number);
        let root = fs::File::open(disk.path()).unwrap();
        assert_eq!(sys::project_quota::get(root.file(), number).unwrap().limit, LIMIT);
        snapshots.remove("key").await.unwrap();
        assert_eq!(sys::project_quota::get(root.file(), number).unwrap().limit, 0);
        assert!(comes_free(&root, number), "{kind}: project {number} is in use");
        snapshots.prepare("other", None, Labels::new()).await.unwrap();
        assert_eq!(project(&disk.path().join("snapshots/2")), 0);
    }
}

/// Whoever has to have the limit picks a snapshotter that keeps it: others may ignore it.
#[tokio::test]
async fn where_nothing_is_counted_the_label_is_ignored() {
    let Some(disk) = Disk::new("tmpfs", &[], &[]) else { return };
    let snapshots = Overlay::open(disk.path(), Options::default()).unwrap();
    snapshots.prepare("key", None, limited(4096)).await.unwrap();
    fs::write(disk.path().join("snapshots/1/fs/f"), vec![1; 1 << 20]).unwrap();
    assert!(snapshots.usage("key").await.unwrap().size >= 1 << 20);
}
