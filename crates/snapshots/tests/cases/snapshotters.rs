// SPDX-License-Identifier: Apache-2.0
use std::{path::Path, sync::Arc};

use snapshots::{Native, Options, Overlay, Snapshotter, suite};
use tempfile::TempDir;

async fn overlay_holds(base: &Path, options: Options) {
    suite::run(base, async |root| {
        Arc::new(Overlay::open(root, options.clone()).unwrap()) as Arc<dyn Snapshotter>
    })
    .await;
}

#[tokio::test]
async fn overlay_holds_every_claim() {
    let base = tempfile::tempdir().unwrap();
    overlay_holds(base.path(), Options::default()).await;
}

#[tokio::test]
async fn overlay_with_every_option_holds_every_claim() {
    let base = tempfile::tempdir().unwrap();
    let mount_options = vec!["volatile".to_owned(), "xino=off".to_owned()];
    let options = Options { async_remove: true, upperdir_label: false, mount_options };
    overlay_holds(base.path(), options).await;
}

#[tokio::test]
async fn overlay_on_tmpfs_holds_every_claim() {
    let base = Tmpfs::new();
    overlay_holds(base.0.path(), Options::default()).await;
}

#[tokio::test]
async fn native_holds_every_claim() {
    let base = tempfile::tempdir().unwrap();
    suite::run(base.path(), async |root| {
        Arc::new(Native::open(root).unwrap()) as Arc<dyn Snapshotter>
    })
    .await;
}

/// A file system in memory, mounted until it is dropped.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn new() -> Self {
        let target = tempfile::tempdir().unwrap();
        let tmpfs =
            mount::Mount { kind: "tmpfs".into(), source: "tmpfs".into(), ..Default::default() };
        mount::one(&tmpfs, target.path()).unwrap();
        Self(target)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        mount::unmount_recursive(self.0.path(), mount::UnmountFlags::DETACH).unwrap();
    }
}
