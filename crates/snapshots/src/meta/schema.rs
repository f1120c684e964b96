// SPDX-License-Identifier: Apache-2.0
//! The file, its tables, and how an older file becomes a newer one.
use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use types::{Error, Result};

use super::{fault::Fault, go};
use crate::tree;

const NAME: &str = "metadata.sqlite";

/// Where Go's containerd keeps the same.
const GO: &str = "metadata.db";

/// How one version becomes the next. What has been released is never changed, only added to.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE snapshots (
        -- Never used again: a directory of this name may still be there.
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        key        TEXT    NOT NULL UNIQUE,
        kind       INTEGER NOT NULL CHECK (kind IN (1, 2, 3)), -- view, active, committed
        parent     INTEGER REFERENCES snapshots (id),
        created_at INTEGER NOT NULL, -- nanoseconds since 1970
        updated_at INTEGER NOT NULL,
        size       INTEGER NOT NULL DEFAULT 0, -- bytes, once committed
        inodes     INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX snapshots_by_parent ON snapshots (parent);
    CREATE TABLE labels (
        snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
        key      TEXT    NOT NULL,
        value    TEXT    NOT NULL,
        PRIMARY KEY (snapshot, key)
    ) STRICT, WITHOUT ROWID;
"];

/// Whether `root` has a database, ours or one to take over.
pub(super) fn exists(root: &Path) -> Result<bool> {
    Ok(root.join(NAME).try_exists()? || root.join(GO).try_exists()?)
}

/// Opens the database in `root`, made or brought up to date, for writing and for reading.
pub(super) fn open(root: &Path) -> Result<(Connection, Connection)> {
    let path = root.join(NAME);
    let context = |fault: Fault| Error::from(fault).context(path.display().to_string());
    let is_new = !path.try_exists()?;
    let mut writer = connect(&path, OpenFlags::default()).map_err(context)?;
    migrate(&mut writer, &root.join(GO)).map_err(context)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = connect(&path, flags).map_err(context)?;
    if is_new {
        tree::sync_directory(root)?;
    }
    Ok((writer, reader))
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, Fault> {
    let connection = Connection::open_with_flags(path, flags)?;
    // Only a person with a shell contends for the database.
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

/// A new database takes over what Go's containerd has left, in the same transaction: its snapshots
/// would be unknown to us otherwise, and so be removed as left behind by a crash.
fn migrate(db: &mut Connection, go: &Path) -> Result<(), Fault> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let version: usize =
        transaction.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0))? as usize;
    let newest = MIGRATIONS.len();
    let Some(missing) = MIGRATIONS.get(version..) else {
        let text =
            format!("schema version {version} was written by a newer version, {newest} is known");
        return Err(Error::failed_precondition(text).into());
    };
    for migration in missing {
        transaction.execute_batch(migration)?;
    }
    if version == 0 && go.try_exists().map_err(Error::from)? {
        go::take_over(&transaction, go)?;
    }
    transaction.pragma_update(None, "user_version", newest as u32)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use types::Kind;

    use super::*;

    #[test]
    fn the_database_is_opened_twice_and_stays() {
        let root = tempfile::tempdir().unwrap();
        drop(open(root.path()).unwrap());
        let (writer, reader) = open(root.path()).unwrap();
        let sql = "INSERT INTO snapshots (key, kind, created_at, updated_at) VALUES ('k', 1, 0, 0)";
        writer.execute(sql, []).unwrap();
        assert!(reader.execute(sql, []).is_err());
        let count: u32 =
            reader.query_row("SELECT count(*) FROM snapshots", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 1);
    }

    #[test]
    fn commits_survive_a_power_cut() {
        let root = tempfile::tempdir().unwrap();
        let (writer, _) = open(root.path()).unwrap();
        let text = |name| {
            writer.pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
        };
        assert_eq!(text("journal_mode").unwrap(), "wal".to_owned().into());
        assert_eq!(text("synchronous").unwrap(), 2.into());
    }

    #[test]
    fn a_newer_database_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (writer, _) = open(root.path()).unwrap();
        writer.pragma_update(None, "user_version", 99).unwrap();
        let error = open(root.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        assert!(error.to_string().contains("schema version 99"), "{error}");
    }

    #[test]
    fn what_go_keeps_and_cannot_be_read_is_not_mistaken_for_leftovers() {
        let root = tempfile::tempdir().unwrap();
        fs_err::write(root.path().join(GO), "").unwrap();
        for _ in 0..2 {
            let error = open(root.path()).unwrap_err();
            assert_eq!(error.kind(), Kind::DataLoss);
            assert!(error.to_string().contains("metadata.db"), "{error}");
        }
    }

    #[test]
    fn what_is_no_database_is_said_to_be_damaged() {
        let root = tempfile::tempdir().unwrap();
        fs_err::write(root.path().join(NAME), "no database at all, but long enough ".repeat(200))
            .unwrap();
        let error = open(root.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::DataLoss, "{error}");
    }
}
