// SPDX-License-Identifier: Apache-2.0
use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use ::snapshots::{Commit, Info, Kind as State, Snapshotter, Usage};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use metadata::{Db, Options, Sharing};
use mount::Mount;
use tokio::time::timeout;
use types::{
    Error, FieldMask, Filters, Kind, Labels, Result, Scope,
    labels::{GC_ROOT, SNAPSHOT_REF},
};

use super::world::{World, backends, labels, layer, lease, names, refused};

#[tokio::test]
async fn one_key_in_two_namespaces_is_two_snapshots() {
    let world = World::new().await;
    let (a, b) = (world.snapshots("a"), world.snapshots("b"));
    let one = a.prepare("key", None, Labels::new()).await.unwrap();
    let two = b.prepare("key", None, Labels::new()).await.unwrap();
    assert_ne!(one, two);
    assert_eq!(world.stored_snapshots().await, ["a/1/key", "b/2/key"]);
    b.remove("key").await.unwrap();
    assert_eq!(a.mounts("key").await.unwrap(), one);
    refused(b.mounts("key").await, Kind::NotFound);
}

#[tokio::test]
async fn the_backend_is_told_the_labels_that_are_meant_for_it() {
    let world = World::new().await;
    let snapshots = world.snapshots("n");
    let given = labels([("mine", "1"), ("containerd.io/snapshot/x", "2"), (SNAPSHOT_REF, "name")]);
    snapshots.prepare("key", None, given.clone()).await.unwrap();
    let backend = &world.backends.snapshotters["native"];
    let told = backend.stat("n/1/key").await.unwrap().labels;
    assert_eq!(told, labels([("containerd.io/snapshot/x", "2"), (SNAPSHOT_REF, "name")]));
    assert_eq!(snapshots.stat("key").await.unwrap().labels, given);

    let info = snapshots.stat("key").await.unwrap();
    let change = Info { labels: labels([("containerd.io/snapshot/x", "3")]), ..info };
    snapshots.update(change, &FieldMask::new(["labels.containerd.io/snapshot/x"])).await.unwrap();
    let told = backend.stat("n/1/key").await.unwrap().labels;
    assert_eq!(told["containerd.io/snapshot/x"], "3");
}

#[tokio::test]
async fn a_layer_that_is_there_already_needs_no_unpacking() {
    let world = World::new().await;
    let scoped = world.at("n");
    layer(&scoped, "chain", None).await;
    scoped.leases().create(lease("l", Labels::new())).await.unwrap();
    let snapshots = world.under("n", "l").snapshotter("native").unwrap();
    let outcome = snapshots.prepare("key", None, labels([(SNAPSHOT_REF, "chain")])).await;
    assert_eq!(refused(outcome, Kind::AlreadyExists), "target snapshot \"chain\": already exists");
    world.db.collect().await.unwrap();
    assert_eq!(names(&*snapshots).await, ["chain"]);
}

#[tokio::test]
async fn what_was_removed_takes_space_until_it_is_collected() {
    let world = World::new().await;
    let snapshots = world.snapshots("n");
    layer(&world.at("n"), "base", None).await;
    snapshots.prepare("key", Some("base"), Labels::new()).await.unwrap();
    let text = refused(snapshots.remove("base").await, Kind::FailedPrecondition);
    assert_eq!(text, "cannot remove snapshot with child: failed precondition");
    snapshots.remove("key").await.unwrap();
    assert_eq!(world.stored_snapshots().await.len(), 2);
    snapshots.prepare("key", Some("base"), labels([(GC_ROOT, "1")])).await.unwrap();
    world.db.collect().await.unwrap();
    assert_eq!(names(&*snapshots).await, ["base", "key"]);
    assert_eq!(world.stored_snapshots().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_those_who_commit_one_name_at_the_same_time_one_succeeds() {
    let world = World::new().await;
    let snapshots = world.snapshots("n");
    for number in 0..8 {
        snapshots.prepare(&format!("key-{number}"), None, Labels::new()).await.unwrap();
    }
    let commits = (0..8).map(|number| {
        let snapshots = Arc::clone(&snapshots);
        async move { snapshots.commit("chain", &format!("key-{number}"), Commit::default()).await }
    });
    let outcomes = futures_util::future::join_all(commits).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.to_string(), "snapshot \"chain\": already exists");
    }
    snapshots.stat("chain").await.unwrap();
}

/// What a test wants a backend to do besides.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trick {
    /// Nothing.
    None,
    /// Prepares what has a target as if it had been there all along, as lazy snapshotters do.
    Remote,
    /// Never answers to a prepare.
    HangsInPrepare,
    /// Never answers to a commit, before it did anything.
    HangsBeforeCommit,
    /// Never answers to a commit that it carried out.
    HangsAfterCommit,
}

struct Tricky {
    inner: Arc<dyn Snapshotter>,
    trick: Arc<Mutex<Trick>>,
}

impl Tricky {
    fn is(&self, trick: Trick) -> bool {
        *self.trick.lock().unwrap() == trick
    }
}

