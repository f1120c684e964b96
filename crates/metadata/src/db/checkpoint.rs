// SPDX-License-Identifier: Apache-2.0
//! Moving what was committed from the log into the database, while the writer goes on.
//!
//! SQLite would do it in the commit that makes the log long enough, and whoever waits for that
//! commit would wait for two more syncs and a thousand pages. A passive checkpoint on a connection of
//! its own waits for nobody and stops nobody (<https://www.sqlite.org/wal.html#ckpt>).
use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use rusqlite::Connection;
use types::Result;

use super::fault::sql;

/// How many pages the log grows by until it is time, as SQLite has it.
const PAGES: i32 = 1000;

/// How many pages make the writer do it after all: 64 MiB that nobody could move, since readers
/// never ceased.
const TOO_MANY: i32 = 16 << 10;

/// The thread. Dropping it lets the thread end, and waits for that.
#[derive(Debug)]
pub(super) struct Checkpoints {
    due: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts moving, on `own`, what `writer` commits.
    pub(super) fn start(writer: &mut Connection, own: Connection) -> Result<Self> {
        let (due, told) = sync_channel(1);
        let tell = due.clone();
        let mut last = 0;
        writer
            .wal_hook(Some(move |wal: &mut rusqlite::hooks::Wal, pages| {
                if pages >= TOO_MANY {
                    // What is committed is committed: an error of this hook would be the commit's.
                    if let Err(error) = wal.checkpoint() {
                        tracing::debug!(%error, pages, "the metadata log stays for now");
                    }
                    return Ok(());
                }
                // The log begins anew once all of it was moved.
                last = if pages < last { 0 } else { last };
                if pages >= last + PAGES {
                    last = pages;
                    // One that waits already is as good.
                    let _ = tell.try_send(());
                }
                Ok(())
            }))
            .map_err(sql)?;
        let thread =
            thread::Builder::new().name("metadata-log".into()).spawn(move || serve(&own, &told))?;
        Ok(Self { due: Some(due), thread: Some(thread) })
    }

    /// Ends it. `writer` is on its own from now on.
    pub(super) fn stop(mut self, writer: &mut Connection) {
        let nothing: Option<fn(&mut rusqlite::hooks::Wal, i32) -> rusqlite::Result<()>> = None;
        if let Err(error) = writer.wal_hook(nothing) {
            tracing::warn!(%error, "the log is watched until the end");
        }
        self.due = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that moves the metadata log panicked");
        }
    }
}

fn serve(connection: &Connection, told: &Receiver<()>) {
    while told.recv().is_ok() {
        let moved = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        if let Err(error) = moved {
            tracing::warn!(%error, "the metadata log could not be moved into the database yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use mount::{Mount, Temporary};

    use super::*;

    /// A commit was told to have failed when it made a long log longer that could not be moved,
    /// though what was to be committed was.
    #[test]
    fn a_commit_stands_when_its_log_cannot_be_moved() {
        let folder = tempfile::tempdir().unwrap();
        // There is room for the log, and not for the database as well.
        let small = Mount {
            kind: "tmpfs".to_owned(),
            source: "tmpfs".to_owned(),
            target: String::new(),
            options: vec!["size=100m".to_owned()],
        };
        let disk = Temporary::mount(&[small], folder.path()).unwrap();
        let path = disk.path().join("db");
        let mut writer = Connection::open(&path).unwrap();
        writer.pragma_update(None, "journal_mode", "WAL").unwrap();
        writer.execute_batch("CREATE TABLE t (b BLOB)").unwrap();
        let log = Connection::open(&path).unwrap();
        let checkpoints = Checkpoints::start(&mut writer, log).unwrap();
        let long = i64::from(TOO_MANY + 1) << 12;
        writer.execute("INSERT INTO t VALUES (zeroblob(?))", [long]).unwrap();
        let count = writer.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
        assert_eq!(count.unwrap(), 1);
        checkpoints.stop(&mut writer);
    }
}
