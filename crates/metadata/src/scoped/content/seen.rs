// SPDX-License-Identifier: Apache-2.0
//! The blobs of which pieces were read last, so that the database is not asked about each piece.
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use types::{Digest, Scope};

/// How many are remembered: as many as are read at the same time, more or less.
const KEPT: usize = 32;

/// Who sees which blob, as of a state of the database.
///
/// Any commit makes all of it void, so nothing has to be taken out when a blob goes: an answer from
/// here is one that the database would give.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    recent: Mutex<VecDeque<Entry>>,
}

#[derive(Debug)]
struct Entry {
    namespace: String,
    digest: Digest,
    commits: u64,
}

impl Seen {
    /// Whether the namespace was found to see the blob when the database had changed that often.
    pub(super) fn has(&self, scope: &Scope, digest: &Digest, commits: u64) -> bool {
        self.recent().iter().any(|it| it.commits == commits && it.is(scope, digest))
    }

    /// Remembers that it does, in place of the one that was found longest ago.
    pub(super) fn add(&self, scope: &Scope, digest: &Digest, commits: u64) {
        let (namespace, digest) = (scope.namespace().to_owned(), digest.clone());
        let mut recent = self.recent();
        recent.retain(|it| it.commits >= commits && !it.is(scope, &digest));
        recent.truncate(KEPT - 1);
        recent.push_front(Entry { namespace, digest, commits });
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is(&self, scope: &Scope, digest: &Digest) -> bool {
        self.namespace == scope.namespace() && self.digest == *digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(name: &str) -> Scope {
        Scope::new(name).unwrap()
    }

    #[test]
    fn what_was_seen_is_seen_until_the_next_commit_by_the_same_namespace() {
        let (seen, digest) = (Seen::default(), Digest::of(b"x"));
        seen.add(&scope("a"), &digest, 7);
        assert!(seen.has(&scope("a"), &digest, 7));
        assert!(!seen.has(&scope("b"), &digest, 7));
        assert!(!seen.has(&scope("a"), &Digest::of(b"y"), 7));
        assert!(!seen.has(&scope("a"), &digest, 8));
    }

    #[test]
    fn only_so_many_are_remembered_and_none_of_the_past() {
        let seen = Seen::default();
        let digest = |it: usize| Digest::of(it.to_be_bytes());
        for it in 0..=KEPT {
            seen.add(&scope("a"), &digest(it), 1);
        }
        assert!(!seen.has(&scope("a"), &digest(0), 1));
        assert!(seen.has(&scope("a"), &digest(1), 1) && seen.has(&scope("a"), &digest(KEPT), 1));
        seen.add(&scope("a"), &digest(0), 2);
        assert_eq!(seen.recent().len(), 1);
    }
}
