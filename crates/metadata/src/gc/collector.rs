// SPDX-License-Identifier: Apache-2.0
use std::time::SystemTime;

use tokio::{
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::Schedule;
use crate::{Db, gc};

/// The task that collects garbage when it is due. Dropping it stops it.
#[derive(Debug)]
pub struct Collector {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts collecting the garbage of `db`. Needs a runtime.
    pub fn start(db: Db, schedule: Schedule) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(db, schedule, stop.clone()));
        Self { stop, task }
    }

    /// Stops, after the collection that is going on.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the collector failed");
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A collection that fails has been logged, and is tried again.
async fn run(db: Db, schedule: Schedule, stop: CancellationToken) {
    let started = Instant::now();
    loop {
        let now = (Instant::now(), SystemTime::now());
        let pressure = db.shared.signals.pressure().clone();
        let due = schedule.due(started, &pressure, &db.shared.turns.history(), now);
        tokio::select! {
            () = stop.cancelled() => return,
            () = db.shared.signals.changed.notified() => {}
            () = until(due) => collect(&db).await,
        }
    }
}

/// Collects, and leaves the backends to themselves: one that hangs must not hold up the schedule.
async fn collect(db: &Db) {
    let own = db.clone();
    let found = Db::carry_out(async move { gc::begin(&own).await }).await;
    if let Ok(found) = found {
        let own = db.clone();
        tokio::spawn(async move { gc::finish(&own, found).await });
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
