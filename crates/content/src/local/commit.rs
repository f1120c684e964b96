// SPDX-License-Identifier: Apache-2.0
//! How an ingest becomes a blob.
//!
//! ```text
//! check size and digest -> sync data -> rename -> sync directory -> remove ingest
//! ```
//!
//! A crash before the rename leaves an ingest, one after it a blob: never half of either.
use std::{
    collections::HashSet,
    io::ErrorKind,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use fs_err as fs;
use rustix::fs::{Mode, Timestamps};
use types::{Digest, Error, Labels, Result};

use super::{
    Shared,
    claims::Claim,
    layout::{self, Directory},
    seal,
    sink::Sink,
    timespec,
};
use crate::Expected;

/// What a commit needs, apart from the store.
pub(super) struct Commit {
    pub(super) claim: Claim,
    pub(super) directory: Directory,
    pub(super) sink: Sink,
    /// What the writer and the commit were told to expect.
    pub(super) expected: [Expected; 2],
    pub(super) labels: Labels,
}

impl Commit {
    /// Carries the commit out. The claim ends with it, whatever the outcome.
    pub(super) fn run(self, shared: &Shared) -> Result<Digest> {
        let digest = self.check()?;
        let turn = shared.turns.take(&digest);
        let target = shared.layout.blob(&digest);
        if target.try_exists()? {
            self.remove_ingest();
            return Err(Error::already_exists(format!("content {digest}")));
        }
        self.seal()?;
        let blobs = shared.layout.blobs(digest.algorithm());
        layout::make_all(&blobs)?;
        match fs::rename(self.directory.data(), &target) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.claim.aborted()),
            renamed => renamed?,
        }
        shared.syncs.of(digest.algorithm()).share(|| layout::sync_directory(&blobs))?;
        drop(turn);
        self.remove_ingest();
        self.label(shared, &digest);
        // The last that had it open for writing is this.
        drop(self.sink);
        if shared.seals
            && let Err(error) = seal::file(&target)
        {
            tracing::warn!(%error, %digest, "cannot seal a blob");
        }
        Ok(digest)
    }

    fn check(&self) -> Result<Digest> {
        types::labels::validate_all(&self.labels)?;
        if self.claim.is_aborted() {
            return Err(self.claim.aborted());
        }
        let mut digest = self.sink.digest(&[]);
        for expected in &self.expected {
            if let Some(want) = &expected.digest
                && want.algorithm() != digest.algorithm()
            {
                digest = self.sink.digest_by(want.algorithm())?;
            }
            expected.check(self.sink.len(), &digest)?;
        }
        Ok(digest)
    }

    /// Makes the data durable and read-only, as of now.
    fn seal(&self) -> Result<()> {
        let file = self.sink.file();
        let now = timespec(SystemTime::now());
        let times = Timestamps { last_access: now, last_modification: now };
        let set = rustix::fs::futimens(file, &times).and_then(|()| {
            let mode = Mode::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
            rustix::fs::fchmod(file, mode & Mode::from_raw_mode(0o444))
        });
        if let Err(error) = set {
            tracing::warn!(%error, "cannot set mode and times of a blob");
        }
        Ok(file.sync_all()?)
    }

    fn remove_ingest(&self) {
        if let Err(error) = self.directory.remove() {
            tracing::warn!(%error, "cannot remove a finished ingest");
        }
    }

    fn label(&self, shared: &Shared, digest: &Digest) {
        let Some(store) = &shared.labels else { return };
        let mut labels = self.labels.clone();
        labels.retain(|_, value| !value.is_empty());
        if let Err(error) = store.change(digest, &mut |now| now.clone_from(&labels)) {
            tracing::error!(%error, %digest, "cannot label a blob");
        }
    }
}

/// Lets one at a time change whether a blob exists, so that whoever finds it there finds it durable.
#[derive(Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<Digest>>,
    given_back: Condvar,
}

/// A turn at one digest, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    digest: Digest,
}

impl Turns {
    /// Waits for a turn at `digest`.
    pub(super) fn take(&self, digest: &Digest) -> Turn<'_> {
        let mut taken = self
            .given_back
            .wait_while(self.lock(), |taken| taken.contains(digest))
            .unwrap_or_else(PoisonError::into_inner);
        taken.insert(digest.clone());
        Turn { turns: self, digest: digest.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.digest);
        self.turns.given_back.notify_all();
    }
}
