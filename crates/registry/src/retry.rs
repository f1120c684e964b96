// SPDX-License-Identifier: Apache-2.0
use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

use http::StatusCode;

/// How often to try again, and how long to wait before.
#[derive(Clone, Debug)]
pub struct Retry {
    /// How many times something is tried in all. A transfer that makes progress starts counting anew.
    pub attempts: u32,
    /// The first wait; each further one is twice as long.
    pub base: Duration,
    /// The longest wait. A registry that asks for a longer one is given up on at once.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        let base = Duration::from_millis(250);
        Self { attempts: 5, base, longest: Duration::from_secs(30) }
    }
}

impl Retry {
    /// How long to wait after `failures` failures in a row; `None` to give up.
    pub(crate) fn wait(&self, failures: u32, asked: Option<Duration>) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doublings = failures.saturating_sub(1).min(16);
        let own = (self.base * (1 << doublings)).min(self.longest);
        match asked {
            Some(asked) => (asked <= self.longest).then(|| asked.max(own)),
            None => Some(own),
        }
    }
}

/// A wait that is up to a quarter longer, so that those who failed together do not come back together.
pub(crate) fn spread(wait: Duration) -> Duration {
    let chance = RandomState::new().build_hasher().finish() % 1024;
    wait + wait / 4 * chance as u32 / 1024
}

/// Whether a status may be another one if asked again (containerd `core/remotes/docker/resolver.go`,
/// `retryRequest`). A host that is broken is only asked again if there is no other to ask; one that
/// is merely busy is given its time.
pub(crate) fn may_pass(status: StatusCode, last_host: bool) -> bool {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => last_host,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_end() {
        let retry =
            Retry { attempts: 4, base: Duration::from_secs(1), longest: Duration::from_secs(3) };
        let waits: Vec<_> = (1..=4).map(|failures| retry.wait(failures, None)).collect();
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(waits, [seconds(1), seconds(2), seconds(3), None]);
    }

    #[test]
    fn waits_are_spread_but_never_shorter() {
        let wait = Duration::from_secs(4);
        let waits: Vec<_> = (0..100).map(|_| spread(wait)).collect();
        assert!(waits.iter().all(|it| (wait..=wait * 5 / 4).contains(it)));
        assert!(waits.iter().any(|it| *it != waits[0]));
    }

    #[test]
    fn a_registry_is_given_the_time_it_asks_for_within_reason() {
        let retry = Retry::default();
        let seconds = Duration::from_secs;
        assert_eq!(retry.wait(1, Some(seconds(7))), Some(seconds(7)));
        assert_eq!(retry.wait(1, Some(seconds(0))), Some(retry.base));
        assert_eq!(retry.wait(1, Some(seconds(3600))), None);
    }
}
