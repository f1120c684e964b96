// SPDX-License-Identifier: Apache-2.0
//! The collector: what nothing refers to goes.
//!
//! ```text
//! listen for writes --> read one state --> plan (pure) --> remove from the database, but for
//!       (no lock)          (no lock)                       what was written since (short steps)
//!                                                                     |
//!                        backends: remove what the database does not know (nothing locked but it)
//! ```
//!
//! Why nothing in use is ever removed: from before the state is read until the last step is done,
//! SQLite reports every row that is written. Each step runs on the one thread that writes, so every
//! write is either part of the state that was read, or reported before the step, or comes after it.
//! What was reported is spared with all that it refers to; what a later write refers to either exists
//! then, whole (see [`order`]), or does not exist, as if it had been collected long ago.
mod audit;
mod backends;
mod collector;
mod inventory;
mod link;
mod node;
mod order;
mod plan;
mod removal;
mod repair;
mod reprieve;
mod schedule;
mod stats;
mod sweep;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use types::Result;

use self::{
    removal::{Removals, Sweeping},
    sweep::Sweep,
    turn::Turn,
};
use crate::{
    Db,
    db::{Backend, Touched},
};

pub(crate) use audit::audit;
pub use collector::Collector;
pub(crate) use link::expiry;
pub(crate) use repair::repair;
pub use schedule::Schedule;
pub use stats::{Removed, Stats};

/// Lets collections follow each other, and those who ask for the same one share it.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    metadata: Turn<Found>,
    removals: Removals,
    /// How many collections have begun and not yet asked for their sweeps.
    under_way: AtomicUsize,
    /// When the last one ended and what became of it, for the schedule.
    history: Mutex<History>,
}

/// What a collection found in the database, and the backends that it led to.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    stats: Stats,
    sweeps: Vec<(Backend, Sweeping)>,
    /// Which collection it is.
    number: u32,
}

/// What the schedule knows of collections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct History {
    pub(crate) ended: Option<tokio::time::Instant>,
    pub(crate) count: u32,
    pub(crate) spent: Duration,
    /// How many failed, at least in part, since the last that did not.
    pub(crate) failures: u32,
    /// The last collection that was said to have failed or not.
    judged: u32,
}

impl Turns {
    pub(crate) fn history(&self) -> History {
        *self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Notes whether the collection `number` is done, once for all who waited for it.
    fn judge(&mut self, number: u32, is_done: bool) {
        if self.judged != number {
            self.judged = number;
            self.failures = if is_done { 0 } else { self.failures.saturating_add(1) };
        }
    }
}

/// Collects, or joins those who are about to, and answers when everything is gone.
///
/// A collection goes on when nobody waits for it any more, and the next one waits for its end: two
/// at a time would take each other's notes of what was written.
pub(crate) async fn collect(db: &Db) -> Result<Stats> {
    let own = db.clone();
    Db::carry_out(async move {
        let found = begin(&own).await?;
        Ok(finish(&own, found).await)
    })
    .await
}

/// Collects as if every backend had something left by a crash.
pub(crate) async fn prune(db: &Db) -> Result<Stats> {
    let all = db.shared.backends.all();
    db.shared.signals.pressure().dirty.extend(all);
    collect(db).await
}

/// Removes garbage from the database, and sets the backends to it.
pub(crate) async fn begin(db: &Db) -> Result<Found> {
    db.shared.turns.metadata.share(|| once(db)).await
}

/// Waits for the backends.
pub(crate) async fn finish(db: &Db, found: Found) -> Stats {
    let Found { mut stats, sweeps, number } = found;
    let turns = &db.shared.turns;
    let waits = sweeps.into_iter().map(|(backend, sweeping)| async move {
        let swept = turns.removals.wait(&backend, sweeping, db.shared.patience).await;
        (backend, swept)
    });
    for (backend, swept) in join_all(waits).await {
        stats.backends.insert(backend.name().to_owned(), swept.took);
        if !swept.failures.is_empty() {
            db.shared.signals.pressure().dirty.insert(backend);
        }
        stats.failures.extend(swept.failures);
    }
    turns.change().judge(number, stats.failures.is_empty());
    db.shared.signals.changed.notify_one();
    tracing::debug!(?stats, "garbage collected");
    stats
}

async fn once(db: &Db) -> Result<Found> {
    let _under_way = UnderWay::begin(&db.shared.turns.under_way);
    let began = Instant::now();
    let before = std::mem::take(&mut *db.shared.signals.pressure());
    let outcome = metadata(db).await;
    let took = began.elapsed();
    let number = note(db, took);
    if let Some(tell) = &db.shared.on_collection {
        tell(took, outcome.is_ok());
    }
    db.shared.signals.changed.notify_one();
    let mut stats = match outcome {
        Ok(stats) => stats,
        Err(error) => {
            put_back(db, before);
            db.shared.turns.change().judge(number, false);
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
    Ok(Found { stats, sweeps: ask(db, dirty), number })
}

/// Notes for the schedule that a collection took `time`, and returns its number.
fn note(db: &Db, time: Duration) -> u32 {
    let mut history = db.shared.turns.change();
    history.ended = Some(tokio::time::Instant::now());
    history.count += 1;
    history.spent += time;
    history.count
}

/// Asks for the sweeps of the `dirty` backends, and adds those that earlier collections asked for.
fn ask(db: &Db, dirty: BTreeSet<Backend>) -> Vec<(Backend, Sweeping)> {
    let removals = &db.shared.turns.removals;
    let asked: BTreeMap<Backend, Sweeping> = dirty
        .into_iter()
        .map(|backend| {
            let sweeping = removals.ask(db, &backend);
            (backend, sweeping)
        })
        .collect();
    removals.pending().into_iter().chain(asked).collect::<BTreeMap<_, _>>().into_iter().collect()
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
    let (plan, groups) = db
        .read(|connection| {
            let entries = inventory::all(connection)?;
            let plan = plan::plan(&entries, SystemTime::now());
            let groups = order::groups(&entries, &plan);
            Ok((plan, groups))
        })
        .await?;
    let mut stats = Stats { seen: plan.seen, expires: plan.expires, ..Stats::default() };
    if !groups.is_empty() {
        let sweep = Sweep::new(plan, groups, touched);
        (stats.removed, stats.pause) = sweep.run(db).await?;
    }
    drop(listening);
    Ok(stats)
}

/// Counts a collection until dropped.
struct UnderWay<'a>(&'a AtomicUsize);

impl<'a> UnderWay<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Listens to writes until dropped.
struct Listening(Touched);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.stop();
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
