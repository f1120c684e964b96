// SPDX-License-Identifier: Apache-2.0
//! Which hosts are worth asking first. A mirror that is dead costs the first request its deadline,
//! and the others nothing: it is asked last for a while, and then by one request to see.
use std::{
    collections::HashMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::{Host, transport::locked};

/// How long a host is asked last after it did not answer once; each further time twice as long.
const PAUSE: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_mins(5);

/// What is known of hosts that did not answer.
#[derive(Default)]
pub(crate) struct Health {
    sick: Mutex<HashMap<String, Sick>>,
}

struct Sick {
    failures: u32,
    until: Instant,
}

impl Health {
    /// Notes that `host` could not be reached.
    pub(crate) fn failed(&self, host: &str) {
        self.failed_at(host, Instant::now());
    }

    fn failed_at(&self, host: &str, now: Instant) {
        let mut sick = locked(&self.sick);
        let entry = sick.entry(host.to_owned()).or_insert_with(|| Sick { failures: 0, until: now });
        entry.failures = entry.failures.saturating_add(1);
        entry.until = now + pause(entry.failures);
    }

    /// Notes that `host` answered, whatever it said.
    pub(crate) fn well(&self, host: &str) {
        locked(&self.sick).remove(host);
    }

    /// Whether `host` is better left alone now. Once its time is over, whoever asks first is told
    /// that it is not, and finds out.
    fn is_sick(&self, host: &str, now: Instant) -> bool {
        match locked(&self.sick).get_mut(host) {
            Some(sick) if now < sick.until => true,
            Some(sick) => {
                sick.until = now + pause(sick.failures);
                false
            }
            None => false,
        }
    }

    /// The hosts of `all` in the order to try them: those that did not answer come last. Where there
    /// is another one to go to, connecting may take no longer than `detour`.
    pub(crate) fn order<T>(
        &self,
        all: Vec<T>,
        detour: Duration,
        host: impl Fn(&mut T) -> &mut Host,
    ) -> Vec<T> {
        if all.len() < 2 {
            return all;
        }
        let now = Instant::now();
        // Each is asked once: the answer may be that it is for this request to find out.
        let mut judged: Vec<_> =
            all.into_iter().map(|mut it| (self.is_sick(&host(&mut it).host, now), it)).collect();
        judged.sort_by_key(|(is_sick, _)| *is_sick);
        let mut all: Vec<_> = judged.into_iter().map(|(_, it)| it).collect();
        let before_last = all.len() - 1;
        for it in &mut all[..before_last] {
            host(it).connect_timeout.get_or_insert(detour);
        }
        all
    }
}

fn pause(failures: u32) -> Duration {
    (PAUSE * (1 << failures.saturating_sub(1).min(8))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scheme;

    fn order(health: &Health, names: &[&str]) -> Vec<String> {
        let hosts = names.iter().map(|name| Host::new(Scheme::Http, *name)).collect();
        let ordered = health.order(hosts, Duration::from_secs(5), |host| host);
        ordered.into_iter().map(|host| host.host).collect()
    }

    #[test]
    fn a_host_that_did_not_answer_is_asked_last_until_it_does() {
        let health = Health::default();
        health.failed("a");
        assert_eq!(order(&health, &["a", "b", "c"]), ["b", "c", "a"]);
        health.well("a");
        assert_eq!(order(&health, &["a", "b", "c"]), ["a", "b", "c"]);
    }

    #[test]
    fn after_a_while_one_request_finds_out() {
        let (health, then) = (Health::default(), Instant::now());
        health.failed_at("a", then);
        assert!(health.is_sick("a", then + PAUSE / 2));
        assert!(!health.is_sick("a", then + PAUSE));
        assert!(health.is_sick("a", then + PAUSE));
        assert!(!health.is_sick("b", then));
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<_> = [1, 2, 3, 99].map(|failures| pause(failures).as_secs()).into();
        assert_eq!(pauses, [10, 20, 40, 300]);
    }

    #[test]
    fn only_where_there_is_another_host_is_connecting_cut_short() {
        let health = Health::default();
        let hosts = ["a", "b"].map(|name| Host::new(Scheme::Http, name)).into();
        let limits = health.order(hosts, PAUSE, |host| host).into_iter();
        let limits: Vec<_> = limits.map(|host| host.connect_timeout).collect();
        assert_eq!(limits, [Some(PAUSE), None]);
    }
}
