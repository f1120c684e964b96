// SPDX-License-Identifier: Apache-2.0
//! Where a blob has been seen before, so that a registry can take it from there.
use types::{Labels, labels};

use crate::{Reference, reference::split_port};

/// The label that says a blob came from `reference`, beside what its label `existing` said before:
/// `containerd.io/distribution.source.docker.io` = `library/busybox,library/alpine`
/// (containerd `core/remotes/docker/handler.go`). The port is no part of it.
pub fn distribution_source(reference: &Reference, existing: Option<&str>) -> (String, String) {
    let known = existing.unwrap_or_default().split(',').filter(|repository| !repository.is_empty());
    let mut all: Vec<_> = known.chain([reference.repository()]).collect();
    all.sort_unstable();
    all.dedup();
    (key(reference), all.join(","))
}

/// The repository of the same registry that a blob can be mounted from, going by its annotations:
/// the one whose name has most in common with the target's.
pub(crate) fn mount_candidate(target: &Reference, annotations: &Labels) -> Option<String> {
    let repositories = annotations.get(&key(target))?.split(',');
    let others = repositories.filter(|it| !it.is_empty() && *it != target.repository());
    others.max_by_key(|other| in_common(target.repository(), other)).map(str::to_owned)
}

fn key(reference: &Reference) -> String {
    let name = split_port(reference.host()).0.trim_matches(['[', ']']);
    format!("{}.{name}", labels::DISTRIBUTION_SOURCE)
}

fn in_common(a: &str, b: &str) -> usize {
    a.split('/').zip(b.split('/')).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn sources_are_added_once_and_sorted() {
        let (key, value) = distribution_source(&reference("r.io:5000/b:1"), Some("c,a"));
        assert_eq!(key, "containerd.io/distribution.source.r.io");
        assert_eq!(value, "a,b,c");
        assert_eq!(distribution_source(&reference("r.io/b"), Some("b")).1, "b");
    }

    #[test]
    fn the_nearest_other_repository_is_mounted_from() {
        let (key, _) = distribution_source(&reference("r.io/x"), None);
        let annotations = Labels::from([(key, "z,team/a,team/b".to_owned())]);
        let from = |target| mount_candidate(&reference(target), &annotations);
        assert_eq!(from("r.io/team/b:1").as_deref(), Some("team/a"));
        assert_eq!(from("other.io/team/b:1"), None);
    }
}
