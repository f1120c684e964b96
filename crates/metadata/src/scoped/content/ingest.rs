// SPDX-License-Identifier: Apache-2.0
//! An ingest of a namespace.
//!
//! ```text
//! promised --write, truncate--> open --commit--> closed      promised: another namespace has the
//!     '------------commit (a record alone)---------^         blob, so nothing needs to be written
//! ```
use std::{sync::Arc, time::SystemTime};

use ::content::{Expected, Ingest, Status};
use ::records::Resource;
use async_trait::async_trait;
use bytes::Bytes;
use types::{Digest, Error, Labels, Result, Scope};

use super::Content;
use crate::{
    Db,
    db::{Outcome, Tx},
    holds::{Hold, Thing},
    labels,
    scoped::leases,
};

/// How much is copied at a time when a promise turns out to need its own bytes.
const CHUNK: usize = 1 << 20;

/// An ingest that a client has open.
pub(super) struct Writing {
    content: Content,
    reference: String,
    backend_ref: String,
    expected: Expected,
    state: State,
    /// Keeps the collector off the ingest, and off the blob that was promised.
    held: Vec<Hold>,
}

enum State {
    /// Bytes go to the backend.
    Open(Box<dyn Ingest>),
    /// The blob is there already.
    Promised { digest: Digest, size: u64, since: SystemTime },
    /// It was committed under this digest, or it failed.
    Closed(Status, Option<Digest>),
}

impl Writing {
    /// Opens the ingest in the backend.
    ///
    /// The backend is not told which digest is expected: it may have the blob, for a namespace that
    /// does not share it, and the namespace gets it only by bringing it.
    pub(super) async fn open(
        content: &Content,
        reference: &str,
        backend_ref: String,
        expected: Expected,
    ) -> Result<Self> {
        let hold = content.db.shared.holds.share(Thing::Ingest(backend_ref.clone())).await;
        let told = Expected { size: expected.size, digest: None };
        let ingest = content.backend().writer(&backend_ref, told).await?;
        Ok(Self {
            content: content.clone(),
            reference: reference.to_owned(),
            backend_ref,
            expected,
            state: State::Open(ingest),
            held: vec![hold],
        })
    }

    /// An ingest that needs no bytes.
    pub(super) fn promised(
        content: &Content,
        reference: &str,
        backend_ref: String,
        digest: Digest,
        size: u64,
        held: Option<Hold>,
    ) -> Self {
        Self {
            content: content.clone(),
            reference: reference.to_owned(),
            backend_ref,
            expected: Expected { size: Some(size), digest: Some(digest.clone()) },
            state: State::Promised { digest, size, since: SystemTime::now() },
            held: held.into_iter().collect(),
        }
    }

    /// The ingest in the backend; one that was only promised begins with `keep` bytes of the blob.
    async fn opened(&mut self, keep: u64) -> Result<&mut Box<dyn Ingest>> {
        if let State::Promised { digest, size, .. } = &self.state {
            let (digest, keep) = (digest.clone(), keep.min(*size));
            let hold =
                self.content.db.shared.holds.share(Thing::Ingest(self.backend_ref.clone())).await;
            self.held.push(hold);
            self.renounce().await?;
            let backend = self.content.backend();
            let mut ingest = backend.writer(&self.backend_ref, Expected::default()).await?;
            copy(&self.content, &digest, keep, &mut *ingest).await?;
            self.state = State::Open(ingest);
        }
        match &mut self.state {
            State::Open(ingest) => Ok(ingest),
            State::Promised { .. } | State::Closed(..) => Err(closed(&self.reference)),
        }
    }

    /// Makes the row that of an ordinary ingest.
    fn renounce(&self) -> impl Future<Output = Result<()>> + Send + 'static {
        let (scope, reference) = (Arc::clone(&self.content.scope), self.reference.clone());
        let db = self.content.db.clone();
        async move {
            db.write(move |tx| {
                let set = "UPDATE ingests SET expected = NULL WHERE namespace = ? AND ref = ?";
                tx.prepare_cached(set)?.execute([scope.namespace(), &reference])?;
                Ok(())
            })
            .await
        }
    }
}

#[async_trait]
impl Ingest for Writing {
    fn status(&self) -> Status {
        let status = match &self.state {
            State::Open(ingest) => {
                let expected = self.expected.digest.clone();
                let status = ingest.status();
                Status { expected: expected.or(status.expected), ..status }
            }
            State::Promised { digest, size, since } => Status {
                reference: String::new(),
                offset: *size,
                total: *size,
                expected: Some(digest.clone()),
                started_at: *since,
                updated_at: *since,
            },
            State::Closed(status, _) => status.clone(),
        };
        Status { reference: self.reference.clone(), ..status }
    }

