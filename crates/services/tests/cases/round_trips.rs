// SPDX-License-Identifier: Apache-2.0
//! Random trees through snapshots and layers: whatever a program does to a snapshot, the layer that is
//! made of it gives the same files on another snapshot of the same parent.
//!
//! The rounds follow from a seed, which a failure shows: `ROUND_TRIPS` is how many there are, and
//! `ROUND_TRIPS_SEED` that of the first.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use content::{Memory, Store};
use diff::{Apply, BEFORE_PARENT, Compare, Differ, NEEDS_PARENT, Ordered, Walking};
use metadata::{Backends, Db};
use mount::{Activate, Activator, Manager, Mount, UnmountFlags};
use snapshots::{
    Blockfile, BlockfileOptions, Btrfs, Capability, Commit, Erofs, ErofsOptions, Native, Options,
    Overlay, Snapshotter,
    suite::{Disk, scratch},
};
use tempfile::TempDir;
use types::{Any, Descriptor, Kind, Labels, media_types};

use super::{
    trees::{Chance, Change, cut_times, listing},
    world::scope,
};

type Tree = BTreeMap<String, String>;

/// A snapshotter, and what else a client has.
struct Bench {
    snapshots: Arc<dyn Snapshotter>,
    differ: Ordered,
    store: Arc<dyn Store>,
    manager: Arc<dyn Manager>,
    work: PathBuf,
    count: AtomicU64,
}

impl Bench {
    /// Everything is in `root`, as it is in a daemon.
    async fn new(root: &Path, snapshots: impl Snapshotter) -> Self {
        let store: Arc<dyn Store> = Arc::<Memory>::default();
        let backends = Backends { content: store.clone(), snapshotters: [].into() };
        let db = Db::open(root.join("meta.sqlite"), backends, Default::default()).await.unwrap();
        let activator = Activator::open(root.join("t"), [root.to_owned()], [].into()).unwrap();
        db.manage_mounts(Arc::new(activator)).await.unwrap();
        let manager = db.scope(scope()).mounts().unwrap();
        let work = root.join("work");
        fs_err::create_dir_all(&work).unwrap();
        let walking = Walking::new(store.clone(), &work).with_mounts(Some(manager.clone()));
        let erofs = diff::Erofs::new(store.clone(), Vec::new());
        let differ = Ordered::new(vec![Arc::new(walking), Arc::new(erofs)], false);
        let count = AtomicU64::new(0);
        Self { snapshots: Arc::new(snapshots), differ, store, manager, work, count }
    }

    fn name(&self, word: &str) -> String {
        format!("{word}-{}", self.count.fetch_add(1, Ordering::Relaxed))
    }

    async fn prepare(&self, parent: Option<&str>) -> (String, Vec<Mount>) {
        let key = self.name("key");
        let mounts = self.snapshots.prepare(&key, parent, Labels::new()).await.unwrap();
        (key, mounts)
    }

    async fn commit(&self, key: &str, parent: Option<&str>) -> String {
        let name = self.name("layer");
        let options = Commit { parent: parent.map(str::to_owned), ..Commit::default() };
        self.snapshots.commit(&name, key, options).await.unwrap();
        name
    }

    /// Mounts as a client does, for as long as `act` takes.
    async fn within<T>(&self, mounts: &[Mount], act: impl FnOnce(&Path) -> T) -> T {
        let name = self.name("mounts");
        let (mounts, is_managed) =
            match self.manager.activate(&name, mounts, Activate::default()).await {
                Err(error) if error.kind() == Kind::Unimplemented => (mounts.to_vec(), false),
                info => (info.unwrap().system, true),
            };
        let at = TempDir::new_in(&self.work).unwrap().keep();
        mount::all(&mounts, &at).unwrap();
        let outcome = act(&at);
        patiently(async || mount::unmount_mounts(&mounts, &at, UnmountFlags::empty())).await;
        fs_err::remove_dir(&at).unwrap();
        if is_managed {
            patiently(async || self.manager.deactivate(&name).await).await;
        }
        outcome
    }

