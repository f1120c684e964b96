// SPDX-License-Identifier: Apache-2.0
//! What all downloads of a client share: how many there may be, and how fast.
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use types::{Error, Result};

use crate::transport::locked;

/// How blobs are moved. The names in a config file are containerd's
/// (`plugins/transfer/plugin.go`) where it has the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfers {
    /// How many blobs, or parts of blobs, are downloaded at once over all pulls; 0 is no limit
    /// (`max_concurrent_downloads`). A stream counts until it is dropped.
    pub downloads: usize,
    /// The size of the parts in which a large blob is downloaded, several of them at once; 0 is all
    /// of it in one piece (`concurrent_layer_fetch_buffer`). Up to `parts` such buffers are held.
    pub part: u64,
    /// How many parts of one blob are under way at once.
    pub parts: usize,
    /// How many bytes a second all downloads may take together; 0 is no limit.
    pub bandwidth: u64,
    /// Up to how many bytes a blob is held, and sent at once; and the size of the pieces in which a
    /// larger one is uploaded where registries take no streams. One piece is held for each upload,
    /// and sent again when its connection breaks. 0 sends it in one piece, which cannot be.
    pub upload_chunk: u64,
    /// Whether a large blob is uploaded in one stream, of which nothing is held: where it breaks,
    /// whoever writes goes on from where the registry is.
    pub upload_stream: bool,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            downloads: 0,
            part: 0,
            parts: 3,
            bandwidth: 0,
            upload_chunk: 8 << 20,
            upload_stream: true,
        }
    }
}

/// The permits and the clock of all downloads.
pub(crate) struct Limits {
    slots: Option<Arc<Semaphore>>,
    bandwidth: u64,
    /// Until when what was received has used up the bandwidth.
    busy: Mutex<Instant>,
}

/// A download's place among those that may be under way.
pub(crate) struct Slot {
    /// Given back when dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Limits {
    pub(crate) fn new(transfers: &Transfers) -> Self {
        let slots = transfers.downloads.min(Semaphore::MAX_PERMITS);
        Self {
            slots: (slots > 0).then(|| Arc::new(Semaphore::new(slots))),
            bandwidth: transfers.bandwidth,
            busy: Mutex::new(Instant::now()),
        }
    }

    /// Waits until another download may begin.
    pub(crate) async fn slot(&self) -> Result<Slot> {
        let Some(slots) = &self.slots else { return Ok(Slot { _permit: None }) };
        let slot = Arc::clone(slots).acquire_owned().await;
        slot.map(|slot| Slot { _permit: Some(slot) })
            .map_err(|closed| Error::internal(closed.to_string()))
    }

    /// A place for one more download, if there is one now.
    pub(crate) fn spare_slot(&self) -> Option<Slot> {
        let Some(slots) = &self.slots else { return Some(Slot { _permit: None }) };
        Arc::clone(slots).try_acquire_owned().ok().map(|slot| Slot { _permit: Some(slot) })
    }

    /// Waits until `bytes` that were received fit into the bandwidth.
    pub(crate) async fn received(&self, bytes: usize) {
        if self.bandwidth > 0 {
            sleep(self.owed(bytes as u64, Instant::now())).await;
        }
    }

    /// How long to wait for `bytes` at `now`. What nobody used is gone, so that no burst follows.
    fn owed(&self, bytes: u64, now: Instant) -> Duration {
        let mut busy = locked(&self.busy);
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bandwidth);
        *busy = (*busy).max(now) + cost;
        *busy - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_downloads_together_keep_to_the_bandwidth() {
        let limits = Limits::new(&Transfers { bandwidth: 1000, ..Transfers::default() });
        let now = Instant::now();
        assert_eq!(limits.owed(500, now), Duration::from_millis(500));
        assert_eq!(limits.owed(500, now), Duration::from_secs(1));
        // What was not used in the meantime is not made up for.
        assert_eq!(limits.owed(100, now + Duration::from_mins(1)), Duration::from_millis(100));
    }

    #[tokio::test]
    async fn there_are_as_many_slots_as_downloads() {
        let limits = Limits::new(&Transfers { downloads: 1, ..Transfers::default() });
        let slot = limits.slot().await.unwrap();
        assert!(limits.spare_slot().is_none());
        drop(slot);
        assert!(limits.spare_slot().is_some());
        assert!(Limits::new(&Transfers::default()).spare_slot().is_some());
    }
}
