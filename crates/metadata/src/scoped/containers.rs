// SPDX-License-Identifier: Apache-2.0
use std::{collections::BTreeMap, time::SystemTime};

use ::events::Event;
use ::records::{Container, Record, Runtime};
use rusqlite::{Connection, named_params};
use types::{Any, Context, Error, Result, Scope};

use super::{
    extensions::{self, Extended, Extensions},
    table::Row,
};
use crate::db::{Json, Outcome, Time, Tx, json};

const PUT: &str = "INSERT INTO containers VALUES (:namespace, :id, :labels, :image, :runtime,
    :options_type, :options, :spec_type, :spec, :snapshotter, :snapshot_key, :sandbox, :created_at,
    :updated_at) ON CONFLICT DO UPDATE SET labels = :labels, image = :image, spec_type = :spec_type,
    spec = :spec, snapshot_key = :snapshot_key, updated_at = :updated_at";

impl Row for Container {
    const NAME_FIELD: &'static str = "id";

    fn one(connection: &Connection, namespace: &str, name: &str) -> Outcome<Option<Self>> {
        extensions::one(connection, namespace, name)
    }

    fn all(connection: &Connection, namespace: &str) -> Outcome<Vec<Self>> {
        extensions::all(connection, namespace)
    }

    fn put(&self, tx: &Tx<'_>, namespace: &str) -> Outcome<()> {
        let (options_type, options) = parts(self.runtime.options.as_ref());
        let (spec_type, spec) = parts(self.spec.as_ref());
        tx.prepare_cached(PUT)?.execute(named_params! {
            ":namespace": namespace, ":id": self.id, ":labels": json(&self.labels),
            ":image": self.image, ":runtime": self.runtime.name,
            ":options_type": options_type, ":options": options,
            ":spec_type": spec_type, ":spec": spec,
            ":snapshotter": self.snapshotter, ":snapshot_key": self.snapshot_key,
            ":sandbox": self.sandbox,
            ":created_at": Time(self.created_at), ":updated_at": Time(self.updated_at),
        })?;
        Self::EXTENSIONS.replace(tx, namespace, &self.id, &self.extensions)
    }

    fn remove(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        tx.prepare_cached("DELETE FROM containers WHERE namespace = ? AND id = ?")?
            .execute([scope.namespace(), &self.id])?;
        tx.tell(scope.namespace(), Event::container_deleted(&self.id));
        Ok(())
    }

    fn stamp(&mut self, now: SystemTime, is_new: bool) {
        self.updated_at = now;
        if is_new {
            self.created_at = now;
        }
    }

    fn missing(namespace: &str, name: &str) -> Error {
        Error::not_found(format!("container {name:?} in namespace {namespace:?}"))
    }

    fn check_new(&self) -> Result<()> {
        self.validate().context(|| "create container failed validation")
    }

    fn created(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        let Runtime { name, options } = &self.runtime;
        let event = Event::container_created(&self.id, &self.image, name, options.as_ref());
        tx.tell(scope.namespace(), event);
        Ok(())
    }

    fn updated(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        let Self { id, image, labels, snapshot_key, .. } = self;
        tx.tell(scope.namespace(), Event::container_updated(id, image, labels, snapshot_key));
        Ok(())
    }
}

impl Extended for Container {
    const EXTENSIONS: Extensions = Extensions { table: "extensions", owner: "container" };

    const SELECT: &'static str = "SELECT id, labels, image, runtime, options_type, options, spec_type, spec,
    snapshotter, snapshot_key, sandbox, created_at, updated_at FROM containers WHERE namespace = ?1";

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            labels: row.get::<_, Json>(1)?.0,
            image: row.get(2)?,
            runtime: Runtime { name: row.get(3)?, options: any(row, 4)? },
            spec: any(row, 6)?,
            snapshotter: row.get(8)?,
            snapshot_key: row.get(9)?,
            sandbox: row.get(10)?,
            created_at: row.get::<_, Time>(11)?.0,
            updated_at: row.get::<_, Time>(12)?.0,
            extensions: BTreeMap::new(),
        })
    }

    fn extensions(&mut self) -> (&str, &mut BTreeMap<String, Any>) {
        (&self.id, &mut self.extensions)
    }
}

/// The value in column `at` and the next, if there is one.
pub(super) fn any(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Option<Any>> {
    let Some(name) = row.get::<_, Option<String>>(at)? else { return Ok(None) };
    Ok(Some(Any::new(name, row.get::<_, Vec<u8>>(at + 1)?)))
}

pub(super) fn parts(any: Option<&Any>) -> (Option<&str>, Option<&[u8]>) {
    (any.map(|any| any.type_url.as_str()), any.map(|any| &any.value[..]))
}
