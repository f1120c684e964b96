// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use trust::Evidence;
use types::Digest;

/// How long a pull may take from its first question to its image.
const LIFETIME: Duration = Duration::from_hours(1);
/// How many pulls may be under way.
const MAX_COUNT: usize = 1024;

/// Signatures that pulls under way have found with their own credentials, until the image is there
/// that they are kept beside.
#[derive(Default)]
pub(super) struct Found(Mutex<HashMap<Of, (Instant, Vec<Evidence>)>>);

/// A namespace, and an image in it.
type Of = (String, Digest);

impl Found {
    pub(super) fn remember(&self, namespace: &str, image: &Digest, evidence: Vec<Evidence>) {
        if evidence.is_empty() {
            return;
        }
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| since.elapsed() < LIFETIME);
        if all.len() < MAX_COUNT {
            all.insert((namespace.to_owned(), image.clone()), (Instant::now(), evidence));
        }
    }

    pub(super) fn of(&self, namespace: &str, image: &Digest) -> Vec<Evidence> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.get(&(namespace.to_owned(), image.clone()));
        found.map(|(_, evidence)| evidence.clone()).unwrap_or_default()
    }
}
