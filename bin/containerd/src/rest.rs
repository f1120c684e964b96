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

/// Less processor time than this since memory was given back has not taken much of it again.
const WORTH: Duration = Duration::from_millis(5);

/// Gives memory back whenever the daemon has come to rest.
pub(crate) async fn give_back_when_idle() -> Infallible {
    let (mut before, mut given_back) = (Duration::ZERO, Duration::ZERO);
    tokio::time::sleep(FIRST).await;
    loop {
        let used = processor_time();
        let is_first = given_back.is_zero();
        if is_first || (used < before + QUIET && used > given_back + WORTH) {
            memory::give_back();
            if let Err(error) = memory::let_go_of_code() {
                tracing::debug!(%error, "code stays in memory");
            }
            given_back = processor_time();
        }
        before = processor_time();
        tokio::time::sleep(LOOK).await;
    }
}

/// What all threads have used since the start, of which no clock tells less than before.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
