// SPDX-License-Identifier: Apache-2.0
//! The namespaced database over content and snapshots.
//!
//! Backends keep bytes under flat keys. This crate knows who may see which of them, under which
//! name, with which labels, and for how long: it keeps the records, gives every namespace its own
//! view of the same blobs, and collects what nothing refers to any more.
//!
//! What is answered is on disk. What is on disk in a backend and not in the database was left by a
//! crash, and is collected. The other way round never happens: a record is written after what it
//! names, and removed before it.
//!
//! ```text
//! scope(namespace, lease) --> containers images leases   -- records --.
//!                         --> mounts -- records, Activator ----------+
//!                         --> content, snapshotter(name) -- records --+--> meta.sqlite (one writer)
//!                                     |                               |
//!                                     v                            collect
//!             content::Store, Snapshotter: flat keys <-- remove ------'
//! ```
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use std::{collections::BTreeMap, sync::Arc};
//!
//! use metadata::{Backends, Db, Options};
//! use types::{Labels, Scope};
//!
//! let folder = tempfile::tempdir()?;
//! let backends =
//!     Backends { content: Arc::new(content::Memory::default()), snapshotters: BTreeMap::new() };
//! let db = Db::open(folder.path().join("meta.sqlite"), backends, Options::default()).await?;
//!
//! let store = db.scope(Scope::new("default")?).content();
//! let digest =
//!     content::blob::write(&*store, "greeting", Default::default(), "hello", Labels::new()).await?;
//!
//! let other = db.scope(Scope::new("other")?).content();
//! assert!(other.info(&digest).await.unwrap_err().is_not_found());
//!
//! assert_eq!(db.collect().await?.removed.content, 1);
//! assert!(store.info(&digest).await.unwrap_err().is_not_found());
//! # Ok::<(), types::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod db;
mod gc;
mod go;
mod holds;
mod labels;
mod rebuild;
mod scoped;

pub use gc::{Collector, Removed, Schedule, Stats};
pub use rebuild::{Matched, Salvaged, copy_of, salvage};
pub use scoped::Scoped;

use std::{
    collections::BTreeMap,
    fmt,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ::content::Store;
use ::events::Publisher;
use ::mount::Activator;
use ::records::{
    Namespace, Records,
    audit::{Look, Repaired},
};
use ::snapshots::Snapshotter;
use tokio::task::spawn_blocking;
use types::{Error, Kind, Result, Scope};

use crate::{
    db::{Backend, File, Outcome, Readers, Signals, Tx, Writer},
    gc::Turns,
    holds::Holds,
    scoped::Seen,
};

/// Whether namespaces may save each other a download.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Whoever knows a digest may have the blob, if any namespace has it.
    #[default]
    Shared,
    /// Whoever wants a blob must bring all of it, unless a namespace that has it is labelled
    /// `containerd.io/namespace.shareable=true`.
    Isolated,
}

/// Is told how long the database was searched for garbage, and whether that went well.
pub type OnCollection = Arc<dyn Fn(Duration, bool) + Send + Sync>;

/// How a database behaves.
#[derive(Clone)]
pub struct Options {
    /// Whether namespaces share content.
    pub sharing: Sharing,
    /// Where what happened is told.
    pub publisher: Option<Arc<dyn Publisher>>,
    /// Who is told of every collection.
    pub on_collection: Option<OnCollection>,
    /// How long a collection waits for a backend to remove what is garbage. One that takes longer
    /// goes on by itself.
    pub patience: Duration,
    /// Where Go's containerd kept its metadata in the same root. A new database takes over what it
    /// finds there, so that the first collection does not take the backends' contents for garbage.
    pub take_over: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sharing: Sharing::default(),
            publisher: None,
            on_collection: None,
            patience: Duration::from_mins(1),
            take_over: None,
        }
    }
}

/// What keeps the bytes: stores with flat keys, which nobody else changes.
#[derive(Clone)]
pub struct Backends {
    /// The store of blobs.
    pub content: Arc<dyn Store>,
    /// The snapshotters, by name.
    pub snapshotters: BTreeMap<String, Arc<dyn Snapshotter>>,
}

/// The database. Cloning is cheap and gives the same one; dropping the last closes it.
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
}

struct Shared {
    readers: Arc<Readers>,
    writer: Writer,
    signals: Arc<Signals>,
    holds: Holds,
    seen: Seen,
    backends: Backends,
    sharing: Sharing,
    turns: Turns,
    on_collection: Option<OnCollection>,
    mounts: OnceLock<Arc<Activator>>,
    patience: Duration,
}

