// SPDX-License-Identifier: Apache-2.0
//! When to collect: a pure function of what has happened.
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::History;
use crate::db::Pressure;

/// A collection is counted as at least this long, so that short ones do not follow each other
/// closely (containerd `plugins/gc/scheduler.go`, `minimumGCTime`).
const SHORTEST: Duration = Duration::from_millis(5);

/// When garbage is collected: the knobs of containerd's `[plugins."io.containerd.gc.v1.scheduler"]`,
/// with its defaults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// What part of the time may go into collections that nobody asked for: 0.02 is 20 ms of every
    /// second. At most 0.5; 0 means one collection a second.
    pub pause_threshold: f64,
    /// After how many deletions to collect without regard to that; 0 for never.
    pub deletion_threshold: u64,
    /// After how many changes to collect although nothing was deleted; 0 for never.
    pub mutation_threshold: u64,
    /// How long to wait when the deletion threshold is reached.
    pub schedule_delay: Duration,
    /// How long after the start to collect for the first time; zero for not before there is a
    /// reason.
    pub startup_delay: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

impl Schedule {
    /// When the next collection is due, as things stand. An idle daemon has nothing due but what
    /// expires.
    pub(super) fn due(
        &self,
        started: Instant,
        pressure: &Pressure,
        history: &History,
        now: (Instant, SystemTime),
    ) -> Option<Instant> {
        let first = (history.ended.is_none() && !self.startup_delay.is_zero())
            .then(|| started + self.startup_delay);
        let earliest = history.ended.map_or(started, |ended| ended + self.interval(history));
        let is_pressing =
            self.deletion_threshold > 0 && pressure.deletions >= self.deletion_threshold;
        let pressed = pressure
            .deleted_at
            .filter(|_| is_pressing && history.failures == 0)
            .map(|deleted| deleted + self.schedule_delay);
        let is_reason = pressure.deletions > 0
            || (self.mutation_threshold > 0 && pressure.mutations >= self.mutation_threshold)
            || history.failures > 0;
        let expired = pressure.expires.map(|time| earliest.max(at(time, now)));
        [first, pressed, is_reason.then_some(earliest), expired].into_iter().flatten().min()
    }

    /// How long to leave between collections, so that on average no more than the part of time
    /// allowed goes into them. After a failure it is longer, and ever more so.
    fn interval(&self, history: &History) -> Duration {
        let retry = match history.failures {
            0 => Duration::ZERO,
            failures => Duration::from_secs(1 << failures.min(8)),
        };
        let part = self.pause_threshold.clamp(0.0, 0.5);
        if part == 0.0 || history.count == 0 {
            return retry + Duration::from_secs(1);
        }
        let average = (history.spent / history.count).max(SHORTEST);
        retry + average.div_f64(part).saturating_sub(average)
    }
}

/// When the clock on the wall will show `time`, just past it.
fn at(time: SystemTime, (now, wall): (Instant, SystemTime)) -> Instant {
    now + time.duration_since(wall).unwrap_or_default() + Duration::from_millis(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Checks when a collection is due, in milliseconds after the start. The last one, if any,
    /// ended at 1000; deletions happened at 1010; the time is 1020.
    #[track_caller]
    fn check(schedule: Schedule, deletions: u64, mutations: u64, ended: bool, want: Option<u64>) {
        let started = Instant::now();
        let pressure = Pressure {
            deletions,
            mutations,
            deleted_at: (deletions > 0).then(|| started + 1010 * MS),
            ..Pressure::default()
        };
        let ended = ended.then(|| started + 1000 * MS);
        let history =
            History { ended, count: ended.is_some().into(), spent: MS, ..History::default() };
        let now = (started + 1020 * MS, SystemTime::UNIX_EPOCH);
        let due = schedule.due(started, &pressure, &history, now);
        assert_eq!(due.map(|due| (due - started).as_millis() as u64), want);
    }

    #[test]
    fn the_first_collection_is_soon_after_the_start() {
        check(Schedule::default(), 0, 0, false, Some(100));
        let patient = Schedule { startup_delay: Duration::ZERO, ..Schedule::default() };
        check(patient, 0, 0, false, None);
        check(patient, 1, 1, false, Some(0));
    }

    #[test]
    fn nothing_is_due_when_nothing_happened() {
        check(Schedule::default(), 0, 0, true, None);
        check(Schedule::default(), 0, 99, true, None);
    }

    #[test]
    fn a_deletion_is_collected_when_the_pause_allows() {
        check(Schedule::default(), 1, 1, true, Some(1245));
        check(Schedule::default(), 0, 100, true, Some(1245));
        let often = Schedule { pause_threshold: 0.5, ..Schedule::default() };
        check(often, 1, 1, true, Some(1005));
    }

    #[test]
    fn many_deletions_do_not_wait() {
        let delay =
            Schedule { deletion_threshold: 3, schedule_delay: 7 * MS, ..Schedule::default() };
        check(delay, 2, 2, true, Some(1245));
        check(delay, 3, 3, true, Some(1017));
    }

    #[test]
    fn what_expires_is_collected_when_it_does() {
        let started = Instant::now();
        let history = History { ended: Some(started), count: 1, spent: MS, ..History::default() };
        let wall = SystemTime::UNIX_EPOCH;
        let expires = Some(wall + 60_000 * MS);
        let pressure = Pressure { expires, ..Pressure::default() };
        let due = Schedule::default().due(started, &pressure, &history, (started, wall));
        assert_eq!(due, Some(started + 60_001 * MS));
    }
}
