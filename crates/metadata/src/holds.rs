// SPDX-License-Identifier: Apache-2.0
//! Who is using what right now, so that the collector keeps off.
//!
//! The database and a backend cannot change in one step. Between the two, a thing is in one of them
//! only, and looks like an orphan. So whoever makes a thing, or is about to refer to one, shares it
//! first; the collector owns a thing while it checks that nobody knows it and removes it. Nobody
//! waits for anything else than the one thing.
//!
//! ```text
//! share --> make in the backend --> record in the database --> let go
//! own   --> not in the database?  --> remove from the backend --> let go
//! ```
use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use types::Digest;

/// What can be held.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Thing {
    /// A blob of the backend.
    Blob(Digest),
    /// A blob of the backend whose digest is not known yet: shared, it keeps all of them.
    SomeBlob,
    /// An ingest of the backend.
    Ingest(String),
    /// The name of an ingest, by namespace and name: owned while it is begun, and while it becomes a
    /// blob, so that nobody begins anew what is a blob by then.
    Reference(String, String),
    /// A snapshot of a backend, by snapshotter and backend key.
    Snapshot(String, String),
    /// The name of a snapshot, by snapshotter, namespace and name: owned while it changes hands.
    Name(String, String, String),
    /// An activation of mounts, by namespace and name: owned while it is made or undone.
    Activation(String, String),
}

/// The things that are held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<HashMap<Thing, Held>>,
    freed: Notify,
}

#[derive(Clone, Copy, Debug)]
enum Held {
    By(usize),
    Owned,
}

/// A thing that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    holds: Holds,
    thing: Thing,
}

impl Holds {
    /// Holds `thing` together with others, once nobody owns it.
    pub(crate) async fn share(&self, thing: Thing) -> Hold {
        self.wait(thing, |held| match held {
            None => Some(Held::By(1)),
            Some(Held::By(others)) => Some(Held::By(others + 1)),
            Some(Held::Owned) => None,
        })
        .await
    }

    /// Holds `thing` alone, once nobody else holds it.
    pub(crate) async fn own(&self, thing: Thing) -> Hold {
        self.wait(thing, alone).await
    }

    /// Holds `thing` alone, if nobody else holds it.
    pub(crate) fn try_own(&self, thing: Thing) -> Option<Hold> {
        self.attempt(&thing, alone).then(|| Hold { holds: self.clone(), thing })
    }

    /// Whether anybody holds `thing`. What was made by the time of the question, and is not held, has
    /// been recorded, or never will be. To ask is not to hold: the collector is not kept off by it.
    pub(crate) fn is_held(&self, thing: &Thing) -> bool {
        self.held().contains_key(thing)
    }

    async fn wait(&self, thing: Thing, take: fn(Option<Held>) -> Option<Held>) -> Hold {
        loop {
            let mut freed = pin!(self.shared.freed.notified());
            freed.as_mut().enable();
            if self.attempt(&thing, take) {
                return Hold { holds: self.clone(), thing };
            }
            freed.await;
        }
    }

    fn attempt(&self, thing: &Thing, take: fn(Option<Held>) -> Option<Held>) -> bool {
        let mut held = self.held();
        let taken = take(held.get(thing).copied());
        if let Some(taken) = taken {
            held.insert(thing.clone(), taken);
        }
        taken.is_some()
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Thing, Held>> {
        self.shared.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alone(held: Option<Held>) -> Option<Held> {
    held.is_none().then_some(Held::Owned)
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut held = self.holds.held();
        match held.get_mut(&self.thing) {
            Some(Held::By(others)) if *others > 1 => *others -= 1,
            _ => {
                held.remove(&self.thing);
                drop(held);
                self.holds.shared.freed.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn thing() -> Thing {
        Thing::Ingest("i".into())
    }

    #[tokio::test]
    async fn what_is_shared_cannot_be_owned_until_all_let_go() {
        let holds = Holds::default();
        let (one, two) = (holds.share(thing()).await, holds.share(thing()).await);
        assert!(holds.try_own(thing()).is_none());
        drop(one);
        assert!(holds.try_own(thing()).is_none());
        drop(two);
        assert!(holds.try_own(thing()).is_some());
        assert!(holds.held().is_empty());
    }

    #[tokio::test]
    async fn who_shares_waits_for_the_owner_of_that_thing_alone() {
        let holds = Holds::default();
        let owner = holds.try_own(thing()).unwrap();
        assert!(holds.share(Thing::SomeBlob).now_or_never().is_some());
        let mut waiting = Box::pin(holds.share(thing()));
        assert!((&mut waiting).now_or_never().is_none());
        drop(owner);
        drop(waiting.await);
        assert!(holds.held().is_empty());
    }
}
