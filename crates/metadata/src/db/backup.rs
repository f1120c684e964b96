// SPDX-License-Identifier: Apache-2.0
use std::{io::ErrorKind, path::Path};

use fs_err as fs;
use rusqlite::{
    Connection,
    backup::{Backup, StepResult},
};
use types::{Error, Result};

use super::fault::sql;

/// Copies what `from` sees into a new file at `path`, which gets this name when it is whole and
/// durable.
///
/// All is copied in one step: in WAL mode that keeps nobody from writing, and what is written
/// meanwhile is not part of it (<https://www.sqlite.org/backup.html>).
pub(crate) fn back_up(from: &Connection, path: &Path) -> Result<()> {
    if path.try_exists()? {
        return Err(Error::already_exists(format!("file {}", path.display())));
    }
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    copy(from, &partial).map_err(sql)?;
    fs::File::open(&partial)?.sync_all()?;
    fs::rename(&partial, path)?;
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    Ok(fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?)
}

fn copy(from: &Connection, to: &Path) -> rusqlite::Result<()> {
    let mut copy = Connection::open(to)?;
    let done = Backup::new(from, &mut copy)?.step(-1)?;
    if done != StepResult::Done {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
            Some(format!("backup ended with {done:?}")),
        ));
    }
    Ok(())
}
