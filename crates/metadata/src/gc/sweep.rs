// SPDX-License-Identifier: Apache-2.0
//! Removing garbage from the database, in steps that nobody has to wait for long.
//!
//! Each step is a transaction of its own: it first spares what was written since the step before,
//! with all that refers to, and removes groups of garbage after that, for as long as its time lasts.
//! A write comes before a step or after it, so a step knows of all writes that it must respect.
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use events::Event;

use super::{
    Removed, inventory,
    node::{Kind, Node},
    plan::Plan,
    reprieve::Reprieve,
};
use crate::{
    Db,
    db::{Backend, Outcome, Touched, Tx},
};
use types::Result;

/// For how long a step goes on.
const STEP: Duration = Duration::from_millis(1);

/// For how long it goes on at most, when more is written all the time than can be looked at.
const LONGEST: Duration = Duration::from_millis(16);

/// A removal under way.
#[derive(Debug)]
pub(super) struct Sweep {
    reprieve: Reprieve,
    groups: VecDeque<Vec<Node>>,
    touched: Touched,
    /// The rows that were written and not looked at yet.
    written: Vec<(String, i64)>,
    removed: Removed,
    step: Duration,
    longest: Duration,
}

impl Sweep {
    /// Removes the `groups` of garbage that `plan` found, but for what was `touched` since.
    pub(super) fn new(plan: Plan, groups: Vec<Vec<Node>>, touched: Touched) -> Self {
        Self {
            reprieve: Reprieve::new(plan),
            groups: groups.into(),
            touched,
            written: Vec::new(),
            removed: Removed::default(),
            step: STEP,
            longest: Duration::ZERO,
        }
    }

    /// Goes on until nothing is left. Returns what was removed, and how long the longest step took.
    ///
    /// The steps are not synced one by one: what a power cut brings back is still garbage, since
    /// backends are touched only after all of it was synced.
    pub(super) async fn run(mut self, db: &Db) -> Result<(Removed, Duration)> {
        while !self.groups.is_empty() {
            self = db
                .write_lazily(move |tx| {
                    tx.quiet();
                    self.advance(tx)?;
                    Ok(self)
                })
                .await?;
        }
        db.sync().await?;
        Ok((self.removed, self.longest))
    }

    fn advance(&mut self, tx: &Tx<'_>) -> Outcome<()> {
        let began = Instant::now();
        let is_time_up = |step: Duration| began.elapsed() >= step;
        self.written.extend(self.touched.take());
        while !self.is_settled() && !is_time_up(self.step) {
            self.spare(tx)?;
        }
        if self.is_settled() {
            self.step = STEP;
            // One group at least, or else a slow machine would never get anywhere.
            while let Some(group) = self.groups.pop_front() {
                self.remove(tx, &group)?;
                if is_time_up(self.step) {
                    break;
                }
            }
        } else {
            self.step = (self.step * 2).min(LONGEST);
        }
        self.longest = self.longest.max(began.elapsed());
        Ok(())
    }

    /// Whether all that was written is spared, with all it refers to.
    fn is_settled(&self) -> bool {
        self.written.is_empty() && self.reprieve.is_settled()
    }

    /// Takes one step towards that.
    fn spare(&mut self, tx: &Tx<'_>) -> Outcome<()> {
        if self.reprieve.is_settled()
            && let Some((table, row)) = self.written.pop()
        {
            self.reprieve.touch(inventory::at_row(tx, &table, row)?);
        }
        self.reprieve.spare(|node| inventory::one(tx, node))
    }

    fn remove(&mut self, tx: &Tx<'_>, group: &[Node]) -> Outcome<()> {
        for node in group.iter().filter(|node| !self.reprieve.is_spared(node)) {
            if remove(tx, node)? {
                *self.removed.of(&node.kind) += 1;
            }
        }
        Ok(())
    }
}

/// Removes one thing, if it is still there, and says what follows from that.
fn remove(tx: &Tx<'_>, node: &Node) -> Outcome<bool> {
    let (namespace, key) = (&*node.namespace, &*node.key);
    let delete = |statement: &str| tx.prepare_cached(statement)?.execute([namespace, key]);
    let count = match &node.kind {
        Kind::Container | Kind::Sandbox => 0,
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
        Kind::Container | Kind::Lease | Kind::Sandbox => {}
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
            Kind::Lease | Kind::Container | Kind::Sandbox => &mut self.leases,
        }
    }
}
