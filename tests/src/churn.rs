// SPDX-License-Identifier: Apache-2.0
//! Many containers, one after the other and several at a time, and what they leave.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::procfs::memory;
use crate::{Ctr, Daemon, Failure, Outcome, ensure};

/// Containers between two looks at the daemon.
const ROUND: usize = 40;

/// What a daemon holds while it has nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Containers that came and went before.
    pub containers: usize,
    /// Private memory, in bytes.
    pub private: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Sockets of shims that are still there.
    pub sockets: usize,
}

/// How a churn went.
#[derive(Debug, Clone)]
pub struct Report {
    /// How long it took.
    pub elapsed: Duration,
    /// The daemon at rest, after each round.
    pub samples: Vec<Sample>,
}

impl Report {
    /// The bytes by which the daemon grows for each container, once it is warm: the slope of the
    /// line through the samples after the first third.
    #[expect(clippy::cast_precision_loss, reason = "containers and bytes are far below 2^52")]
    pub fn slope(&self) -> f64 {
        let warm = &self.samples[self.samples.len() / 3..];
        let point = |sample: &Sample| (sample.containers as f64, sample.private as f64);
        let count = warm.len().max(1) as f64;
        let (sum_x, sum_y) =
            warm.iter().map(point).fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b));
        let (mean_x, mean_y) = (sum_x / count, sum_y / count);
        let (over, under) = warm.iter().map(point).fold((0.0, 0.0), |(over, under), (x, y)| {
            (over + (x - mean_x) * (y - mean_y), under + (x - mean_x) * (x - mean_x))
        });
        if under > 0.0 { over / under } else { 0.0 }
    }

    /// Fails if the daemon holds more descriptors than after the first round, or a shim's socket
    /// is left.
    pub fn assert_clean(&self) -> Outcome {
        let (Some(first), Some(last)) = (self.samples.first(), self.samples.last()) else {
            return Err(Failure::new("nobody looked"));
        };
        // A connection of a client may just be closing.
        ensure!(last.descriptors <= first.descriptors + 2, "descriptors: {first:?}, {last:?}");
        ensure!(last.sockets == 0, "sockets of shims are left: {last:?}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.samples.last().copied().unwrap_or_default();
        for Sample { containers, private, descriptors, .. } in &self.samples {
            writeln!(f, "{containers:>6} {:>7} KiB {descriptors:>4} descriptors", private / 1024)?;
        }
        write!(
            f,
            "{} containers in {:.1} s, {:.0} bytes of the daemon for each",
            last.containers,
            self.elapsed.as_secs_f64(),
            self.slope()
        )
    }
}

/// Takes containers of `image` through their life, `at_once` of them at a time.
pub fn churn(daemon: &Daemon, image: &str, containers: usize, at_once: usize) -> Outcome<Report> {
    let started = Instant::now();
    let mut report = Report { elapsed: Duration::ZERO, samples: Vec::new() };
    let mut done = 0;
    while done < containers {
        let count = ROUND.min(containers - done);
        round(daemon, image, done..done + count, at_once)?;
        done += count;
        daemon.estate().assert_clean()?;
        report.samples.push(look(daemon, done)?);
    }
    report.elapsed = started.elapsed();
    Ok(report)
}

fn round(daemon: &Daemon, image: &str, numbers: std::ops::Range<usize>, at_once: usize) -> Outcome {
    let next = AtomicUsize::new(numbers.start);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once)
            .map(|_| {
                scope.spawn(|| {
                    let ctr = daemon.ctr();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= numbers.end {
                            return Ok(());
                        }
                        live(daemon, &ctr, image, number)?;
                    }
                })
            })
            .collect();
        let flat = |ended: thread::Result<Outcome>| {
            ended.unwrap_or_else(|_panic| Err(Failure::new("a worker panicked")))
        };
        workers.into_iter().map(thread::ScopedJoinHandle::join).try_for_each(flat)
    })
}

/// Create, start, exec, kill, delete.
fn live(daemon: &Daemon, ctr: &Ctr, image: &str, number: usize) -> Outcome {
    let id = daemon.estate().id(&format!("churn{number}"));
    ctr.ok(["run", "-d", "--null-io", image, &id, "sleep", "1000"])?;
    daemon.estate().note_sockets();
    let said = ctr.ok(["tasks", "exec", "--exec-id", &id, &id, "echo", "inside"])?;
    ensure!(said == "inside\n", "{id} said {said:?}");
    ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    // Its exit status is the task's.
    ctr.run(["tasks", "rm", "--force", &id])?;
    ctr.ok(["containers", "rm", &id]).map(drop)
}

fn look(daemon: &Daemon, containers: usize) -> Outcome<Sample> {
    let pid = daemon.pid()?;
    Ok(Sample {
        containers,
        private: memory(pid)?.private * 1024,
        descriptors: fs_err::read_dir(format!("/proc/{pid}/fd"))?.count(),
        sockets: daemon.estate().sockets().iter().filter(|path| path.exists()).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_a_warm_daemon() {
        let private = [90_000, 10_000, 10_400, 10_800, 11_200, 11_600];
        let samples = private.iter().zip(1..).map(|(private, round)| Sample {
            containers: round * 40,
            private: *private,
            ..Sample::default()
        });
        let report = Report { elapsed: Duration::ZERO, samples: samples.collect() };
        assert!((report.slope() - 10.0).abs() < 0.001, "{}", report.slope());
    }
}
