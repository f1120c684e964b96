// SPDX-License-Identifier: Apache-2.0
//! Control groups of containers: `/<namespace>/<id>` in each tree, unless a spec says otherwise
//! (containerd `pkg/oci/spec.go`, `populateDefaultUnixSpec`).
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use fs_err as fs;
use records::{State, audit::Thing};

use super::{Host, Name, Recorded, attached::Mounted, names, thing, unless_young};

/// A control group, with its directories in all trees that have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: Name,
    pub(super) paths: Vec<PathBuf>,
    /// Who is in it, or in one below it.
    pub(super) processes: Vec<u32>,
}

/// The groups that are named as containers in `namespaces`.
pub(super) fn all(mounts: &[Mounted], namespaces: &BTreeSet<String>) -> Vec<Group> {
    let mut found = BTreeMap::<Name, Vec<PathBuf>>::new();
    for tree in trees(mounts) {
        for namespace in namespaces {
            let parent = tree.join(namespace);
            for id in names(&parent) {
                let path = parent.join(&id);
                found.entry((namespace.clone(), id)).or_default().push(path);
            }
        }
    }
    let groups = found.into_iter().map(|(name, paths)| {
        let processes: BTreeSet<u32> = paths.iter().flat_map(|path| processes(path)).collect();
        Group { name, paths, processes: processes.into_iter().collect() }
    });
    groups.collect()
}

/// Where hierarchies are mounted, whole.
fn trees(mounts: &[Mounted]) -> BTreeSet<PathBuf> {
    let is_tree = |it: &&Mounted| it.kind.starts_with("cgroup") && it.root == Path::new("/");
    mounts.iter().filter(is_tree).map(|it| it.point.clone()).collect()
}

fn processes(group: &Path) -> Vec<u32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let own = text.lines().filter_map(|line| line.parse().ok());
    let below = names(group).into_iter().flat_map(|name| processes(&group.join(name)));
    own.chain(below).collect()
}

pub(super) fn judge(host: &Host, recorded: &Recorded) -> Vec<Thing> {
    let groups = host.groups.iter().map(|group| {
        let mut owners = host.bundle_and_owners(&group.name, recorded);
        if owners.is_empty() && !group.processes.is_empty() {
            // Perhaps another daemon's, which has a namespace of the same name.
            let pids: Vec<_> = group.processes.iter().map(u32::to_string).collect();
            owners = vec![format!("processes {}", pids.join(", "))];
        }
        let (namespace, id) = &group.name;
        let path = group.paths.first().cloned();
        unless_young(thing("cgroup", namespace, format!("/{namespace}/{id}"), path, owners))
    });
    groups.collect()
}

impl Host {
    /// The directories of an orphaned group.
    pub(in super::super) fn directories_of(&self, orphan: &Thing) -> Vec<PathBuf> {
        let mut groups = self.groups.iter();
        let is_meant = |group: &&Group| {
            orphan.state == State::Orphan
                && group.processes.is_empty()
                && orphan.name == format!("/{}/{}", group.name.0, group.name.1)
        };
        groups.find(is_meant).map(|group| group.paths.clone()).unwrap_or_default()
    }
}
