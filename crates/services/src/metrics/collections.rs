// SPDX-License-Identifier: Apache-2.0
//! How often garbage was collected and how long that took (containerd `plugins/gc/metrics.go`).
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Page, labels, times::Times};

/// Collections of garbage.
#[derive(Debug, Default)]
pub struct Collections {
    succeeded: AtomicU64,
    failed: AtomicU64,
    times: Times,
}

impl Collections {
    /// One has ended. Only of those that went well it is told how long they took, as in Go.
    pub fn add(&self, took: Duration, went_well: bool) {
        if went_well {
            self.succeeded.fetch_add(1, Ordering::Relaxed);
            self.times.add(took);
        } else {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Puts all that is known on a page. What never happened is left out.
    pub fn tell(&self, page: &mut Page) {
        for (status, count) in [("success", &self.succeeded), ("fail", &self.failed)] {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let labels = labels(&[("status", status)]);
                let name = "containerd_gc_collections_total";
                let help = "counter of gc scheduler collections";
                page.add(name, help, "counter", labels, count as f64);
            }
        }
        let help = "duration of gc scheduler collections";
        self.times.tell(page, "containerd_gc_gc_seconds", help, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_are_told_by_how_they_went() {
        let collections = Collections::default();
        collections.add(Duration::from_millis(3), true);
        collections.add(Duration::from_secs(3), false);
        let mut page = Page::default();
        collections.tell(&mut page);
        let text = page.text();
        for line in [
            "containerd_gc_collections_total{status=\"success\"} 1",
            "containerd_gc_collections_total{status=\"fail\"} 1",
            "containerd_gc_gc_seconds_bucket{le=\"0.005\"} 1",
            "containerd_gc_gc_seconds_count 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