#[async_trait]
impl Snapshotter for Tricky {
    async fn stat(&self, key: &str) -> Result<Info> {
        self.inner.stat(key).await
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        self.inner.update(info, mask).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        self.inner.usage(key).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.inner.mounts(key).await
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        if self.is(Trick::HangsInPrepare) {
            return pending().await;
        }
        if self.is(Trick::Remote) && labels.contains_key(SNAPSHOT_REF) {
            self.inner.prepare(key, parent, labels.clone()).await?;
            let commit = Commit { labels, parent: None };
            self.inner.commit(&format!("{key} remote"), key, commit).await?;
            return Err(Error::already_exists("remote layer"));
        }
        self.inner.prepare(key, parent, labels).await
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.inner.view(key, parent, labels).await
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        if self.is(Trick::HangsBeforeCommit) {
            return pending().await;
        }
        self.inner.commit(name, key, options).await?;
        if self.is(Trick::HangsAfterCommit) {
            return pending().await;
        }
        Ok(())
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.inner.remove(key).await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        self.inner.walk(filters)
    }

    async fn cleanup(&self) -> Result<()> {
        self.inner.cleanup().await
    }
}

async fn tricky() -> (World, Arc<Mutex<Trick>>) {
    let trick = Arc::new(Mutex::new(Trick::None));
    let given = Arc::clone(&trick);
    let world =
        World::with(Sharing::Shared, |inner| Arc::new(Tricky { inner, trick: given })).await;
    (world, trick)
}

/// containerd `docs/snapshotters/remote-snapshotter.md`.
#[tokio::test]
async fn a_layer_that_the_backend_has_is_adopted() {
    let (world, trick) = tricky().await;
    let scoped = world.at("n");
    scoped.leases().create(lease("l", Labels::new())).await.unwrap();
    let snapshots = world.under("n", "l").snapshotter("native").unwrap();
    layer(&scoped, "base", None).await;
    *trick.lock().unwrap() = Trick::Remote;
    let given = labels([(SNAPSHOT_REF, "chain"), ("mine", "1")]);
    let outcome = snapshots.prepare("key", Some("base"), given.clone()).await;
    let text = refused(outcome, Kind::AlreadyExists);
    assert_eq!(text, "target snapshot \"chain\" from snapshotter: already exists");
    let info = snapshots.stat("chain").await.unwrap();
    assert_eq!((info.kind, info.parent.as_deref()), (State::Committed, Some("base")));
    assert_eq!(info.labels, given);
    refused(snapshots.stat("key").await, Kind::NotFound);
    world.db.collect().await.unwrap();
    assert_eq!(names(&*snapshots).await, ["base", "chain"]);
}

/// A hung proxy snapshotter wedged all of containerd's snapshots for ever (issue 13798).
#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_hangs_keeps_nobody_else_from_working() {
    let (world, trick) = tricky().await;
    let snapshots = world.snapshots("n");
    snapshots.prepare("before", None, Labels::new()).await.unwrap();
    *trick.lock().unwrap() = Trick::HangsInPrepare;
    let stuck = Arc::clone(&snapshots);
    let hanging = tokio::spawn(async move { stuck.prepare("stuck", None, Labels::new()).await });
    tokio::task::yield_now().await;
    let others = async {
        snapshots.view("other", None, labels([(GC_ROOT, "1")])).await.unwrap();
        snapshots.remove("before").await.unwrap();
        super::world::put(&world.at("n"), "x", Labels::new()).await;
        world.db.collect().await.unwrap();
        assert_eq!(names(&*snapshots).await, ["other"]);
    };
    timeout(Duration::from_secs(10), others).await.expect("nothing else waits");
    hanging.abort();
}

/// Interrupts a commit as `trick` says, as a crash would, and returns what is there after a start.
fn interrupted(trick: Trick) -> Vec<String> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = runtime.block_on(async {
        let (world, chosen) = tricky().await;
        layer(&world.at("n"), "base", None).await;
        let snapshots = world.snapshots("n");
        snapshots.prepare("key", None, Labels::new()).await.unwrap();
        *chosen.lock().unwrap() = trick;
        let commit = Commit { labels: labels([("done", "1")]), parent: None };
        let committing = snapshots.commit("name", "key", commit);
        timeout(Duration::from_millis(300), committing).await.unwrap_err();
        world.folder
    });
    runtime.shutdown_timeout(Duration::from_secs(10));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let path = folder.path().join("meta.sqlite");
        let db = Db::open(path, backends(folder.path()), Options::default()).await.unwrap();
        let scoped = db.scope(Scope::new("n").unwrap());
        let snapshots = scoped.snapshotter("native").unwrap();
        let found = names(&*snapshots).await;
        if found.contains(&"name".to_owned()) {
            assert_eq!(snapshots.stat("name").await.unwrap().labels, labels([("done", "1")]));
        } else {
            snapshots.commit("name", "key", Commit::default()).await.unwrap();
        }
        db.collect().await.unwrap();
        assert_eq!(names(&*snapshots).await, [""; 0]);
        found
    })
}

#[test]
fn a_commit_that_was_interrupted_is_done_or_not_done() {
    assert_eq!(interrupted(Trick::HangsBeforeCommit), ["base", "key"]);
    assert_eq!(interrupted(Trick::HangsAfterCommit), ["base", "name"]);
}
