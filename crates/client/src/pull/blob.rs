// SPDX-License-Identifier: Apache-2.0
//! One blob, from wherever it is into the store.
use std::time::{Duration, Instant};

use bytes::Bytes;
use content::{Expected, Ingest, Store};
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, ready},
};
use images::{Flight, labels, ref_key};
use tokio::sync::{SemaphorePermit, mpsc};
use types::{Descriptor, Error, Kind, Labels, Result};

use super::Session;
use crate::{progress::Meter, retry::Retry};

/// How long to wait for another writer before looking whether it gets any further.
const LOOK: Duration = Duration::from_secs(10);
/// How long another writer may get no further before it is no use to wait for it.
const STALLED: Duration = Duration::from_mins(5);

/// How much of what was stored before is read back at once.
const BACK: usize = 256 << 10;

/// How an attempt to fetch a blob ended well.
enum Attempt {
    /// The blob came.
    Fetched,
    /// The blob was there.
    Existed,
    /// What an earlier transfer had left was not the beginning of this blob. It is gone.
    Spoiled(Error),
}

impl Session<'_> {
    /// Brings a blob into the store, if it is not there yet.
    pub(super) async fn blob(&self, descriptor: &Descriptor, parent: &str) -> Result<()> {
        self.blob_watched(descriptor, parent, &|| ready(None).boxed()).await
    }

    /// The same; whoever `begins` answers with sees the bytes on their way, if they come by here from
    /// the first one to the last.
    pub(super) async fn blob_watched<'b>(
        &self,
        descriptor: &Descriptor,
        parent: &str,
        begins: &'b Begins<'b>,
    ) -> Result<()> {
        let mut meter = self.tracker.blob(descriptor, parent);
        self.unless_stopped(descriptor, self.bring(descriptor, &mut meter, begins)).await
    }

    pub(super) async fn unless_stopped<T>(
        &self,
        descriptor: &Descriptor,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match self.stop.run_until_cancelled(work).await {
            Some(outcome) => outcome,
            None => Err(Error::cancelled(format!("fetch {}", descriptor.digest))),
        }
    }

    async fn bring<'b>(
        &self,
        descriptor: &Descriptor,
        meter: &mut Meter,
        begins: &'b Begins<'b>,
    ) -> Result<()> {
        let _turn = self.turn(descriptor).await?;
        let mut tee = Tee::new(begins);
        let (mut retry, mut was_spoiled) = (Retry::default(), false);
        loop {
            let mut offset = 0;
            match self.attempt(descriptor, meter, &mut offset, &mut tee).await {
                Ok(Attempt::Fetched) => {
                    meter.complete();
                    return Ok(());
                }
                Ok(Attempt::Existed) => {
                    meter.exists();
                    return self.note_source(descriptor).await;
                }
                Ok(Attempt::Spoiled(error)) if was_spoiled => return Err(error),
                Ok(Attempt::Spoiled(_)) => was_spoiled = true,
                Err(error) => match retry.wait(&error, offset) {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(error),
                },
            }
        }
    }

    /// Waits until nobody else in this process is fetching the blob, and then until it may be fetched.
    pub(super) async fn turn(
        &self,
        descriptor: &Descriptor,
    ) -> Result<(Flight, SemaphorePermit<'_>)> {
        let flight = self.client.flights.board(&format!("blob/{}", descriptor.digest)).await;
        let turn = self.turns.acquire().await.map_err(|_closed| Error::cancelled("fetch"))?;
        Ok((flight, turn))
    }

    async fn attempt(
        &self,
        descriptor: &Descriptor,
        meter: &mut Meter,
        offset: &mut u64,
        tee: &mut Tee<'_>,
    ) -> Result<Attempt> {
        let (store, reference) = (&*self.client.content, ref_key(descriptor));
        let mut ingest = match open(store, &reference, descriptor.into()).await {
            Ok(ingest) => ingest,
            Err(error) if error.is_already_exists() => return Ok(Attempt::Existed),
            Err(error) => return Err(error),
        };
        if descriptor.size == 0 {
            drop(ingest);
            discard(store, &reference).await;
            return Err(sizeless(descriptor));
        }
        let begun = ingest.status().offset;
        if begun > descriptor.size {
            ingest.truncate(0).await?;
        }
        let outcome = match self.fill(descriptor, &mut *ingest, meter, offset, tee).await {
            Ok(()) => commit(&mut *ingest, descriptor, self.source_label(&Labels::new())).await,
            Err(error) => Err(error),
        };
        drop(ingest);
        match outcome {
            Ok(attempt) => Ok(attempt),
            Err(error) if error.kind() == Kind::FailedPrecondition => {
                discard(store, &reference).await;
                if begun == 0 { Err(error) } else { Ok(Attempt::Spoiled(error)) }
            }
            Err(error) => {
                if *offset == 0 {
                    discard(store, &reference).await;
                }
                Err(error)
            }
        }
    }

    /// Writes what is missing. `offset` tells how far it got.
    async fn fill(
        &self,
        descriptor: &Descriptor,
        ingest: &mut dyn Ingest,
        meter: &mut Meter,
        offset: &mut u64,
        tee: &mut Tee<'_>,
    ) -> Result<()> {
        let Descriptor { digest, size, .. } = descriptor;
        *offset = ingest.status().offset;
        if *offset > 0 {
            tee.catch_up(ingest, *offset).await;
        }
        if *offset == *size {
            tee.end().await;
            return Ok(());
        }
        meter.at(*offset);
        let mut pieces = self.pull.fetch.fetch(descriptor, *offset).await?;
        tee.at(*offset).await;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if *offset + piece.len() as u64 > *size {
                let what = format!("{digest}: more than the {size} bytes announced");
                return Err(Error::failed_precondition(what));
            }
            let further = *offset + piece.len() as u64;
            ingest.write(piece.clone()).await?;
            tee.hand_on(piece).await;
            *offset = further;
            meter.at(further);
        }
        if *offset < *size {
            let what = format!("{digest}: unexpected EOF after {offset} of {size} bytes");
            return Err(Error::said(Kind::Unavailable, what));
        }
        tee.end().await;
        Ok(())
    }

    /// The label that says where a blob with the labels `existing` came from, if that is news.
    pub(super) fn source_label(&self, existing: &Labels) -> Labels {
        self.source.iter().filter_map(|source| source.label(existing)).collect()
    }

    /// Notes on a blob that was there that it could have come from here too.
    async fn note_source(&self, descriptor: &Descriptor) -> Result<()> {
        let store = &*self.client.content;
        let info = store.info(&descriptor.digest).await?;
        labels::set(store, &descriptor.digest, self.source_label(&info.labels)).await
    }
}