    /// What is in a committed snapshot.
    async fn seen(&self, name: &str) -> Tree {
        let key = self.name("view");
        let mounts = self.snapshots.view(&key, Some(name), Labels::new()).await.unwrap();
        let seen = self.within(&mounts, listing).await;
        self.snapshots.remove(&key).await.unwrap();
        seen
    }

    /// How what is in `upper` differs from a committed snapshot, as a layer.
    async fn layer(&self, parent: Option<&str>, upper: &[Mount]) -> Descriptor {
        let key = self.name("view");
        let lower = match parent {
            None => Vec::new(),
            Some(_) => self.snapshots.view(&key, parent, Labels::new()).await.unwrap(),
        };
        let how = Compare { media_type: media_types::LAYER.into(), ..Compare::default() };
        let layer = self.differ.compare(&lower, upper, how).await.unwrap();
        if parent.is_some() {
            self.snapshots.remove(&key).await.unwrap();
        }
        layer
    }

    /// Applies a layer over a parent, and tells what is there before and after it is committed.
    async fn applied(&self, layer: &Descriptor, parent: Option<&str>) -> (String, [Tree; 2]) {
        let (key, mounts) = self.prepare(parent).await;
        self.differ.apply(layer, &mounts, Apply::default()).await.unwrap();
        let before = self.within(&mounts, listing).await;
        let name = self.commit(&key, None).await;
        let after = self.seen(&name).await;
        (name, [before, after])
    }

    /// Applies a layer without its parent, which it gets when it is committed. None if that is not for
    /// this snapshotter, or not for this layer.
    async fn chained(&self, layer: &Descriptor, parent: &str) -> Option<Tree> {
        if !self.snapshots.capabilities().contains(&Capability::Rebase) {
            return None;
        }
        let (key, mounts) = self.prepare(None).await;
        let payloads = [(BEFORE_PARENT.to_owned(), Any::default())].into();
        let how = Apply { payloads, ..Apply::default() };
        let needs_parent = match self.differ.apply(layer, &mounts, how).await {
            // A hard link to a file of the parent.
            Err(error) if error.kind() == Kind::FailedPrecondition => true,
            applied => applied.unwrap().annotations[NEEDS_PARENT] == "true",
        };
        if needs_parent {
            self.snapshots.remove(&key).await.unwrap();
            return None;
        }
        let name = self.commit(&key, Some(parent)).await;
        Some(self.seen(&name).await)
    }

    async fn round(&self, seed: u64) {
        let mut chance = Chance::new(seed);
        let (first, mounts) = self.prepare(None).await;
        let want = self.within(&mounts, |root| changed(root, 16, &mut chance)).await;
        let base = self.layer(None, &mounts).await;
        let (parent, seen) = self.applied(&base, None).await;
        for tree in &seen {
            same(tree, &want);
        }
        let first = self.commit(&first, None).await;
        same(&self.seen(&first).await, &want);

        let (key, mounts) = self.prepare(Some(&parent)).await;
        let is_cut = seed.is_multiple_of(2);
        let want = self.within(&mounts, |root| {
            changed(root, 10, &mut chance);
            if is_cut {
                cut_times(root);
            }
            listing(root)
        });
        let want = want.await;
        let layer = self.layer(Some(&parent), &mounts).await;
        let (other, seen) = self.applied(&layer, Some(&parent)).await;
        for tree in &seen {
            same(tree, &want);
        }
        if let Some(tree) = self.chained(&layer, &parent).await {
            same(&tree, &want);
        }
        if is_cut {
            // There is nothing left to tell.
            let nothing = self.layer(Some(&other), &mounts).await;
            assert_eq!(nothing.size, 1024, "{}", self.shown(&nothing).await);
        }
        let name = self.commit(&key, None).await;
        same(&self.seen(&name).await, &want);
    }

