// SPDX-License-Identifier: Apache-2.0
//! Sandboxes: nothing is published of their records, only of what controllers make of them
//! (containerd `plugins/services/sandbox`).
use std::{collections::BTreeMap, time::SystemTime};

use ::records::{Record, Runtime, Sandbox};
use rusqlite::{Connection, named_params};
use types::{Any, Context, Error, Result, Scope};

use super::{
    containers::{any, parts},
    extensions::{self, Extended, Extensions},
    table::Row,
};
use crate::db::{Json, Outcome, Time, Tx, json};

const PUT: &str = "INSERT INTO sandboxes VALUES (:namespace, :id, :labels, :runtime, :options_type,
    :options, :spec_type, :spec, :sandboxer, :created_at, :updated_at) ON CONFLICT DO UPDATE SET
    labels = :labels, runtime = :runtime, options_type = :options_type, options = :options,
    spec_type = :spec_type, spec = :spec, updated_at = :updated_at";

impl Row for Sandbox {
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
            ":runtime": self.runtime.name, ":options_type": options_type, ":options": options,
            ":spec_type": spec_type, ":spec": spec, ":sandboxer": self.sandboxer,
            ":created_at": Time(self.created_at), ":updated_at": Time(self.updated_at),
        })?;
        Self::EXTENSIONS.replace(tx, namespace, &self.id, &self.extensions)
    }

    fn remove(&self, tx: &Tx<'_>, scope: &Scope) -> Outcome<()> {
        tx.prepare_cached("DELETE FROM sandboxes WHERE namespace = ? AND id = ?")?
            .execute([scope.namespace(), &self.id])?;
        Ok(())
    }

    fn stamp(&mut self, now: SystemTime, is_new: bool) {
        self.updated_at = now;
        if is_new {
            self.created_at = now;
        }
    }

    fn missing(_namespace: &str, name: &str) -> Error {
        Error::not_found(format!("sandbox {name:?}"))
    }

    fn check_new(&self) -> Result<()> {
        self.validate().context(|| "failed to validate sandbox")
    }

    fn created(&self, _tx: &Tx<'_>, _scope: &Scope) -> Outcome<()> {
        Ok(())
    }

    fn updated(&self, _tx: &Tx<'_>, _scope: &Scope) -> Outcome<()> {
        Ok(())
    }
}

impl Extended for Sandbox {
    const EXTENSIONS: Extensions = Extensions { table: "sandbox_extensions", owner: "sandbox" };

    const SELECT: &'static str =
        "SELECT id, labels, runtime, options_type, options, spec_type, spec, sandboxer,
    created_at, updated_at FROM sandboxes WHERE namespace = ?1";

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            labels: row.get::<_, Json>(1)?.0,
            runtime: Runtime { name: row.get(2)?, options: any(row, 3)? },
            spec: any(row, 5)?,
            sandboxer: row.get(7)?,
            created_at: row.get::<_, Time>(8)?.0,
            updated_at: row.get::<_, Time>(9)?.0,
            extensions: BTreeMap::new(),
        })
    }

    fn extensions(&mut self) -> (&str, &mut BTreeMap<String, Any>) {
        (&self.id, &mut self.extensions)
    }
}
