// SPDX-License-Identifier: Apache-2.0
//! What clients keep beside a record, in a table of its own.
use std::collections::BTreeMap;

use rusqlite::Connection;
use types::{Any, Result};

use crate::db::{Outcome, Tx};

/// The extensions of one sort of record.
pub(super) struct Extensions {
    /// The table they are in.
    pub(super) table: &'static str,
    /// The column that names the record.
    pub(super) owner: &'static str,
}

impl Extensions {
    /// The extensions of the record called `name`.
    pub(super) fn of(
        &self,
        connection: &Connection,
        namespace: &str,
        name: &str,
    ) -> Outcome<BTreeMap<String, Any>> {
        let Self { table, owner } = self;
        let select =
            format!("SELECT name, type, value FROM {table} WHERE namespace = ? AND {owner} = ?");
        let mut select = connection.prepare_cached(&select)?;
        let found = select.query_map([namespace, name], |row| {
            Ok((row.get(0)?, Any::new(row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?)))
        })?;
        Ok(found.collect::<Result<_, _>>()?)
    }

    /// The extensions of all records of a namespace, by record.
    pub(super) fn all(
        &self,
        connection: &Connection,
        namespace: &str,
    ) -> Outcome<BTreeMap<String, BTreeMap<String, Any>>> {
        let Self { table, owner } = self;
        let select = format!("SELECT {owner}, name, type, value FROM {table} WHERE namespace = ?");
        let mut select = connection.prepare_cached(&select)?;
        let mut rows = select.query([namespace])?;
        let mut all = BTreeMap::<String, BTreeMap<String, Any>>::new();
        while let Some(row) = rows.next()? {
            let value = Any::new(row.get::<_, String>(2)?, row.get::<_, Vec<u8>>(3)?);
            all.entry(row.get(0)?).or_default().insert(row.get(1)?, value);
        }
        Ok(all)
    }

    /// Writes the extensions of a record in place of those that it had.
    pub(super) fn replace(
        &self,
        tx: &Tx<'_>,
        namespace: &str,
        name: &str,
        extensions: &BTreeMap<String, Any>,
    ) -> Outcome<()> {
        let Self { table, owner } = self;
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE namespace = ? AND {owner} = ?"))?
            .execute([namespace, name])?;
        for (key, any) in extensions {
            tx.prepare_cached(&format!("INSERT INTO {table} VALUES (?, ?, ?, ?, ?)"))?
                .execute((namespace, name, key, &any.type_url, &any.value[..]))?;
        }
        Ok(())
    }
}