    /// The bytes of a layer that can be read.
    async fn shown(&self, layer: &Descriptor) -> String {
        let bytes = content::blob::read(&*self.store, &layer.digest, u64::MAX).await.unwrap();
        bytes.iter().filter(|byte| (32..127).contains(*byte)).map(|&byte| byte as char).collect()
    }

    /// So many rounds from the seed on.
    async fn rounds(&self) {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().unwrap());
        let (rounds, seed) = (number("ROUND_TRIPS"), number("ROUND_TRIPS_SEED"));
        let seed: u64 = seed.unwrap_or(1);
        for seed in seed..seed + rounds.unwrap_or(4) {
            println!("ROUND_TRIPS_SEED={seed}");
            self.round(seed).await;
        }
    }
}

/// Does what fails for as long as somebody has a file open below: a process that another test has just
/// started may, until it runs its own program.
async fn patiently(attempt: impl AsyncFn() -> types::Result<()>) {
    for _ in 0..20 {
        if attempt().await.is_ok() {
            return;
        }
    }
    attempt().await.unwrap();
}

/// Makes random changes, and tells what is there then.
fn changed(root: &Path, most: usize, chance: &mut Chance) -> Tree {
    for _ in 0..most {
        let change = Change::random(chance);
        if change.make(root) {
            println!("{change:?}");
        }
    }
    listing(root)
}

#[track_caller]
fn same(got: &Tree, want: &Tree) {
    let lines = |tree: &Tree, other: &Tree| -> Vec<String> {
        let differs = tree.iter().filter(|(path, line)| other.get(*path) != Some(line));
        differs.map(|(path, line)| format!("{path:?}: {line}")).collect()
    };
    let (got, want) = (lines(got, want), lines(want, got));
    assert!(got == want, "\n got: {got:#?}\nwant: {want:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn overlays_come_back_from_their_layers() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let root = disk.path();
    let overlay = Overlay::open(root.join("s"), Options::default()).unwrap();
    Bench::new(&root, overlay).await.rounds().await;
}

/// Files whose names alone are in the upper directory, and directories that are only renamed there.
#[tokio::test(flavor = "multi_thread")]
async fn overlays_that_keep_data_below_come_back_from_their_layers() {
    let Some(disk) = Disk::new("xfs", &[], &[]) else { return };
    let root = disk.path();
    let mount_options = ["metacopy=on", "redirect_dir=on"].map(str::to_owned).to_vec();
    let options = Options { mount_options, ..Options::default() };
    let overlay = Overlay::open(root.join("s"), options).unwrap();
    Bench::new(&root, overlay).await.rounds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_come_back_from_their_layers() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let root = disk.path();
    Bench::new(&root, Native::open(root.join("s")).unwrap()).await.rounds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subvolumes_come_back_from_their_layers() {
    let Some(disk) = Disk::new("btrfs", &[], &[]) else { return };
    let root = disk.path();
    Bench::new(&root, Btrfs::open(root.join("s")).unwrap()).await.rounds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_blocks_come_back_from_their_layers() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let root = disk.path();
    let Some(file) = scratch(&root, 16) else { return };
    let options = BlockfileOptions { scratch_file: Some(file), ..BlockfileOptions::default() };
    Bench::new(&root, Blockfile::open(root.join("s"), options).unwrap()).await.rounds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_cannot_change_come_back_from_their_layers() {
    let Some(disk) = Disk::new("ext4", &[], &[]) else { return };
    let root = disk.path();
    let erofs = Erofs::open(root.join("s"), ErofsOptions::default()).unwrap();
    Bench::new(&root, erofs).await.rounds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_over_images_come_back_from_their_layers() {
    let Some(disk) = Disk::new("xfs", &[], &[]) else { return };
    let root = disk.path();
    let options = ErofsOptions { default_size: 16 << 20, ..ErofsOptions::default() };
    let erofs = Erofs::open(root.join("s"), options).unwrap();
    Bench::new(&root, erofs).await.rounds().await;
}
