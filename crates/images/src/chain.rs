// SPDX-License-Identifier: Apache-2.0
use types::Digest;

/// The chain IDs of a root filesystem's layers, lowest first: each names a layer together with all
/// that are beneath it (OCI image spec, config.md, "Layer `ChainID`").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            Some(parent) => Digest::of(format!("{parent} {diff_id}")),
            None => diff_id.clone(),
        });
    }
    chain
}

/// The chain ID of a whole root filesystem; `None` when it has no layers.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    chain_ids(diff_ids).pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_layer_is_its_own_chain_and_each_further_one_hashes_its_parents() {
        let [a, b, c] = ["a", "b", "c"].map(Digest::of);
        let chain = chain_ids(&[a.clone(), b.clone(), c.clone()]);
        let ab = Digest::of(format!("{a} {b}"));
        let abc = Digest::of(format!("{ab} {c}"));
        assert_eq!(chain, [a.clone(), ab, abc.clone()]);
        assert_eq!(chain_id(&[a, b, c]), Some(abc));
        assert_eq!(chain_id(&[]), None);
    }
}
