// SPDX-License-Identifier: Apache-2.0
//! Giving back the memory that only work needed, once the daemon is left alone.
//!
//! The start alone runs through most of the code, and most of that never again; the pages that are
//! wanted after all come back from the page cache, in less than a millisecond for all of them.
use std::{convert::Infallible, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use sys::memory;

/// How often it is looked whether the daemon is left alone, and so how long that has to last.
const LOOK: Duration = Duration::from_secs(5);

/// The first look is soon: after the start there is most to give back.
const FIRST: Duration = Duration::from_secs(1);

/// As little processor time as this in one look's time is being left alone.
const QUIET: Duration = Duration::from_millis(10);

/// Memory is worth giving back once so many more pages are there than after the last time: 1 MiB.
const WORTH: u64 = 256;

/// Gives memory back whenever the daemon has come to rest.
pub(crate) async fn give_back_when_idle() -> Infallible {
    let (mut before, mut left) = (Duration::ZERO, None);
    tokio::time::sleep(FIRST).await;
    loop {
        let is_quiet = processor_time() < before + QUIET;
        if left.is_none_or(|left| is_quiet && resident() > left + WORTH) {
            memory::give_back();
            if let Err(error) = memory::let_go_of_code() {
                tracing::debug!(%error, "code stays in memory");
            }
            left = Some(resident());
        }
        before = processor_time();
        tokio::time::sleep(LOOK).await;
    }
}

/// The pages that are in memory; none if the kernel does not tell, and then nothing is worth it.
fn resident() -> u64 {
    let statm = fs_err::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default()
}

/// What all threads have used since the start, of which no clock tells less than before.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
