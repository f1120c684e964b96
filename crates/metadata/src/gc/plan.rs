// SPDX-License-Identifier: Apache-2.0
//! What is garbage: a pure function of what there is and of the time.
//!
//! Things are marked from the roots along references, and what is unmarked is garbage. The rules are
//! those of containerd's `core/metadata/gc.go`.
//!
//! ```text
//! root: container, sandbox, image and lease (until they expire), ingest (until it goes stale), gc.root,
//!       a commit under way
//! lease -> what it holds       flat: that alone, with the parents of snapshots
//! image -> its target          container -> its snapshot      snapshot -> its parent
//! ingest -> the blob it is a promise of          anything -> gc.ref.*          gc.bref.* -> anything
//! ```
use std::{
    collections::{HashMap, HashSet},
    time::SystemTime,
};

use types::labels::GC_FLAT;

use super::{
    inventory::{Entry, Stay},
    link::{Link, expiry, links},
    node::{Kind, Node},
};

/// What to remove, and what must be known to check it again.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What nothing keeps.
    pub(super) garbage: Vec<Node>,
    /// How much there was to look at.
    pub(super) seen: usize,
    /// What was kept together with all it refers to.
    pub(super) kept: HashSet<Node>,
    /// References that are written on what they refer to.
    pub(super) back: HashMap<Node, Vec<Node>>,
    /// When the next thing expires.
    pub(super) expires: Option<SystemTime>,
}

/// Finds the garbage among `entries`.
pub(super) fn plan(entries: &[Entry], now: SystemTime) -> Plan {
    Marker::new(entries, now).run().0
}

/// What keeps each thing that is kept on another's account: the one that was found first.
pub(super) fn keepers(entries: &[Entry], now: SystemTime) -> (Plan, HashMap<Node, Node>) {
    let mut marker = Marker::new(entries, now);
    marker.keepers = Some(HashMap::new());
    let plan = marker.run();
    (plan.0, plan.1.unwrap_or_default())
}

/// How far a mark spreads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// To everything that is referred to.
    Full,
    /// To what the thing cannot be without: a snapshot's parents, an image's target.
    Flat,
}

struct Marker<'a> {
    entries: &'a [Entry],
    by_node: HashMap<&'a Node, &'a Entry>,
    now: SystemTime,
    expires: Option<SystemTime>,
    back: HashMap<Node, Vec<Node>>,
    /// By reach.
    marked: [HashSet<Node>; 2],
    queue: Vec<(Node, Reach)>,
    /// What each was first marked for, if somebody wants to know.
    keepers: Option<HashMap<Node, Node>>,
}

impl<'a> Marker<'a> {
    fn new(entries: &'a [Entry], now: SystemTime) -> Self {
        let by_node = entries.iter().map(|entry| (&entry.node, entry)).collect();
        let (back, marked, queue) = Default::default();
        Self { entries, by_node, now, expires: None, back, marked, queue, keepers: None }
    }

    fn run(mut self) -> (Plan, Option<HashMap<Node, Node>>) {
        self.back_references();
        self.roots();
        self.spread();
        let Self { entries, marked, expires, back, keepers, .. } = self;
        let is_kept = |node: &Node| marked.iter().any(|set| set.contains(node));
        let garbage = entries
            .iter()
            .map(|entry| &entry.node)
            .filter(|node| !matches!(node.kind, Kind::Container | Kind::Sandbox) && !is_kept(node))
            .cloned()
            .collect();
        let [kept, _flat] = marked;
        (Plan { garbage, seen: entries.len(), kept, back, expires }, keepers)
    }

    /// Marks what another keeps.
    fn mark_for(&mut self, keeper: &Node, node: Node, reach: Reach) {
        let is_new = self.marked.iter().all(|set| !set.contains(&node));
        if let Some(keepers) = self.keepers.as_mut().filter(|_| is_new) {
            keepers.insert(node.clone(), keeper.clone());
        }
        self.mark(node, reach);
    }

