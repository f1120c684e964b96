// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::content::{Local, Memory, Store};
use ::diff::{Walking, suite::Bench};
use ::mount::{Mount, UnmountFlags};
use ::records::suite::Keeper;
use ::snapshots::{
    Blockfile, BlockfileOptions, Btrfs, Capability, Native, Overlay, Snapshotter, suite::Manner,
};
use metadata::{Backends, Db, Options};
use services::{
    Limits, containers, content, diff, images, leases, mounts, namespaces, sandboxes, snapshots,
};
use tempfile::TempDir;
use tonic::service::Routes;
use types::Result;

use super::world::{Served, scope};

/// Keeps the servers of a suite until it is over.
#[derive(Default)]
struct Servers(std::sync::Mutex<Vec<Served>>);

impl Servers {
    async fn peer(&self, routes: Routes) -> services::Peer {
        let served = Served::new(routes);
        let peer = served.peer().await;
        self.0.lock().unwrap().push(served);
        peer
    }
}

fn serve_content(store: Arc<dyn Store>) -> Routes {
    Routes::new(content::serve(move |_| Ok(store.clone()), Limits::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn content_is_stored_as_the_suite_says() {
    let (servers, folders) = (Servers::default(), TempDir::new().unwrap());
    ::content::suite::run(async || {
        let folder = TempDir::new_in(folders.path()).unwrap().keep();
        let backends = Backends {
            content: Arc::new(Local::open(folder.join("content")).unwrap()),
            snapshotters: BTreeMap::new(),
        };
        let db = Db::open(folder.join("meta.sqlite"), backends, Options::default()).await.unwrap();
        let peer = servers.peer(serve_content(db.scope(scope()).content())).await;
        content::connect(peer)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_kept_as_the_suite_says() {
    let (servers, folder) = (Servers::default(), TempDir::new().unwrap());
    ::snapshots::suite::run(folder.path(), async |root| {
        let overlay: Arc<dyn Snapshotter> =
            Arc::new(Overlay::open(&root, Default::default()).unwrap());
        let served = snapshots::serve(move |_, _| Ok(overlay.clone()), Limits::default());
        let peer = servers.peer(Routes::new(served)).await;
        snapshots::connect(peer, "overlayfs", vec![Capability::Rebase])
    })
    .await;
}

/// What takes longer than all else, and is the same through the socket.
const LONG: &[&str] = &["a_hundred_and_twenty_eight_layers_are_mounted"];

/// Plays the suite over `connect(serve(open(root)))`.
async fn hold<S: Snapshotter>(base: &Path, manner: Manner, open: impl Fn(&Path) -> Result<S>) {
    let servers = Servers::default();
    ::snapshots::suite::run_in(manner, base, async |root| {
        let it: Arc<dyn Snapshotter> = Arc::new(open(&root).unwrap());
        let capabilities = it.capabilities().to_vec();
        let served = snapshots::serve(move |_, _| Ok(it.clone()), Limits::default());
        snapshots::connect(servers.peer(Routes::new(served)).await, "any", capabilities)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_copies_are_kept_as_the_suite_says() {
    let folder = TempDir::new().unwrap();
    let manner = Manner { without: LONG, ..Manner::default() };
    hold(folder.path(), manner, |root| Native::open(root)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_subvolumes_are_kept_as_the_suite_says() {
    let Some(disk) = Disk::new("btrfs") else { return };
    let manner = Manner { without: LONG, ..Manner::default() };
    hold(&disk.path(), manner, |root| Btrfs::open(root)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_images_are_kept_as_the_suite_says() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("scratch");
    if !make("ext4", &file, 8 << 20) {
        return;
    }
    // Nothing is in a snapshot that nobody has written to.
    let Some(disk) = Disk::over("ext4", &file) else { return };
    fs_err::remove_dir(disk.path().join("lost+found")).unwrap();
    drop(disk);
    let options = BlockfileOptions { scratch_file: Some(file), ..BlockfileOptions::default() };
    let manner = Manner { images: true, without: LONG, ..Manner::default() };
    hold(folder.path(), manner, |root| Blockfile::open(root, options.clone())).await;
}

/// Makes a filesystem in a file; says why where that cannot be.
fn make(kind: &str, file: &Path, size: u64) -> bool {
    fs_err::File::create(file).unwrap().set_len(size).unwrap();
    let program = format!("mkfs.{kind}");
    let made = std::process::Command::new(&program).arg("-q").arg(file).status();
    let is_made = made.as_ref().is_ok_and(std::process::ExitStatus::success);
    if !is_made {
        println!("skipped: {program}: {made:?}");
    }
    is_made
}

/// A filesystem in a file, mounted until it is dropped. The file of a new one goes with it.
struct Disk {
    at: TempDir,
    /// Kept for as long as it is mounted.
    folder: Option<TempDir>,
}

impl Disk {
    fn new(kind: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("image");
        if !make(kind, &file, 512 << 20) {
            return None;
        }
        let mut disk = Self::over(kind, &file)?;
        disk.folder = Some(folder);
        Some(disk)
    }

    fn over(kind: &str, file: &Path) -> Option<Self> {
        let at = TempDir::new().unwrap();
        let mount = Mount {
            kind: kind.into(),
            source: file.to_string_lossy().into_owned(),
            target: String::new(),
            options: vec!["loop".into()],
        };
        match ::mount::one(&mount, at.path()) {
            Ok(()) => Some(Self { at, folder: None }),
            Err(error) => {
                println!("skipped: {kind} cannot be mounted here: {error}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.at.path().to_owned()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(::mount::unmount_recursive(self.at.path(), UnmountFlags::empty()));
        drop(self.folder.take());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_kept_as_the_suite_says() {
    let (servers, folders) = (Servers::default(), TempDir::new().unwrap());
    ::records::suite::run(async || {
        let folder = TempDir::new_in(folders.path()).unwrap().keep();
        let backends = Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
        let db = Db::open(folder.join("meta.sqlite"), backends, Options::default()).await.unwrap();
        let (of, limits) = (db.scope(scope()), Limits::default());
        let (c, i, l, s) = (of.containers(), of.images(), of.leases(), of.sandboxes());
        let mut routes = Routes::builder();
        routes
            .add_service(namespaces::serve(db.namespaces(), limits))
            .add_service(containers::serve(move |_| Ok(c.clone()), limits))
            .add_service(images::serve(move |_| Ok(i.clone()), limits))
            .add_service(leases::serve(move |_| Ok(l.clone()), limits))
            .add_service(sandboxes::serve(move |_| Ok(s.clone()), limits));
        let peer = servers.peer(routes.routes()).await;
        Keeper {
            namespaces: namespaces::connect(peer.clone()),
            containers: containers::connect(peer.clone()),
            images: images::connect(peer.clone()),
            leases: leases::connect(peer.clone()),
            sandboxes: sandboxes::connect(peer),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_are_managed_as_the_suite_says() {
    let servers = Servers::default();
    ::mount::suite::run(async |work| {
        let backends = Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
        let db = Db::open(work.join("meta.sqlite"), backends, Options::default()).await.unwrap();
        let handlers = [("loop".into(), Arc::new(::mount::Loop) as _)].into();
        let activator = ::mount::Activator::open(work.join("t"), [work], handlers).unwrap();
        db.manage_mounts(Arc::new(activator)).await.unwrap();
        let manager = db.scope(scope()).mounts().unwrap();
        let served = mounts::serve(move |_| Ok(manager.clone()), Limits::default());
        mounts::connect(servers.peer(Routes::new(served)).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_applied_and_compared_as_the_suite_says() {
    let (servers, scratch) = (Servers::default(), TempDir::new().unwrap());
    ::diff::suite::run(async || {
        let store: Arc<dyn Store> = Arc::<Memory>::default();
        let differ: Arc<dyn ::diff::Differ> = Arc::new(Walking::new(store.clone(), scratch.path()));
        let served = diff::serve(move |_| Ok(differ.clone()), Limits::default());
        Bench { differ: diff::connect(servers.peer(Routes::new(served)).await), store }
    })
    .await;
}
