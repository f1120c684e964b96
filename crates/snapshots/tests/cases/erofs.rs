// SPDX-License-Identifier: Apache-2.0
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::{IFlags, ioctl_getflags};
use snapshots::{Commit, Erofs, ErofsOptions, MAX_SIZE_LABEL, Snapshotter, suite::Mounted};
use types::{Kind, Labels};

use super::carried::Carried;
use snapshots::suite::Disk;

fn open(root: &Path) -> Erofs {
    Erofs::open(root, ErofsOptions::default()).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

async fn layer(snapshots: &Erofs, root: &Path, id: u64, name: &str) -> PathBuf {
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let own = root.join(format!("snapshots/{id}"));
    fs::write(own.join("fs/f"), name).unwrap();
    snapshots.commit(name, "key", Commit::default()).await.unwrap();
    own
}

#[tokio::test]
async fn a_committed_layer_is_its_image_and_little_else() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let snapshots = open(&disk.path());
    let own = layer(&snapshots, &disk.path(), 1, "name").await;
    assert_eq!(names(&own), [".erofslayer", "fs", "layer.erofs"]);
    assert_eq!(names(&own.join("fs")), [] as [&str; 0]);
    let usage = snapshots.usage("name").await.unwrap();
    assert_eq!(usage.inodes, 1);
}

#[tokio::test]
async fn many_images_are_laid_over_each_other() {
    const LAYERS: usize = 64;
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let snapshots = open(&disk.path());
    let mut parent: Option<String> = None;
    for number in 0..LAYERS {
        snapshots.prepare("key", parent.as_deref(), Labels::new()).await.unwrap();
        let own = disk.path().join(format!("snapshots/{}/fs", number + 1));
        fs::write(own.join(format!("of-{number}")), "").unwrap();
        fs::write(own.join("top"), number.to_string()).unwrap();
        let name = format!("layer-{number}");
        snapshots.commit(&name, "key", Commit::default()).await.unwrap();
        parent = Some(name);
    }
    let mounts = snapshots.prepare("key", parent.as_deref(), Labels::new()).await.unwrap();
    let mounted = Carried::mount(&mounts, &disk.path()).unwrap();
    assert_eq!(fs::read_to_string(mounted.path().join("top")).unwrap(), (LAYERS - 1).to_string());
    assert!((0..LAYERS).all(|number| mounted.path().join(format!("of-{number}")).exists()));
}

/// The differ may have made the image of the layer while it came over the network.
#[tokio::test]
async fn an_image_that_a_differ_made_is_taken_as_it_is() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let snapshots = open(&disk.path());
    let first = layer(&snapshots, &disk.path(), 1, "first").await;
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let own = disk.path().join("snapshots/2");
    assert!(own.join(".erofslayer").exists());
    fs::copy(first.join("layer.erofs"), own.join("layer.erofs")).unwrap();
    snapshots.commit("second", "key", Commit::default()).await.unwrap();
    let mounts = snapshots.view("view", Some("second"), Labels::new()).await.unwrap();
    let mounted = Carried::mount(&mounts, &disk.path()).unwrap();
    assert_eq!(fs::read_to_string(mounted.path().join("f")).unwrap(), "first");
}

#[tokio::test]
async fn a_layer_that_is_immutable_can_be_removed_by_who_made_it() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let options = ErofsOptions { set_immutable: true, ..ErofsOptions::default() };
    let snapshots = Erofs::open(disk.path(), options).unwrap();
    let own = layer(&snapshots, &disk.path(), 1, "name").await;
    let flags = ioctl_getflags(fs::File::open(own.join("layer.erofs")).unwrap()).unwrap();
    assert!(flags.contains(IFlags::IMMUTABLE));
    fs::remove_file(own.join("layer.erofs")).unwrap_err();
    snapshots.remove("name").await.unwrap();
    assert!(!own.exists());
}

