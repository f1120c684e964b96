// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rusqlite::{Connection, hooks::Action};
use types::Result;

use super::fault::sql;

/// The rows that were written since the collector began to read.
///
/// SQLite itself reports them, so that no statement can be forgotten. What a rolled back request
/// wrote is among them, which does no harm: the collector spares what is touched.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    on: AtomicBool,
    rows: Mutex<HashSet<(String, i64)>>,
}

impl Touched {
    /// Listens to what `connection` writes.
    pub(super) fn attach(&self, connection: &mut Connection) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        connection
            .update_hook(Some(move |action, _: &str, table: &str, row| {
                if action != Action::SQLITE_DELETE && shared.on.load(Ordering::Relaxed) {
                    shared.rows().insert((table.to_owned(), row));
                }
            }))
            .map_err(sql)
    }

    /// Begins anew. Only on the writer's thread, so that what comes after is seen.
    pub(crate) fn start(&self) {
        self.shared.rows().clear();
        self.shared.on.store(true, Ordering::Relaxed);
    }

    /// What was written since this was last asked. Only on the writer's thread, so that what is
    /// reported can be seen.
    pub(crate) fn take(&self) -> HashSet<(String, i64)> {
        std::mem::take(&mut *self.shared.rows())
    }

    /// Stops listening.
    pub(crate) fn stop(&self) {
        self.shared.on.store(false, Ordering::Relaxed);
        self.shared.rows().clear();
    }
}

impl Shared {
    fn rows(&self) -> std::sync::MutexGuard<'_, HashSet<(String, i64)>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
