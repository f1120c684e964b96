// SPDX-License-Identifier: Apache-2.0
//! Which tasks there are, and in which phase of their life each is.
//!
//! ```text
//! reserve --> Starting --live--> Live <--back-- Deleting
//!                |                 `--delete-->    |
//!                `-----------------. . ----------- end --> gone, with how it ended
//! found  --> Loading --live--> Live
//! ```
//!
//! A task is starting until its creation has been answered: until then nobody can name it. One that
//! is loading was there before the daemon, and whoever names it waits until its shim has answered.
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use types::{Error, Result};

use crate::{Exit, shim::Shim};

/// A task is named by its namespace and its id.
type Key = (String, String);

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Starting,
    Loading,
    Live(Arc<Shim>),
    Deleting(Arc<Shim>),
    /// Its shim is gone; how the task ended, if that is known.
    Gone(Option<Exit>),
}

/// All tasks of a daemon.
#[derive(Debug, Default)]
pub(crate) struct Table {
    tasks: Mutex<HashMap<Key, watch::Sender<Phase>>>,
}

impl Table {
    /// Takes the name of a task that is to be made. Dropping the reservation gives it back.
    pub(crate) fn reserve(self: &Arc<Self>, namespace: &str, id: &str) -> Result<Reservation> {
        self.enter(namespace, id, Phase::Starting)
    }

    /// Takes the name of a task whose shim is being looked for.
    pub(crate) fn load(self: &Arc<Self>, namespace: &str, id: &str) -> Result<Reservation> {
        self.enter(namespace, id, Phase::Loading)
    }

    fn enter(self: &Arc<Self>, namespace: &str, id: &str, phase: Phase) -> Result<Reservation> {
        let key = (namespace.to_owned(), id.to_owned());
        match self.lock().entry(key.clone()) {
            Entry::Occupied(_) => Err(Error::already_exists(format!("task {id}"))),
            Entry::Vacant(place) => {
                place.insert(watch::Sender::new(phase));
                Ok(Reservation { table: self.clone(), key: Some(key) })
            }
        }
    }

    /// The shim of a task. One that is loading is waited for, for at most `patience`.
    pub(crate) async fn find(
        &self,
        namespace: &str,
        id: &str,
        patience: Duration,
    ) -> Result<Arc<Shim>> {
        let mut phase = self.watch(namespace, id).ok_or_else(|| missing(id))?;
        let loaded = phase.wait_for(|phase| !matches!(phase, Phase::Loading));
        let phase = match tokio::time::timeout(patience, loaded).await {
            Ok(Ok(phase)) => phase.clone(),
            Ok(Err(_)) => return Err(missing(id)),
            Err(_) => return Err(Error::unavailable(format!("task {id} is still being loaded"))),
        };
        match phase {
            Phase::Live(shim) | Phase::Deleting(shim) => Ok(shim),
            Phase::Starting | Phase::Loading | Phase::Gone(_) => Err(missing(id)),
        }
    }

    /// The phases that a task goes through from now on.
    pub(crate) fn watch(&self, namespace: &str, id: &str) -> Option<watch::Receiver<Phase>> {
        self.lock().get(&key(namespace, id)).map(watch::Sender::subscribe)
    }

    /// The tasks of a namespace that can be named: those that are live, and those being loaded.
    pub(crate) fn list(&self, namespace: &str) -> Vec<(String, Option<Arc<Shim>>)> {
        let tasks = self.lock();
        let here = tasks.iter().filter(|((space, _), _)| space == namespace);
        here.filter_map(|((_, id), phase)| match &*phase.borrow() {
            Phase::Live(shim) | Phase::Deleting(shim) => Some((id.clone(), Some(shim.clone()))),
            Phase::Loading => Some((id.clone(), None)),
            Phase::Starting | Phase::Gone(_) => None,
        })
        .collect()
    }

    /// The tasks of all namespaces whose shims are there.
    pub(crate) fn live(&self) -> Vec<Arc<Shim>> {
        let tasks = self.lock();
        let shims = tasks.values().filter_map(|phase| match &*phase.borrow() {
            Phase::Live(shim) | Phase::Deleting(shim) => Some(shim.clone()),
            Phase::Starting | Phase::Loading | Phase::Gone(_) => None,
        });
        shims.collect()
    }

