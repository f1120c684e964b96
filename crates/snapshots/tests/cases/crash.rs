// SPDX-License-Identifier: Apache-2.0
//! Killed at every point between a call and its answer: what was answered is there after opening
//! again, what was not is whole or gone, and cleaning up leaves nothing that nobody knows.
use std::{collections::BTreeMap, path::Path, sync::Arc};

use fs_err as fs;
use futures_util::TryStreamExt;
use mount::Mount;
use snapshots::{
    Blockfile, BlockfileOptions, Btrfs, Commit, Erofs, ErofsOptions, Info, Kind, Native, Options,
    Overlay, Snapshotter,
    suite::{Disk, Manner, scratch},
};
use sys::{Exit, failpoint};
use types::{Filters, Labels};

use super::carried;

/// What the process that is to be killed is told, as `<snapshotter> <directory>`.
const ORDER: &str = "SNAPSHOTS_CRASH";

/// The points that every snapshotter comes by.
const COMMON: &[&str] = &[
    "snapshots.create.made",
    "snapshots.create.recorded",
    "snapshots.commit.sealed",
    "snapshots.commit.recorded",
    "snapshots.commit.settled",
    "snapshots.remove.recorded",
    "snapshots.cleanup.removed",
];

fn open(kind: &str, root: &Path) -> Arc<dyn Snapshotter> {
    let file = root.parent().unwrap().join("scratch-file");
    match kind {
        "overlayfs" => Arc::new(Overlay::open(root, Options::default()).unwrap()),
        "native" => Arc::new(Native::open(root).unwrap()),
        "btrfs" => Arc::new(Btrfs::open(root).unwrap()),
        "erofs" => Arc::new(Erofs::open(root, ErofsOptions::default()).unwrap()),
        "images" => {
            let options = ErofsOptions { default_size: 16 << 20, ..ErofsOptions::default() };
            Arc::new(Erofs::open(root, options).unwrap())
        }
        _ => {
            let scratch_file = Some(file);
            let options = BlockfileOptions { scratch_file, ..BlockfileOptions::default() };
            Arc::new(Blockfile::open(root, options).unwrap())
        }
    }
}

fn within<T>(kind: &str, mounts: &[Mount], work: &Path, act: impl FnOnce(&Path) -> T) -> T {
    let manner =
        if matches!(kind, "erofs" | "images") { carried::manner() } else { Manner::default() };
    let mounted = (manner.mount)(mounts, work).unwrap();
    let outcome = act(mounted.path());
    mounted.close().unwrap();
    outcome
}

/// Three layers, a view and an active snapshot, a removal and a cleanup: by every point.
#[tokio::test]
async fn plays_the_life_of_a_snapshotter() {
    let Some(order) = std::env::var_os(ORDER) else { return };
    let order = order.into_string().unwrap();
    let (kind, base) = order.split_once(' ').unwrap();
    let base = Path::new(base);
    let snapshots = open(kind, &base.join("root"));
    let mut parent = None;
    for name in ["a", "b", "c"] {
        let mounts = snapshots.prepare("key", parent, Labels::new()).await.unwrap();
        within(kind, &mounts, base, |root| fs::write(root.join(name), name).unwrap());
        snapshots.commit(name, "key", Commit::default()).await.unwrap();
        parent = Some(name);
    }
    snapshots.view("view", Some("b"), Labels::new()).await.unwrap();
    snapshots.prepare("active", Some("b"), Labels::new()).await.unwrap();
    snapshots.remove("c").await.unwrap();
    fs::create_dir_all(base.join("root/snapshots/99/left/behind")).unwrap();
    snapshots.cleanup().await.unwrap();
}

async fn all(snapshots: &Arc<dyn Snapshotter>) -> BTreeMap<String, Info> {
    let infos: Vec<Info> = snapshots.walk(Filters::default()).try_collect().await.unwrap();
    infos.into_iter().map(|info| (info.name.clone(), info)).collect()
}

fn data(base: &Path) -> usize {
    fs::read_dir(base.join("root/snapshots")).unwrap().count()
}

