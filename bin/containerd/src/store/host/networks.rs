// SPDX-License-Identifier: Apache-2.0
//! Network namespaces that have a name: those that containers are put into, and those that are
//! mounted in our places. What else is on the host is none of ours.
use std::path::PathBuf;

use records::audit::Thing;

use super::{Host, Places, Recorded, attached::Mounted, thing};

/// The network namespaces that are mounted below our places.
pub(super) fn below(mounts: &[Mounted], places: &Places) -> Vec<PathBuf> {
    let is_network =
        |it: &&Mounted| it.kind == "nsfs" && it.root.to_string_lossy().starts_with("net:");
    let points = mounts.iter().filter(is_network).map(|it| it.point.clone());
    points
        .filter(|point| point.starts_with(&places.root) || point.starts_with(&places.state))
        .collect()
}

/// One that is named and not there is no fault: whoever made it takes it away before the container is
/// removed.
pub(super) fn judge(host: &Host, recorded: &Recorded) -> Vec<Thing> {
    let named = recorded.networks.iter().filter(|(path, _)| path.exists()).map(|(path, names)| {
        let owners = names.iter().map(|(_, id)| format!("container {id}")).collect();
        let namespace = names.first().map(|(namespace, _)| namespace.as_str()).unwrap_or_default();
        thing("netns", namespace, path.display().to_string(), Some(path.clone()), owners)
    });
    let unnamed = host.networks.iter().filter(|path| !recorded.networks.contains_key(*path));
    let strays = unnamed
        .map(|path| thing("netns", "", path.display().to_string(), Some(path.clone()), Vec::new()));
    named.chain(strays).collect()
}
