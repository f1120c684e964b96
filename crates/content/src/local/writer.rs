// SPDX-License-Identifier: Apache-2.0
//! The writer of an ingest.
//!
//! What arrives is gathered, and handed to a blocking thread a quarter of a megabyte at a time, which
//! hashes and writes it while more arrives. So an error shows at the next call.
//!
//! ```text
//!              enough gathered                commit, or an error
//!   Idle(sink) ---------------> Busy(job) --------.
//!       |  ^--------------------- done            v
//!       `-----------------------------------> Closed
//! ```
use std::{mem, sync::Arc, time::SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{runtime::Handle, task::JoinHandle};
use types::{Algorithm, Digest, Error, Kind, Labels, Result};

use super::{Shared, blocking, claims::Claim, commit::Commit, layout::Directory, sink::Sink};
use crate::{Expected, Ingest, Status};

/// How much is gathered before a blocking thread is bothered.
const BATCH: usize = 256 << 10;
/// How much may be gathered while the blocking thread is busy, before the writer has to wait.
const LIMIT: usize = 1 << 20;

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Given away when the writer closes.
    claim: Option<Claim>,
    directory: Directory,
    expected: Expected,
    algorithm: Algorithm,
    status: Status,
    gathered: Vec<Bytes>,
    gathered_len: usize,
    stage: Stage,
}

enum Stage {
    Idle(Sink),
    Busy(JoinHandle<Result<Sink>>),
    /// Committed as this digest, or failed.
    Closed(Option<Digest>),
}

impl Writer {
    /// Opens the ingest that `claim` is for. Blocks for as long as it takes to hash what is there.
    pub(super) fn open(shared: &Arc<Shared>, claim: Claim, expected: Expected) -> Result<Self> {
        if let Some(digest) = &expected.digest {
            let _turn = shared.turns.take(digest);
            if shared.layout.blob(digest).try_exists()? {
                return Err(Error::already_exists(format!("content {digest}")));
            }
        }
        let algorithm = expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let directory = shared.layout.ingest(claim.reference());
        let (mut status, sink) = resume(&directory, claim.reference(), &expected, algorithm)?;
        status.expected.clone_from(&expected.digest);
        claim.set_offset(status.offset);
        Ok(Self {
            shared: Arc::clone(shared),
            claim: Some(claim),
            directory,
            expected,
            algorithm,
            status,
            gathered: Vec::new(),
            gathered_len: 0,
            stage: Stage::Idle(sink),
        })
    }

    /// Waits until the sink is at hand and takes it. Until it is put back, the writer is closed.
    async fn take(&mut self) -> Result<Sink> {
        if let Stage::Busy(job) = &mut self.stage {
            let outcome = job.await;
            self.stage = Stage::Closed(None);
            let outcome = outcome.unwrap_or_else(|error| {
                Err(Error::caused(Kind::Internal, "content ingest", error))
            });
            self.stage = Stage::Idle(outcome?);
        }
        match mem::replace(&mut self.stage, Stage::Closed(None)) {
            Stage::Idle(sink) => self.unless_aborted(sink),
            closed => {
                self.stage = closed;
                Err(self.closed())
            }
        }
    }

    fn unless_aborted(&self, sink: Sink) -> Result<Sink> {
        match &self.claim {
            Some(claim) if claim.is_aborted() => Err(claim.aborted()),
            _ => Ok(sink),
        }
    }

    /// Hands the sink to a blocking thread, together with what was gathered.
    fn start(
        &mut self,
        mut sink: Sink,
        then: impl FnOnce(&mut Sink) -> Result<()> + Send + 'static,
    ) {
        let chunks = self.gathered();
        self.stage = Stage::Busy(tokio::task::spawn_blocking(move || {
            sink.append(&chunks)?;
            then(&mut sink)?;
            Ok(sink)
        }));
    }

    fn gathered(&mut self) -> Vec<Bytes> {
        self.gathered_len = 0;
        mem::take(&mut self.gathered)
    }

    fn set_offset(&mut self, offset: u64) {
        self.status.offset = offset;
        self.status.updated_at = SystemTime::now();
        if let Some(claim) = &self.claim {
            claim.set_offset(offset);
        }
    }

    fn is_busy(&self) -> bool {
        matches!(&self.stage, Stage::Busy(job) if !job.is_finished())
    }

    fn closed(&self) -> Error {
        let reference = &self.status.reference;
        Error::failed_precondition(format!("cannot use closed writer of ingest ref {reference:?}"))
    }
}

#[async_trait]
impl Ingest for Writer {
    fn status(&self) -> Status {
        self.status.clone()
    }

    fn digest(&self) -> Option<Digest> {
        match &self.stage {
            Stage::Idle(sink) => Some(sink.digest(&self.gathered)),
            Stage::Busy(_) => None,
            Stage::Closed(digest) => digest.clone(),
        }
    }

    async fn settled(&mut self) -> Result<Option<Digest>> {
        if let Stage::Busy(_) = self.stage {
            let sink = self.take().await?;
            self.stage = Stage::Idle(sink);
        }
        Ok(self.digest())
    }

