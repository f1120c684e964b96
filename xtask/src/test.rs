// SPDX-License-Identifier: Apache-2.0
//! Everything that can be known by running it: what CI calls.

use std::time::{Duration, Instant};

use e2e::{Failure, Outcome};

use crate::run::{cargo, watched};
use crate::{install, show, stop, tidy};

/// Longer than anything takes on a clean checkout with two cores.
const LIMIT: Duration = Duration::from_mins(25);

/// One line of the report.
struct Step {
    name: &'static str,
    time: Duration,
    tally: Tally,
}

/// How many tests passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Reads the line that ends each test binary of cargo.
    fn add_line(&mut self, line: &str) {
        let Some(rest) = line.trim_start().strip_prefix("test result: ") else { return };
        let number = |word: &str| {
            let before = rest.split(word).next().and_then(|text| text.split_whitespace().last());
            before.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        self.passed += number(" passed");
        self.failed += number(" failed");
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs it all; with `reference`, scenarios play only on the distribution's containerd.
pub(crate) fn run(reference: bool) -> Outcome {
    show::chapter("packages");
    let tools = ["runc", "crun", "docker-registry", "busybox-static", "containerd", "sqlite3"];
    install::packages(&tools)?;
    install::packages(&["docker.io", "openssl", "skopeo", "umoci", "apparmor"])?;
    // Filesystems of all sorts, for the snapshotters.
    install::packages(&["e2fsprogs", "xfsprogs", "btrfs-progs", "erofs-utils"])?;
    e2e::sweep();
    let steps = steps(reference);
    // Whatever a scenario that was killed could not clean up itself.
    e2e::sweep();
    report(&steps?)
}

fn steps(reference: bool) -> Outcome<Vec<Step>> {
    let unit: &[&str] = &["test", "--workspace", "--exclude", "e2e", "--no-fail-fast"];
    let scenarios: &[&str] = &["test", "-p", "e2e", "--no-fail-fast"];
    let only_reference = [scenarios, &["--", "::reference", "tests::"]].concat();
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    let programs = ["build", "-p", "containerd", "-p", "ctr", "-p", "containerd-shim-runc-v2"];
    Ok(vec![
        step("dependencies", |_| watched(&mut cargo(&["fetch", "--locked"]), LIMIT, say))?,
        step("formatting", |_| watched(&mut cargo(&["fmt", "--all", "--check"]), LIMIT, say))?,
        step("clippy", |_| watched(&mut cargo(&clippy), LIMIT, say))?,
        step("tidy", |_| Ok(tidy::run().map_err(|failure| eprintln!("{failure}")).is_ok()))?,
        step("unit, crate and rim tests", |tally| tests(unit, tally))?,
        // The scenarios would build them as well, but in silence.
        step("our programs", |_| watched(&mut cargo(&programs), LIMIT, say))?,
        step("end-to-end tests", |tally| {
            tests(if reference { &only_reference } else { scenarios }, tally)
        })?,
    ])
}

fn say(line: &str) {
    println!("{line}");
}

fn tests(words: &[&str], tally: &mut Tally) -> Outcome<bool> {
    watched(&mut cargo(words), LIMIT, |line| {
        println!("{line}");
        tally.add_line(line);
    })
}

/// Plays one step. That it failed does not keep the next from being played; an interrupt does.
fn step(name: &'static str, play: impl FnOnce(&mut Tally) -> Outcome<bool>) -> Outcome<Step> {
    show::chapter(name);
    let started = Instant::now();
    let mut tally = Tally::default();
    let succeeded = match play(&mut tally) {
        Err(failure) if stop::asked() => return Err(failure),
        Err(failure) => {
            eprintln!("{failure}");
            false
        }
        Ok(succeeded) => succeeded,
    };
    if !succeeded && tally.failed == 0 {
        // What is no test, or did not get as far as running any, counts as one.
        tally.failed = 1;
    }
    Ok(Step { name, time: started.elapsed(), tally })
}

fn report(steps: &[Step]) -> Outcome {
    show::chapter("report");
    let mut sum = Tally::default();
    for Step { name, time, tally } in steps {
        let mark = if tally.failed == 0 { show::green("ok    ") } else { show::red("FAILED") };
        println!("{mark}  {name:<28} {:>12}", show::seconds(*time));
        sum.add(*tally);
    }
    println!("\n{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed == 0 { Ok(()) } else { Err(Failure::new("not everything passed")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_over_binaries() {
        let mut tally = Tally::default();
        tally.add_line(
            "test result: ok. 109 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out",
        );
        tally.add_line("test result: FAILED. 11 passed; 1 failed; 0 ignored; finished in 2.20s");
        tally.add_line("test codes::events ... ok");
        assert_eq!(tally, Tally { passed: 120, failed: 1 });
    }
}
