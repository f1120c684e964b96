// SPDX-License-Identifier: Apache-2.0
//! What a command costs: time, processor time of all who take part, memory of the daemon, and how
//! long it takes until the disk has everything.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use e2e::procfs::{forget_peak, peak, processor_time};
use e2e::{Context, Failure, Outcome, ensure, process, wait};

/// Longer than anything that is measured here takes.
const LIMIT: Duration = Duration::from_mins(15);

/// What one command cost.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cost {
    /// From its start to its end.
    pub(super) time: Duration,
    /// From its start until what it made would survive a power cut.
    pub(super) durable: Duration,
    /// Processor time of the commands and of the daemon.
    pub(super) processor: Duration,
    /// The most memory of the daemon, in KiB.
    pub(super) memory: Option<u64>,
}

/// Runs commands one after the other, and measures them as one. What they make is in `place`.
pub(super) fn measure(commands: Vec<Command>, daemon: Option<i32>, place: &Path) -> Outcome<Cost> {
    let used = || -> Outcome<Duration> {
        let own = waited_for()?;
        Ok(own + daemon.map(processor_time).transpose()?.unwrap_or_default())
    };
    daemon.map(forget_peak).transpose()?;
    let (before, started) = (used()?, Instant::now());
    for command in commands {
        finish(command, place)?;
    }
    let time = started.elapsed();
    let (after, memory) = (used()?, daemon.map(peak).transpose()?);
    sync(place)?;
    let processor = after.saturating_sub(before);
    Ok(Cost { time, durable: started.elapsed(), processor, memory })
}

/// Processor time of the children that this process has waited for, and of theirs.
fn waited_for() -> Outcome<Duration> {
    // What this process uses itself is little, and the same for all who are measured.
    processor_time(std::process::id() as i32)
}

/// Has the disk write what it was given.
pub(super) fn sync(place: &Path) -> Outcome {
    process::run(Command::new("sync").arg("-f").arg(place), LIMIT)?.ok().map(drop)
}

/// Runs a command to its end, and notices that within a millisecond.
fn finish(mut command: Command, place: &Path) -> Outcome {
    let log = place.join("said");
    let said = fs_err::File::create(&log)?.into_parts().0;
    command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said).process_group(0);
    let line = process::shown(&command);
    let mut child = command.spawn().context(format!("start {line}"))?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if wait::cancelled() || started.elapsed() > LIMIT {
            child.kill()?;
            child.wait()?;
            return Err(Failure::new(format!("{line} was interrupted")));
        }
        thread::sleep(Duration::from_millis(1));
    };
    let said = fs_err::read_to_string(&log).unwrap_or_default();
    ensure!(status.success(), "$ {line}\n{status}\n{said}");
    Ok(())
}
