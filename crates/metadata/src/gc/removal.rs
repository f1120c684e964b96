// SPDX-License-Identifier: Apache-2.0
//! Sweeping backends, each at its own pace.
//!
//! A backend is swept by a task of its own. While that goes on, one more may wait, for all who came
//! meanwhile; so nobody is served by a sweep that began before they asked, and a backend that hangs
//! keeps two tasks at most, and nobody else's garbage.
//!
//! ```text
//! ask --> waiting --(the one before ends)--> going --> done
//!            ^ ask again: the same one          ^ ask again: another that waits
//! ```
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::backends;
use crate::{Db, db::Backend};

/// A sweep that was asked for. Any number may wait for it.
pub(super) type Sweeping = Shared<BoxFuture<'static, Swept>>;

/// What became of a sweep.
#[derive(Clone, Debug, Default)]
pub(super) struct Swept {
    /// What could not be removed.
    pub(super) failures: Vec<String>,
    pub(super) took: Duration,
}

/// The sweeps of all backends.
#[derive(Debug, Default)]
pub(super) struct Removals {
    slots: Mutex<BTreeMap<Backend, Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    waiting: Option<Sweeping>,
    /// The last one that was asked for, which ends after all others.
    last: Option<Sweeping>,
    going: Arc<tokio::sync::Mutex<()>>,
    /// Somebody gave up on the one that is going on.
    is_late: bool,
}

impl Removals {
    /// Asks for a sweep that begins after this.
    pub(super) fn ask(&self, db: &Db, backend: &Backend) -> Sweeping {
        let mut slots = self.slots();
        let slot = slots.entry(backend.clone()).or_default();
        if let Some(waiting) = &slot.waiting {
            return waiting.clone();
        }
        let task = tokio::spawn(sweep(db.clone(), backend.clone(), Arc::clone(&slot.going)));
        let failed =
            |error| Swept { failures: vec![format!("sweep: {error}")], ..Swept::default() };
        let sweeping = task.map(move |done| done.unwrap_or_else(failed)).boxed().shared();
        slot.waiting = Some(sweeping.clone());
        slot.last = Some(sweeping.clone());
        sweeping
    }

    /// The sweeps that were asked for and are not done, but for those that somebody gave up on:
    /// earlier collections may have led to them, and who asks now wants to see their end.
    pub(super) fn pending(&self) -> Vec<(Backend, Sweeping)> {
        let slots = self.slots();
        let prompt = slots.iter().filter(|(_, slot)| !slot.is_late);
        let pending = prompt.filter_map(|(backend, slot)| {
            let last = slot.last.as_ref().filter(|last| last.peek().is_none())?;
            Some((backend.clone(), last.clone()))
        });
        pending.collect()
    }

    /// The backends whose sweeps were asked for and are not done, whoever gave up on them.
    pub(super) fn unfinished(&self) -> Vec<Backend> {
        let slots = self.slots();
        let going = slots
            .iter()
            .filter(|(_, slot)| slot.last.as_ref().is_some_and(|last| last.peek().is_none()));
        going.map(|(backend, _)| backend.clone()).collect()
    }

    /// Waits for a sweep, for `patience` at most, and not at all for a backend that somebody has
    /// given up on.
    pub(super) async fn wait(
        &self,
        backend: &Backend,
        sweeping: Sweeping,
        patience: Duration,
    ) -> Swept {
        let patience =
            if self.slot(backend, |slot| slot.is_late) { Duration::ZERO } else { patience };
        if let Ok(swept) = tokio::time::timeout(patience, sweeping).await {
            return swept;
        }
        self.slot(backend, |slot| slot.is_late = true);
        let failures = vec![format!("backend {:?} is still removing", backend.name())];
        Swept { failures, took: patience }
    }

    fn slot<T>(&self, backend: &Backend, look: impl FnOnce(&mut Slot) -> T) -> T {
        look(self.slots().entry(backend.clone()).or_default())
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Backend, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What fails is left for the next time.
async fn sweep(db: Db, backend: Backend, going: Arc<tokio::sync::Mutex<()>>) -> Swept {
    let _turn = going.lock().await;
    let removals = &db.shared.turns.removals;
    removals.slot(&backend, |slot| slot.waiting = None);
    let began = Instant::now();
    let outcome = backends::sweep(db.clone(), backend.clone()).await;
    let failures = outcome.unwrap_or_else(|error| vec![error.to_string()]);
    removals.slot(&backend, |slot| slot.is_late = false);
    Swept { failures, took: began.elapsed() }
}
