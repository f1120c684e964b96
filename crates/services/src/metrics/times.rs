// SPDX-License-Identifier: Apache-2.0
//! How long things took, in the columns of a histogram.
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{Page, labels};

/// The most seconds that something of each column took; whatever took longer is in the last one.
/// These are what Go's programs have where nobody says otherwise (`prometheus.DefBuckets`).
const BOUNDS: [(&str, f64); 11] = [
    ("0.005", 0.005),
    ("0.01", 0.01),
    ("0.025", 0.025),
    ("0.05", 0.05),
    ("0.1", 0.1),
    ("0.25", 0.25),
    ("0.5", 0.5),
    ("1", 1.0),
    ("2.5", 2.5),
    ("5", 5.0),
    ("10", 10.0),
];

/// A histogram.
#[derive(Debug, Default)]
pub(super) struct Times {
    columns: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Times {
    /// Something took so long.
    pub(super) fn add(&self, took: Duration) {
        let column = BOUNDS.iter().position(|(_, bound)| took.as_secs_f64() <= *bound);
        self.columns[column.unwrap_or(BOUNDS.len())].fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(took, Ordering::Relaxed);
    }

    /// Puts it on a page: one family of three kinds of samples.
    pub(super) fn tell(
        &self,
        page: &mut Page,
        name: &str,
        help: &'static str,
        own: &[(&str, &str)],
    ) {
        let mut add = |sample: &str, more: &[(&str, &str)], value: f64| {
            let labels = labels(&[own, more].concat());
            page.add(name, help, "histogram", format!("_{sample}{labels}"), value);
        };
        let mut below = 0;
        let bounds = BOUNDS.iter().map(|(text, _)| *text).chain(["+Inf"]);
        for (bound, column) in bounds.zip(&self.columns) {
            below += column.load(Ordering::Relaxed);
            add("bucket", &[("le", bound)], below as f64);
        }
        let spent = Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed));
        add("sum", &[], spent.as_secs_f64());
        add("count", &[], below as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_tell_how_many_took_no_longer() {
        let times = Times::default();
        for milliseconds in [1, 10, 11, 60_000] {
            times.add(Duration::from_millis(milliseconds));
        }
        let mut page = Page::default();
        times.tell(&mut page, "a_seconds", "of a", &[]);
        let text = page.text();
        for line in [
            "# TYPE a_seconds histogram",
            "a_seconds_bucket{le=\"0.005\"} 1",
            "a_seconds_bucket{le=\"0.01\"} 2",
            "a_seconds_bucket{le=\"0.025\"} 3",
            "a_seconds_bucket{le=\"10\"} 3",
            "a_seconds_bucket{le=\"+Inf\"} 4",
            "a_seconds_sum 60.022",
            "a_seconds_count 4",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }
}