/// Each layer has its own file and those of the layers below, and nothing else.
async fn check_content(kind: &str, snapshots: &Arc<dyn Snapshotter>, base: &Path) {
    for (name, info) in all(snapshots).await {
        if info.kind != Kind::Committed {
            let mounts = snapshots.mounts(&name).await.unwrap();
            within(kind, &mounts, base, |_| ());
            continue;
        }
        let mounts = snapshots.view("check", Some(&name), Labels::new()).await.unwrap();
        within(kind, &mounts, base, |root| {
            for below in ["a", "b", "c"].into_iter().take_while(|&below| below <= name.as_str()) {
                assert_eq!(fs::read_to_string(root.join(below)).unwrap(), below, "in {name}");
            }
            assert_eq!(
                fs::read_dir(root).unwrap().count(),
                usize::from(name.as_bytes()[0] - b'a') + 1
            );
        });
        snapshots.remove("check").await.unwrap();
    }
}

async fn check(kind: &str, disk: &str, point: &str) {
    println!("{kind} at {point}");
    let Some(disk) = Disk::new(disk, &[], &[]) else { return };
    let base = disk.path();
    if kind == "blockfile" && scratch(&base, 8).is_none() {
        return;
    }
    let points = base.join("points");
    fs::create_dir(&points).unwrap();
    fs::write(points.join(point), "kill").unwrap();
    let played = sys::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cases::crash::plays_the_life_of_a_snapshotter", "--nocapture"])
        .env(ORDER, format!("{kind} {}", base.display()))
        .env(failpoint::DIRECTORY, &points)
        .combined_output()
        .unwrap();
    let said = String::from_utf8_lossy(&played.stdout);
    assert_eq!(played.exit, Exit::Signal(9), "{kind} at {point}: {said}");

    let snapshots = open(kind, &base.join("root"));
    check_content(kind, &snapshots, &base).await;
    snapshots.cleanup().await.unwrap();
    let views = |infos: &BTreeMap<String, Info>| {
        let shared =
            |info: &&Info| info.kind == Kind::View && matches!(kind, "native" | "blockfile");
        infos.values().filter(shared).count()
    };
    let infos = all(&snapshots).await;
    assert_eq!(
        data(&base),
        infos.len() - views(&infos),
        "{kind} at {point}: data without a record"
    );

    for name in ["view", "active", "key", "c", "b", "a"] {
        if let Err(error) = snapshots.remove(name).await {
            assert!(error.is_not_found(), "{kind} at {point}: {error}");
        }
    }
    snapshots.cleanup().await.unwrap();
    assert_eq!(data(&base), 0, "{kind} at {point}: something stays for ever");
}

async fn check_all(kind: &str, disk: &str, own: &[&str]) {
    for point in COMMON.iter().chain(own) {
        check(kind, disk, point).await;
    }
}

#[tokio::test]
async fn overlay_survives_being_killed_anywhere() {
    let own = ["overlayfs.create.directory", "overlayfs.create.upper", "overlayfs.remove.released"];
    check_all("overlayfs", "ext4", &own).await;
}

#[tokio::test]
async fn native_survives_being_killed_anywhere() {
    check_all("native", "ext4", &["native.create.copied"]).await;
}

#[tokio::test]
async fn btrfs_survives_being_killed_anywhere() {
    check_all("btrfs", "btrfs", &["btrfs.create.subvolume", "btrfs.create.snapshot"]).await;
}

#[tokio::test]
async fn erofs_survives_being_killed_anywhere() {
    let own = [
        "erofs.create.directory",
        "erofs.seal.converted",
        "erofs.settle.image",
        "erofs.remove.mutable",
    ];
    check_all("erofs", "ext4", &own).await;
}

#[tokio::test]
async fn erofs_that_writes_to_images_survives_being_killed() {
    for point in ["erofs.seal.converted", "snapshots.commit.sealed", "erofs.settle.image"] {
        check("images", "ext4", point).await;
    }
}

#[tokio::test]
async fn blockfile_survives_being_killed_anywhere() {
    check_all("blockfile", "xfs", &["blockfile.open.copied", "blockfile.create.copied"]).await;
}
