// SPDX-License-Identifier: Apache-2.0
use std::{path::Path, sync::Arc};

use snapshots::{
    Blockfile, BlockfileOptions, Btrfs, Erofs, ErofsOptions, Native, Options, Overlay, Snapshotter,
    suite::{self, Disk, Manner, scratch},
};
use types::Result;

use super::carried;

/// The claim that takes longer than all others: once for each snapshotter is enough, and too much for
/// those that copy or mount each layer.
const LONG: &[&str] = &["a_hundred_and_twenty_eight_layers_are_mounted"];

async fn hold<S: Snapshotter>(base: &Path, manner: Manner, open: impl Fn(&Path) -> Result<S>) {
    suite::run_in(manner, base, async |root| {
        Arc::new(open(&root).unwrap()) as Arc<dyn Snapshotter>
    })
    .await;
}

#[tokio::test]
async fn overlay_holds_every_claim() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    hold(&disk.path(), Manner::default(), |root| Overlay::open(root, Options::default())).await;
}

#[tokio::test]
async fn overlay_with_every_option_holds_every_claim() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let mount_options = ["volatile", "xino=off", "metacopy=on"].map(str::to_owned).to_vec();
    let options =
        Options { async_remove: true, upperdir_label: false, slow_chown: true, mount_options };
    let manner = Manner { without: LONG, ..Manner::default() };
    hold(&disk.path(), manner, |root| Overlay::open(root, options.clone())).await;
}

#[tokio::test]
async fn overlay_holds_every_claim_on_every_filesystem() {
    for kind in ["tmpfs", "xfs", "btrfs"] {
        println!("on {kind}");
        let Some(disk) = Disk::new(kind, &[], &[]) else { continue };
        let manner = Manner { without: LONG, ..Manner::default() };
        hold(&disk.path(), manner, |root| Overlay::open(root, Options::default())).await;
    }
}

#[tokio::test]
async fn native_holds_every_claim() {
    let Some(disk) = Disk::new("tmpfs", &[], &[]) else { return };
    hold(&disk.path(), Manner::default(), |root| Native::open(root)).await;
}

/// On those that share data between files, and those that do not.
#[tokio::test]
async fn native_holds_every_claim_on_every_filesystem() {
    for kind in ["ext4", "xfs", "btrfs"] {
        println!("on {kind}");
        let Some(disk) = Disk::new(kind, &[], &[]) else { continue };
        let manner = Manner { without: LONG, ..Manner::default() };
        hold(&disk.path(), manner, |root| Native::open(root)).await;
    }
}

#[tokio::test]
async fn btrfs_holds_every_claim() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    hold(&disk.path(), Manner::default(), |root| Btrfs::open(root)).await;
}

#[tokio::test]
async fn blockfile_holds_every_claim() {
    for kind in ["ext4", "xfs"] {
        let Some(disk) = Disk::new(kind, &[], &[]) else { continue };
        let Some(file) = scratch(&disk.path(), 8) else { continue };
        let options = BlockfileOptions { scratch_file: Some(file), ..BlockfileOptions::default() };
        let manner = Manner { images: true, without: LONG, ..Manner::default() };
        hold(&disk.path(), manner, |root| Blockfile::open(root, options.clone())).await;
    }
}

#[tokio::test]
async fn erofs_holds_every_claim() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let manner = Manner { without: LONG, ..carried::manner() };
    hold(&disk.path(), manner, |root| Erofs::open(root, ErofsOptions::default())).await;
}

#[tokio::test]
async fn erofs_that_writes_to_images_holds_every_claim() {
    let Some(disk) = Disk::new("xfs", &[], &[]) else { return };
    let options = ErofsOptions { default_size: 16 << 20, ..ErofsOptions::default() };
    let manner = Manner { without: LONG, ..carried::manner() };
    hold(&disk.path(), manner, |root| Erofs::open(root, options.clone())).await;
}
