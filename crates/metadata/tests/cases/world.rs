// SPDX-License-Identifier: Apache-2.0
//! A database over a content store and a snapshotter in a temporary folder.
use std::{path::Path, sync::Arc, time::SystemTime};

use ::content::{Expected, Local, Store, blob};
use ::events::{Bus, Exchange, Subscription};
use ::records::{Container, Image, Lease, Runtime};
use ::snapshots::{Native, Snapshotter};
use futures_util::TryStreamExt;
use metadata::{Backends, Db, Options, Scoped, Sharing};
use tempfile::TempDir;
use types::{Any, Descriptor, Digest, Filters, Kind, Labels, Result, Scope, media_types};

pub(crate) struct World {
    pub(crate) db: Db,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) backends: Backends,
    pub(crate) folder: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Sharing::Shared, |native| native).await
    }

    /// A world whose snapshotter is what `wrap` makes of the real one.
    pub(crate) async fn with(
        sharing: Sharing,
        wrap: impl FnOnce(Arc<dyn Snapshotter>) -> Arc<dyn Snapshotter>,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let mut backends = backends(folder.path());
        let native = Arc::clone(&backends.snapshotters["native"]);
        backends.snapshotters.insert("native".into(), wrap(native));
        let exchange = Arc::new(Exchange::new());
        let publisher = Some(Arc::clone(&exchange) as _);
        let options = Options { sharing, publisher, ..Options::default() };
        let path = folder.path().join("meta.sqlite");
        let db = Db::open(path, backends.clone(), options).await.unwrap();
        Self { db, exchange, backends, folder }
    }

    pub(crate) fn at(&self, namespace: &str) -> Scoped {
        self.db.scope(Scope::new(namespace).unwrap())
    }

    pub(crate) fn under(&self, namespace: &str, lease: &str) -> Scoped {
        self.db.scope(Scope::new(namespace).unwrap().with_lease(lease))
    }

    pub(crate) fn snapshots(&self, namespace: &str) -> Arc<dyn Snapshotter> {
        self.at(namespace).snapshotter("native").unwrap()
    }

    pub(crate) async fn listen(&self) -> Subscription {
        self.exchange.subscribe(Filters::default()).await.unwrap()
    }

    /// The blobs that the backend has.
    pub(crate) async fn stored_blobs(&self) -> Vec<Digest> {
        blobs(&*self.backends.content).await
    }

    /// The snapshots that the backend has.
    pub(crate) async fn stored_snapshots(&self) -> Vec<String> {
        names(&*self.backends.snapshotters["native"]).await
    }
}

pub(crate) fn backends(folder: &Path) -> Backends {
    let content = Local::open(folder.join("content")).unwrap();
    let native = Native::open(folder.join("native")).unwrap();
    let native: Arc<dyn Snapshotter> = Arc::new(native);
    Backends { content: Arc::new(content), snapshotters: [("native".into(), native)].into() }
}

pub(crate) async fn blobs(store: &dyn Store) -> Vec<Digest> {
    let infos: Vec<_> = store.walk(Filters::default()).try_collect().await.unwrap();
    let mut digests: Vec<_> = infos.into_iter().map(|info| info.digest).collect();
    digests.sort();
    digests
}

pub(crate) async fn names(snapshots: &dyn Snapshotter) -> Vec<String> {
    let infos: Vec<_> = snapshots.walk(Filters::default()).try_collect().await.unwrap();
    let mut names: Vec<_> = infos.into_iter().map(|info| info.name).collect();
    names.sort();
    names
}

/// Stores `data` with labels.
pub(crate) async fn put(scoped: &Scoped, data: &str, labels: Labels) -> Digest {
    let digest = Digest::of(data);
    let expected = Expected { size: Some(data.len() as u64), digest: Some(digest) };
    let reference = format!("put {data}");
    blob::write(&*scoped.content(), &reference, expected, data.to_owned(), labels).await.unwrap()
}

/// Commits an empty layer.
pub(crate) async fn layer(scoped: &Scoped, name: &str, parent: Option<&str>) {
    let snapshots = scoped.snapshotter("native").unwrap();
    let key = format!("{name} key");
    snapshots.prepare(&key, parent, Labels::new()).await.unwrap();
    snapshots.commit(name, &key, Default::default()).await.unwrap();
}

pub(crate) fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

pub(crate) fn image(name: &str, digest: &Digest, labels: Labels) -> Image {
    let now = SystemTime::now();
    let target = Descriptor::new(media_types::MANIFEST, digest.clone(), 1);
    Image { name: name.into(), labels, target, created_at: now, updated_at: now }
}

pub(crate) fn lease(id: &str, labels: Labels) -> Lease {
    Lease { id: id.into(), created_at: SystemTime::now(), labels }
}

pub(crate) fn container(id: &str, snapshot: &str) -> Container {
    let now = SystemTime::now();
    Container {
        id: id.into(),
        labels: Labels::new(),
        image: "busybox".into(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(Any::new("spec", "{}")),
        snapshotter: "native".into(),
        snapshot_key: snapshot.into(),
        created_at: now,
        updated_at: now,
        extensions: [].into(),
        sandbox: String::new(),
    }
}

#[track_caller]
pub(crate) fn refused<T>(outcome: Result<T>, kind: Kind) -> String {
    let error = outcome.map(drop).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    error.to_string()
}