#[tokio::test]
async fn a_snapshot_takes_no_more_than_its_label_says() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let snapshots = open(&disk.path());
    layer(&snapshots, &disk.path(), 1, "name").await;
    let labels = Labels::from([(MAX_SIZE_LABEL.to_owned(), (16 << 20).to_string())]);
    let mounts = snapshots.prepare("small", Some("name"), labels).await.unwrap();
    let mounted = Carried::mount(&mounts, &disk.path()).unwrap();
    fs::write(mounted.path().join("g"), vec![1; 1 << 20]).unwrap();
    let error = fs::write(mounted.path().join("h"), vec![1; 32 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    fs::remove_file(mounted.path().join("h")).unwrap();
    drop(mounted);
    snapshots.commit("next", "small", Commit::default()).await.unwrap();
    let mounts = snapshots.view("view", Some("next"), Labels::new()).await.unwrap();
    let mounted = Carried::mount(&mounts, &disk.path()).unwrap();
    assert_eq!(names(mounted.path()), ["f", "g"]);
}

/// Where the kernel or the filesystem has no fs-verity, whoever asks for it is told.
#[tokio::test]
async fn verity_is_kept_or_refused() {
    let Some(disk) = Disk::new("ext4", &["-O", "verity"], &[]) else { return };
    let options = ErofsOptions { enable_fsverity: true, ..ErofsOptions::default() };
    match Erofs::open(disk.path(), options) {
        Err(error) => {
            assert_eq!(error.kind(), Kind::FailedPrecondition);
            assert!(error.to_string().starts_with("fsverity is not supported on"), "{error}");
            println!("skipped: this kernel has no fs-verity");
        }
        Ok(snapshots) => {
            let own = layer(&snapshots, &disk.path(), 1, "name").await;
            fs::OpenOptions::new().write(true).open(own.join("layer.erofs")).unwrap_err();
        }
    }
}

/// What is in the cache is the operator's: it is mounted from there, and stays.
#[tokio::test]
async fn a_layer_of_the_cache_is_there_when_it_is_asked_for() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let (root, cache) = (disk.path().join("root"), disk.path().join("cache"));
    let snapshots = open(&root);
    let image = layer(&snapshots, &root, 1, "first").await.join("layer.erofs");
    let diff_id = types::Digest::of("layer");
    let folder = cache.join("sha256").join(&diff_id.hex()[..2]);
    let cached = folder.join(format!("{}.erofs", diff_id.hex()));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(image, &cached).unwrap();
    drop(snapshots);
    let options = ErofsOptions {
        layer_content_cache: Some(cache),
        set_immutable: true,
        ..ErofsOptions::default()
    };
    let snapshots = Erofs::open(&root, options).unwrap();
    let labels = |diff_id: &types::Digest| {
        let labels = [("containerd.io/snapshot.ref", "chain"), ("x", "y")];
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
        let diff_id = ("containerd.io/snapshot/diff-id".to_owned(), diff_id.to_string());
        labels.chain([diff_id]).collect::<Labels>()
    };
    let other = labels(&types::Digest::of("another"));
    let mounts = snapshots.prepare("other", None, other).await.unwrap();
    assert!(!mounts.last().unwrap().is_read_only(), "what is not in the cache is unpacked");
    let mounts = snapshots.prepare("key", None, labels(&diff_id)).await.unwrap();
    assert!(mounts.last().unwrap().is_read_only());
    let commit = Commit { parent: Some("first".into()), ..Commit::default() };
    snapshots.commit("second", "key", commit).await.unwrap();
    assert_eq!(snapshots.usage("second").await.unwrap().size, 0, "it takes no space here");
    let mounts = snapshots.prepare("container", Some("second"), Labels::new()).await.unwrap();
    let mounted = Carried::mount(&mounts, &root).unwrap();
    assert_eq!(fs::read_to_string(mounted.path().join("f")).unwrap(), "first");
    fs::write(mounted.path().join("f"), "mine").unwrap();
    drop(mounted);
    snapshots.remove("container").await.unwrap();
    snapshots.remove("second").await.unwrap();
    assert!(cached.exists());
    let flags = ioctl_getflags(fs::File::open(&cached).unwrap()).unwrap();
    assert!(!flags.contains(IFlags::IMMUTABLE), "it is not ours to change");
}
