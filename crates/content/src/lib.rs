// SPDX-License-Identifier: Apache-2.0
//! Blobs, named by what they contain.
//!
//! A blob enters through an [`Ingest`] and is visible only after [`Ingest::commit`] has checked its
//! digest. So a reader never sees half a blob or a wrong one, whenever the machine went down.
//!
//! ```text
//! writer(ref) --write--> ingest/<hash of ref>/data --commit(digest)--> blobs/sha256/<hex>
//!                             `-- abort --> gone
//! ```
//!
//! ```
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! use content::{Store, blob};
//!
//! let store = content::Memory::default();
//! let digest = blob::write(&store, "greeting", Default::default(), "hello", Default::default()).await?;
//! assert_eq!(blob::read(&store, &digest, 1024).await?, "hello");
//! assert_eq!(store.info(&digest).await?.size, 5);
//! # Ok::<(), types::Error>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod blob;
pub mod labels;
mod local;
mod memory;
#[cfg(feature = "suite")]
pub mod suite;

pub use labels::{LabelStore, MemoryLabels};
pub use local::{Local, opened};
pub use memory::Memory;

use std::{borrow::Cow, io, os::fd::BorrowedFd, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use types::{Descriptor, Digest, Error, FieldMask, Fields, Filters, Labels, Result};

/// What is known of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// When it was committed.
    pub created_at: SystemTime,
    /// When its labels last changed.
    pub updated_at: SystemTime,
    /// Its labels.
    pub labels: Labels,
}

/// `digest`, `size` (presence only, as in Go) and `labels.<key>` (containerd `core/content/adaptor.go`).
impl Fields for Info {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["digest"] => Some(self.digest.as_str().into()),
            ["size"] => None,
            ["labels", key @ ..] => types::filter::label(&self.labels, key),
            _ => None,
        }
    }
}

/// What is known of an ingest under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The name that the client gave it.
    pub reference: String,
    /// How many bytes have been written.
    pub offset: u64,
    /// How many are expected, 0 when unknown.
    pub total: u64,
    /// The digest expected at commit.
    pub expected: Option<Digest>,
    /// When it was begun.
    pub started_at: SystemTime,
    /// When it was last written to.
    pub updated_at: SystemTime,
}

/// `ref` (containerd `core/content/adaptor.go`).
impl Fields for Status {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["ref"] => Some(self.reference.as_str().into()),
            _ => None,
        }
    }
}

/// What a writer expects to have written in the end. Nothing said is nothing checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The length in bytes. A length of 0 is as good as none: that is how the wire and descriptors
    /// without a size say that they do not know.
    pub size: Option<u64>,
    /// The digest.
    pub digest: Option<Digest>,
}

impl Expected {
    /// Refuses what is not as expected (texts of containerd `plugins/content/local/writer.go`).
    pub fn check(&self, size: u64, digest: &Digest) -> Result<()> {
        let differs = |what: &str| Err(Error::failed_precondition(what.to_owned()));
        match self.size {
            Some(want) if want != 0 && want != size => {
                return differs(&format!("unexpected commit size {size}, expected {want}"));
            }
            _ => {}
        }
        match &self.digest {
            Some(want) if want != digest => {
                differs(&format!("unexpected commit digest {digest}, expected {want}"))
            }
            _ => Ok(()),
        }
    }
}

impl From<&Descriptor> for Expected {
    fn from(descriptor: &Descriptor) -> Self {
        Self { size: Some(descriptor.size), digest: Some(descriptor.digest.clone()) }
    }
}

