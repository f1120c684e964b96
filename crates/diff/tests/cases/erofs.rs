// SPDX-License-Identifier: Apache-2.0
//! Layers that are images of erofs. Needs root, `mkfs.erofs` and a kernel that mounts it.
use std::{path::Path, process::Command, sync::Arc, time::UNIX_EPOCH};

use content::{Expected, Memory, Store, blob};
use diff::{Apply, Compare, Differ, EROFS_LAYER, Erofs};
use fs_err as fs;
use mount::Mount;
use tempfile::TempDir;
use types::{Descriptor, Digest, Kind, Labels, media_types};

use super::{
    archive::{dir, file, tar},
    tree::{paths, write},
};

/// A snapshot as the erofs snapshotter prepares one.
fn snapshot() -> (TempDir, [Mount; 1]) {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join(".erofslayer"), "").unwrap();
    fs::create_dir(folder.path().join("fs")).unwrap();
    let mounts = [Mount::bind(folder.path().join("fs").display().to_string(), ["rw", "rbind"])];
    (folder, mounts)
}

/// A snapshot with files, made into a layer.
async fn layer(store: &Arc<Memory>, how: Compare) -> Descriptor {
    let (folder, mounts) = snapshot();
    let fs = folder.path().join("fs");
    write(&fs, "etc/motd", &"hello ".repeat(5000));
    let how = Compare { media_type: EROFS_LAYER.into(), ..how };
    Erofs::new(store.clone(), vec![]).compare(&[], &mounts, how).await.unwrap()
}

fn check_mounted(image: &Path) {
    let image = Mount {
        kind: "erofs".into(),
        source: image.display().to_string(),
        target: String::new(),
        options: vec!["ro".into(), "loop".into()],
    };
    let mounted = mount::Temporary::mount(&[image], Path::new("/tmp")).unwrap();
    assert_eq!(paths(mounted.path()), ["etc", "etc/motd"]);
    assert_eq!(fs::read(mounted.path().join("etc/motd")).unwrap().len(), 30_000);
    mounted.close().unwrap();
}

#[tokio::test]
async fn a_native_layer_is_made_applied_and_mounted() {
    let store = Arc::new(Memory::default());
    let made = layer(&store, Compare::default()).await;
    let info = store.info(&made.digest).await.unwrap();
    assert_eq!(info.labels["containerd.io/uncompressed"], made.digest.to_string());
    let (folder, mounts) = snapshot();
    let differ = Erofs::new(store, vec![]);
    let applied = differ.apply(&made, &mounts, Apply::default()).await.unwrap();
    assert_eq!(applied, Descriptor::new(EROFS_LAYER, made.digest, made.size));
    check_mounted(&folder.path().join("layer.erofs"));
}

#[tokio::test]
async fn a_native_layer_may_be_compressed() {
    let store = Arc::new(Memory::default());
    let made = layer(&store, Compare::default()).await;
    let plain = blob::read(&*store, &made.digest, u64::MAX).await.unwrap();
    let packed = zstd::encode_all(&plain[..], 0).unwrap();
    let size = packed.len() as u64;
    let digest = blob::write(&*store, "r", Expected::default(), packed, Labels::new()).await;
    let packed = Descriptor::new(format!("{EROFS_LAYER}+zstd"), digest.unwrap(), size);
    let (folder, mounts) = snapshot();
    let applied =
        Erofs::new(store, vec![]).apply(&packed, &mounts, Apply::default()).await.unwrap();
    assert_eq!(applied, Descriptor::new(EROFS_LAYER, made.digest, made.size));
    check_mounted(&folder.path().join("layer.erofs"));
}

#[tokio::test]
async fn the_same_files_give_the_same_image_at_the_same_epoch() {
    let store = Arc::new(Memory::default());
    let how = || Compare { source_date_epoch: Some(UNIX_EPOCH), ..Compare::default() };
    assert_eq!(layer(&store, how()).await, layer(&store, how()).await);
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_leaves_nothing() {
    let store = Arc::new(Memory::default());
    let digest = blob::write(&*store, "r", Expected::default(), vec![7; 5000], Labels::new()).await;
    let broken = Descriptor::new(EROFS_LAYER, digest.unwrap(), 5000);
    let (folder, mounts) = snapshot();
    let differ = Erofs::new(store, vec![]);
    let error = differ.apply(&broken, &mounts, Apply::default()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::InvalidArgument, "{error}");
    assert_eq!(paths(folder.path()), [".erofslayer", "fs"]);
}

#[tokio::test]
async fn a_tar_layer_becomes_an_image_where_mkfs_reads_archives() {
    let store = Arc::new(Memory::default());
    let bytes = tar([dir("etc"), file("etc/motd", &"hello ".repeat(5000))]);
    let (diff_id, size) = (Digest::of(&bytes), bytes.len() as u64);
    let digest = blob::write(&*store, "r", Expected::default(), bytes, Labels::new()).await;
    let layer = Descriptor::new(media_types::LAYER, digest.unwrap(), size);
    let (folder, mounts) = snapshot();
    let applied = Erofs::new(store, vec![]).apply(&layer, &mounts, Apply::default()).await;
    let help = Command::new("mkfs.erofs").arg("--help").output().unwrap();
    let help = [help.stdout, help.stderr].concat();
    if String::from_utf8_lossy(&help).contains("--tar=") {
        assert_eq!(applied.unwrap(), Descriptor::new(media_types::LAYER, diff_id, size));
        check_mounted(&folder.path().join("layer.erofs"));
    } else {
        println!("skipped: this mkfs.erofs reads no archives; it has to be left to another differ");
        assert_eq!(applied.unwrap_err().kind(), Kind::Unimplemented);
        assert_eq!(paths(folder.path()), [".erofslayer", "fs"]);
    }
}
