// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use ::content::{Local, Memory, Store};
use ::diff::{Walking, suite::Bench};
use ::mount::{Activate, Activator, Mount, Temporary};
use ::records::suite::Keeper;
use ::snapshots::{
    Blockfile, BlockfileOptions, Btrfs, Capability, Erofs, ErofsOptions, Native, Overlay,
    Snapshotter,
    suite::{Disk, Manner, Mounted, scratch},
};
use metadata::{Backends, Db, Options};
use services::{
    Limits, containers, content, diff, images, leases, mounts, namespaces, sandboxes, snapshots,
};
use tempfile::TempDir;
use tonic::service::Routes;
use types::{Kind, Result};

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
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let manner = Manner { without: LONG, ..Manner::default() };
    hold(&disk.path(), manner, |root| Btrfs::open(root)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_that_are_images_are_kept_as_the_suite_says() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let Some(file) = scratch(&disk.path(), 8) else { return };
    let options = BlockfileOptions { scratch_file: Some(file), ..BlockfileOptions::default() };
    let manner = Manner { images: true, without: LONG, ..Manner::default() };
    hold(&disk.path(), manner, |root| Blockfile::open(root, options.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_over_images_are_kept_as_the_suite_says() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    // Version 1.5 of mkfs.erofs refuses names of 255 bytes.
    let manner = Manner {
        mount: |mounts, base| Ok(Box::new(Activated::mount(mounts, base)?)),
        images: true,
        longest_name: 254,
        without: LONG,
    };
    hold(&disk.path(), manner, |root| Erofs::open(root, ErofsOptions::default())).await;
}

/// Mounts that a manager's activator carries out, for as long as this lives.
struct Activated {
    mounted: Option<Temporary>,
    activator: Activator,
    targets: PathBuf,
}

impl Activated {
    fn mount(mounts: &[Mount], base: &Path) -> Result<Self> {
        let targets = TempDir::new_in(base)?.keep();
        let activator = Activator::open(&targets, [base.to_owned()], BTreeMap::new())?;
        let mut this = Self { mounted: None, activator, targets };
        let options = Activate::default();
        let system = match this.activator.plan(mounts, &options) {
            Err(error) if error.kind() == Kind::Unimplemented => mounts.to_vec(),
            plan => this.activator.perform(1, &plan?, mounts, &options)?.system,
        };
        this.mounted = Some(Temporary::mount(&system, base)?);
        Ok(this)
    }

    fn undo(&mut self) -> Result<()> {
        self.mounted.take().map_or(Ok(()), Temporary::close)?;
        self.activator.undo(1)?;
        Ok(fs_err::remove_dir(&self.targets)?)
    }
}

impl Mounted for Activated {
    fn path(&self) -> &Path {
        self.mounted.as_ref().expect("it is mounted until it is closed").path()
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.undo()
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        drop(self.undo());
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