    async fn written(&mut self, offset: u64, len: usize) -> Result<Option<Bytes>> {
        let mut sink = self.take().await?;
        let chunks = self.gathered();
        let (sink, data) = blocking(move || {
            sink.append(&chunks)?;
            let data = sink.read(offset, len)?;
            Ok((sink, data))
        })
        .await?;
        self.stage = Stage::Idle(sink);
        Ok(Some(data))
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        if let Stage::Closed(_) = self.stage {
            return Err(self.closed());
        }
        if data.is_empty() {
            return Ok(());
        }
        self.set_offset(self.status.offset + data.len() as u64);
        self.gathered_len += data.len();
        self.gathered.push(data);
        if self.gathered_len < BATCH || (self.is_busy() && self.gathered_len < LIMIT) {
            return Ok(());
        }
        let sink = self.take().await?;
        self.start(sink, |_| Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size > self.status.offset {
            let offset = self.status.offset;
            let text = format!("cannot truncate to {size} bytes, only {offset} are written");
            return Err(Error::invalid(text));
        }
        let (sink, algorithm) = (self.take().await?, self.algorithm);
        self.start(sink, move |sink| sink.truncate(size, algorithm));
        self.set_offset(size);
        let sink = self.take().await?;
        self.stage = Stage::Idle(sink);
        Ok(())
    }

    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest> {
        let mut sink = self.take().await?;
        let claim = self.claim.take().ok_or_else(|| self.closed())?;
        claim.close();
        let (chunks, updated) = (self.gathered(), self.status.updated_at);
        let (directory, shared) = (self.directory.clone(), Arc::clone(&self.shared));
        let expected = [self.expected.clone(), expected];
        let digest = blocking(move || {
            sink.append(&chunks)?;
            directory.set_updated(updated);
            Commit { claim, directory, sink, expected, labels }.run(&shared)
        })
        .await?;
        self.stage = Stage::Closed(Some(digest.clone()));
        Ok(digest)
    }
}

/// Leaves the ingest to be resumed, with all that was accepted written down. Whoever opens it in the
/// meantime waits.
impl Drop for Writer {
    fn drop(&mut self) {
        let stage = mem::replace(&mut self.stage, Stage::Closed(None));
        let Some(claim) = self.claim.take() else { return };
        claim.close();
        let (chunks, updated) = (self.gathered(), self.status.updated_at);
        let directory = self.directory.clone();
        let leave = move |mut sink: Sink| {
            let left = sink.append(&chunks).and_then(|()| Ok(sink.file().sync_data()?));
            if let Err(error) = left {
                tracing::warn!(%error, "cannot write down the end of an ingest");
            }
            // What was gathered reached the file later than it was accepted.
            drop(sink.file().set_modified(updated));
            directory.set_updated(updated);
            drop(claim);
        };
        match (stage, Handle::try_current()) {
            (Stage::Idle(sink), Ok(runtime)) => {
                drop(runtime.spawn_blocking(move || leave(sink)));
            }
            (Stage::Idle(sink), Err(_)) => leave(sink),
            (Stage::Busy(job), Ok(runtime)) => drop(runtime.spawn(leave_after(job, leave))),
            // Without a runtime the sink is out of reach; what it has is on disk.
            (Stage::Busy(_), Err(_)) | (Stage::Closed(_), _) => {}
        }
    }
}

async fn leave_after(job: JoinHandle<Result<Sink>>, leave: impl FnOnce(Sink) + Send + 'static) {
    if let Ok(Ok(sink)) = job.await {
        drop(tokio::task::spawn_blocking(move || leave(sink)));
    }
}

/// Opens an ingest as it was left. One that was left damaged, or for another length, is begun anew.
fn resume(
    directory: &Directory,
    reference: &str,
    expected: &Expected,
    algorithm: Algorithm,
) -> Result<(Status, Sink)> {
    let total = expected.size.unwrap_or(0);
    match directory.status() {
        Ok(mut status) if fits(&status, reference, total) => {
            let sink = Sink::open(&directory.data(), algorithm)?;
            status.offset = sink.len();
            if status.total != total && total != 0 {
                directory.set_total(total)?;
                status.total = total;
            }
            Ok((status, sink))
        }
        other => {
            if other.is_ok() {
                tracing::info!(reference, "an ingest cannot be resumed and is begun anew");
            }
            begin(directory, reference, total, algorithm)
        }
    }
}

fn fits(status: &Status, reference: &str, total: u64) -> bool {
    status.reference == reference && (total == 0 || status.total == 0 || total == status.total)
}

fn begin(
    directory: &Directory,
    reference: &str,
    total: u64,
    algorithm: Algorithm,
) -> Result<(Status, Sink)> {
    let now = SystemTime::now();
    directory.create(reference, total, now)?;
    let sink = Sink::open(&directory.data(), algorithm)?;
    let status = Status {
        reference: reference.to_owned(),
        offset: 0,
        total,
        expected: None,
        started_at: now,
        updated_at: now,
    };
    Ok((status, sink))
}
