// SPDX-License-Identifier: Apache-2.0
//! What clients keep beside a record, in a table of its own.
use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row};
use types::{Any, Result};

use crate::db::{Outcome, Tx};

/// A record that has extensions.
pub(super) trait Extended: Sized {
    /// Where they are.
    const EXTENSIONS: Extensions;

    /// Selects all columns of the records of a namespace, and ends in a condition.
    const SELECT: &'static str;

    /// Reads a row of [`SELECT`](Self::SELECT): a record without its extensions.
    fn read(row: &Row<'_>) -> rusqlite::Result<Self>;

    /// What it is called, and the place of its extensions.
    fn extensions(&mut self) -> (&str, &mut BTreeMap<String, Any>);
}

/// A record with its extensions.
pub(super) fn one<T: Extended>(
    connection: &Connection,
    namespace: &str,
    name: &str,
) -> Outcome<Option<T>> {
    let found = connection
        .prepare_cached(&format!("{} AND id = ?2", T::SELECT))?
        .query_row([namespace, name], T::read)
        .optional()?;
    let Some(mut record) = found else { return Ok(None) };
    *record.extensions().1 = T::EXTENSIONS.of(connection, namespace, name)?;
    Ok(Some(record))
}

/// All records of a namespace with their extensions, by name.
pub(super) fn all<T: Extended>(connection: &Connection, namespace: &str) -> Outcome<Vec<T>> {
    let mut select = connection.prepare_cached(&format!("{} ORDER BY id", T::SELECT))?;
    let mut all = select.query_map([namespace], T::read)?.collect::<Result<Vec<_>, _>>()?;
    let mut extensions = T::EXTENSIONS.all(connection, namespace)?;
    for record in &mut all {
        let (name, own) = record.extensions();
        *own = extensions.remove(name).unwrap_or_default();
    }
    Ok(all)
}

/// The extensions of one sort of record.
pub(super) struct Extensions {
    /// The table they are in.
    pub(super) table: &'static str,
    /// The column that names the record.
    pub(super) owner: &'static str,
}

impl Extensions {
    /// The extensions of the record called `name`.
    fn of(
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
    fn all(
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
