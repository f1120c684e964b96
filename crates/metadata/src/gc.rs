// SPDX-License-Identifier: Apache-2.0
//! The collector: what nothing refers to goes.
//!
//! ```text
//! listen for writes --> read one state --> plan (pure) --> remove from the database, but for
//!       (no lock)          (no lock)                       what was written since (one transaction)
//!                                                                     |
//!                        backends: remove what the database does not know (nothing locked but it)
//! ```
mod backends;
mod collector;
mod inventory;
mod link;
mod node;
mod plan;
mod schedule;
mod stats;
mod sweep;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tokio::time::timeout;
use types::{Error, Kind, Result};

use crate::{
    Db,
    db::{Backend, Touched},
};

pub use collector::Collector;
pub(crate) use link::expiry;
pub use schedule::Schedule;
pub use stats::{Removed, Stats};

/// How long a collection waits for a backend. One that takes longer goes on by itself.
const PATIENCE: Duration = Duration::from_mins(1);

/// Lets collections follow each other, and those who ask for the same one share it.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    asked: AtomicU64,
    going: tokio::sync::Mutex<Last>,
    /// When the last one ended and what became of it, for the schedule.
    history: Mutex<History>,
    /// The backends that are being swept, longer than a collection waited for.
    busy: Mutex<BTreeSet<Backend>>,
}

/// The last collection: whom it was for, and what it did.
#[derive(Debug, Default)]
struct Last {
    served: u64,
    stats: Option<Stats>,
}

/// What the schedule knows of collections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct History {
    pub(crate) ended: Option<tokio::time::Instant>,
    pub(crate) count: u32,
    pub(crate) spent: Duration,
    /// How many failed, at least in part, since the last that did not.
    pub(crate) failures: u32,
}

impl Turns {
    pub(crate) fn history(&self) -> History {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, outcome: &Result<Stats>) {
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.ended = Some(tokio::time::Instant::now());
        let is_done = outcome.as_ref().is_ok_and(|stats| stats.failures.is_empty());
        history.failures = if is_done { 0 } else { history.failures.saturating_add(1) };
        if let Ok(stats) = outcome {
            history.count += 1;
            history.spent += stats.metadata;
        }
    }

    fn busy(&self) -> MutexGuard<'_, BTreeSet<Backend>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Collects, or joins those who are about to.
///
/// A collection goes on when nobody waits for it any more, and the next one waits for its end: two
/// at a time would take each other's notes of what was written.
pub(crate) async fn collect(db: &Db) -> Result<Stats> {
    let own = db.clone();
    Db::carry_out(async move { in_turn(&own).await }).await
}

async fn in_turn(db: &Db) -> Result<Stats> {
    let turns = &db.shared.turns;
    let mine = turns.asked.fetch_add(1, Ordering::SeqCst) + 1;
    let mut last = turns.going.lock().await;
    if let Some(stats) = last.stats.as_ref().filter(|_| last.served >= mine) {
        return Ok(stats.clone());
    }
    // Everybody who has asked by now gets what begins now.
    last.served = turns.asked.load(Ordering::SeqCst);
    last.stats = None;
    let outcome = once(db).await;
    turns.note(&outcome);
    db.shared.signals.changed.notify_one();
    let stats = outcome?;
    last.stats = Some(stats.clone());
    Ok(stats)
}

async fn once(db: &Db) -> Result<Stats> {
    let began = Instant::now();
    let before = std::mem::take(&mut *db.shared.signals.pressure());
    let mut stats = match metadata(db).await {
        Ok(stats) => stats,
        Err(error) => {
            put_back(db, before);
            tracing::error!(%error, "garbage could not be collected");
            return Err(error.context("collect garbage"));
        }
    };
    stats.metadata = began.elapsed();
    let mut dirty = before.dirty;
    {
        let mut pressure = db.shared.signals.pressure();
        pressure.note_expiry(stats.expires);
        dirty.append(&mut pressure.dirty);
    }
    // What somebody else unmounted is noticed by looking alone.
    dirty.extend(db.shared.mounts.get().map(|_| Backend::Mounts));
    sweep_backends(db, dirty, &mut stats).await;
    tracing::debug!(?stats, "garbage collected");
    Ok(stats)
}

/// A collection that failed leaves things as urgent as they were.
fn put_back(db: &Db, before: crate::db::Pressure) {
    let mut pressure = db.shared.signals.pressure();
    pressure.mutations += before.mutations;
    pressure.deletions += before.deletions;
    pressure.note_expiry(before.expires);
    pressure.dirty.extend(before.dirty);
    pressure.deleted_at = pressure.deleted_at.or(before.deleted_at);
}

/// Removes garbage from the database.
async fn metadata(db: &Db) -> Result<Stats> {
    let touched = db.shared.signals.touched.clone();
    let listening = Listening(touched.clone());
    let start = touched.clone();
    db.write(move |tx| {
        tx.quiet();
        start.start();
        Ok(())
    })
    .await?;
    let plan = db
        .read(|connection| Ok(plan::plan(&inventory::all(connection)?, SystemTime::now())))
        .await?;
    let mut stats = Stats { seen: plan.seen, expires: plan.expires, ..Stats::default() };
    if !plan.garbage.is_empty() {
        let began = Instant::now();
        stats.removed = db.write(move |tx| sweep::sweep(tx, &plan, &touched)).await?;
        stats.pause = began.elapsed();
    }
    drop(listening);
    Ok(stats)
}

/// Listens to writes until dropped.
struct Listening(Touched);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Sweeps the backends side by side.
async fn sweep_backends(db: &Db, dirty: BTreeSet<Backend>, stats: &mut Stats) {
    let sweeps = dirty.into_iter().map(|backend| async move {
        let began = Instant::now();
        let outcome = sweep_backend(db, backend.clone()).await;
        (backend, began.elapsed(), outcome)
    });
    let mut took = BTreeMap::new();
    for (backend, time, outcome) in join_all(sweeps).await {
        let failures = outcome.unwrap_or_else(|error| vec![error.to_string()]);
        if !failures.is_empty() {
            db.shared.signals.pressure().dirty.insert(backend.clone());
        }
        stats.failures.extend(failures);
        took.insert(backend.name().to_owned(), time);
    }
    stats.backends = took;
}

/// Sweeps a backend, unless that is still going on from an earlier time.
async fn sweep_backend(db: &Db, backend: Backend) -> Result<Vec<String>> {
    let slow = |backend: &Backend| {
        let name = backend.name();
        Error::new(Kind::DeadlineExceeded, format!("backend {name:?} is still removing"))
    };
    if !db.shared.turns.busy().insert(backend.clone()) {
        return Err(slow(&backend));
    }
    let own = db.clone();
    let sweep = backend.clone();
    let sweeping = tokio::spawn(async move {
        let outcome = backends::sweep(own.clone(), sweep.clone()).await;
        own.shared.turns.busy().remove(&sweep);
        outcome
    });
    match timeout(PATIENCE, sweeping).await {
        Ok(done) => done.map_err(|error| Error::caused(Kind::Internal, "sweep", error))?,
        Err(_) => Err(slow(&backend)),
    }
}

impl Backend {
    fn name(&self) -> &str {
        match self {
            Self::Content => "",
            Self::Snapshotter(name) => name,
            Self::Mounts => "mounts",
        }
    }
}
