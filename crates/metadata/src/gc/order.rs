// SPDX-License-Identifier: Apache-2.0
//! In which order garbage is removed, so that it can be removed a little at a time.
//!
//! Whatever refers to a thing goes before it or together with it. So what is left at any moment is
//! whole: a client that gets hold of a piece of garbage between two steps has all that it refers to,
//! just as if the collection had come later.
//!
//! Things that refer to each other in a circle make one group. Groups are found as Tarjan's strongly
//! connected components, which come out with what is referred to first.
use std::collections::HashMap;

use super::{
    inventory::Entry,
    link::{Link, links},
    node::Node,
    plan::Plan,
};

/// The garbage of `plan` in groups, those that refer before those that are referred to.
pub(super) fn groups(entries: &[Entry], plan: &Plan) -> Vec<Vec<Node>> {
    let by_node: HashMap<&Node, usize> =
        plan.garbage.iter().enumerate().map(|(at, node)| (node, at)).collect();
    let mut edges = vec![Vec::new(); plan.garbage.len()];
    for entry in entries {
        let Some(&from) = by_node.get(&entry.node) else { continue };
        let mut refer = |node: &Node| edges[from].extend(by_node.get(node).copied());
        entry.refs.iter().for_each(&mut refer);
        for link in links(&entry.node.namespace, &entry.labels) {
            if let Link::To(node) | Link::If(node, _) = link {
                refer(&node);
            }
        }
        plan.back.get(&entry.node).into_iter().flatten().for_each(&mut refer);
    }
    let mut components = Walk::new(&edges).components();
    components.reverse();
    let name = |group: Vec<usize>| group.into_iter().map(|at| plan.garbage[at].clone()).collect();
    components.into_iter().map(name).collect()
}

/// Tarjan's algorithm, with a stack of its own: chains of snapshots may be long.
struct Walk<'a> {
    edges: &'a [Vec<usize>],
    /// The number that each was given, from 1; 0 is unvisited.
    index: Vec<usize>,
    low: Vec<usize>,
    on_stack: Vec<bool>,
    stack: Vec<usize>,
    count: usize,
    components: Vec<Vec<usize>>,
}

impl<'a> Walk<'a> {
    fn new(edges: &'a [Vec<usize>]) -> Self {
        let zeros = vec![0; edges.len()];
        Self {
            edges,
            index: zeros.clone(),
            low: zeros,
            on_stack: vec![false; edges.len()],
            stack: Vec::new(),
            count: 0,
            components: Vec::new(),
        }
    }

    fn components(mut self) -> Vec<Vec<usize>> {
        for root in (0..self.edges.len()).rev() {
            if self.index[root] == 0 {
                self.visit(root);
            }
        }
        self.components
    }

    fn visit(&mut self, root: usize) {
        self.enter(root);
        let mut path = vec![(root, 0)];
        while let Some((at, next)) = path.last_mut() {
            let (at, edge) = (*at, *next);
            *next += 1;
            match self.edges[at].get(edge) {
                Some(&to) if self.index[to] == 0 => {
                    self.enter(to);
                    path.push((to, 0));
                }
                Some(&to) if self.on_stack[to] => self.low[at] = self.low[at].min(self.index[to]),
                Some(_) => {}
                None => {
                    path.pop();
                    if let Some((above, _)) = path.last() {
                        self.low[*above] = self.low[*above].min(self.low[at]);
                    }
                    self.leave(at);
                }
            }
        }
    }

    fn enter(&mut self, at: usize) {
        self.count += 1;
        self.index[at] = self.count;
        self.low[at] = self.count;
        self.on_stack[at] = true;
        self.stack.push(at);
    }

    fn leave(&mut self, at: usize) {
        if self.low[at] != self.index[at] {
            return;
        }
        let begin = self.stack.iter().rposition(|one| *one == at).unwrap_or_default();
        let component = self.stack.split_off(begin);
        for one in &component {
            self.on_stack[*one] = false;
        }
        self.components.push(component);
    }
}
