// SPDX-License-Identifier: Apache-2.0
use std::collections::HashSet;

use super::{
    inventory::Entry,
    link::{Link, links},
    node::Node,
    plan::Plan,
};

/// Spares what was made or referred to since the plan was made.
///
/// Whatever was written meanwhile stays, and so does all that it refers to now. That may spare
/// garbage until the next collection, and never takes what is in use: a reference that is new is
/// written on one of its two ends, so that end is touched.
///
/// What is touched is taken in as it happens, a bounded number at a time, and nothing may be removed
/// while any of it [waits](Self::is_settled).
#[derive(Debug)]
pub(super) struct Reprieve {
    plan: Plan,
    spared: HashSet<Node>,
    waiting: Vec<(Node, bool)>,
}

impl Reprieve {
    pub(super) fn new(plan: Plan) -> Self {
        Self { plan, spared: HashSet::new(), waiting: Vec::new() }
    }

    /// Takes in what was written since the last time.
    pub(super) fn touch(&mut self, touched: impl IntoIterator<Item = Node>) {
        self.waiting.extend(touched.into_iter().map(|node| (node, true)));
    }

    /// Whether all that was taken in has been spared, with all it refers to.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Spares one thing that waits. `look` reads a thing as it is now.
    pub(super) fn spare<E>(
        &mut self,
        look: impl FnOnce(&Node) -> Result<Option<Entry>, E>,
    ) -> Result<(), E> {
        let Some((node, is_touched)) = self.waiting.pop() else { return Ok(()) };
        // What was kept was kept with all that it refers to, unless it has changed.
        let is_kept = !is_touched && self.plan.kept.contains(&node);
        if is_kept || !(self.spared.insert(node.clone()) || is_touched) {
            return Ok(());
        }
        let back = self.plan.back.get(&node).into_iter().flatten();
        self.waiting.extend(back.map(|node| (node.clone(), false)));
        let Some(entry) = look(&node)? else { return Ok(()) };
        self.waiting.extend(entry.refs.into_iter().map(|node| (node, false)));
        for link in links(&node.namespace, &entry.labels) {
            if let Link::To(node) | Link::If(node, _) = link {
                self.waiting.push((node, false));
            }
        }
        Ok(())
    }

    pub(super) fn is_spared(&self, node: &Node) -> bool {
        self.spared.contains(node)
    }
}
