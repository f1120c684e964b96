// SPDX-License-Identifier: Apache-2.0
//! Rows out of a database that may be damaged, into a new one.
use std::{collections::BTreeMap, path::Path};

use rusqlite::{Connection, OpenFlags, params_from_iter, types::Value};
use types::{Digest, Result};

use crate::db::{Outcome, sql};

/// Copies what can be read of the file at `from`, if there is one, over what is there. What cannot be
/// read is left out: SQLite is asked for the rows from the first on, and then from the last, until it
/// comes to what is damaged. A table that can be read to its end replaces what is there.
pub(super) fn copy(to: &mut Connection, from: &Path) -> Result<()> {
    if !from.exists() {
        return Ok(());
    }
    // To read a log, SQLite has to be let make an index of it.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = match Connection::open_with_flags(from, flags) {
        Ok(from) => from,
        Err(error) => {
            tracing::warn!(%error, path = %from.display(), "nothing can be read");
            return Ok(());
        }
    };
    let copy = |to: &mut Connection| -> rusqlite::Result<()> {
        to.pragma_update(None, "foreign_keys", false)?;
        for table in tables(to)? {
            let transaction = to.transaction()?;
            copy_table(&from, &transaction, &table)?;
            transaction.commit()?;
        }
        to.pragma_update(None, "foreign_keys", true)
    };
    copy(to).map_err(sql)
}

fn copy_table(from: &Connection, to: &Connection, table: &str) -> rusqlite::Result<()> {
    let columns = columns(to, table)?;
    let mut found = Vec::new();
    let is_whole = ["ASC", "DESC"].into_iter().any(|direction| {
        let read = read(from, table, &columns, direction, &mut found);
        if let Err(error) = &read {
            tracing::warn!(%error, table, direction, "table cannot be read to its end");
        }
        read.is_ok()
    });
    if is_whole && table != "state" {
        to.execute(&format!("DELETE FROM {table}"), [])?;
    }
    put(to, table, &columns, found)
}

fn tables(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let select = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    db.prepare(select)?.query_map([], |row| row.get(0))?.collect()
}

fn columns(db: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let select = "SELECT name FROM pragma_table_info(?)";
    db.prepare(select)?.query_map([table], |row| row.get(0))?.collect()
}

fn read(
    from: &Connection,
    table: &str,
    columns: &[String],
    direction: &str,
    found: &mut Vec<Vec<Value>>,
) -> rusqlite::Result<()> {
    let names = columns.join(", ");
    let select = format!("SELECT {names} FROM {table} ORDER BY rowid {direction}");
    let mut select = from.prepare(&select)?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|at| row.get(at));
        found.push(values.collect::<rusqlite::Result<_>>()?);
    }
    Ok(())
}

/// Puts rows into a table. What a table refuses makes no sense, and is left out.
fn put(
    to: &Connection,
    table: &str,
    columns: &[String],
    rows: Vec<Vec<Value>>,
) -> rusqlite::Result<()> {
    let (names, marks) = (columns.join(", "), vec!["?"; columns.len()].join(", "));
    let put = if table == "state" {
        // The highest number that was ever given counts; whether it was closed does not.
        "INSERT INTO state SELECT ?1, ?2 WHERE ?1 <> 'clean'
            ON CONFLICT DO UPDATE SET value = max(value, excluded.value)"
            .to_owned()
    } else {
        format!("INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})")
    };
    let mut put = to.prepare(&put)?;
    for row in rows {
        if let Err(error) = put.execute(params_from_iter(row)) {
            tracing::debug!(%error, table, "row is left out");
        }
    }
    Ok(())
}

/// Removes rows that make no sense, and tells how many there are of each sort.
pub(super) fn settle(db: &mut Connection) -> Result<BTreeMap<String, usize>> {
    let settle = || -> Outcome<BTreeMap<String, usize>> {
        for (table, column) in [("blobs", "digest"), ("images", "digest")] {
            remove_unless(db, table, column, |text| text.parse::<Digest>().is_ok())?;
        }
        let mut counts = BTreeMap::new();
        for table in tables(db)? {
            for column in columns(db, &table)?.iter().filter(|it| *it == "labels") {
                let is_map = |text: &str| serde_json::from_str::<types::Labels>(text).is_ok();
                remove_unless(db, &table, column, is_map)?;
            }
        }
        for strays in ["extensions", "sandbox_extensions", "resources"] {
            let (parent, key) = match strays {
                "extensions" => ("containers", "id = container"),
                "sandbox_extensions" => ("sandboxes", "id = sandbox"),
                _ => ("leases", "id = lease"),
            };
            db.execute(
                &format!(
                    "DELETE FROM {strays} WHERE NOT EXISTS (SELECT 1 FROM {parent} p
                    WHERE p.namespace = {strays}.namespace AND p.{key})"
                ),
                [],
            )?;
        }
        for table in tables(db)?.into_iter().filter(|table| table != "state") {
            let count = format!("SELECT count(*) FROM {table}");
            let count: i64 = db.query_row(&count, [], |row| row.get(0))?;
            counts.insert(table, count as usize);
        }
        Ok(counts)
    };
    Ok(settle()?)
}

fn remove_unless(
    db: &Connection,
    table: &str,
    column: &str,
    makes_sense: impl Fn(&str) -> bool,
) -> Outcome<()> {
    let mut select = db.prepare(&format!("SELECT rowid, {column} FROM {table}"))?;
    let all = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut bad = Vec::new();
    for row in all {
        let (row, text) = row?;
        if !makes_sense(&text) {
            bad.push(row);
        }
    }
    for row in bad {
        db.execute(&format!("DELETE FROM {table} WHERE rowid = ?"), [row])?;
    }
    Ok(())
}
