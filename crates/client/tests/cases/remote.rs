// SPDX-License-Identifier: Apache-2.0
//! A registry in memory, with knobs for what can go wrong with one.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use content::{Expected, Fetch, Ingest, Push, Status};
use futures_util::{StreamExt, stream, stream::BoxStream};
use types::{Descriptor, Digest, Error, Labels, Result};

/// The registry. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Remote {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    blobs: HashMap<Digest, Bytes>,
    /// Each fetch: what, and from which byte.
    fetches: Vec<(Digest, u64)>,
    /// Where transfers break, one after the other.
    cuts: HashMap<Digest, Vec<usize>>,
    /// How much is left of uploads when they are to end.
    losses: HashMap<Digest, Vec<usize>>,
    /// The blobs whose uploads were begun.
    begun: Vec<Digest>,
    /// The pause before each piece.
    pause: Duration,
    /// What was pushed, in order, and with which annotations.
    pushed: Vec<(Digest, Labels)>,
    /// How many uploads are open, and how many were at most.
    open: usize,
    most: usize,
}

impl Remote {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Offers `data`, and says where it is.
    pub(crate) fn add(&self, media_type: &str, data: impl Into<Bytes>) -> Descriptor {
        let data = data.into();
        let digest = Digest::of(&data);
        let descriptor = Descriptor::new(media_type, digest.clone(), data.len() as u64);
        self.state().blobs.insert(digest, data);
        descriptor
    }

    /// Sends `data` in place of what was asked for.
    pub(crate) fn replace(&self, digest: &Digest, data: impl Into<Bytes>) {
        self.state().blobs.insert(digest.clone(), data.into());
    }

    pub(crate) fn get(&self, digest: &Digest) -> Bytes {
        self.state().blobs[digest].clone()
    }

    /// Breaks transfers of a blob at these bytes, each time once.
    pub(crate) fn cut(&self, digest: &Digest, at: &[usize]) {
        self.state().cuts.insert(digest.clone(), at.iter().rev().copied().collect());
    }

    /// Loses what it has of an upload but its beginning, each time that it is to end.
    pub(crate) fn lose(&self, digest: &Digest, left: &[usize]) {
        self.state().losses.insert(digest.clone(), left.to_vec());
    }

    /// The blobs whose uploads were begun.
    pub(crate) fn begun(&self) -> Vec<Digest> {
        self.state().begun.clone()
    }

    /// Waits before each piece.
    pub(crate) fn pause(&self, pause: Duration) {
        self.state().pause = pause;
    }

    /// From which bytes a blob was fetched.
    pub(crate) fn offsets(&self, digest: &Digest) -> Vec<u64> {
        let state = self.state();
        state.fetches.iter().filter(|(it, _)| it == digest).map(|(_, from)| *from).collect()
    }

    /// How many fetches there were.
    pub(crate) fn fetches(&self) -> usize {
        self.state().fetches.len()
    }

    /// How many uploads were open at once, at most.
    pub(crate) fn most_uploads_at_once(&self) -> usize {
        self.state().most
    }

    /// What was pushed, in order.
    pub(crate) fn pushed(&self) -> Vec<(Digest, Labels)> {
        self.state().pushed.clone()
    }
}

#[async_trait]
impl Fetch for Remote {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut state = self.state();
        let digest = &descriptor.digest;
        let data = state.blobs.get(digest).cloned();
        let data = data.ok_or_else(|| Error::not_found(format!("{digest}")))?;
        state.fetches.push((digest.clone(), offset));
        let cut = state.cuts.get_mut(digest).and_then(Vec::pop);
        let (end, pause) = (cut.unwrap_or(data.len()).min(data.len()), state.pause);
        let rest = data.slice((offset as usize).min(end)..end);
        let pieces: Vec<_> = rest.chunks(1000).map(|piece| Ok(rest.slice_ref(piece))).collect();
        let broken = cut.map(|_| Err(Error::unavailable("connection reset")));
        Ok(stream::iter(pieces.into_iter().chain(broken))
            .then(move |piece| async move {
                tokio::time::sleep(pause).await;
                piece
            })
            .boxed())
    }
}

#[async_trait]
impl Push for Remote {
    async fn push(&self, descriptor: &Descriptor) -> Result<Box<dyn Ingest>> {
        if self.state().blobs.contains_key(&descriptor.digest) {
            return Err(Error::already_exists(format!("{}", descriptor.digest)));
        }
        let (remote, descriptor) = (self.clone(), descriptor.clone());
        let pause = {
            let mut state = self.state();
            state.open += 1;
            state.begun.push(descriptor.digest.clone());
            state.most = state.most.max(state.open);
            state.pause
        };
        tokio::time::sleep(pause).await;
        Ok(Box::new(Upload { remote, descriptor, data: Vec::new() }))
    }
}

struct Upload {
    remote: Remote,
    descriptor: Descriptor,
    data: Vec<u8>,
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.remote.state().open -= 1;
    }
}

#[async_trait]
impl Ingest for Upload {
    fn status(&self) -> Status {
        let now = std::time::SystemTime::now();
        Status {
            reference: String::new(),
            offset: self.data.len() as u64,
            total: 0,
            expected: None,
            started_at: now,
            updated_at: now,
        }
    }

    fn digest(&self) -> Option<Digest> {
        None
    }

    async fn write(&mut self, data: Bytes) -> Result<()> {
        let mut state = self.remote.state();
        if state.cuts.get_mut(&self.descriptor.digest).and_then(Vec::pop).is_some() {
            return Err(Error::unavailable("connection reset"));
        }
        self.data.extend_from_slice(&data);
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<()> {
        self.data.truncate(size as usize);
        Ok(())
    }

    async fn commit(&mut self, expected: Expected, _labels: Labels) -> Result<Digest> {
        let lost = self.remote.state().losses.get_mut(&self.descriptor.digest).and_then(Vec::pop);
        if let Some(left) = lost {
            self.data.truncate(left);
            return Err(Error::new(types::Kind::Aborted, "goes on earlier"));
        }
        let data = Bytes::from(std::mem::take(&mut self.data));
        let digest = Digest::of(&data);
        expected.check(data.len() as u64, &digest)?;
        let mut state = self.remote.state();
        state.blobs.insert(digest.clone(), data);
        state.pushed.push((digest.clone(), self.descriptor.annotations.clone()));
        Ok(digest)
    }
}
