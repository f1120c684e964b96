// SPDX-License-Identifier: Apache-2.0
use types::Digest;

use crate::{Evidence, PublicKey};

/// Which of `keys` have signed `image`, by what was found. Each counts once, however often it is
/// listed and however many signatures of its there are.
pub fn signers<'a>(
    evidence: &[Evidence],
    image: &Digest,
    keys: impl IntoIterator<Item = (&'a str, &'a PublicKey)>,
) -> Vec<&'a str> {
    let mut seen: Vec<&PublicKey> = Vec::new();
    let mut names = Vec::new();
    for (name, key) in keys {
        if !seen.contains(&key) && evidence.iter().any(|it| it.is_by(key, image)) {
            seen.push(key);
            names.push(name);
        }
    }
    names
}
