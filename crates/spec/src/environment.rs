// SPDX-License-Identifier: Apache-2.0

/// `base` with `changes` made to it: `KEY=value` replaces or adds, `KEY` alone removes
/// (containerd `pkg/oci/spec_opts.go`, `replaceOrAppendEnvValues`).
pub(crate) fn merge(base: &[String], changes: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = base.to_vec();
    for change in changes {
        // The last one of a key in the base is the one that counts; later changes only add.
        let known = base.iter().rposition(|entry| key(entry) == key(change));
        match (known, change.contains('=')) {
            (Some(at), true) => merged[at].clone_from(change),
            (Some(at), false) => merged[at].clear(),
            (None, true) => merged.push(change.clone()),
            (None, false) => {}
        }
    }
    merged.retain(|entry| !entry.is_empty());
    merged
}

fn key(entry: &str) -> &str {
    entry.split('=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_replaces_adds_or_removes() {
        let own = |entries: &[&str]| entries.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let base = own(&["A=1", "B=2", "C=3"]);
        let merged = merge(&base, &own(&["B=x", "C", "D=4", "E"]));
        assert_eq!(merged, ["A=1", "B=x", "D=4"]);
        assert_eq!(merge(&own(&["A=1", "A=2"]), &own(&["A=3"])), ["A=1", "A=3"]);
    }
}
