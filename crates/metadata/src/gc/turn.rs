// SPDX-License-Identifier: Apache-2.0
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Mutex;
use types::Result;

/// Lets work of one sort be done once at a time, and once for all who ask for it meanwhile.
#[derive(Debug)]
pub(super) struct Turn<T> {
    asked: AtomicU64,
    going: Mutex<Last<T>>,
}

/// The last time: whom it was for, and what came of it.
#[derive(Debug)]
struct Last<T> {
    served: u64,
    outcome: Option<T>,
}

impl<T> Default for Turn<T> {
    fn default() -> Self {
        Self { asked: AtomicU64::new(0), going: Mutex::new(Last { served: 0, outcome: None }) }
    }
}

impl<T: Clone> Turn<T> {
    /// Does `work`, or takes the outcome of another's that began after this was asked for.
    pub(super) async fn share<F>(&self, work: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut last = self.going.lock().await;
        if let Some(outcome) = last.outcome.as_ref().filter(|_| last.served >= mine) {
            return Ok(outcome.clone());
        }
        // Everybody who has asked by now gets what begins now.
        last.served = self.asked.load(Ordering::SeqCst);
        last.outcome = None;
        let outcome = work().await?;
        last.outcome = Some(outcome.clone());
        Ok(outcome)
    }
}
