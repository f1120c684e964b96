// SPDX-License-Identifier: Apache-2.0
//! Many containers, one after the other and several at a time, and what they leave.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::procfs::memory;
use crate::{Ctr, Daemon, Failure, Outcome, ensure};

/// How containers come and go.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How many there are at a time.
    pub at_once: usize,
    /// How many come and go between two looks at the daemon.
    pub round: usize,
    /// How long the daemon is left alone before each look, in which it can give back what it does
    /// not need any more.
    pub rest: Duration,
}

/// What a daemon holds while it has nothing to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Containers that came and went before.
    pub containers: usize,
    /// Memory that it has written, in KiB.
    pub written: u64,
    /// Open file descriptors.
    pub descriptors: usize,
    /// Those of them that keep a namespace of somebody alive.
    pub namespaces: usize,
    /// Sockets of shims that are still there.
    pub sockets: usize,
}

/// How a churn went.
#[derive(Debug, Clone)]
pub struct Report {
    /// How long it took.
    pub elapsed: Duration,
    /// The daemon at rest, before the first and after each round.
    pub samples: Vec<Sample>,
    /// What it has open in the end that it had not after the first round.
    pub opened: Vec<String>,
}

impl Report {
    /// The KiB by which the daemon grows for a hundred containers once it is warm: the slope of
    /// the line through the samples of the second half.
    #[expect(clippy::cast_precision_loss, reason = "containers and KiB are far below 2^52")]
    pub fn slope(&self) -> f64 {
        let warm = &self.samples[self.samples.len() / 2..];
        let point = |sample: &Sample| (sample.containers as f64, sample.written as f64);
        let count = warm.len().max(1) as f64;
        let (sum_x, sum_y) =
            warm.iter().map(point).fold((0.0, 0.0), |(x, y), (a, b)| (x + a, y + b));
        let (mean_x, mean_y) = (sum_x / count, sum_y / count);
        let (over, under) = warm.iter().map(point).fold((0.0, 0.0), |(over, under), (x, y)| {
            (over + (x - mean_x) * (y - mean_y), under + (x - mean_x) * (x - mean_x))
        });
        if under > 0.0 { over / under * 100.0 } else { 0.0 }
    }

    /// Fails if the daemon holds more descriptors than after the first round, a namespace, or a
    /// shim's socket is left.
    pub fn assert_clean(&self) -> Outcome {
        let (Some(first), Some(last)) = (self.samples.get(1), self.samples.last()) else {
            return Err(Failure::new("nobody looked"));
        };
        // Databases keep a few connections for those who read next, of three files each, and a client
        // may just be leaving.
        let opened = self.opened.iter().filter(|file| !file.contains(".sqlite")).count();
        let is_bounded = last.descriptors <= first.descriptors + 12;
        ensure!(opened <= 2 && is_bounded, "opened: {:?}", self.opened);
        ensure!(last.namespaces == 0, "the daemon holds namespaces: {last:?}");
        ensure!(last.sockets == 0, "sockets of shims are left: {last:?}");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.samples.first(), self.samples.last());
        let (first, last) = (first.copied().unwrap_or_default(), last.copied().unwrap_or_default());
        for Sample { containers, written, descriptors, .. } in &self.samples {
            writeln!(f, "{containers:>6} {written:>7} KiB {descriptors:>4} descriptors")?;
        }
        write!(
            f,
            "{} containers in {:.1} s; descriptors {} before, {} after; {:.0} KiB of the daemon for \
             a hundred",
            last.containers,
            self.elapsed.as_secs_f64(),
            first.descriptors,
            last.descriptors,
            self.slope()
        )
    }
}

