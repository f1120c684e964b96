// SPDX-License-Identifier: Apache-2.0
//! What was asked of a daemon and what it acknowledged, each with its time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

use crate::process::locked;

/// What a daemon can have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Thing {
    /// An image, pulled and unpacked, by its number.
    Image(usize),
    /// A container with its snapshot.
    Container(String),
    Lease(String),
    /// A committed snapshot with the file that was written into it.
    Snapshot(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Making,
    Made,
    Removing,
    Removed,
}

/// What must be so after a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Promise {
    Present(Thing),
    Absent(Thing),
}

/// What happened, in order.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Vec<(Instant, Thing, Step)>>);

impl Ledger {
    /// Notes that something is made, makes it, and notes that it was acknowledged.
    pub(super) fn make<T, E>(
        &self,
        thing: &Thing,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.around(thing, Step::Making, Step::Made, work)
    }

    /// The same for something that is removed.
    pub(super) fn remove<T, E>(
        &self,
        thing: &Thing,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.around(thing, Step::Removing, Step::Removed, work)
    }

    fn around<T, E>(
        &self,
        thing: &Thing,
        before: Step,
        after: Step,
        work: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.note(thing, before);
        let done = work()?;
        self.note(thing, after);
        Ok(done)
    }

    fn note(&self, thing: &Thing, step: Step) {
        let mut notes = locked(&self.0);
        // The time is taken with the lock held, so that the notes are in order.
        notes.push((Instant::now(), thing.clone(), step));
    }

    /// What a cut promises that took place after `began` and before `ended`.
    pub(super) fn at(&self, began: Instant, ended: Instant) -> Vec<Promise> {
        let mut last: BTreeMap<Thing, Option<Step>> = BTreeMap::new();
        for (time, thing, step) in locked(&self.0).iter().filter(|(time, ..)| *time < ended) {
            // Whatever began while the power was cut may have happened or not.
            let is_settled = *time < began;
            last.insert(thing.clone(), Some(*step).filter(|_| is_settled));
        }
        last.into_iter().filter_map(|(thing, step)| promise(thing, step?)).collect()
    }
}

fn promise(thing: Thing, step: Step) -> Option<Promise> {
    match step {
        Step::Made => Some(Promise::Present(thing)),
        Step::Removed => Some(Promise::Absent(thing)),
        Step::Making | Step::Removing => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_settled_before_the_cut_is_promised() {
        let (ledger, lease) = (Ledger::default(), Thing::Lease("a".into()));
        let promised = |began, ended| ledger.at(began, ended);
        let start = Instant::now();
        ledger.make(&lease, || Ok::<_, ()>(())).expect("it does nothing");
        let made = Instant::now();
        assert_eq!(promised(made, made), [Promise::Present(lease.clone())]);
        assert_eq!(promised(start, made), []);
        ledger.remove(&lease, || Err::<(), _>(())).expect_err("it fails");
        let now = Instant::now();
        assert_eq!(
            (promised(made, made).len(), promised(made, now), promised(now, now)),
            (1, vec![], vec![])
        );
        ledger.remove(&lease, || Ok::<_, ()>(())).expect("it does nothing");
        let now = Instant::now();
        assert_eq!(promised(now, now), [Promise::Absent(lease.clone())]);
    }
}
