// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::OwnedMutexGuard;

type Lock = tokio::sync::Mutex<()>;

/// What is under way in this process, by name: whoever else wants the same waits for it, and then
/// finds it done. Clones know of each other.
#[derive(Clone, Debug, Default)]
pub struct Flights {
    under_way: Arc<Mutex<HashMap<String, Weak<Lock>>>>,
}

impl Flights {
    /// Waits until nobody else is at `name`, and is the one who is at it until the flight is dropped.
    pub async fn board(&self, name: &str) -> Flight {
        let lock = self.lock(name);
        Flight { _guard: lock.lock_owned().await }
    }

    fn lock(&self, name: &str) -> Arc<Lock> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = under_way.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        under_way.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// Being at something.
#[derive(Debug)]
pub struct Flight {
    _guard: OwnedMutexGuard<()>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_is_at_it_and_the_others_wait() {
        let flights = Flights::default();
        let first = flights.board("a").await;
        let _other = flights.board("b").await;
        let mut second = Box::pin(flights.board("a"));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(flights.board("c").await);
        assert_eq!(flights.under_way.lock().unwrap().len(), 2, "what has ended is forgotten");
    }
}
