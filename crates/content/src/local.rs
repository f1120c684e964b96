// SPDX-License-Identifier: Apache-2.0
//! The store in a directory, laid out as containerd's (`plugins/content/local/store.go`).
//!
//! ```text
//! <root>/blobs/<algorithm>/<hex>               a blob: read-only, synced before it got this name
//! <root>/ingest/<sha256 of the reference>/     an ingest
//!             ref startedat updatedat total data
//! ```
//!
//! A blob's file tells its size, when it was committed (`mtime`) and when its labels changed
//! (`atime`, which is why readers leave the `atime` alone).
mod claims;
mod commit;
mod layout;
mod reader;
mod seal;
mod sink;
mod syncs;
mod walk;
mod writer;

pub use reader::opened;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use fs_err as fs;
use futures_util::stream::BoxStream;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT};
use types::{Digest, Error, FieldMask, Filters, Kind, Labels, Result};

use self::{
    claims::Claims,
    commit::Turns,
    layout::{Directory, Layout},
    syncs::Syncs,
    writer::Writer,
};
use crate::{Expected, Info, Ingest, LabelStore, Piece, Reader, Status, Store, labels::Change};

/// A store in a directory of its own.
///
/// Cloning is cheap and gives the same store. Two stores over one directory at the same time would
/// not see each other's locks: one process opens it once.
#[derive(Clone)]
pub struct Local {
    shared: Arc<Shared>,
}

struct Shared {
    layout: Layout,
    labels: Option<Arc<dyn LabelStore>>,
    claims: Arc<Claims>,
    turns: Turns,
    syncs: Syncs,
    /// Whether blobs are sealed.
    seals: bool,
}

impl Local {
    /// Opens the store in `root`, which is made if it does not exist.
    ///
    /// Labels are not kept and cannot be updated: a store under the daemon's database needs none.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        Self::assemble(root.into(), None)
    }

    /// Opens the store in `root` as [`Local::open`] does, with labels kept in `labels`.
    pub fn with_labels(root: impl Into<PathBuf>, labels: Arc<dyn LabelStore>) -> Result<Self> {
        Self::assemble(root.into(), Some(labels))
    }

    fn assemble(root: PathBuf, labels: Option<Arc<dyn LabelStore>>) -> Result<Self> {
        let layout = Layout::open(root)?;
        let seals = seal::is_possible(layout.root());
        let shared = Shared {
            layout,
            labels,
            claims: Arc::default(),
            turns: Turns::default(),
            syncs: Syncs::default(),
            seals,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        self.shared.layout.root()
    }

    /// Does the synchronous `work` of a method on a blocking thread.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Shared>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        blocking(move || work(&shared)).await
    }
}

#[async_trait]
impl Store for Local {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let digest = digest.clone();
        self.on_disk(move |shared| shared.info(&digest)).await
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        let mask = mask.clone();
        self.on_disk(move |shared| shared.update(&info, &mask)).await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        walk::stream(Arc::clone(&self.shared), filters)
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.on_disk(move |shared| shared.delete(&digest)).await
    }

    async fn quarantine(&self, digest: &Digest) -> Result<()> {
        let digest = digest.clone();
        self.on_disk(move |shared| shared.quarantine(&digest)).await
    }

    async fn reader(&self, digest: &Digest) -> Result<Box<dyn Reader>> {
        let digest = digest.clone();
        self.on_disk(move |shared| {
            let file = reader::open(&shared.layout.blob(&digest));
            Ok(Box::new(file.map_err(|error| not_found(&digest, error))?) as Box<dyn Reader>)
        })
        .await
    }

    /// Clients ask for a blob piece by piece, and most of the time for what the kernel has at hand:
    /// then the way to a blocking thread and back would take longer than the rest.
    async fn piece(&self, digest: &Digest, offset: u64, len: usize) -> Result<Piece> {
        let path = self.shared.layout.blob(digest);
        if let Some(piece) = reader::at_hand(&path, offset, len) {
            return Ok(piece);
        }
        let digest = digest.clone();
        blocking(move || {
            let blob = reader::open(&path).map_err(|error| not_found(&digest, error))?;
            blob.piece(offset, len)
        })
        .await
    }

    async fn status(&self, reference: &str) -> Result<Status> {
        let reference = reference.to_owned();
        self.on_disk(move |shared| shared.status(&shared.layout.ingest(&reference))).await
    }

    async fn statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        let filters = filters.clone();
        self.on_disk(move |shared| shared.statuses(&filters)).await
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.on_disk(move |shared| {
            shared.claims.abort(&reference);
            shared.layout.ingest(&reference).abort(&reference)
        })
        .await
    }

    async fn writer(&self, reference: &str, expected: Expected) -> Result<Box<dyn Ingest>> {
        if reference.is_empty() {
            return Err(Error::invalid("ref must not be empty"));
        }
        let claim = Claims::claim(&self.shared.claims, reference).await?;
        self.on_disk(move |shared| {
            Ok(Box::new(Writer::open(shared, claim, expected)?) as Box<dyn Ingest>)
        })
        .await
    }
}

