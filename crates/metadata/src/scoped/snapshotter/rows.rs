// SPDX-License-Identifier: Apache-2.0
//! Snapshots as the database knows them.
use std::time::SystemTime;

use ::snapshots::{Info, Kind};
use rusqlite::{Connection, OptionalExtension};
use types::{Error, Labels};

use crate::db::{Json, Outcome, Time, Tx, json};

/// Whose snapshots are meant: a namespace's, in one snapshotter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) namespace: String,
    pub(super) snapshotter: String,
}

/// What the database knows of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) name: String,
    pub(super) backend_key: String,
    pub(super) parent: Option<String>,
    pub(super) labels: Labels,
    pub(super) created_at: SystemTime,
    pub(super) updated_at: SystemTime,
}

/// A commit that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) key: String,
    pub(super) name: String,
    /// What the committed snapshot is called in the backend.
    pub(super) backend_key: String,
    pub(super) labels: Labels,
    pub(super) rebased: bool,
}

impl Known {
    /// What clients see: kind and size are the backend's, names and times are ours, labels are
    /// both's, and ours win (containerd `core/metadata/snapshot.go`, `overlayInfo`).
    pub(super) fn over(self, backend: Info) -> Info {
        let Self { name, parent, created_at, updated_at, labels: ours, .. } = self;
        let mut labels = backend.labels;
        labels.extend(ours);
        Info { kind: backend.kind, name, parent, labels, created_at, updated_at }
    }

    /// The snapshot as the backend is told of it. Of the labels it gets those meant for it.
    pub(super) fn for_backend(&self) -> Info {
        Info {
            kind: Kind::Active,
            name: self.backend_key.clone(),
            parent: None,
            labels: inherited(&self.labels),
            created_at: self.created_at,
            updated_at: self.updated_at,
        }
    }
}

/// The labels that a backend is told (containerd `core/snapshots/snapshotter.go`,
/// `FilterInheritedLabels`).
pub(super) fn inherited(labels: &Labels) -> Labels {
    let is_inherited = |key: &str| {
        key == types::labels::SNAPSHOT_REF || key.starts_with("containerd.io/snapshot/")
    };
    let inherited = labels.iter().filter(|(key, _)| is_inherited(key));
    inherited.map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Place {
    fn missing(key: &str) -> Error {
        Error::not_found(format!("snapshot {key} does not exist"))
    }

    pub(super) fn existing(&self, connection: &Connection, key: &str) -> Outcome<Known> {
        self.find(connection, key)?.ok_or_else(|| Self::missing(key).into())
    }

    pub(super) fn existing_parent(&self, connection: &Connection, name: &str) -> Outcome<Known> {
        let missing = || Error::not_found(format!("parent snapshot {name} does not exist"));
        self.find(connection, name)?.ok_or_else(|| missing().into())
    }

    pub(super) fn find(&self, connection: &Connection, key: &str) -> Outcome<Option<Known>> {
        let select = "SELECT name, backend_key, parent, labels, created_at, updated_at
            FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?";
        let mut select = connection.prepare_cached(select)?;
        Ok(select.query_row([&self.namespace, &self.snapshotter, key], read).optional()?)
    }

    pub(super) fn all(&self, connection: &Connection) -> Outcome<Vec<Known>> {
        let mut select = connection.prepare_cached(
            "SELECT name, backend_key, parent, labels, created_at, updated_at
            FROM snapshots WHERE namespace = ? AND snapshotter = ? ORDER BY name",
        )?;
        let all = select.query_map([&self.namespace, &self.snapshotter], read)?;
        Ok(all.collect::<Result<_, _>>()?)
    }

    pub(super) fn put(&self, tx: &Tx<'_>, known: &Known) -> Outcome<()> {
        let put = "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
            ON CONFLICT DO UPDATE SET parent = ?5, labels = ?6, updated_at = ?8";
        tx.prepare_cached(put)?.execute((
            &self.namespace,
            &self.snapshotter,
            &known.name,
            &known.backend_key,
            &known.parent,
            json(&known.labels),
            Time(known.created_at),
            Time(known.updated_at),
        ))?;
        Ok(())
    }

    pub(super) fn delete(&self, tx: &Tx<'_>, key: &str) -> Outcome<()> {
        let delete = "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?";
        tx.prepare_cached(delete)?.execute([&self.namespace, &self.snapshotter, key])?;
        Ok(())
    }

    pub(super) fn has_children(&self, tx: &Tx<'_>, name: &str) -> Outcome<bool> {
        let select =
            "SELECT 1 FROM snapshots WHERE namespace = ? AND snapshotter = ? AND parent = ?";
        Ok(tx.prepare_cached(select)?.exists([&self.namespace, &self.snapshotter, name])?)
    }

    pub(super) fn intent(&self, connection: &Connection, key: &str) -> Outcome<Option<Intent>> {
        let select = "SELECT key, name, backend_key, labels, rebased FROM commits
            WHERE namespace = ? AND snapshotter = ? AND key = ?";
        let mut select = connection.prepare_cached(select)?;
        let find = [&self.namespace, &self.snapshotter, key];
        Ok(select.query_row(find, |row| read_intent(row, 0)).optional()?)
    }

    pub(super) fn intend(&self, tx: &Tx<'_>, intent: &Intent) -> Outcome<()> {
        tx.prepare_cached("INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)")?.execute((
            &self.namespace,
            &self.snapshotter,
            &intent.key,
            &intent.name,
            &intent.backend_key,
            json(&intent.labels),
            intent.rebased,
        ))?;
        Ok(())
    }

    pub(super) fn forget_intent(&self, tx: &Tx<'_>, key: &str) -> Outcome<()> {
        let delete = "DELETE FROM commits WHERE namespace = ? AND snapshotter = ? AND key = ?";
        tx.prepare_cached(delete)?.execute([&self.namespace, &self.snapshotter, key])?;
        Ok(())
    }
}

/// The commits of a snapshotter that were begun, in all namespaces.
pub(super) fn intents(connection: &Connection, snapshotter: &str) -> Outcome<Vec<(Place, Intent)>> {
    let mut select = connection.prepare_cached(
        "SELECT namespace, key, name, backend_key, labels, rebased FROM commits
        WHERE snapshotter = ?",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        let place = Place { namespace: row.get(0)?, snapshotter: snapshotter.to_owned() };
        Ok((place, read_intent(row, 1)?))
    };
    Ok(select.query_map([snapshotter], read)?.collect::<Result<_, _>>()?)
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Known> {
    Ok(Known {
        name: row.get(0)?,
        backend_key: row.get(1)?,
        parent: row.get(2)?,
        labels: row.get::<_, Json>(3)?.0,
        created_at: row.get::<_, Time>(4)?.0,
        updated_at: row.get::<_, Time>(5)?.0,
    })
}

fn read_intent(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Intent> {
    Ok(Intent {
        key: row.get(at)?,
        name: row.get(at + 1)?,
        backend_key: row.get(at + 2)?,
        labels: row.get::<_, Json>(at + 3)?.0,
        rebased: row.get(at + 4)?,
    })
}
