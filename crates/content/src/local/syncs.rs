// SPDX-License-Identifier: Apache-2.0
//! One sync of a directory for all who gave names in it meanwhile.
use std::{
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use types::Algorithm;

/// The syncs of the directories of blobs.
#[derive(Debug, Default)]
pub(super) struct Syncs {
    sha256: Group,
    sha512: Group,
}

impl Syncs {
    pub(super) fn of(&self, algorithm: Algorithm) -> &Group {
        match algorithm {
            Algorithm::Sha256 => &self.sha256,
            Algorithm::Sha512 => &self.sha512,
        }
    }
}

/// Those who want the same directory synced.
#[derive(Debug, Default)]
pub(super) struct Group {
    asked: AtomicU64,
    /// How many of those who asked have been served.
    served: Mutex<u64>,
}

impl Group {
    /// Answers when a `sync` is done that began after this was called: one's own, or another's.
    pub(super) fn share(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mine = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if *served >= mine {
            return Ok(());
        }
        // Whoever has asked by now has given the name by now.
        let now = self.asked.load(Ordering::SeqCst);
        sync()?;
        *served = now;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread};

    use super::*;

    #[test]
    fn those_who_wait_share_the_next_sync() {
        let (group, syncs) = (Group::default(), AtomicUsize::new(0));
        let slowly = || {
            syncs.fetch_add(1, Ordering::SeqCst);
            // The first one takes until all others have asked.
            while group.asked.load(Ordering::SeqCst) < 8 {
                thread::yield_now();
            }
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| group.share(slowly).unwrap());
            }
        });
        // The first may have begun too early for some of the others.
        assert!(syncs.into_inner() <= 2);
    }

    #[test]
    fn a_sync_that_failed_serves_nobody() {
        let group = Group::default();
        assert!(group.share(|| Err(io::ErrorKind::Other.into())).is_err());
        let mut is_done = false;
        group
            .share(|| {
                is_done = true;
                Ok(())
            })
            .unwrap();
        assert!(is_done);
    }
}
