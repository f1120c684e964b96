// SPDX-License-Identifier: Apache-2.0
//! The calls that wait for an answer.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Client;
use crate::status::Status;
use crate::stream::Events;

/// Where the answer to a call goes.
#[derive(Debug)]
pub(super) enum Slot {
    /// One encoded `Response`.
    Unary(oneshot::Sender<Result<Bytes, Status>>),
    /// Any number of events.
    Stream(Events),
}

/// The open calls of a connection, by stream id.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<Table>);

#[derive(Debug)]
struct Table {
    /// The id of the next call; `None` when all are used up, since none is ever used twice.
    next: Option<u32>,
    open: HashMap<u32, Slot>,
    closed: Option<Status>,
}

impl Default for Table {
    fn default() -> Self {
        Self { next: Some(1), open: HashMap::new(), closed: None }
    }
}

impl Calls {
    /// Opens a call. `queue` puts its request into the queue, while no other call can get an id: the
    /// protocol demands that ids go up in the order of the requests.
    pub(super) fn open(&self, slot: Slot, queue: impl FnOnce(u32)) -> Result<u32, Status> {
        let mut table = self.table();
        if let Some(status) = &table.closed {
            return Err(status.clone());
        }
        let Some(id) = table.next else {
            let error = std::io::Error::other("all stream ids of the connection are used up");
            return Err(Status::closed(Some(&error)));
        };
        table.next = id.checked_add(2);
        table.open.insert(id, slot);
        queue(id);
        Ok(id)
    }

    /// Takes a call out because it ends.
    pub(super) fn take(&self, id: u32) -> Option<Slot> {
        self.table().open.remove(&id)
    }

    /// Takes out a unary call, which ends whatever comes, or points to the stream that stays.
    pub(super) fn take_unary(&self, id: u32) -> Option<Slot> {
        let mut table = self.table();
        if let Slot::Stream(events) = table.open.get(&id)? {
            return Some(Slot::Stream(events.clone()));
        }
        table.open.remove(&id)
    }

    /// Fails all calls, and those to come.
    pub(super) fn close(&self, reason: &Status) {
        let mut table = self.table();
        table.closed = Some(reason.clone());
        let open = std::mem::take(&mut table.open);
        drop(table);
        for slot in open.into_values() {
            if let Slot::Unary(answer) = slot {
                // Whoever gave the call up does not want to know.
                answer.send(Err(reason.clone())).ok();
            }
        }
    }

    /// Returns why the connection ended.
    pub(super) fn reason(&self) -> Status {
        self.table().closed.clone().unwrap_or_else(|| Status::closed(None))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which call of which connection something belongs to. It keeps the connection open.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    client: Client,
    id: u32,
}

impl Place {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Returns why the connection has ended, if it has.
    pub(crate) fn closed(&self) -> Option<Status> {
        self.client.link.calls.table().closed.clone()
    }

    /// Fails when the call is over.
    pub(crate) fn check(&self) -> Result<(), Status> {
        let table = self.client.link.calls.table();
        match &table.closed {
            Some(reason) => Err(reason.clone()),
            None if table.open.contains_key(&self.id) => Ok(()),
            None => Err(Status::stream_closed()),
        }
    }
}

/// A place that is given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Registration(Place);

impl Registration {
    pub(super) fn new(client: Client, id: u32) -> Self {
        Self(Place { client, id })
    }

    pub(crate) fn place(&self) -> &Place {
        &self.0
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.client.link.calls.take(self.0.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::Unary(oneshot::channel().0)
    }

    #[test]
    fn ids_are_odd_and_never_used_twice() {
        let calls = Calls::default();
        assert_eq!(calls.open(slot(), |_| ()), Ok(1));
        calls.take(1);
        assert_eq!(calls.open(slot(), |_| ()), Ok(3));
        calls.table().next = Some(u32::MAX);
        assert_eq!(calls.open(slot(), |_| ()), Ok(u32::MAX));
        let spent = calls.open(slot(), |_| ()).unwrap_err();
        assert!(spent.is_closed(), "a new connection helps: {spent}");
    }

    #[test]
    fn a_connection_that_ended_takes_no_calls() {
        let calls = Calls::default();
        let reason = Status::closed(None);
        calls.close(&reason);
        assert_eq!(calls.open(slot(), |_| unreachable!()), Err(reason));
    }
}
