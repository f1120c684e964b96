// SPDX-License-Identifier: Apache-2.0
//! Who has which ingest open.
//!
//! ```text
//! claim(ref) --> Claim --close()--> closing --drop--> free
//!                   `------------drop---------------> free
//! ```
//!
//! A claim that is closing is only writing its last bytes down: whoever comes then waits a moment. A
//! claim that is open may stay open for hours: whoever comes then is told so.
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::SystemTime,
};

use jiff::Timestamp;
use tokio::sync::watch;
use types::{Error, Kind, Result};

/// The ingests that are open.
#[derive(Default)]
pub(super) struct Claims {
    table: Mutex<HashMap<String, Entry>>,
}

struct Entry {
    since: SystemTime,
    state: Arc<State>,
    freed: watch::Receiver<()>,
}

#[derive(Default)]
struct State {
    offset: AtomicU64,
    closing: AtomicBool,
    aborted: AtomicBool,
}

/// The right to write to an ingest, until it is dropped.
pub(super) struct Claim {
    claims: Arc<Claims>,
    reference: String,
    state: Arc<State>,
    _freed: watch::Sender<()>,
}

impl Claims {
    /// Claims `reference`, or says `Unavailable` while another has it (text of containerd
    /// `plugins/content/local/locks.go`).
    pub(super) async fn claim(claims: &Arc<Self>, reference: &str) -> Result<Claim> {
        loop {
            let mut freed = match Self::try_claim(claims, reference)? {
                Attempt::Claimed(claim) => return Ok(claim),
                Attempt::Closing(freed) => freed,
            };
            // The sender is never used: this ends when it is dropped.
            drop(freed.changed().await);
        }
    }

    fn try_claim(claims: &Arc<Self>, reference: &str) -> Result<Attempt> {
        let mut table = claims.table();
        if let Some(entry) = table.get(reference) {
            if entry.state.closing.load(Ordering::Acquire) {
                return Ok(Attempt::Closing(entry.freed.clone()));
            }
            return Err(locked(reference, entry.since));
        }
        let (sender, freed) = watch::channel(());
        let state = Arc::new(State::default());
        let entry = Entry { since: SystemTime::now(), state: Arc::clone(&state), freed };
        table.insert(reference.to_owned(), entry);
        let claims = Arc::clone(claims);
        Ok(Attempt::Claimed(Claim {
            claims,
            reference: reference.to_owned(),
            state,
            _freed: sender,
        }))
    }

    /// How much the open writer of `reference` has accepted.
    pub(super) fn offset(&self, reference: &str) -> Option<u64> {
        self.table().get(reference).map(|entry| entry.state.offset.load(Ordering::Acquire))
    }

    /// Tells the open writer of `reference`, if there is one, that its ingest is gone.
    pub(super) fn abort(&self, reference: &str) {
        if let Some(entry) = self.table().get(reference) {
            entry.state.aborted.store(true, Ordering::Release);
        }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Attempt {
    Claimed(Claim),
    Closing(watch::Receiver<()>),
}

impl Claim {
    pub(super) fn reference(&self) -> &str {
        &self.reference
    }

    /// Notes how much has been accepted, for whoever asks for the status.
    pub(super) fn set_offset(&self, offset: u64) {
        self.state.offset.store(offset, Ordering::Release);
    }

    /// Announces that the claim is about to end.
    pub(super) fn close(&self) {
        self.state.closing.store(true, Ordering::Release);
    }

    /// Whether the ingest was thrown away under the writer.
    pub(super) fn is_aborted(&self) -> bool {
        self.state.aborted.load(Ordering::Acquire)
    }

    /// What its writer is told then.
    pub(super) fn aborted(&self) -> Error {
        Error::new(Kind::Aborted, format!("ingest ref {:?} was aborted", self.reference))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.table().remove(&self.reference);
    }
}

/// How long it has been locked may tell a dead lock from two that met.
fn locked(reference: &str, since: SystemTime) -> Error {
    let held = since.elapsed().unwrap_or_default();
    let since = Timestamp::try_from(since).unwrap_or_default();
    Error::unavailable(format!("ref {reference} locked for {held:?} (since {since})"))
}
