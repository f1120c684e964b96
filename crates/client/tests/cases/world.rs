// SPDX-License-Identifier: Apache-2.0
//! A machine in a temporary folder: the parts of a daemon, and a client of them.
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use client::{Client, Event, Pull, Silent, Unpack};
use content::Local;
use diff::{Apply, Compare, Differ, Walking};
use events::Exchange;
use futures_util::TryStreamExt;
use images::Flights;
use metadata::{Backends, Db, Options};
use mount::Mount;
use snapshots::{Kind, Native, Overlay, Snapshotter};
use tempfile::TempDir;
use types::{Descriptor, Digest, Filters, Labels, Platform, Result, Scope};

use super::{remote::Remote, shim::Shim};

pub(crate) const NAME: &str = "registry.test:5000/team/app:1";

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) db: Db,
    pub(crate) applied: Arc<AtomicUsize>,
    /// How many layers were applied while they arrived.
    pub(crate) seen: Arc<AtomicUsize>,
    pub(crate) shim: Arc<Shim>,
    exchange: Arc<Exchange>,
    flights: Flights,
}

impl World {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let overlay: Arc<dyn Snapshotter> =
            Arc::new(Overlay::open(at("overlay"), snapshots::Options::default()).unwrap());
        let native: Arc<dyn Snapshotter> = Arc::new(Native::open(at("native")).unwrap());
        let backends = Backends {
            content: Arc::new(Local::open(at("content")).unwrap()),
            snapshotters: [("overlay".into(), overlay), ("native".into(), native)].into(),
        };
        let db = Db::open(at("meta.sqlite"), backends, Options::default()).await.unwrap();
        Self {
            folder,
            db,
            applied: Arc::default(),
            seen: Arc::default(),
            shim: Arc::default(),
            exchange: Arc::new(Exchange::new()),
            flights: Flights::default(),
        }
    }

    pub(crate) fn client(&self) -> Client {
        let parts = Parts {
            db: self.db.clone(),
            scratch: self.folder.path().to_owned().into(),
            applied: self.applied.clone(),
            seen: self.seen.clone(),
            shim: self.shim.clone(),
            exchange: self.exchange.clone(),
            flights: self.flights.clone(),
        };
        let under = {
            let parts = parts.clone();
            move |lease: &str| Ok(parts.client(&scope().with_lease(lease)))
        };
        Client { under: Some(Arc::new(under)), ..parts.client(&scope()) }
    }

    /// The names of all blobs.
    pub(crate) async fn blobs(&self) -> Vec<Digest> {
        let content = self.client().content;
        let infos: Vec<_> = content.walk(Filters::default()).try_collect().await.unwrap();
        infos.into_iter().map(|info| info.digest).collect()
    }

    /// How many snapshots there are that are committed, and that are not.
    pub(crate) async fn snapshots(&self, snapshotter: &str) -> (usize, usize) {
        let snapshotter = (self.client().snapshotters)(snapshotter).unwrap();
        let infos: Vec<_> = snapshotter.walk(Filters::default()).try_collect().await.unwrap();
        let committed = infos.iter().filter(|info| info.kind == Kind::Committed).count();
        (committed, infos.len() - committed)
    }

    pub(crate) fn applied(&self) -> usize {
        self.applied.load(Ordering::Relaxed)
    }

    /// The files of the snapshot `name`, each as a line.
    pub(crate) async fn files(&self, snapshotter: &str, name: &Digest) -> BTreeMap<String, String> {
        let snapshotter = (self.client().snapshotters)(snapshotter).unwrap();
        let mounts = snapshotter.view("look", Some(name.as_str()), Labels::new()).await.unwrap();
        let mounted = mount::Temporary::mount(&mounts, self.folder.path()).unwrap();
        let files = listing(mounted.path());
        mounted.close().unwrap();
        snapshotter.remove("look").await.unwrap();
        files
    }
}

#[derive(Clone)]
struct Parts {
    db: Db,
    scratch: Arc<Path>,
    applied: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
    shim: Arc<Shim>,
    exchange: Arc<Exchange>,
    flights: Flights,
}

