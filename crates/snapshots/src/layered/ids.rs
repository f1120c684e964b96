// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Numbers for snapshots, increasing and never given twice.
pub(super) struct Ids {
    state: Mutex<State>,
}

struct State {
    last: u64,
    making: HashSet<u64>,
}

/// A number whose snapshot is in the making for as long as this lives.
pub(super) struct Id<'a> {
    ids: &'a Ids,
    id: u64,
}

impl Ids {
    /// Numbers higher than `last`.
    pub(super) fn after(last: u64) -> Self {
        Self { state: Mutex::new(State { last, making: HashSet::new() }) }
    }

    /// The next number.
    pub(super) fn next(&self) -> Id<'_> {
        let mut state = self.state();
        state.last += 1;
        let id = state.last;
        state.making.insert(id);
        Id { ids: self, id }
    }

    /// The numbers of snapshots that may have data and no record yet.
    pub(super) fn in_the_making(&self) -> HashSet<u64> {
        self.state().making.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Id<'_> {
    pub(super) fn get(&self) -> u64 {
        self.id
    }
}

impl Drop for Id<'_> {
    fn drop(&mut self) {
        self.ids.state().making.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_in_the_making_until_it_is_dropped() {
        let ids = Ids::after(7);
        let (eight, nine) = (ids.next(), ids.next());
        assert_eq!((eight.get(), nine.get()), (8, 9));
        drop(nine);
        assert_eq!(ids.in_the_making(), HashSet::from([8]));
        assert_eq!(ids.next().get(), 10);
    }
}