/// Tells whoever wants to see a blob that it begins to come, and answers with where its bytes go.
pub(super) type Begins<'a> =
    dyn Fn() -> BoxFuture<'a, Option<mpsc::Sender<Bytes>>> + Send + Sync + 'a;

/// Hands the bytes of a blob on while they are stored.
///
/// What is seen is what the blob's digest is of: every byte, once, in order. What an earlier transfer
/// has stored is read back. Where that cannot be, as with a store across a wire, nobody sees anything.
struct Tee<'a> {
    begins: Option<&'a Begins<'a>>,
    to: Option<mpsc::Sender<Bytes>>,
    seen: u64,
}

impl<'a> Tee<'a> {
    fn new(begins: &'a Begins<'a>) -> Self {
        Self { begins: Some(begins), to: None, seen: 0 }
    }

    /// Hands on what was stored before, up to `offset`, as far as that was not seen yet.
    async fn catch_up(&mut self, ingest: &mut dyn Ingest, offset: u64) {
        if self.begins.is_some() && !matches!(ingest.written(0, 1).await, Ok(Some(_))) {
            self.begins = None;
        }
        if let Some(begins) = self.begins.take() {
            self.to = begins().await;
        }
        while self.to.is_some() && self.seen < offset {
            let length = BACK.min(usize::try_from(offset - self.seen).unwrap_or(BACK));
            match ingest.written(self.seen, length).await {
                Ok(Some(piece)) if !piece.is_empty() => self.hand_on(piece).await,
                // The blob will be whole all the same, and can be read then.
                _ => self.to = None,
            }
        }
    }

    /// Hears from where a transfer goes on.
    async fn at(&mut self, offset: u64) {
        if let Some(begins) = self.begins.take() {
            self.to = begins().await;
        }
        if offset != self.seen {
            self.to = None;
        }
    }

    async fn hand_on(&mut self, piece: Bytes) {
        self.seen += piece.len() as u64;
        // An empty piece would be taken for the end.
        if let Some(to) = self.to.as_ref().filter(|_| !piece.is_empty())
            && to.send(piece).await.is_err()
        {
            self.to = None;
        }
    }

    async fn end(&mut self) {
        if let Some(to) = self.to.take() {
            // Whoever does not look any more does not miss the end either.
            drop(to.send(Bytes::new()).await);
        }
    }
}

/// Opens an ingest. While another writer has it open and gets further, it is waited for: most likely
/// it writes what we want (containerd `core/content/helpers.go`, `OpenWriter`).
pub(super) async fn open(
    store: &dyn Store,
    reference: &str,
    expected: Expected,
) -> Result<Box<dyn Ingest>> {
    let (mut seen, mut since) = (None, Instant::now());
    loop {
        let error = match content::blob::open(store, reference, expected.clone(), LOOK).await {
            Err(error) if error.kind() == Kind::Unavailable => error,
            outcome => return outcome,
        };
        let now = match store.status(reference).await {
            Ok(status) => Some((status.offset, status.updated_at)),
            Err(gone) if gone.is_not_found() => None,
            Err(_) => return Err(error),
        };
        if now.is_none() || now != seen {
            (seen, since) = (now, Instant::now());
        }
        if since.elapsed() >= STALLED {
            return Err(error);
        }
    }
}

async fn commit(
    ingest: &mut dyn Ingest,
    descriptor: &Descriptor,
    labels: Labels,
) -> Result<Attempt> {
    match ingest.commit(descriptor.into(), labels).await {
        Ok(_) => Ok(Attempt::Fetched),
        Err(error) if error.is_already_exists() => Ok(Attempt::Existed),
        Err(error) => Err(error.context(format!("failed commit on ref {:?}", ref_key(descriptor)))),
    }
}

/// Throws away an ingest that nothing can come of.
pub(super) async fn discard(store: &dyn Store, reference: &str) {
    match store.abort(reference).await {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(reference, %error, "failed to abort ingest");
        }
        _ => {}
    }
}

/// Most likely a registry behind a front end that does not say how long things are (containerd
/// `core/remotes/handlers.go`, `Fetch`).
pub(super) fn sizeless(descriptor: &Descriptor) -> Error {
    let digest = &descriptor.digest;
    Error::invalid(format!(
        "unable to fetch descriptor ({digest}) which reports content size of zero"
    ))
}