/// Takes containers of `image` through their life.
pub fn churn(daemon: &Daemon, image: &str, containers: usize, pace: Pace) -> Outcome<Report> {
    let Pace { at_once, round: length, rest } = pace;
    let started = Instant::now();
    let samples = vec![look(daemon, 0, rest)?];
    let mut report = Report { elapsed: Duration::ZERO, samples, opened: Vec::new() };
    let (mut done, mut first) = (0, Vec::new());
    while done < containers {
        let count = length.min(containers - done);
        round(daemon, image, done..done + count, at_once)?;
        done += count;
        daemon.estate().assert_clean()?;
        report.samples.push(look(daemon, done, rest)?);
        if done == count {
            first = open_files(daemon.pid()?)?;
        }
    }
    report.opened = added(&first, open_files(daemon.pid()?)?);
    report.elapsed = started.elapsed();
    assert_forgotten(daemon)?;
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

/// Fails if the daemon still has a record of any container: of itself, its task, what it wrote or
/// what kept that.
fn assert_forgotten(daemon: &Daemon) -> Outcome {
    let ctr = daemon.ctr();
    for words in [["containers", "ls", "-q"], ["tasks", "ls", "-q"], ["leases", "ls", "-q"]] {
        let left = ctr.lines(words)?;
        ensure!(left.is_empty(), "{words:?} still shows {left:?}");
    }
    let active = ctr.lines(["snapshots", "ls"])?;
    let active: Vec<&String> = active.iter().filter(|line| line.ends_with("Active")).collect();
    ensure!(active.is_empty(), "snapshots are left: {active:?}");
    Ok(())
}

fn look(daemon: &Daemon, containers: usize, rest: Duration) -> Outcome<Sample> {
    let pid = daemon.pid()?;
    thread::sleep(rest);
    let open = open_files(pid)?;
    // Namespaces are told as `net:[4026531840]` (namespaces(7)).
    let kinds = ["cgroup:[", "ipc:[", "mnt:[", "net:[", "pid:[", "time:[", "user:[", "uts:["];
    let namespace = |file: &&String| kinds.iter().any(|kind| file.starts_with(kind));
    Ok(Sample {
        containers,
        written: memory(pid)?.written,
        descriptors: open.len(),
        namespaces: open.iter().filter(namespace).count(),
        sockets: daemon.estate().sockets().iter().filter(|path| path.exists()).count(),
    })
}

/// What of `now` was not in `before`, each as often as it was added. Sockets and the like go by their
/// kind alone, since their numbers change.
fn added(before: &[String], now: Vec<String>) -> Vec<String> {
    let mut before: Vec<&str> = before.iter().map(|file| kind(file)).collect();
    let is_new = |file: &String| match before.iter().position(|old| *old == kind(file)) {
        Some(place) => {
            before.swap_remove(place);
            false
        }
        None => true,
    };
    now.into_iter().filter(is_new).collect()
}

fn kind(file: &str) -> &str {
    if file.starts_with('/') { file } else { file.split(':').next().unwrap_or(file) }
}

/// What a process has open, as its links in `/proc` tell.
fn open_files(pid: i32) -> Outcome<Vec<String>> {
    let entries = fs_err::read_dir(format!("/proc/{pid}/fd"))?.filter_map(Result::ok);
    let targets = entries.filter_map(|entry| fs_err::read_link(entry.path()).ok());
    Ok(targets.map(|target| target.display().to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_is_that_of_a_warm_daemon() {
        let written = [90_000, 10_000, 10_400, 10_800, 11_200, 11_600];
        let samples = written.iter().zip(1..).map(|(written, round)| Sample {
            containers: round * 40,
            written: *written,
            ..Sample::default()
        });
        let report =
            Report { elapsed: Duration::ZERO, samples: samples.collect(), opened: Vec::new() };
        // Four hundred KiB in forty containers.
        assert!((report.slope() - 1000.0).abs() < 0.001, "{}", report.slope());
    }

    #[test]
    fn what_was_opened_is_told_by_kind() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let before = names(&["/log", "socket:[1]", "net:[2]"]);
        let now = names(&["socket:[7]", "/log", "socket:[8]", "/new"]);
        assert_eq!(added(&before, now), ["socket:[8]", "/new"]);
    }
}