/// A store of blobs and of ingests that will become blobs.
///
/// Errors, for every implementation: what does not exist is `NotFound`; a digest, label or mask that
/// makes no sense is `InvalidArgument`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Tells what is known of a blob.
    async fn info(&self, digest: &Digest) -> Result<Info>;

    /// Replaces the fields of a blob's info that `mask` names and returns the outcome. Only labels
    /// may change: `labels`, or `labels.<key>` where an empty value removes the label. Any other
    /// path is `InvalidArgument`.
    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info>;

    /// Streams the blobs that match, in no particular order.
    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>>;

    /// Removes a blob. Readers that have it open may go on reading.
    async fn delete(&self, digest: &Digest) -> Result<()>;

    /// Opens a blob for reading.
    async fn reader(&self, digest: &Digest) -> Result<Box<dyn Reader>>;

    /// Reads up to `len` bytes of a blob from `offset`, as [`Reader::read_at`] does, without opening
    /// it first: for clients who come back for each piece.
    async fn piece(&self, digest: &Digest, offset: u64, len: usize) -> Result<Piece> {
        let reader = self.reader(digest).await?;
        let data = reader.read_at(offset, len).await?;
        Ok(Piece { size: reader.size(), data })
    }

    /// Puts a blob whose bytes are wrong where nobody takes it for what its name says, and where a
    /// person can still look at it. It is as good as deleted, and can be written again.
    /// `Unimplemented` when the store has no such place.
    async fn quarantine(&self, digest: &Digest) -> Result<()> {
        Err(Error::unimplemented(format!("quarantine of content {digest}")))
    }

    /// Tells how far an ingest is.
    async fn status(&self, reference: &str) -> Result<Status>;

    /// The ingests that match.
    async fn statuses(&self, filters: &Filters) -> Result<Vec<Status>>;

    /// Throws an ingest away.
    async fn abort(&self, reference: &str) -> Result<()>;

    /// Opens the ingest called `reference`, new or as it was left.
    ///
    /// Errors: `AlreadyExists` when the expected blob is already there; `Unavailable` while another
    /// writer has the ingest open; `FailedPrecondition`, `InvalidArgument` when what is expected
    /// differs from what was expected before.
    async fn writer(&self, reference: &str, expected: Expected) -> Result<Box<dyn Ingest>>;
}

/// A part of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The length of the whole blob in bytes.
    pub size: u64,
    /// What was asked for: less only where the blob ends.
    pub data: Bytes,
}

/// An open blob.
#[async_trait]
pub trait Reader: Send + Sync {
    /// The blob's length in bytes.
    fn size(&self) -> u64;

    /// Reads up to `len` bytes from `offset`; fewer only at the end, none past it.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes>;

    /// The file that it reads, where it is one: for a client on the same host, who reads it by itself.
    fn file(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The same blob, from its start, for synchronous code on a blocking thread.
    ///
    /// A local store hands out its file; a remote one asks [`Reader::read_at`] again and again.
    fn into_sync(self: Box<Self>) -> Box<dyn io::Read + Send>;
}

/// An ingest that one writer has open. Dropping it leaves the ingest to be resumed.
#[async_trait]
pub trait Ingest: Send {
    /// Tells how far it is. `status().offset` is where the next write goes.
    fn status(&self) -> Status;

    /// The digest of what has been written so far, where the implementation knows it.
    fn digest(&self) -> Option<Digest>;

    /// The digest of all that was accepted, where the implementation can know it. It may have to wait
    /// for what is still being stored.
    async fn settled(&mut self) -> Result<Option<Digest>> {
        Ok(self.digest())
    }

    /// Reads back up to `len` of the bytes that were written, from `offset`: fewer only where they
    /// end. `None` where the implementation cannot, as across a wire that has no words for it.
    async fn written(&mut self, offset: u64, len: usize) -> Result<Option<Bytes>> {
        let (_, _) = (offset, len);
        Ok(None)
    }

    /// Appends `data`. An implementation may answer before the data is stored, and then tells of a
    /// failure at the next call.
    ///
    /// Errors: `Aborted` where something that was accepted is lost, but not all: whoever can goes on
    /// from `status().offset`, which is earlier now.
    ///
    /// # Cancel safety
    ///
    /// `status().offset` tells whether the data was accepted.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Goes back to the length `size`, at most the current one, and goes on from there.
    async fn truncate(&mut self, size: u64) -> Result<()>;

    /// Makes what was written a blob: checks `expected` (and what [`Store::writer`] was told to
    /// expect), makes it durable, gives it its name and `labels`, and ends the ingest.
    ///
    /// Errors: `FailedPrecondition` when size or digest differ, and the ingest stays;
    /// `AlreadyExists` when the blob is already there, and the ingest is gone; `Aborted` as for
    /// [`Ingest::write`]. However else it ends, this writer is closed: whoever wants to go on opens the
    /// ingest again.
    ///
    /// # Cancel safety
    ///
    /// A commit that was begun is carried out, also when nobody waits for it any more.
    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest>;
}

/// Fetches content from elsewhere.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Streams what `descriptor` points at, from byte `offset`. What the stream yields has not been
    /// verified: that is for whoever commits it.
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes>>>;
}

/// Sends content elsewhere.
#[async_trait]
pub trait Push: Send + Sync {
    /// Opens an upload of what `descriptor` points at; `AlreadyExists` when the other side has it.
    async fn push(&self, descriptor: &Descriptor) -> Result<Box<dyn Ingest>>;
}
