// SPDX-License-Identifier: Apache-2.0
use std::{sync::Arc, time::SystemTime};

use ::records::{Lease, Leases, Record, Resource};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension};
use types::{Error, Result, Scope};

use super::table::{Row, Table};
use crate::{
    db::{Json, Outcome, Time, Tx, json},
    gc::expiry,
};

const SELECT: &str = "SELECT id, labels, created_at FROM leases WHERE namespace = ?1";

impl Row for Lease {
    const NAME_FIELD: &'static str = "id";

    fn one(connection: &Connection, namespace: &str, name: &str) -> Outcome<Option<Self>> {
        let mut select = connection.prepare_cached(&format!("{SELECT} AND id = ?2"))?;
        Ok(select.query_row([namespace, name], read).optional()?)
    }

    fn all(connection: &Connection, namespace: &str) -> Outcome<Vec<Self>> {
        let mut select = connection.prepare_cached(&format!("{SELECT} ORDER BY id"))?;
        Ok(select.query_map([namespace], read)?.collect::<Result<_, _>>()?)
    }

    fn put(&self, tx: &Tx<'_>, namespace: &str) -> Outcome<()> {
        let put =
            "INSERT INTO leases VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET labels = ?3";
        tx.prepare_cached(put)?.execute((
            namespace,
            &self.id,
            json(&self.labels),
            Time(self.created_at),
        ))?;
        Ok(())
    }

    fn remove(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        tx.prepare_cached("DELETE FROM leases WHERE namespace = ? AND id = ?")?
            .execute([scope.namespace(), &self.id])?;
        Ok(())
    }

    fn stamp(&mut self, now: SystemTime, is_new: bool) {
        if is_new {
            self.created_at = now;
        }
    }

    fn missing(_namespace: &str, name: &str) -> Error {
        missing(name)
    }

    fn created(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        self.updated(tx, scope)
    }

    /// Nothing is published of leases.
    fn updated(&self, tx: &Tx<'_>, _scope: &Scope) -> Outcome<()> {
        if let Some(time) = expiry(&self.labels) {
            tx.expires(time);
        }
        Ok(())
    }
}

#[async_trait]
impl Leases for Table<Lease> {
    async fn add(&self, lease: &str, resource: Resource) -> Result<()> {
        let (scope, lease) = (Arc::clone(&self.scope), lease.to_owned());
        self.db
            .write(move |tx| {
                exists(tx, &scope, &lease)?;
                resource.validate()?;
                insert(tx, &scope, &lease, &resource)
            })
            .await
    }

    async fn remove(&self, lease: &str, resource: &Resource) -> Result<()> {
        let (scope, lease) = (Arc::clone(&self.scope), lease.to_owned());
        let resource = resource.clone();
        self.db
            .write(move |tx| {
                exists(tx, &scope, &lease)?;
                resource.validate()?;
                tx.deleted();
                delete(tx, &scope, &lease, &resource)
            })
            .await
    }

    async fn resources(&self, lease: &str) -> Result<Vec<Resource>> {
        let (scope, lease) = (Arc::clone(&self.scope), lease.to_owned());
        self.db
            .read(move |connection| {
                exists(connection, &scope, &lease)?;
                let mut select = connection.prepare_cached(
                    "SELECT kind, id FROM resources WHERE namespace = ? AND lease = ?
                    ORDER BY kind, id",
                )?;
                let read =
                    |row: &rusqlite::Row<'_>| Ok(Resource { kind: row.get(0)?, id: row.get(1)? });
                Ok(select
                    .query_map([scope.namespace(), &lease], read)?
                    .collect::<Result<_, _>>()?)
            })
            .await
    }
}

/// Lets the scope's lease, if it has one, hold `resource`.
pub(super) fn hold(tx: &Tx<'_>, scope: &Scope, resource: &Resource) -> Outcome<()> {
    let Some(lease) = scope.lease() else { return Ok(()) };
    if !is_there(tx, scope, lease)? {
        return Err(Error::not_found("lease does not exist").into());
    }
    insert(tx, scope, lease, resource)
}

/// Lets the scope's lease, if it has one, let go of `resource`.
pub(super) fn let_go(tx: &Tx<'_>, scope: &Scope, resource: &Resource) -> Outcome<()> {
    scope.lease().map_or(Ok(()), |lease| delete(tx, scope, lease, resource))
}

fn exists(connection: &Connection, scope: &Scope, lease: &str) -> Outcome<()> {
    let found = is_there(connection, scope, lease)?;
    found.then_some(()).ok_or_else(|| missing(lease).into())
}

fn is_there(connection: &Connection, scope: &Scope, lease: &str) -> Outcome<bool> {
    let select = "SELECT 1 FROM leases WHERE namespace = ? AND id = ?";
    Ok(connection.prepare_cached(select)?.exists([scope.namespace(), lease])?)
}

fn insert(tx: &Tx<'_>, scope: &Scope, lease: &str, resource: &Resource) -> Outcome<()> {
    let Resource { id, kind } = resource;
    tx.prepare_cached("INSERT INTO resources VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING")?
        .execute([scope.namespace(), lease, kind, id])?;
    Ok(())
}

fn delete(tx: &Tx<'_>, scope: &Scope, lease: &str, resource: &Resource) -> Outcome<()> {
    let delete = "DELETE FROM resources WHERE namespace = ? AND lease = ? AND kind = ? AND id = ?";
    let Resource { id, kind } = resource;
    tx.prepare_cached(delete)?.execute([scope.namespace(), lease, kind, id])?;
    Ok(())
}

fn missing(lease: &str) -> Error {
    Error::not_found(format!("{} {lease:?}", Lease::KIND))
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        id: row.get(0)?,
        labels: row.get::<_, Json>(1)?.0,
        created_at: row.get::<_, Time>(2)?.0,
    })
}
