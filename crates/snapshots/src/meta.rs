// SPDX-License-Identifier: Apache-2.0
//! What is known of snapshots: an SQLite database that each snapshotter has for itself.
//!
//! Semantics, codes and texts are those of containerd's `core/snapshots/storage/bolt.go`. Every
//! change is one transaction and durable when the call returns; reads have a connection of their own
//! and wait for no change. The file is made when there is something to put into it: a daemon has
//! snapshotters that nobody uses.
mod fault;
mod go;
mod row;
mod schema;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::SystemTime,
};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, named_params};
use types::{Error, FieldMask, Labels, Result};

use self::{
    fault::Fault,
    row::{nanoseconds, number},
};
use crate::{Commit, Info, Kind, Usage};

/// A snapshot in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The name of its directory.
    pub(crate) id: u64,
    pub(crate) info: Info,
    pub(crate) usage: Usage,
}

pub(crate) struct Meta {
    root: PathBuf,
    database: OnceLock<Database>,
    /// Held while the database is made.
    making: Mutex<()>,
}

struct Database {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
}

impl Meta {
    /// Opens the database in `root`. If it does not exist, the first question or change that needs it
    /// makes it.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let meta =
            Self { root: root.to_owned(), database: OnceLock::new(), making: Mutex::default() };
        if schema::exists(root)? {
            meta.database()?;
        }
        Ok(meta)
    }

    fn database(&self) -> Result<&Database> {
        if let Some(database) = self.database.get() {
            return Ok(database);
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = self.database.get() {
            return Ok(database);
        }
        let (writer, reader) = schema::open(&self.root)?;
        let database = Database { writer: Mutex::new(writer), reader: Mutex::new(reader) };
        Ok(self.database.get_or_init(|| database))
    }

    /// Reads what there is of many, which is nothing as long as there is no database.
    fn read_all<T: Default>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault>,
    ) -> Result<T> {
        if self.database.get().is_some() { self.read(work) } else { Ok(T::default()) }
    }

    pub(crate) fn get(&self, key: &str) -> Result<Record> {
        self.read(|db| find(db, key))
    }

    /// A snapshot and the ids of its ancestors, its parent first.
    pub(crate) fn chain(&self, key: &str) -> Result<(Record, Vec<u64>)> {
        self.read(|db| {
            let record = find(db, key)?;
            let ancestors = row::chain(db, record.id)?.split_off(1);
            Ok((record, ancestors))
        })
    }

    /// All records, parents before their children.
    pub(crate) fn list(&self) -> Result<Vec<Record>> {
        self.read_all(|db| Ok(row::list(db)?))
    }

    /// The ids of all records.
    pub(crate) fn ids(&self) -> Result<HashSet<u64>> {
        self.read_all(|db| Ok(row::ids(db)?))
    }

    /// The highest id that was ever given.
    pub(crate) fn last_id(&self) -> Result<u64> {
        self.read_all(|db| Ok(row::last_id(db)?))
    }

    /// Whether `key` may be created over `parent`; answers with the parent's id and those of its
    /// ancestors. That can change until [`Meta::create`], which looks again.
    pub(crate) fn admit(&self, key: &str, parent: Option<&str>) -> Result<Vec<u64>> {
        self.read(|db| {
            let Some(parent) = admit(db, key, parent)? else { return Ok(Vec::new()) };
            Ok(row::chain(db, parent.id)?)
        })
    }

    pub(crate) fn create(
        &self,
        id: u64,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<()> {
        self.write(|db| {
            let parent = admit(db, key, parent)?;
            db.prepare_cached(
                "INSERT INTO snapshots (id, key, kind, parent, created_at, updated_at)
                 VALUES (:id, :key, :kind, :parent, :now, :now)",
            )?
            .execute(named_params! {
                ":id": id as i64,
                ":key": key,
                ":kind": number(kind),
                ":parent": parent.map(|parent| parent.id as i64),
                ":now": nanoseconds(SystemTime::now()),
            })?;
            Ok(row::set_labels(db, id, labels)?)
        })
    }

    /// Whether `key` may be committed as `name`. That can change until [`Meta::commit`], which looks
    /// again.
    pub(crate) fn admit_commit(&self, name: &str, key: &str, options: &Commit) -> Result<()> {
        self.read(|db| admit_commit(db, name, key, options).map(|_admitted| ()))
    }

    /// Makes the active snapshot `key` the committed snapshot `name`, of the same id.
    pub(crate) fn commit(
        &self,
        name: &str,
        key: &str,
        usage: Usage,
        options: &Commit,
    ) -> Result<()> {
        self.write(|db| {
            let (active, parent) = admit_commit(db, name, key, options)?;
            db.prepare_cached(
                "UPDATE snapshots SET key = :name, kind = :kind, parent = :parent, size = :size,
                 inodes = :inodes, created_at = :now, updated_at = :now WHERE id = :id",
            )?
            .execute(named_params! {
                ":id": active.id as i64,
                ":name": name,
                ":kind": number(Kind::Committed),
                ":parent": parent.map(|parent| parent.id as i64),
                ":size": usage.size as i64,
                ":inodes": usage.inodes as i64,
                ":now": nanoseconds(SystemTime::now()),
            })?;
            Ok(row::set_labels(db, active.id, &options.labels)?)
        })
    }

    pub(crate) fn update(&self, info: &Info, mask: &FieldMask) -> Result<Record> {
        self.write(|db| {
            let record = find(db, &info.name)?;
            let labels = changed(record.info.labels, info, mask)?;
            db.prepare_cached("UPDATE snapshots SET updated_at = ?2 WHERE id = ?1")?
                .execute((record.id as i64, nanoseconds(SystemTime::now())))?;
            row::set_labels(db, record.id, &labels)?;
            find(db, &info.name)
        })
    }

    /// Removes a record that is nobody's parent; answers with its id.
    pub(crate) fn remove(&self, key: &str) -> Result<u64> {
        self.write(|db| {
            let id =
                row::get(db, key)?.ok_or_else(|| Error::not_found(format!("snapshot {key}")))?.id;
            let child = db
                .prepare_cached("SELECT 1 FROM snapshots WHERE parent = ?1 LIMIT 1")?
                .query_row([id as i64], |_| Ok(()))
                .optional()?;
            if child.is_some() {
                let text = "cannot remove snapshot with child";
                return Err(Error::failed_precondition(text).into());
            }
            db.prepare_cached("DELETE FROM snapshots WHERE id = ?1")?.execute([id as i64])?;
            Ok(id)
        })
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        let mut connection = lock(&self.database()?.reader);
        // One transaction, so that all of it is seen as of one moment.
        let transaction = connection.transaction().map_err(Fault::from)?;
        Ok(work(&transaction)?)
    }

    fn write<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T> {
        let mut connection = lock(&self.database()?.writer);
        let transaction = connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Fault::from)?;
        let outcome = work(&transaction)?;
        transaction.commit().map_err(Fault::from)?;
        Ok(outcome)
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn find(db: &Connection, key: &str) -> Result<Record, Fault> {
    let found = row::get(db, key)?;
    Ok(found.ok_or_else(|| Error::not_found(format!("snapshot {key} does not exist")))?)
}

/// Refuses a new snapshot that may not be; answers with its parent.
fn admit(db: &Connection, key: &str, parent: Option<&str>) -> Result<Option<Record>, Fault> {
    refuse_empty(key)?;
    let parent = parent.map(|parent| new_parent(db, parent)).transpose()?;
    match row::get(db, key)? {
        Some(_) => Err(Error::already_exists(format!("snapshot {key}")).into()),
        None => Ok(parent),
    }
}

fn refuse_empty(key: &str) -> Result<(), Fault> {
    match key {
        "" => Err(Error::invalid("snapshot key must not be empty").into()),
        _ => Ok(()),
    }
}

fn new_parent(db: &Connection, name: &str) -> Result<Record, Fault> {
    match row::get(db, name)? {
        None => Err(Error::not_found(format!("missing parent {name:?}")).into()),
        Some(parent) if parent.info.kind == Kind::Committed => Ok(parent),
        Some(_) => Err(Error::invalid(format!("parent {name:?} is not committed snapshot")).into()),
    }
}

/// Refuses a commit that may not be; answers with the active snapshot and its parent to be.
fn admit_commit(
    db: &Connection,
    name: &str,
    key: &str,
    options: &Commit,
) -> Result<(Record, Option<Record>), Fault> {
    if row::get(db, name)?.is_some() {
        return Err(Error::already_exists(format!("committed snapshot {name}")).into());
    }
    refuse_empty(name)?;
    let active = find(db, key)?;
    if active.info.kind != Kind::Active {
        let text = format!("snapshot {key:?} is not active");
        return Err(Error::failed_precondition(text).into());
    }
    let parent = commit_parent(db, key, &active.info, options)?;
    Ok((active, parent))
}

/// The parent that a snapshot has once it is committed: a snapshot without one may be given one now.
fn commit_parent(
    db: &Connection,
    key: &str,
    active: &Info,
    options: &Commit,
) -> Result<Option<Record>, Fault> {
    let name = match (&active.parent, &options.parent) {
        (Some(old), Some(new)) if old != new => {
            let text = format!("cannot change parent of active snapshot {key:?} on commit");
            return Err(Error::invalid(text).into());
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => return Ok(None),
    };
    let missing = || Error::not_found(format!("missing parent {name:?} of snapshot {key:?}"));
    let parent = row::get(db, name)?.ok_or_else(missing)?;
    if parent.info.kind != Kind::Committed {
        return Err(Error::failed_precondition(format!("parent {name:?} is not committed")).into());
    }
    Ok(Some(parent))
}

/// What becomes of `labels` when the fields of `info` that `mask` names replace them.
fn changed(mut labels: Labels, info: &Info, mask: &FieldMask) -> Result<Labels> {
    if mask.is_empty() {
        return Ok(info.labels.clone());
    }
    for path in mask.paths() {
        match path.strip_prefix("labels.") {
            Some(key) => {
                let value = info.labels.get(key).cloned().unwrap_or_default();
                labels.insert(key.to_owned(), value);
            }
            None if path == "labels" => labels.clone_from(&info.labels),
            None => {
                let name = &info.name;
                let text = format!("cannot update {path:?} field on snapshot {name:?}");
                return Err(Error::invalid(text));
            }
        }
    }
    Ok(labels)
}
