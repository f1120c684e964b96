// SPDX-License-Identifier: Apache-2.0
//! A backend that hangs, and what it must not keep from happening.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::content::Expected;
use ::records::Delete;
use ::snapshots::{Capability, Commit, Info, Native, Snapshotter, Usage};
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use metadata::{Db, Options};
use mount::Mount;
use tokio::sync::Semaphore;
use types::{FieldMask, Filters, Labels, Result, Scope};

use super::world::{backends, image, layer, put};

/// A real snapshotter whose removals wait for permits.
struct Stuck {
    real: Native,
    permits: Arc<Semaphore>,
}

#[async_trait]
impl Snapshotter for Stuck {
    fn capabilities(&self) -> &[Capability] {
        self.real.capabilities()
    }
    async fn stat(&self, key: &str) -> Result<Info> {
        self.real.stat(key).await
    }
    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        self.real.update(info, mask).await
    }
    async fn usage(&self, key: &str) -> Result<Usage> {
        self.real.usage(key).await
    }
    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.real.mounts(key).await
    }
    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.real.prepare(key, parent, labels).await
    }
    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.real.view(key, parent, labels).await
    }
    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        self.real.commit(name, key, options).await
    }
    async fn remove(&self, key: &str) -> Result<()> {
        self.permits.acquire().await.expect("it is never closed").forget();
        self.real.remove(key).await
    }
    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        self.real.walk(filters)
    }
    async fn cleanup(&self) -> Result<()> {
        self.real.cleanup().await
    }
}

/// Two collections once met: the first had removed the records, the second found nothing to do, and
/// said so while the bytes were still there.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_nothing_to_collect_waits_for_what_others_are_removing() {
    let folder = tempfile::tempdir().unwrap();
    let mut backends = backends(folder.path());
    let permits = Arc::new(Semaphore::new(0));
    let real = Native::open(folder.path().join("stuck")).unwrap();
    let stuck = Arc::new(Stuck { real, permits: Arc::clone(&permits) });
    backends.snapshotters.insert("stuck".into(), Arc::clone(&stuck) as _);
    let path = folder.path().join("meta.sqlite");
    let db = Db::open(path, backends, Options::default()).await.unwrap();
    let snapshots = db.scope(Scope::new("n").unwrap()).snapshotter("stuck").unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let first = tokio::spawn({
        let db = db.clone();
        async move { db.collect().await }
    });
    while snapshots.stat("key").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let second = tokio::spawn({
        let db = db.clone();
        async move { db.collect().await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!second.is_finished(), "the bytes are still there");
    permits.add_permits(10);
    second.await.unwrap().unwrap();
    let left: Vec<_> =
        futures_util::TryStreamExt::try_collect(stuck.walk(Filters::default())).await.unwrap();
    assert_eq!(left, []);
    first.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshotter_that_hangs_stalls_its_own_removals_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut backends = backends(folder.path());
    let permits = Arc::new(Semaphore::new(0));
    let real = Native::open(folder.path().join("stuck")).unwrap();
    let stuck = Arc::new(Stuck { real, permits: Arc::clone(&permits) });
    backends.snapshotters.insert("stuck".into(), Arc::clone(&stuck) as _);
    let patience = Duration::from_millis(300);
    let options = Options { patience, ..Options::default() };
    let path = folder.path().join("meta.sqlite");
    let db = Db::open(path, backends.clone(), options).await.unwrap();
    let scoped = db.scope(Scope::new("n").unwrap());
    let snapshots = scoped.snapshotter("stuck").unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();

    // The first collection waits as long as it may, and says whom for.
    let stats = db.collect().await.unwrap();
    assert_eq!((stats.removed.snapshots, stats.failures.len()), (1, 1));
    assert!(stats.failures[0].contains("stuck"), "{:?}", stats.failures);

    // Nobody else waits: not even the whole patience, since that it hangs is known.
    layer(&scoped, "base", None).await;
    let digest = put(&scoped, "x", Labels::new()).await;
    scoped.images().create(image("i", &digest, Labels::new())).await.unwrap();
    let began = Instant::now();
    scoped.images().delete("i", Delete { sync: true, target: None }).await.unwrap();
    let took = began.elapsed();
    assert!(backends.content.info(&digest).await.unwrap_err().is_not_found());
    let left = backends.snapshotters["native"].stat("base").await;
    assert!(left.unwrap_err().is_not_found());
    assert!(took < Duration::from_secs(5), "{took:?}");

    // The key can be used all the while, and once it answers, all is as if nothing had been.
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    drop(backends.content.writer("orphan", Expected::default()).await.unwrap());
    permits.add_permits(10);
    while !db.collect().await.unwrap().failures.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let all: Vec<_> =
        futures_util::TryStreamExt::try_collect(stuck.walk(Filters::default())).await.unwrap();
    assert_eq!(all, []);
}
