// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use ::events::Event;
use ::records::{Delete, Namespace, Record, Records};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use types::{Error, FieldMask, Filters, Result};

use crate::{
    Db,
    db::{Backend, Json, Outcome, Tx, json},
};

/// The namespaces of `db`.
pub(crate) fn namespaces(db: &Db) -> Arc<dyn Records<Namespace>> {
    Arc::new(Namespaces { db: db.clone() })
}

struct Namespaces {
    db: Db,
}

#[async_trait]
impl Records<Namespace> for Namespaces {
    async fn get(&self, name: &str) -> Result<Namespace> {
        let name = name.to_owned();
        self.db.read(move |connection| existing(connection, &name)).await
    }

    async fn list(&self, filters: &Filters) -> Result<Vec<Namespace>> {
        let filters = filters.clone();
        self.db
            .read(move |connection| {
                let mut select = connection
                    .prepare_cached("SELECT name, labels FROM namespaces ORDER BY name")?;
                let all = select.query_map([], read)?.collect::<Result<Vec<_>, _>>()?;
                Ok(all.into_iter().filter(|namespace| filters.matches(namespace)).collect())
            })
            .await
    }

    async fn create(&self, mut namespace: Namespace) -> Result<Namespace> {
        namespace.validate()?;
        namespace.labels.retain(|_, value| !value.is_empty());
        self.db
            .write(move |tx| {
                let Namespace { name, labels } = &namespace;
                if find(tx, name)?.is_some() {
                    return Err(Error::already_exists(format!("namespace {name:?}")).into());
                }
                put(tx, &namespace)?;
                tx.tell(name, Event::namespace_created(name, labels));
                Ok(namespace)
            })
            .await
    }

    /// Compat: a namespace that does not exist is made, as `ctr namespaces label` has it
    /// (containerd `core/metadata/namespaces.go`, `SetLabel`). The event has the labels of the
    /// change, not the outcome (`plugins/services/namespaces/local.go`).
    async fn update(&self, change: Namespace, mask: &FieldMask) -> Result<Namespace> {
        let mask = mask.clone();
        self.db
            .write(move |tx| {
                let event = Event::namespace_updated(&change.name, &change.labels);
                let new = || Namespace { name: change.name.clone(), ..Namespace::default() };
                let mut kept = find(tx, &change.name)?.unwrap_or_else(new);
                kept.change(change, &mask)?;
                put(tx, &kept)?;
                tx.tell(&kept.name, event);
                Ok(kept)
            })
            .await
    }

    async fn delete(&self, name: &str, options: Delete) -> Result<()> {
        let name = name.to_owned();
        self.db.write(move |tx| delete(tx, &name)).await?;
        if options.sync {
            self.db.collect().await?;
        }
        Ok(())
    }
}

fn existing(connection: &Connection, name: &str) -> Outcome<Namespace> {
    let missing = || Error::not_found(format!("namespace {name:?}"));
    find(connection, name)?.ok_or_else(|| missing().into())
}

fn find(connection: &Connection, name: &str) -> Outcome<Option<Namespace>> {
    let mut select =
        connection.prepare_cached("SELECT name, labels FROM namespaces WHERE name = ?")?;
    Ok(select.query_row([name], read).optional()?)
}

fn put(tx: &Tx<'_>, namespace: &Namespace) -> Outcome<()> {
    let put = "INSERT INTO namespaces VALUES (?1, ?2) ON CONFLICT DO UPDATE SET labels = ?2";
    tx.prepare_cached(put)?.execute((&namespace.name, json(&namespace.labels)))?;
    Ok(())
}

/// Deletes an empty namespace. Leases, ingests and the records of sandboxes do not count: they go
/// with it.
fn delete(tx: &Tx<'_>, name: &str) -> Outcome<()> {
    let left = contents(tx, name)?;
    if !left.is_empty() {
        return Err(Error::failed_precondition(format!(
            "namespace {name:?} must be empty, but it still has {}",
            left.join(", ")
        ))
        .into());
    }
    existing(tx, name)?;
    for table in ["leases", "ingests", "sandboxes"] {
        tx.execute(&format!("DELETE FROM {table} WHERE namespace = ?"), [name])?;
    }
    tx.execute("DELETE FROM namespaces WHERE name = ?", [name])?;
    tx.deleted();
    tx.orphaned(Backend::Content);
    tx.tell(name, Event::namespace_deleted(name));
    Ok(())
}

/// What a namespace still has, in the words of containerd's `core/metadata/namespaces.go`.
fn contents(tx: &Tx<'_>, namespace: &str) -> Outcome<Vec<String>> {
    let mut left = Vec::new();
    for (table, word) in [("images", "images"), ("blobs", "blobs"), ("containers", "containers")] {
        let select = format!("SELECT 1 FROM {table} WHERE namespace = ?");
        if tx.prepare_cached(&select)?.exists([namespace])? {
            left.push(word.to_owned());
        }
    }
    let mut select = tx.prepare_cached(
        "SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ? ORDER BY snapshotter",
    )?;
    let mut rows = select.query([namespace])?;
    while let Some(row) = rows.next()? {
        left.push(format!("snapshots on {:?} snapshotter", row.get::<_, String>(0)?));
    }
    Ok(left)
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Namespace> {
    Ok(Namespace { name: row.get(0)?, labels: row.get::<_, Json>(1)?.0 })
}
