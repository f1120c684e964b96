// SPDX-License-Identifier: Apache-2.0
use std::{collections::BTreeMap, path::Path, sync::Arc};

use content::{Local, Memory, Store};
use metadata::{Backends, Db, Options, Sharing};
use records::suite::Keeper;
use snapshots::{Native, Overlay, Snapshotter};
use tempfile::TempDir;
use types::Scope;

async fn open(folder: &Path, backends: Backends, sharing: Sharing) -> Db {
    let options = Options { sharing, ..Options::default() };
    Db::open(folder.join("meta.sqlite"), backends, options).await.unwrap()
}

fn scope() -> Scope {
    Scope::new("suite").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_kept_as_the_suite_says() {
    let folders = TempDir::new().unwrap();
    let mut count = 0;
    records::suite::run(async || {
        count += 1;
        let backends = Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
        let db = open(&folders.path().join(count.to_string()), backends, Sharing::Shared).await;
        let scoped = db.scope(scope());
        Keeper {
            namespaces: db.namespaces(),
            containers: scoped.containers(),
            images: scoped.images(),
            leases: scoped.leases(),
            sandboxes: scoped.sandboxes(),
        }
    })
    .await;
}

/// The store under test is in a namespace whose neighbour has nothing.
async fn store(folders: &TempDir, memory: bool, sharing: Sharing) -> Arc<dyn Store> {
    let folder = TempDir::new_in(folders.path()).unwrap().keep();
    let content: Arc<dyn Store> = if memory {
        Arc::<Memory>::default()
    } else {
        Arc::new(Local::open(folder.join("content")).unwrap())
    };
    let backends = Backends { content, snapshotters: BTreeMap::new() };
    open(&folder, backends, sharing).await.scope(scope()).content()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_stored_as_the_suite_says() {
    let folders = TempDir::new().unwrap();
    content::suite::run(async || store(&folders, true, Sharing::Shared).await).await;
    content::suite::run(async || store(&folders, false, Sharing::Shared).await).await;
    content::suite::run(async || store(&folders, false, Sharing::Isolated).await).await;
}

async fn snapshotter(root: &Path, backend: Arc<dyn Snapshotter>) -> Arc<dyn Snapshotter> {
    let snapshotters = [("s".to_owned(), backend)].into();
    let backends = Backends { content: Arc::<Memory>::default(), snapshotters };
    let db = open(root, backends, Sharing::Shared).await;
    db.scope(scope()).snapshotter("s").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn native_snapshots_are_kept_as_the_suite_says() {
    let folder = TempDir::new().unwrap();
    snapshots::suite::run(folder.path(), async |root| {
        snapshotter(&root, Arc::new(Native::open(root.join("native")).unwrap())).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overlay_snapshots_are_kept_as_the_suite_says() {
    let folder = TempDir::new().unwrap();
    snapshots::suite::run(folder.path(), async |root| {
        let overlay = Overlay::open(root.join("overlay"), Default::default()).unwrap();
        snapshotter(&root, Arc::new(overlay)).await
    })
    .await;
}
