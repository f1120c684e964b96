// SPDX-License-Identifier: Apache-2.0
//! Shims that hang or are gone, and daemons that have to live with them.

use std::time::{Duration, Instant};

use e2e::{Context, Outcome, PATIENCE, World, ensure, for_each_shim, only_ours, procfs, wait};
use rustix::process::Signal;

only_ours!(
    ten_shims_that_hang_delay_nobody,
    dead_shims_are_cleaned_up_while_the_daemon_serves,
    after_a_start_of_the_machine_every_shim_is_dead,
);
for_each_shim!(a_daemon_that_was_replaced_twice_keeps_its_tasks);

/// Makes tasks that sleep, and returns their names.
fn sleepers(world: &World, name: &str, count: usize) -> Outcome<Vec<String>> {
    let image = world.busybox()?;
    let ids: Vec<_> = (0..count).map(|number| world.id(&format!("{name}{number}"))).collect();
    for id in &ids {
        world.ctr.ok(["run", "-d", "--null-io", &image, id, "sleep", "1000"])?;
    }
    Ok(ids)
}

/// The shims of tasks, by what their command lines name.
fn shims_of(world: &World, ids: &[String]) -> Vec<i32> {
    let shims = world.daemon.estate().shims().into_iter();
    let ours = shims.filter(|shim| ids.iter().any(|id| shim.command.contains(id.as_str())));
    ours.map(|shim| shim.pid).collect()
}

/// Sends a signal to all, and the opposite when it is dropped.
struct Frozen(Vec<i32>);

impl Frozen {
    fn new(pids: Vec<i32>) -> Outcome<Self> {
        pids.iter().try_for_each(|pid| e2e::process::send(*pid, Signal::STOP))?;
        Ok(Self(pids))
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            drop(e2e::process::send(*pid, Signal::CONT));
        }
    }
}

/// The shortest of a few times that a thing takes.
fn shortest(mut thing: impl FnMut() -> Outcome) -> Outcome<Duration> {
    let mut times = Vec::new();
    for _ in 0..4 {
        let began = Instant::now();
        thing()?;
        times.push(began.elapsed());
    }
    times.into_iter().min().context("it was done")
}

/// The times of what a client asks about a task that is well.
fn times(world: &World, id: &str) -> Outcome<[(&'static str, Duration); 4]> {
    let ok = |words: &[&str]| world.ctr.ok(words.iter().copied()).map(drop);
    let exec = world.id("e");
    Ok([
        ("list", shortest(|| ok(&["tasks", "ls"]))?),
        ("processes", shortest(|| ok(&["tasks", "ps", id]))?),
        ("metrics", shortest(|| ok(&["tasks", "metrics", id]))?),
        ("exec and wait", shortest(|| ok(&["tasks", "exec", "--exec-id", &exec, id, "true"]))?),
    ])
}

/// Ten shims that were stopped made every list wait, and each scrape of statistics left more
/// goroutines behind, up to 60 GB of memory (containerd issue 13183).
fn ten_shims_that_hang_delay_nobody(world: &mut World) -> Outcome {
    let hung = sleepers(world, "hung", 10)?;
    let well = sleepers(world, "well", 1)?.remove(0);
    let before = times(world, &well)?;
    let frozen = Frozen::new(shims_of(world, &hung))?;
    ensure!(frozen.0.len() == 10, "{} shims", frozen.0.len());
    let during = times(world, &well)?;
    for ((what, before), (_, during)) in before.iter().zip(&during) {
        // A process takes some milliseconds more or less by itself.
        let most = *before * 2 + Duration::from_millis(50);
        ensure!(during < &most, "{what} takes {during:?}, and took {before:?}");
    }
    assert_eq!(world.ctr.state(&hung[3])?.as_deref(), Some("UNKNOWN"));
    assert_eq!(world.ctr.state(&well)?.as_deref(), Some("RUNNING"));
    // Statistics are not the shim's to keep back.
    let metrics = world.ctr.ok(["tasks", "metrics", &hung[0]])?;
    assert!(metrics.contains("pids.current"), "{metrics}");
    let memory = procfs::memory(world.daemon.pid()?)?.private;
    for _ in 0..150 {
        world.ctr.ok(["tasks", "ls"])?;
    }
    let grown = procfs::memory(world.daemon.pid()?)?.private.saturating_sub(memory);
    ensure!(grown < 2 << 20, "150 lists cost {grown} bytes");
    drop(frozen);
    wait::until("all to run again", PATIENCE, || {
        let lines = world.ctr.lines(["tasks", "ls"])?;
        Ok((lines.iter().filter(|line| line.ends_with("RUNNING")).count() == 11).then_some(()))
    })?;
    hung.iter().chain([&well]).try_for_each(|id| world.ctr.remove(id))
}

fn dead_shims_are_cleaned_up_while_the_daemon_serves(world: &mut World) -> Outcome {
    let dead = sleepers(world, "dead", 6)?;
    let live = sleepers(world, "live", 1)?.remove(0);
    world.daemon.kill9()?;
    let shims = shims_of(world, &dead);
    ensure!(shims.len() == 6, "{} shims", shims.len());
    shims.iter().try_for_each(|pid| e2e::process::send(*pid, Signal::KILL))?;
    world.daemon.restart()?;
    assert_eq!(world.ctr.state(&live)?.as_deref(), Some("RUNNING"));
    wait::until("one task to be left", PATIENCE, || {
        Ok((world.ctr.lines(["tasks", "ls", "-q"])? == [live.clone()]).then_some(()))
    })?;
    // Their names are free again, and nothing of them is left to stumble over.
    world.ctr.ok(["tasks", "start", "-d", "--null-io", &dead[0]])?;
    dead.iter().chain([&live]).try_for_each(|id| world.ctr.remove(id))
}

fn after_a_start_of_the_machine_every_shim_is_dead(world: &mut World) -> Outcome {
    let ids = sleepers(world, "a", 2)?;
    world.daemon.kill9()?;
    let noted = world.daemon.home().join("state/io.containerd.runtime.v2.task/.boot-id");
    let boot = fs_err::read_to_string("/proc/sys/kernel/random/boot_id")?;
    assert_eq!(fs_err::read_to_string(&noted)?, boot.trim());
    fs_err::write(&noted, "the one before")?;
    // They hang, so that a daemon that speaks to them would be seen to wait.
    let frozen = Frozen::new(shims_of(world, &ids))?;
    world.daemon.restart()?;
    wait::until("no task", Duration::from_secs(4), || {
        Ok(world.ctr.lines(["tasks", "ls", "-q"])?.is_empty().then_some(()))
    })?;
    drop(frozen);
    ids.iter().try_for_each(|id| world.ctr.ok(["containers", "rm", id]).map(drop))?;
    shims_of(world, &ids).iter().try_for_each(|pid| e2e::process::send(*pid, Signal::KILL))
}

fn a_daemon_that_was_replaced_twice_keeps_its_tasks(world: &mut World) -> Outcome {
    let ids = sleepers(world, "kept", 2)?;
    for _ in 0..2 {
        world.daemon.terminate()?;
        world.daemon.restart()?;
        for id in &ids {
            assert_eq!(world.ctr.state(id)?.as_deref(), Some("RUNNING"));
            let metrics = world.ctr.ok(["tasks", "metrics", id])?;
            assert!(metrics.contains("pids.current"), "{metrics}");
        }
    }
    ids.iter().try_for_each(|id| world.ctr.remove(id))
}