impl Shared {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let path = self.layout.blob(digest);
        let metadata = fs::symlink_metadata(path).map_err(|error| not_found(digest, error))?;
        self.describe(digest.clone(), &metadata)
    }

    fn describe(&self, digest: Digest, metadata: &std::fs::Metadata) -> Result<Info> {
        let labels = match &self.labels {
            Some(store) => store.labels(&digest)?,
            None => Labels::new(),
        };
        Ok(Info {
            digest,
            size: metadata.len(),
            created_at: metadata.modified()?,
            updated_at: metadata.accessed()?,
            labels,
        })
    }

    fn update(&self, info: &Info, mask: &FieldMask) -> Result<Info> {
        let Some(store) = &self.labels else {
            let text = "update not supported on immutable content store";
            return Err(Error::failed_precondition(text));
        };
        let mut updated = self.info(&info.digest)?;
        let change = Change::read(info, mask)?;
        updated.labels = store.change(&info.digest, &mut |labels| change.apply(labels))?;
        updated.updated_at = SystemTime::now();
        self.touch(&updated);
        Ok(updated)
    }

    /// Keeps the time of the update. The update stands even when this fails.
    fn touch(&self, info: &Info) {
        let kept = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: timespec(info.updated_at), last_modification: kept };
        let path = self.layout.blob(&info.digest);
        if let Err(error) = rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW) {
            tracing::warn!(%error, digest = %info.digest, "cannot set the time of an update");
        }
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let _turn = self.turns.take(digest);
        fs::remove_file(self.layout.blob(digest)).map_err(|error| not_found(digest, error))?;
        if let Some(store) = &self.labels {
            store.change(digest, &mut Labels::clear)?;
        }
        Ok(())
    }

    /// What was there from an earlier time is replaced: the newest damage tells most.
    fn quarantine(&self, digest: &Digest) -> Result<()> {
        let _turn = self.turns.take(digest);
        let target = self.layout.quarantined(digest);
        if let Some(folder) = target.parent() {
            layout::make_all(folder)?;
        }
        let from = self.layout.blob(digest);
        fs::rename(from, target).map_err(|error| not_found(digest, error))?;
        layout::sync_directory(&self.layout.blobs(digest.algorithm()))?;
        Ok(())
    }

    /// The status on disk, and what an open writer has accepted beyond it.
    fn status(&self, directory: &Directory) -> Result<Status> {
        let mut status = directory.status()?;
        if let Some(offset) = self.claims.offset(&status.reference) {
            status.offset = offset;
        }
        Ok(status)
    }

    /// What cannot be read has just been finished, or was left half-made by a crash: either way it
    /// is no ingest.
    fn statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        let mut statuses = Vec::new();
        for directory in self.layout.ingests()? {
            match self.status(&directory) {
                Ok(status) if filters.matches(&status) => statuses.push(status),
                Err(error) if !error.is_not_found() => {
                    tracing::warn!(%error, "cannot read the status of an ingest");
                }
                _ => {}
            }
        }
        Ok(statuses)
    }
}

/// An error about a blob: of a missing file it only says that the blob is missing.
fn not_found(digest: &Digest, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(format!("content {digest}")),
        _ => Error::from(error).context(format!("content {digest}")),
    }
}

fn timespec(time: SystemTime) -> Timespec {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timespec { tv_sec: since.as_secs() as i64, tv_nsec: since.subsec_nanos().into() }
}

/// Hops onto a blocking thread, once.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Error::caused(Kind::Internal, "content store", error)),
    }
}