    /// Begins to delete a live task. `None` when somebody else has begun.
    pub(crate) fn begin_delete(&self, shim: &Arc<Shim>) -> Option<Deleting<'_>> {
        let mut begun = false;
        self.change(shim, |phase| {
            if let Phase::Live(live) = phase {
                *phase = Phase::Deleting(live.clone());
                begun = true;
            }
        });
        begun.then(|| Deleting { table: self, shim: shim.clone(), is_done: false })
    }

    /// Ends a task whose shim died by itself. False when it is being deleted, or gone already.
    pub(crate) fn is_live(&self, shim: &Arc<Shim>) -> bool {
        let phase = self.watch(&shim.bundle.namespace, &shim.bundle.id);
        phase.is_some_and(
            |phase| matches!(&*phase.borrow(), Phase::Live(it) if Arc::ptr_eq(it, shim)),
        )
    }

    /// Ends a task: its name is free again, and then whoever waits for it learns how it ended.
    pub(crate) fn end(&self, shim: &Arc<Shim>, exit: Option<Exit>) {
        let phase = self.lock().remove(&key(&shim.bundle.namespace, &shim.bundle.id));
        if let Some(phase) = phase {
            phase.send_replace(Phase::Gone(exit));
        }
    }

    fn change(&self, shim: &Arc<Shim>, change: impl FnOnce(&mut Phase)) {
        if let Some(phase) = self.lock().get(&key(&shim.bundle.namespace, &shim.bundle.id)) {
            phase.send_modify(change);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, watch::Sender<Phase>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(namespace: &str, id: &str) -> Key {
    (namespace.to_owned(), id.to_owned())
}

/// Compat: the text of containerd `plugins/services/tasks/local.go`.
pub(crate) fn missing(id: &str) -> Error {
    Error::said(types::Kind::NotFound, format!("task {id} not found"))
}

/// A task's name, taken for a task that is not there yet.
#[derive(Debug)]
pub(crate) struct Reservation {
    table: Arc<Table>,
    /// Taken when the task is live.
    key: Option<Key>,
}

impl Reservation {
    /// The task is there: it can be named from now on.
    pub(crate) fn live(mut self, shim: Arc<Shim>) {
        if let Some(key) = self.key.take()
            && let Some(phase) = self.table.lock().get(&key)
        {
            phase.send_replace(Phase::Live(shim));
        }
    }

    /// The task has ended: whoever waits for it learns how, and its name is free again.
    pub(crate) fn gone(mut self, exit: Exit) {
        if let Some(key) = self.key.take()
            && let Some(phase) = self.table.lock().remove(&key)
        {
            phase.send_replace(Phase::Gone(Some(exit)));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(key) = self.key.take()
            && let Some(phase) = self.table.lock().remove(&key)
        {
            phase.send_replace(Phase::Gone(None));
        }
    }
}

/// A task that is being deleted. Unless that is done, it is live again.
#[derive(Debug)]
pub(crate) struct Deleting<'a> {
    table: &'a Table,
    shim: Arc<Shim>,
    is_done: bool,
}

impl Deleting<'_> {
    pub(crate) fn done(mut self, exit: Exit) {
        self.is_done = true;
        self.table.end(&self.shim, Some(exit));
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let shim = self.shim.clone();
            self.table.change(&self.shim, |phase| *phase = Phase::Live(shim));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_name_is_taken_once_and_given_back() {
        let table = Arc::new(Table::default());
        let reservation = table.reserve("ns", "a").unwrap();
        let again = table.reserve("ns", "a").unwrap_err();
        assert_eq!(again.to_string(), "task a: already exists");
        assert!(table.reserve("other", "a").is_ok());
        assert!(table.find("ns", "a", SOON).await.unwrap_err().is_not_found());
        drop(reservation);
        assert!(table.reserve("ns", "a").is_ok());
    }

    #[tokio::test]
    async fn a_task_that_is_loading_is_waited_for_but_not_for_ever() {
        let table = Arc::new(Table::default());
        let loading = table.load("ns", "a").unwrap();
        let error = table.find("ns", "a", SOON).await.unwrap_err();
        assert_eq!(error.kind(), types::Kind::Unavailable);
        assert_eq!(table.list("ns").len(), 1);
        drop(loading);
        assert!(table.find("ns", "a", SOON).await.unwrap_err().is_not_found());
    }
}
