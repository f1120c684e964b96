// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    touched::Touched,
    tx::{Backend, Notes},
};

/// What the writer tells the collector.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    pub(crate) touched: Touched,
    /// Told of every change of what is below.
    pub(crate) changed: Notify,
    pressure: Mutex<Pressure>,
    commits: AtomicU64,
}

/// How urgent a collection is.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pressure {
    /// How many requests were committed since the last collection.
    pub(crate) mutations: u64,
    /// How many of them deleted something.
    pub(crate) deletions: u64,
    /// When the last of these was.
    pub(crate) deleted_at: Option<Instant>,
    /// When the first thing expires.
    pub(crate) expires: Option<SystemTime>,
    /// The backends that may hold what nobody knows.
    pub(crate) dirty: BTreeSet<Backend>,
}

impl Signals {
    /// Takes note of a request that was committed, or was rolled back if there is nothing to note.
    pub(super) fn committed(&self, notes: Option<&Notes>) {
        let Some(notes) = notes else { return };
        let mut pressure = self.pressure();
        pressure.dirty.extend(notes.dirty.iter().cloned());
        pressure.note_expiry(notes.expires);
        if !notes.quiet {
            pressure.mutations += 1;
            if notes.deleted {
                pressure.deletions += 1;
                pressure.deleted_at = Some(Instant::now());
            }
            drop(pressure);
            self.changed.notify_one();
        }
    }

    /// Takes note that what is read may be different from now on. Before anybody is answered.
    pub(super) fn moved(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }

    /// How often the database has changed. What is read after this was asked is true for as long as
    /// the number stays: it changes after the database does, and before whoever changed it hears.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// The pressure now, to be looked at or changed.
    pub(crate) fn pressure(&self) -> MutexGuard<'_, Pressure> {
        self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pressure {
    /// Takes note that something expires at `time`.
    pub(crate) fn note_expiry(&mut self, time: Option<SystemTime>) {
        self.expires = self.expires.into_iter().chain(time).min();
    }
}