    fn digest(&self) -> Option<Digest> {
        match &self.state {
            State::Open(ingest) => ingest.digest(),
            State::Promised { digest, .. } => Some(digest.clone()),
            State::Closed(_, digest) => digest.clone(),
        }
    }

    async fn settled(&mut self) -> Result<Option<Digest>> {
        match &mut self.state {
            State::Open(ingest) => ingest.settled().await,
            _ => Ok(self.digest()),
        }
    }

    /// What was promised is a blob, and can be read as such.
    async fn written(&mut self, offset: u64, len: usize) -> Result<Option<Bytes>> {
        match &mut self.state {
            State::Open(ingest) => ingest.written(offset, len).await,
            _ => Ok(None),
        }
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.opened(u64::MAX).await?.write(data).await
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.opened(size).await?.truncate(size).await
    }

    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest> {
        labels::check(&labels)?;
        let status = self.status();
        let commit = Commit {
            content: self.content.clone(),
            reference: self.reference.clone(),
            expected: Expected {
                size: expected.size.filter(|size| *size != 0).or(self.expected.size),
                digest: expected.digest.or_else(|| self.expected.digest.clone()),
            },
            labels,
            held: std::mem::take(&mut self.held),
        };
        let closed = State::Closed(status.clone(), None);
        let state = std::mem::replace(&mut self.state, closed);
        let digest = Db::carry_out(commit.run(state)).await?;
        self.state = State::Closed(status, Some(digest.clone()));
        Ok(digest)
    }
}

/// A commit under way.
struct Commit {
    content: Content,
    reference: String,
    expected: Expected,
    labels: Labels,
    held: Vec<Hold>,
}

impl Commit {
    async fn run(mut self, state: State) -> Result<Digest> {
        let name = self.content.name(&self.reference);
        let _name = self.content.db.shared.holds.own(name).await;
        let (digest, size) = match state {
            State::Open(ingest) => self.store(ingest).await?,
            State::Promised { digest, size, .. } => {
                self.expected.check(size, &digest)?;
                (digest, size)
            }
            State::Closed(..) => return Err(closed(&self.reference)),
        };
        let Self { content, reference, labels, held, .. } = self;
        let (scope, recorded) = (Arc::clone(&content.scope), digest.clone());
        let record =
            move |tx: &Tx<'_>| super::record(tx, &scope, &reference, &recorded, size, labels);
        content.db.write(record).await??;
        drop(held);
        Ok(digest)
    }

    /// Makes the blob durable in the backend. That it has it already is as well.
    /// Compat: the words of containerd `core/metadata/content.go`.
    fn check_size(&self, size: u64) -> Result<()> {
        match self.expected.size {
            Some(expected) if expected != 0 && expected != size => {
                let reference = &self.reference;
                let message = format!("{reference:?} failed size validation: {size} != {expected}");
                Err(Error::failed_precondition(message))
            }
            _ => Ok(()),
        }
    }

    async fn store(&mut self, mut ingest: Box<dyn Ingest>) -> Result<(Digest, u64)> {
        let size = ingest.status().offset;
        self.check_size(size)?;
        let digest = self.expected.digest.clone().or_else(|| ingest.digest());
        let thing = digest.clone().map_or(Thing::SomeBlob, Thing::Blob);
        self.held.push(self.content.db.shared.holds.share(thing).await);
        match (ingest.commit(self.expected.clone(), Labels::new()).await, digest) {
            (Ok(digest), _) => Ok((digest, size)),
            (Err(error), Some(digest)) if error.is_already_exists() => Ok((digest, size)),
            (Err(error), _) => Err(error),
        }
    }
}

/// Removes the row of an ingest, if there is one.
pub(super) fn forget(tx: &Tx<'_>, scope: &Scope, reference: &str) -> Outcome<()> {
    tx.prepare_cached("DELETE FROM ingests WHERE namespace = ? AND ref = ?")?
        .execute([scope.namespace(), reference])?;
    leases::let_go(tx, scope, &Resource::ingest(reference))
}

/// Copies the first `len` bytes of a blob into an ingest.
async fn copy(content: &Content, digest: &Digest, len: u64, to: &mut dyn Ingest) -> Result<()> {
    to.truncate(0).await?;
    let reader = content.backend().reader(digest).await?;
    let mut at = 0;
    while at < len {
        let chunk = reader.read_at(at, CHUNK.min((len - at) as usize)).await?;
        if chunk.is_empty() {
            return Err(Error::new(
                types::Kind::DataLoss,
                format!("content {digest} ends at {at}"),
            ));
        }
        at += chunk.len() as u64;
        to.write(chunk).await?;
    }
    Ok(())
}

fn closed(reference: &str) -> Error {
    Error::failed_precondition(format!("ingest {reference:?} is closed"))
}
