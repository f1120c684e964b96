// SPDX-License-Identifier: Apache-2.0
//! Removing garbage from the database.
use events::Event;

use super::{
    Removed, inventory,
    node::{Kind, Node},
    plan::{Plan, Reprieve},
};
use crate::db::{Backend, Outcome, Touched, Tx};

/// Removes what `plan` found, but for what was written or referred to since, in one transaction.
pub(super) fn sweep(tx: &Tx<'_>, plan: &Plan, touched: &Touched) -> Outcome<Removed> {
    tx.quiet();
    let mut reprieve = Reprieve::new(plan);
    reprieve.spare(written(tx, touched)?, |node| inventory::one(tx, node))?;
    let mut removed = Removed::default();
    for node in reprieve.condemned() {
        if remove(tx, node)? {
            *removed.of(&node.kind) += 1;
        }
    }
    Ok(removed)
}

/// What was written since the plan was begun.
fn written(tx: &Tx<'_>, touched: &Touched) -> Outcome<Vec<Node>> {
    let mut nodes = Vec::new();
    for (table, row) in touched.rows() {
        nodes.extend(inventory::at_row(tx, &table, row)?);
    }
    Ok(nodes)
}

/// Removes one thing, if it is still there, and says what follows from that.
fn remove(tx: &Tx<'_>, node: &Node) -> Outcome<bool> {
    let (namespace, key) = (&*node.namespace, &*node.key);
    let delete = |statement: &str| tx.prepare_cached(statement)?.execute([namespace, key]);
    let count = match &node.kind {
        Kind::Container => 0,
        Kind::Content => delete("DELETE FROM blobs WHERE namespace = ? AND digest = ?")?,
        Kind::Image => delete("DELETE FROM images WHERE namespace = ? AND name = ?")?,
        Kind::Ingest => delete("DELETE FROM ingests WHERE namespace = ? AND ref = ?")?,
        Kind::Lease => delete("DELETE FROM leases WHERE namespace = ? AND id = ?")?,
        Kind::Mount => {
            delete("DELETE FROM mounts WHERE namespace = ? AND name = ? AND active IS NOT NULL")?
        }
        Kind::Snapshot(of) => tx
            .prepare_cached(
                "DELETE FROM snapshots WHERE namespace = ? AND name = ? AND snapshotter = ?",
            )?
            .execute([namespace, key, of])?,
    };
    if count > 0 {
        tracing::debug!(namespace, key, kind = ?node.kind, "collected");
        follow_up(tx, node);
    }
    Ok(count > 0)
}

/// Of what the collector removes, images and snapshots are told (containerd
/// `core/metadata/db.go`, `publishEvents`).
fn follow_up(tx: &Tx<'_>, node: &Node) {
    match &node.kind {
        Kind::Content | Kind::Ingest => tx.orphaned(Backend::Content),
        Kind::Image => tx.tell(&node.namespace, Event::image_deleted(&node.key)),
        Kind::Snapshot(of) => {
            tx.orphaned(Backend::Snapshotter(of.to_string()));
            tx.tell(&node.namespace, Event::snapshot_removed(of, &node.key));
        }
        Kind::Mount => tx.orphaned(Backend::Mounts),
        Kind::Container | Kind::Lease => {}
    }
}

impl Removed {
    fn of(&mut self, kind: &Kind) -> &mut usize {
        match kind {
            Kind::Content => &mut self.content,
            Kind::Snapshot(_) => &mut self.snapshots,
            Kind::Ingest => &mut self.ingests,
            Kind::Image => &mut self.images,
            Kind::Mount => &mut self.mounts,
            Kind::Lease | Kind::Container => &mut self.leases,
        }
    }
}
