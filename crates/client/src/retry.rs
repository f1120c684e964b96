// SPDX-License-Identifier: Apache-2.0
//! Trying again.
use std::time::Duration;

use types::{Error, Kind};

/// How often in a row something is tried that does not get any further.
const ATTEMPTS: u32 = 5;
/// The first wait; each further one is twice as long.
const BASE: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(5);

/// Counts how often a transfer broke without having got any further.
#[derive(Debug, Default)]
pub(crate) struct Retry {
    fruitless: u32,
    furthest: u64,
}

impl Retry {
    /// How long to wait before the next attempt, after one that got to `offset` and then failed;
    /// `None` when it is of no use.
    pub(crate) fn wait(&mut self, error: &Error, offset: u64) -> Option<Duration> {
        // `Aborted` is an ingest that somebody else threw away, because it was spoiled.
        if !matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded | Kind::Aborted) {
            return None;
        }
        if offset > self.furthest {
            (self.fruitless, self.furthest) = (0, offset);
        }
        self.fruitless += 1;
        (self.fruitless < ATTEMPTS).then(|| (BASE * (1 << (self.fruitless - 1))).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gets_further_may_go_on_and_what_does_not_is_given_up() {
        let mut retry = Retry::default();
        let cut = Error::unavailable("cut");
        for offset in 1..20 {
            assert_eq!(retry.wait(&cut, offset), Some(BASE));
        }
        assert_eq!(retry.wait(&cut, 19), Some(BASE * 2));
        assert_eq!(retry.wait(&cut, 3), Some(BASE * 4));
        assert_eq!(retry.wait(&cut, 19), Some(BASE * 8));
        assert_eq!(retry.wait(&cut, 19), None);
    }

    #[test]
    fn what_will_not_pass_is_not_tried_again() {
        assert_eq!(Retry::default().wait(&Error::not_found("blob"), 1), None);
    }
}
