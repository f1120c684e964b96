// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures_util::stream::{self, BoxStream, StreamExt};
use types::{Algorithm, Digest, Error, FieldMask, Filters, Hasher, Kind, Labels, Result};

use crate::{Expected, Info, Ingest, Reader, Status, Store, labels::Change};

/// A store in memory: the twin of [`Local`](crate::Local) for tests.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    blobs: HashMap<Digest, (Info, Bytes)>,
    ingests: HashMap<String, Slot>,
}

/// An ingest. Its data is with the writer while one has it open.
#[derive(Debug)]
struct Slot {
    /// Tells it from a later ingest of the same name.
    token: Arc<()>,
    status: Status,
    data: Option<Vec<u8>>,
}

impl Memory {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn blob(&mut self, digest: &Digest) -> Result<&mut (Info, Bytes)> {
        self.blobs.get_mut(digest).ok_or_else(|| Error::not_found(format!("content {digest}")))
    }

    fn refuse_existing(&self, digest: &Digest) -> Result<()> {
        match self.blobs.get(digest) {
            Some(_) => Err(Error::already_exists(format!("content {digest}"))),
            None => Ok(()),
        }
    }

    fn claim(&mut self, reference: &str, expected: &Expected) -> Result<(&Slot, Vec<u8>)> {
        let slot = self.ingests.entry(reference.to_owned()).or_insert_with(|| Slot {
            token: Arc::default(),
            status: begun(reference),
            data: Some(Vec::new()),
        });
        let data = slot
            .data
            .take()
            .ok_or_else(|| Error::unavailable(format!("ref {reference} locked")))?;
        slot.status.total = expected.size.filter(|&size| size != 0).unwrap_or(slot.status.total);
        slot.status.expected.clone_from(&expected.digest);
        Ok((slot, data))
    }

    /// The slot that the writer with `token` has open, unless it was aborted.
    fn slot(&mut self, reference: &str, token: &Arc<()>) -> Result<&mut Slot> {
        self.ingests.get_mut(reference).filter(|slot| Arc::ptr_eq(&slot.token, token)).ok_or_else(
            || Error::new(Kind::Aborted, format!("ingest ref {reference:?} was aborted")),
        )
    }
}

fn begun(reference: &str) -> Status {
    let now = SystemTime::now();
    Status {
        reference: reference.to_owned(),
        offset: 0,
        total: 0,
        expected: None,
        started_at: now,
        updated_at: now,
    }
}

#[async_trait]
impl Store for Memory {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        Ok(self.state().blob(digest)?.0.clone())
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        let mut state = self.state();
        let (now, _) = state.blob(&info.digest)?;
        Change::read(&info, mask)?.apply(&mut now.labels);
        now.updated_at = SystemTime::now();
        Ok(now.clone())
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        let infos: Vec<_> = self.state().blobs.values().map(|(info, _)| info.clone()).collect();
        let matching = infos.into_iter().filter(move |info| filters.matches(info));
        stream::iter(matching.map(Ok)).boxed()
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let mut state = self.state();
        state.blob(digest)?;
        state.blobs.remove(digest);
        Ok(())
    }

    async fn reader(&self, digest: &Digest) -> Result<Box<dyn Reader>> {
        Ok(Box::new(Blob(self.state().blob(digest)?.1.clone())))
    }

    async fn status(&self, reference: &str) -> Result<Status> {
        let state = self.state();
        let slot = state.ingests.get(reference);
        slot.map(|slot| slot.status.clone()).ok_or_else(|| missing(reference))
    }

    async fn statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        let state = self.state();
        let statuses = state.ingests.values().map(|slot| slot.status.clone());
        Ok(statuses.filter(|status| filters.matches(status)).collect())
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let removed = self.state().ingests.remove(reference);
        removed.map(drop).ok_or_else(|| missing(reference))
    }

    async fn writer(&self, reference: &str, expected: Expected) -> Result<Box<dyn Ingest>> {
        if reference.is_empty() {
            return Err(Error::invalid("ref must not be empty"));
        }
        let mut state = self.state();
        if let Some(digest) = &expected.digest {
            state.refuse_existing(digest)?;
        }
        let (slot, data) = state.claim(reference, &expected)?;
        Ok(Box::new(Writer {
            store: self.clone(),
            token: Arc::clone(&slot.token),
            expected,
            status: slot.status.clone(),
            data: Some(data),
            digest: None,
        }))
    }
}

