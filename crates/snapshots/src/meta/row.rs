// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::{HashMap, HashSet},
    time::{Duration, SystemTime},
};

use rusqlite::{Connection, OptionalExtension, Result, Row};
use types::Labels;

use super::Record;
use crate::{Info, Kind, Usage};

const COLUMNS: &str = "s.id, s.key, s.kind, p.key, s.created_at, s.updated_at, s.size, s.inodes
     FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

/// The snapshot `key`, if there is one.
pub(super) fn get(db: &Connection, key: &str) -> Result<Option<Record>> {
    let sql = format!("SELECT {COLUMNS} WHERE s.key = ?1");
    let record = db.prepare_cached(&sql)?.query_row([key], read).optional()?;
    record.map(|record| with_labels(db, record)).transpose()
}

fn with_labels(db: &Connection, mut record: Record) -> Result<Record> {
    let mut statement = db.prepare_cached("SELECT key, value FROM labels WHERE snapshot = ?1")?;
    let labels = statement.query_map([record.id as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    record.info.labels = labels.collect::<Result<Labels>>()?;
    Ok(record)
}

/// All snapshots, parents before their children.
pub(super) fn list(db: &Connection) -> Result<Vec<Record>> {
    let mut labels = all_labels(db)?;
    let sql = format!(
        "WITH RECURSIVE tree(id, depth) AS (
             SELECT id, 0 FROM snapshots WHERE parent IS NULL
             UNION ALL
             SELECT child.id, depth + 1 FROM snapshots child JOIN tree ON child.parent = tree.id
         )
         SELECT {COLUMNS} JOIN tree ON tree.id = s.id ORDER BY tree.depth, s.id"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let records = statement.query_map([], |row| {
        let mut record = read(row)?;
        record.info.labels = labels.remove(&record.id).unwrap_or_default();
        Ok(record)
    })?;
    records.collect()
}

fn all_labels(db: &Connection) -> Result<HashMap<u64, Labels>> {
    let mut all: HashMap<u64, Labels> = HashMap::new();
    let mut statement = db.prepare_cached("SELECT snapshot, key, value FROM labels")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get::<_, i64>(0)? as u64;
        all.entry(id).or_default().insert(row.get(1)?, row.get(2)?);
    }
    Ok(all)
}

/// The id of a snapshot and those of its ancestors, upwards.
pub(super) fn chain(db: &Connection, id: u64) -> Result<Vec<u64>> {
    let mut statement = db.prepare_cached(
        "WITH RECURSIVE chain(id, parent, depth) AS (
             SELECT id, parent, 0 FROM snapshots WHERE id = ?1
             UNION ALL
             SELECT s.id, s.parent, depth + 1 FROM snapshots s JOIN chain ON s.id = chain.parent
         )
         SELECT id FROM chain ORDER BY depth",
    )?;
    statement.query_map([id as i64], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect()
}

pub(super) fn ids(db: &Connection) -> Result<HashSet<u64>> {
    let mut statement = db.prepare_cached("SELECT id FROM snapshots")?;
    statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect()
}

/// The highest id that was ever given, also when its snapshot is gone.
pub(super) fn last_id(db: &Connection) -> Result<u64> {
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'";
    let last = db.query_row(sql, [], |row| row.get::<_, i64>(0)).optional()?;
    Ok(last.unwrap_or(0) as u64)
}

/// Replaces all labels of a snapshot. A label with an empty value is no label (containerd
/// `core/metadata/boltutil/helpers.go`, `writeMap`).
pub(super) fn set_labels(db: &Connection, id: u64, labels: &Labels) -> Result<()> {
    db.prepare_cached("DELETE FROM labels WHERE snapshot = ?1")?.execute([id as i64])?;
    let mut insert =
        db.prepare_cached("INSERT INTO labels (snapshot, key, value) VALUES (?1, ?2, ?3)")?;
    for (key, value) in labels.iter().filter(|(_, value)| !value.is_empty()) {
        insert.execute((id as i64, key, value))?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> Result<Record> {
    let info = Info {
        name: row.get(1)?,
        kind: kind(row.get(2)?)?,
        parent: row.get(3)?,
        created_at: time(row.get(4)?),
        updated_at: time(row.get(5)?),
        labels: Labels::new(),
    };
    let usage = Usage { size: row.get::<_, i64>(6)? as u64, inodes: row.get::<_, i64>(7)? as u64 };
    Ok(Record { id: row.get::<_, i64>(0)? as u64, info, usage })
}

/// The numbers of containerd's `core/snapshots/snapshotter.go`.
pub(super) fn number(kind: Kind) -> i64 {
    match kind {
        Kind::View => 1,
        Kind::Active => 2,
        Kind::Committed => 3,
    }
}

fn kind(number: i64) -> Result<Kind> {
    match number {
        1 => Ok(Kind::View),
        2 => Ok(Kind::Active),
        3 => Ok(Kind::Committed),
        _ => Err(rusqlite::Error::IntegralValueOutOfRange(2, number)),
    }
}

/// Nanoseconds since 1970: enough for both ends of the twenty-third century.
pub(super) fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as i64
}

fn time(nanoseconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(nanoseconds as u64)
}
