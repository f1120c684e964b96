// SPDX-License-Identifier: Apache-2.0
use std::{cell::RefCell, ops::Deref, time::SystemTime};

use events::Event;
use rusqlite::Connection;

/// A request's part of a transaction: the connection, and what is to be told once it is committed.
pub(crate) struct Tx<'a> {
    connection: &'a Connection,
    notes: RefCell<Notes>,
}

/// What follows from a request that was committed.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Events, each with its namespace.
    pub(crate) events: Vec<(String, Event)>,
    /// Something may have become garbage.
    pub(crate) deleted: bool,
    /// The backends that may hold what nobody knows any more.
    pub(crate) dirty: Vec<Backend>,
    /// When the first of what was written expires.
    pub(crate) expires: Option<SystemTime>,
    /// The collector's own doing, which is no reason to collect.
    pub(crate) quiet: bool,
}

/// What keeps the bytes that the database only knows of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Backend {
    Content,
    Snapshotter(String),
    /// What the mount manager mounted.
    Mounts,
}

impl<'a> Tx<'a> {
    pub(super) fn new(connection: &'a Connection) -> Self {
        Self { connection, notes: RefCell::default() }
    }

    pub(super) fn into_notes(self) -> Notes {
        self.notes.into_inner()
    }

    /// Publishes `event` once this is committed, in the order of commits.
    pub(crate) fn tell(&self, namespace: &str, event: Event) {
        self.notes.borrow_mut().events.push((namespace.to_owned(), event));
    }

    /// Notes that something may have become garbage.
    pub(crate) fn deleted(&self) {
        self.notes.borrow_mut().deleted = true;
    }

    /// Notes that `backend` may hold what nobody knows any more.
    pub(crate) fn orphaned(&self, backend: Backend) {
        let mut notes = self.notes.borrow_mut();
        if !notes.dirty.contains(&backend) {
            notes.dirty.push(backend);
        }
    }

    /// Notes that something expires at `time`.
    pub(crate) fn expires(&self, time: SystemTime) {
        let mut notes = self.notes.borrow_mut();
        notes.expires = Some(notes.expires.map_or(time, |earlier| earlier.min(time)));
    }

    /// Notes that this is no reason to collect.
    pub(crate) fn quiet(&self) {
        self.notes.borrow_mut().quiet = true;
    }
}

impl Deref for Tx<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}
