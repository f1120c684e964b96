// SPDX-License-Identifier: Apache-2.0
//! The file, and the connections to it.
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use fs_err as fs;
use rusqlite::{Connection, OpenFlags};
use types::{Context, Error, Kind, Result};

use super::{fault::sql, schema};

/// How long a connection waits for another one's lock: only at a checkpoint, never for a writer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A database file that this process alone has open.
#[derive(Debug)]
pub(crate) struct File {
    path: PathBuf,
    /// Locked. A file of its own: closing any descriptor of the database itself would drop
    /// SQLite's locks on it (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).
    _lock: fs::File,
}

impl File {
    /// Locks and prepares the database at `path`, and returns its one writing connection.
    pub(crate) fn open(path: &Path) -> Result<(Self, Connection)> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = Self { path: path.to_owned(), _lock: lock(path)? };
        let mut connection =
            file.connect(OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        prepare(&mut connection).context(|| format!("open {}", path.display()))?;
        Ok((file, connection))
    }

    /// Keeps others from the database at `path`, which need not exist.
    pub(crate) fn lock(path: &Path) -> Result<Lock> {
        Ok(Lock { _file: lock(path)? })
    }

    /// A connection that only moves the log into the database.
    pub(crate) fn log(&self) -> Result<Connection> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_WRITE)
    }

    /// A connection that reads and never writes.
    pub(crate) fn reader(&self) -> Result<Connection> {
        self.connect(OpenFlags::SQLITE_OPEN_READ_ONLY)
    }

    fn connect(&self, flags: OpenFlags) -> Result<Connection> {
        let open = || {
            let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(PATIENCE)?;
            connection.set_prepared_statement_cache_capacity(128);
            Ok(connection)
        };
        open().map_err(sql).context(|| format!("open {}", self.path.display()))
    }
}

/// Keeps others from a database for as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: fs::File,
}

/// Locks the database at `path`, which need not exist, for as long as the file is kept.
fn lock(path: &Path) -> Result<fs::File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(PathBuf::from(name))?;
    if sys::lock::exclusive(file.file())? {
        return Ok(file);
    }
    Err(Error::unavailable(format!("{} is in use by another process", path.display())))
}

/// Sets what holds for the whole file, checks it if it was not closed, and brings it up to date.
///
/// `synchronous=FULL` is what makes a commit survive a power cut in WAL mode
/// (<https://www.sqlite.org/pragma.html#pragma_synchronous>).
fn prepare(connection: &mut Connection) -> Result<()> {
    connection
        .execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;")
        .map_err(sql)?;
    schema::migrate(connection)?;
    if !was_closed(connection).map_err(sql)? {
        check(connection)?;
    }
    set_clean(connection, false).map_err(sql)
}

fn was_closed(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT value FROM state WHERE name = 'clean'", [], |row| row.get(0))
}

fn set_clean(connection: &Connection, clean: bool) -> rusqlite::Result<()> {
    connection.execute("UPDATE state SET value = ? WHERE name = 'clean'", [clean]).map(drop)
}

/// SQLite recovers by itself; this finds what a broken disk or another program did to the file.
fn check(connection: &Connection) -> Result<()> {
    tracing::info!("metadata database was not closed, checking it");
    let verdict: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(sql)?;
    if verdict == "ok" {
        return Ok(());
    }
    Err(Error::new(
        Kind::DataLoss,
        format!("metadata database is damaged ({verdict}): `containerd rebuild` makes it anew"),
    ))
}

/// Leaves the database as one that was closed.
pub(crate) fn close(connection: &Connection) {
    let close = || {
        set_clean(connection, true)?;
        connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)")
    };
    if let Err(error) = close() {
        tracing::warn!(%error, "metadata database could not be closed cleanly");
    }
}
