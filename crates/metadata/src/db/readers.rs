// SPDX-License-Identifier: Apache-2.0
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::{sync::Semaphore, task::spawn_blocking};
use types::{Error, Result};

use super::{fault::Outcome, file::File};

/// How many reads go on at the same time. More would only take turns on the processors.
const AT_ONCE: usize = 16;

/// How many connections stay open while nobody reads. Each keeps the pages that it has read, up to 2 MB
/// (<https://www.sqlite.org/pragma.html#pragma_cache_size>), and a burst would leave [`AT_ONCE`] of them.
const KEPT: usize = 3;

/// Connections for reading. Each read sees one state of the database and waits for no writer.
#[derive(Debug)]
pub(crate) struct Readers {
    file: File,
    idle: Mutex<Vec<Connection>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    pub(crate) fn new(file: File) -> Self {
        Self { file, idle: Mutex::default(), turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Lets `work` read, on a blocking thread.
    pub(crate) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    ) -> Result<T> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(stopped)?;
        let readers = Arc::clone(self);
        let read = spawn_blocking(move || {
            let answer = readers.run(work);
            drop(turn);
            answer
        });
        read.await.map_err(stopped)?
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Result<T> {
        let idle = self.idle().pop();
        let connection = idle.map_or_else(|| self.file.reader(), Ok)?;
        let answer = in_one_state(&connection, work);
        self.keep(connection);
        answer.map_err(Into::into)
    }

    /// Keeps a connection for the next one, unless enough wait already.
    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if idle.len() < KEPT {
            return idle.push(connection);
        }
        // It is closed when nobody waits for the others.
        drop(idle);
        drop(connection);
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Several statements of `work` see the same state, which is what the transaction is for.
fn in_one_state<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Outcome<T>,
) -> Outcome<T> {
    let transaction = connection.unchecked_transaction()?;
    work(&transaction)
}

fn stopped(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::caused(types::Kind::Internal, "read metadata", error)
}
