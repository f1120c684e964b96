// SPDX-License-Identifier: Apache-2.0
//! What one namespace sees, and on behalf of which lease it acts.
mod containers;
mod content;
mod extensions;
mod images;
mod leases;
mod mounts;
mod namespaces;
mod sandboxes;
mod snapshotter;
mod table;

use std::sync::Arc;

use ::content::Store;
use ::records::{Container, Image, Leases, Records, Sandbox};
use ::snapshots::Snapshotter;
use types::{Result, Scope};

use self::{content::Content, snapshotter::Snapshots, table::Table};
use crate::Db;

pub(crate) use content::Seen;
pub(crate) use mounts::{recover as recover_mounts, sweep as sweep_mounts};
pub(crate) use namespaces::namespaces;
pub(crate) use snapshotter::recover as recover_snapshotter;

/// The view of one scope. What is created through it belongs to its lease, if it has one.
#[derive(Clone, Debug)]
pub struct Scoped {
    db: Db,
    scope: Arc<Scope>,
}

impl Scoped {
    pub(crate) fn new(db: Db, scope: Scope) -> Self {
        Self { db, scope: Arc::new(scope) }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.scope.namespace()
    }

    /// The containers of the namespace.
    pub fn containers(&self) -> Arc<dyn Records<Container>> {
        Arc::new(Table::new(self))
    }

    /// The images of the namespace.
    pub fn images(&self) -> Arc<dyn Records<Image>> {
        Arc::new(Table::new(self))
    }

    /// The leases of the namespace, and what they hold.
    pub fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(Table::new(self))
    }

    /// The sandboxes of the namespace.
    pub fn sandboxes(&self) -> Arc<dyn Records<Sandbox>> {
        Arc::new(Table::new(self))
    }

    /// The blobs that the namespace sees.
    pub fn content(&self) -> Arc<dyn Store> {
        Arc::new(Content::new(self))
    }

    /// The namespace's snapshots in the snapshotter called `name`, if there is one.
    pub fn snapshotter(&self, name: &str) -> Option<Arc<dyn Snapshotter>> {
        let backend = Arc::clone(self.db.shared.backends.snapshotters.get(name)?);
        Some(Arc::new(Snapshots::new(self, name, backend)))
    }

    /// The namespace's mounts, if the database [manages](Db::manage_mounts) any.
    pub fn mounts(&self) -> Option<Arc<dyn ::mount::Manager>> {
        let activator = self.db.shared.mounts.get()?;
        Some(Arc::new(mounts::Mounts::new(self, Arc::clone(activator))))
    }
}

/// Finishes what was under way when the database was last open.
pub(crate) async fn recover(db: &Db) -> Result<()> {
    for name in db.shared.backends.snapshotters.keys() {
        recover_snapshotter(db, name).await?;
    }
    Ok(())
}

/// A key of a backend that no other thing ever had: `<namespace>/<number>/<name>` (containerd
/// `core/metadata/snapshot.go`, `createKey`).
fn backend_key(tx: &crate::db::Tx<'_>, scope: &Scope, name: &str) -> crate::db::Outcome<String> {
    let next = "UPDATE state SET value = value + 1 WHERE name = 'sequence' RETURNING value";
    let number: i64 = tx.prepare_cached(next)?.query_row([], |row| row.get(0))?;
    Ok(format!("{}/{number}/{name}", scope.namespace()))
}

/// Makes the scope's namespace if it does not exist: it comes with the first thing in it, as in
/// containerd (`core/metadata/buckets.go`).
fn enter(tx: &crate::db::Tx<'_>, scope: &Scope) -> crate::db::Outcome<()> {
    tx.prepare_cached("INSERT INTO namespaces VALUES (?, '{}') ON CONFLICT DO NOTHING")?
        .execute([scope.namespace()])?;
    Ok(())
}