impl Db {
    /// Opens the database in the file `path`, which is made if it does not exist; the daemon's is
    /// `<root>/io.containerd.metadata.v1.sqlite/meta.sqlite`. Beside it are `-wal` and `-shm`,
    /// which belong to it, and `.lock`.
    ///
    /// A database that was not closed is checked, and what was under way is finished.
    ///
    /// Errors: `Unavailable` while another process has it open, `FailedPrecondition` when it is of
    /// a later release, `DataLoss` when it is damaged.
    pub async fn open(
        path: impl Into<PathBuf>,
        backends: Backends,
        options: Options,
    ) -> Result<Self> {
        let path = path.into();
        let take_over = options.take_over;
        let opened = spawn_blocking(move || {
            let (file, mut connection) = File::open(&path)?;
            if let Some(go) = take_over {
                go::take_over(&mut connection, &go)?;
            }
            Ok::<_, Error>((file, connection))
        })
        .await;
        let (file, connection) = opened.map_err(|e| Error::caused(Kind::Internal, "open", e))??;
        let signals = Arc::new(Signals::default());
        signals.pressure().dirty = backends.all().collect();
        let writer =
            Writer::start((connection, file.log()?), Arc::clone(&signals), options.publisher)?;
        let db = Self {
            shared: Arc::new(Shared {
                readers: Arc::new(Readers::new(file)),
                writer,
                signals,
                holds: Holds::default(),
                seen: Seen::default(),
                backends,
                sharing: options.sharing,
                turns: Turns::default(),
                on_collection: options.on_collection,
                mounts: OnceLock::new(),
                patience: options.patience,
            }),
        };
        scoped::recover(&db).await?;
        Ok(db)
    }

    /// Lets the database look after the mounts that `activator` performs, of which nobody else makes
    /// any. What was mounted and is not known, or known and not mounted, is taken away first.
    pub async fn manage_mounts(&self, activator: Arc<Activator>) -> Result<()> {
        if self.shared.mounts.set(activator).is_err() {
            return Err(Error::already_exists("mount manager"));
        }
        scoped::recover_mounts(self).await
    }

    /// All namespaces.
    pub fn namespaces(&self) -> Arc<dyn Records<Namespace>> {
        scoped::namespaces(self)
    }

    /// What `scope` may see and change.
    pub fn scope(&self, scope: Scope) -> Scoped {
        Scoped::new(self.clone(), scope)
    }

    /// The names of the snapshotters.
    pub fn snapshotters(&self) -> impl Iterator<Item = &str> {
        self.shared.backends.snapshotters.keys().map(String::as_str)
    }

    /// Removes what nothing refers to, and answers when it is gone.
    ///
    /// Whoever asks while another collection is going on gets the next one, together with others
    /// who ask for it.
    pub async fn collect(&self) -> Result<Stats> {
        gc::collect(self).await
    }

    /// Tells why everything is there that is there.
    ///
    /// Nobody is stopped meanwhile; what is in the making is neither an orphan nor missing.
    pub async fn audit(&self, look: Look) -> Result<Vec<::records::audit::Thing>> {
        gc::audit(self, look).await
    }

    /// Removes what nobody knows, and puts aside blobs that are not what their names say and layers
    /// whose data is gone, so that they are fetched and unpacked again.
    pub async fn repair(&self) -> Result<Repaired> {
        gc::repair(self).await
    }

    /// Removes what nothing refers to, as [`Self::collect`] does, and also what no record ever named.
    pub async fn prune(&self) -> Result<Stats> {
        gc::prune(self).await
    }

    /// Copies the database as it is now into a new file at `path`, while readers and writers go on.
    /// The copy can be opened in place of the original, over the same backends.
    ///
    /// Errors: `AlreadyExists` when there is such a file.
    pub async fn back_up(&self, path: impl Into<PathBuf>) -> Result<()> {
        let path = path.into();
        self.read(move |connection| Ok(db::back_up(connection, &path)?)).await
    }

    /// Reads one state of the database, on a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.readers.read(work).await
    }

    /// Writes, and answers when that is on disk.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.writer.write(work).await
    }

    /// Writes, and answers when that can be read. It is on disk with the next [`Db::sync`].
    async fn write_lazily<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        self.shared.writer.write_lazily(work).await
    }

    /// Answers when all that was written is on disk. Something has to change for that.
    async fn sync(&self) -> Result<()> {
        self.write(|tx| {
            tx.quiet();
            tx.execute("UPDATE state SET value = value + 1 WHERE name = 'sequence'", [])?;
            Ok(())
        })
        .await
    }

    /// Carries `work` through, also when nobody waits for it any more.
    async fn carry_out<T: Send + 'static>(
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let done = tokio::spawn(work).await;
        done.map_err(|error| Error::caused(Kind::Internal, "interrupted", error))?
    }
}

impl Backends {
    fn all(&self) -> impl Iterator<Item = Backend> {
        let snapshotters = self.snapshotters.keys().cloned().map(Backend::Snapshotter);
        std::iter::once(Backend::Content).chain(snapshotters)
    }
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Db").field("readers", &self.shared.readers).finish_non_exhaustive()
    }
}