impl Parts {
    fn client(&self, scope: &Scope) -> Client {
        let scoped = self.db.scope(scope.clone());
        let differ = Walking::new(scoped.content(), &*self.scratch);
        let snapshotters = scoped.clone();
        Client {
            content: scoped.content(),
            snapshotters: Arc::new(move |name| {
                let missing = || types::Error::not_found(format!("snapshotter {name}"));
                snapshotters.snapshotter(name).ok_or_else(missing)
            }),
            differ: Arc::new(Counting {
                differ,
                applied: self.applied.clone(),
                seen: self.seen.clone(),
            }),
            images: scoped.images(),
            containers: scoped.containers(),
            leases: scoped.leases(),
            namespaces: self.db.namespaces(),
            mounts: None,
            tasks: self.shim.clone(),
            events: self.exchange.clone(),
            under: None,
            flights: self.flights.clone(),
        }
    }
}

fn scope() -> Scope {
    Scope::new("test").unwrap()
}

/// A differ that counts how often it applies a layer.
struct Counting {
    differ: Walking,
    applied: Arc<AtomicUsize>,
    seen: Arc<AtomicUsize>,
}

#[async_trait]
impl Differ for Counting {
    async fn apply(&self, layer: &Descriptor, on: &[Mount], options: Apply) -> Result<Descriptor> {
        self.applied.fetch_add(1, Ordering::Relaxed);
        self.differ.apply(layer, on, options).await
    }

    fn takes_arriving(&self) -> bool {
        true
    }

    async fn apply_arriving(
        &self,
        media_type: &str,
        source: diff::Arriving,
        on: &[Mount],
        options: Apply,
    ) -> Result<Descriptor> {
        let applied = self.differ.apply_arriving(media_type, source, on, options).await;
        if applied.is_ok() {
            self.applied.fetch_add(1, Ordering::Relaxed);
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
        applied
    }

    async fn compare(&self, a: &[Mount], b: &[Mount], options: Compare) -> Result<Descriptor> {
        self.differ.compare(a, b, options).await
    }
}

pub(crate) fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

/// Asks for `target` from `remote`, to be unpacked to `snapshotter`.
pub(crate) fn pull(remote: &Remote, target: &Descriptor, snapshotter: &str) -> Pull {
    let unpack = Unpack {
        snapshotter: snapshotter.into(),
        platform: amd64(),
        parallel: 4,
        ..Unpack::default()
    };
    Pull {
        kept_as: Vec::new(),
        metadata_only: false,
        stop: tokio_util::sync::CancellationToken::new(),
        manifest_limit: 0,
        name: NAME.into(),
        target: target.clone(),
        fetch: Arc::new(remote.clone()),
        platforms: vec![amd64()],
        all_metadata: false,
        unpack: vec![unpack],
        discard_layers: false,
        labels: Labels::new(),
        concurrency: 0,
        progress: Arc::new(Silent),
    }
}

/// What was said of each blob, in order.
#[derive(Clone, Default)]
pub(crate) struct Heard(Arc<std::sync::Mutex<Vec<Event>>>);

impl Heard {
    pub(crate) fn ears(&self) -> Arc<dyn client::Progress> {
        let heard = self.0.clone();
        Arc::new(move |event: Event| heard.lock().unwrap().push(event))
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// What was said of `name`, without repetitions.
    pub(crate) fn of(&self, name: &str) -> Vec<String> {
        let events = self.all().into_iter().filter(|event| event.name == name);
        let mut words: Vec<_> = events.map(|event| event.event.into_owned()).collect();
        words.dedup();
        words
    }
}

/// What a tree holds: a line for each path. Hard links show by the path of their first name.
fn listing(root: &Path) -> BTreeMap<String, String> {
    use std::{fmt::Write, os::unix::fs::MetadataExt};

    let (mut lines, mut first) = (BTreeMap::new(), BTreeMap::new());
    let mut ahead = vec![root.to_owned()];
    while let Some(directory) = ahead.pop() {
        let mut paths: Vec<_> =
            fs_err::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let meta = fs_err::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let mut line =
                format!("{:o} {}:{} {}", meta.mode(), meta.uid(), meta.gid(), meta.mtime());
            if meta.is_dir() {
                ahead.push(path);
            } else if meta.is_file() {
                let link = first.entry(meta.ino()).or_insert_with(|| name.clone());
                let content = fs_err::read_to_string(&path).unwrap();
                write!(line, " {content} {link}").unwrap();
            } else if meta.is_symlink() {
                write!(line, " -> {}", fs_err::read_link(&path).unwrap().display()).unwrap();
            }
            lines.insert(name, line);
        }
    }
    lines
}
