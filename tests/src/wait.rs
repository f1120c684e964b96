// SPDX-License-Identifier: Apache-2.0
//! Waiting, always with an end to it.
//!
//! A program that embeds the harness and is told to stop calls [`cancel`]: every wait then fails
//! within a moment, so that the stack unwinds and everything is cleaned up on its way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Failure, Outcome};

static CANCELLED: AtomicBool = AtomicBool::new(false);

/// How long anything that should be quick may take on a loaded machine of two cores.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Makes every wait fail from now on. Cleaning up still waits.
pub fn cancel() {
    CANCELLED.store(true, Ordering::SeqCst);
}

/// Whether [`cancel`] was called.
pub fn cancelled() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Asks `probe` until it has an answer, fails, or `limit` has passed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let started = Instant::now();
    loop {
        if let Some(answer) = probe()? {
            return Ok(answer);
        }
        if cancelled() {
            return Err(Failure::new(format!("interrupted while waiting for {what}")));
        }
        if started.elapsed() > limit {
            return Err(Failure::new(format!("{what} did not happen within {limit:?}")));
        }
        // Often at first, so that what is quick is measured as quick, and then less and less.
        let pause = started.elapsed() / 20;
        thread::sleep(pause.clamp(Duration::from_millis(1), Duration::from_millis(50)));
    }
}

/// Asks `done` until it holds or `limit` has passed; tells which. Not cut short by [`cancel`].
pub(crate) fn settled(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}