fn missing(reference: &str) -> Error {
    Error::not_found(format!("ingest ref {reference:?}"))
}

struct Blob(Bytes);

#[async_trait]
impl Reader for Blob {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.0.len());
        Ok(self.0.slice(start..self.0.len().min(start.saturating_add(len))))
    }

    fn into_sync(self: Box<Self>) -> Box<dyn io::Read + Send> {
        Box::new(self.0.reader())
    }
}

struct Writer {
    store: Memory,
    token: Arc<()>,
    expected: Expected,
    status: Status,
    /// Gone once the writer is closed.
    data: Option<Vec<u8>>,
    digest: Option<Digest>,
}

impl Writer {
    fn closed(&self) -> Error {
        let reference = &self.status.reference;
        Error::failed_precondition(format!("cannot use closed writer of ingest ref {reference:?}"))
    }

    /// Changes the data, and tells the store how far it is.
    fn change(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let Some(data) = &mut self.data else { return Err(self.closed()) };
        change(data);
        self.status.offset = data.len() as u64;
        self.status.updated_at = SystemTime::now();
        let mut state = self.store.state();
        let slot = state.slot(&self.status.reference, &self.token)?;
        slot.status.clone_from(&self.status);
        Ok(())
    }

    fn release(&mut self) {
        let Some(data) = self.data.take() else { return };
        if let Ok(slot) = self.store.state().slot(&self.status.reference, &self.token) {
            slot.data = Some(data);
        }
    }

    fn finish(&mut self, expected: &Expected, labels: Labels) -> Result<Digest> {
        self.change(|_| ())?;
        types::labels::validate_all(&labels)?;
        let data = self.data.as_deref().unwrap_or_default();
        let wanted = expected.digest.as_ref().or(self.expected.digest.as_ref());
        let digest = digest_of(data, wanted.map_or(Algorithm::Sha256, Digest::algorithm));
        self.expected.check(data.len() as u64, &digest)?;
        expected.check(data.len() as u64, &digest)?;
        let data = Bytes::from(self.data.take().unwrap_or_default());
        let mut state = self.store.state();
        state.ingests.remove(&self.status.reference);
        state.refuse_existing(&digest)?;
        state.blobs.insert(digest.clone(), (info(&digest, &data, labels), data));
        Ok(digest)
    }
}

fn info(digest: &Digest, data: &Bytes, mut labels: Labels) -> Info {
    labels.retain(|_, value| !value.is_empty());
    let now = SystemTime::now();
    let size = data.len() as u64;
    Info { digest: digest.clone(), size, created_at: now, updated_at: now, labels }
}

fn digest_of(data: &[u8], algorithm: Algorithm) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(data);
    hasher.finish()
}

#[async_trait]
impl Ingest for Writer {
    fn status(&self) -> Status {
        self.status.clone()
    }

    fn digest(&self) -> Option<Digest> {
        let algorithm = self.expected.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        match &self.data {
            Some(data) => Some(digest_of(data, algorithm)),
            None => self.digest.clone(),
        }
    }

    async fn written(&mut self, offset: u64, len: usize) -> Result<Option<Bytes>> {
        let Some(data) = &self.data else { return Ok(None) };
        let from = data.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let to = data.len().min(from.saturating_add(len));
        Ok(Some(Bytes::copy_from_slice(&data[from..to])))
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        self.change(|all| all.extend_from_slice(&data))
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size > self.status.offset {
            return Err(Error::invalid(format!("cannot truncate to {size} bytes")));
        }
        self.change(|data| data.truncate(size as usize))
    }

    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest> {
        let outcome = self.finish(&expected, labels);
        self.release();
        self.digest = outcome.as_ref().ok().cloned();
        outcome
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.release();
    }
}