    fn mark(&mut self, node: Node, reach: Reach) {
        if self.marked[reach as usize].insert(node.clone()) {
            self.queue.push((node, reach));
        }
    }

    /// Whether `time` has passed. If not, it is one to come back for.
    fn is_past(&mut self, time: SystemTime) -> bool {
        if time < self.now {
            return true;
        }
        self.expires = self.expires.into_iter().chain([time]).min();
        false
    }

    /// Turns around what is written on the wrong end.
    fn back_references(&mut self) {
        let mut conditions = Vec::new();
        let mut used = HashMap::<Node, Vec<SystemTime>>::new();
        for entry in self.entries.iter().filter(|entry| entry.node.kind != Kind::Lease) {
            for link in links(&entry.node.namespace, &entry.labels) {
                match link {
                    Link::From(node) => {
                        self.back.entry(node).or_default().push(entry.node.clone());
                    }
                    Link::If(node, test) => conditions.push((entry.node.clone(), node, test)),
                    Link::UsedAt(time) => used.entry(entry.node.clone()).or_default().push(time),
                    Link::Root | Link::To(_) => {}
                }
            }
        }
        for (from, to, test) in conditions {
            let may_say_so = matches!(from.kind, Kind::Content | Kind::Image);
            let times = used.get(&to).map(Vec::as_slice).unwrap_or_default();
            let passes = times.iter().filter(|time| test.passes(**time, self.now));
            if may_say_so && let Some(latest) = passes.max() {
                if let Some(end) = test.end(*latest) {
                    self.is_past(end);
                }
                self.back.entry(from).or_default().push(to);
            }
        }
    }

    fn roots(&mut self) {
        for entry in self.entries {
            match entry.node.kind {
                Kind::Lease => self.lease(entry),
                _ if self.stays(entry) => self.mark(entry.node.clone(), Reach::Full),
                _ => {}
            }
        }
    }

    fn lease(&mut self, entry: &Entry) {
        if expiry(&entry.labels).is_some_and(|time| self.is_past(time)) {
            return;
        }
        self.mark(entry.node.clone(), Reach::Full);
        let is_flat = entry.labels.contains_key(GC_FLAT);
        for held in &entry.refs {
            let reach = match held.kind {
                Kind::Content | Kind::Image | Kind::Snapshot(_) if is_flat => Reach::Flat,
                _ => Reach::Full,
            };
            self.mark_for(&entry.node, held.clone(), reach);
        }
    }

    fn stays(&mut self, entry: &Entry) -> bool {
        let is_root = || links(&entry.node.namespace, &entry.labels).contains(&Link::Root);
        match (&entry.node.kind, entry.stay) {
            (_, Stay::Yes) => true,
            (_, Stay::Until(time)) => !self.is_past(time),
            (Kind::Image, _) => !expiry(&entry.labels).is_some_and(|time| self.is_past(time)),
            (Kind::Content | Kind::Snapshot(_), _) => is_root(),
            // Only one that says until when it is needed stays on its own account.
            (Kind::Mount, _) => expiry(&entry.labels).is_some_and(|time| !self.is_past(time)),
            _ => false,
        }
    }

    fn spread(&mut self) {
        while let Some((node, reach)) = self.queue.pop() {
            if reach == Reach::Full {
                for back in self.back.get(&node).cloned().unwrap_or_default() {
                    self.mark_for(&node, back, Reach::Full);
                }
            }
            let Some(entry) = self.by_node.get(&node).copied() else { continue };
            // What a lease holds was marked with it, flat or not.
            if node.kind == Kind::Lease || (reach == Reach::Flat && node.kind == Kind::Content) {
                continue;
            }
            for to in &entry.refs {
                self.mark_for(&node, to.clone(), reach);
            }
            if reach == Reach::Full {
                for link in links(&node.namespace, &entry.labels) {
                    if let Link::To(to) = link {
                        self.mark_for(&node, to, Reach::Full);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
