// SPDX-License-Identifier: Apache-2.0
//! Containers that the daemon keeps as their labels want them.

use std::time::Duration;

use e2e::{Context, Outcome, PATIENCE, World, ensure, for_each_daemon, only_ours, wait};

for_each_daemon!(
    a_container_that_is_to_run_is_started_again,
    a_container_that_is_to_stop_is_stopped
);
only_ours!(a_container_that_fails_is_started_again_so_often, what_was_stopped_on_purpose_stays_so);

const STATUS: &str = "containerd.io/restart.status=running";

/// Lets the daemon look often. Both daemons know the section by this name in a file of version 2.
fn look_often(world: &mut World) -> Outcome {
    world.daemon.terminate()?;
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    let section = "[plugins.\"io.containerd.internal.v1.restart\"]\n  interval = \"300ms\"\n";
    fs_err::write(&path, text + section)?;
    world.daemon.restart()
}

fn run(world: &World, labels: &[&str], script: &str) -> Outcome<String> {
    let image = world.busybox()?;
    let id = world.id("kept");
    world.ctr.ok(["run", "-d", "--null-io", &image, &id, "sh", "-c", script])?;
    // Only now: a look between the making of the container and of its task would start one itself.
    if !labels.is_empty() {
        world.ctr.ok([&["containers", "label", id.as_str()], labels].concat())?;
    }
    Ok(id)
}

fn pid(world: &World, id: &str) -> Outcome<Option<i32>> {
    let lines = world.ctr.lines(["tasks", "ls"])?;
    let line = lines.iter().find(|line| line.starts_with(id) && line.contains("RUNNING"));
    let word = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(word.map(str::parse).transpose()?)
}

fn wait_for_another(world: &World, id: &str, before: i32) -> Outcome<i32> {
    wait::until("another process", PATIENCE, || Ok(pid(world, id)?.filter(|&now| now != before)))
}

/// Forgets about keeping, and removes.
fn let_go(world: &World, id: &str) -> Outcome {
    world.ctr.ok(["containers", "label", id, "containerd.io/restart.status="])?;
    // A look that has begun may still start it.
    std::thread::sleep(Duration::from_millis(500));
    world.ctr.remove(id)?;
    Ok(())
}

fn a_container_that_is_to_run_is_started_again(world: &mut World) -> Outcome {
    look_often(world)?;
    let log = world.daemon.home().join("kept.log");
    let uri = format!("containerd.io/restart.loguri=file://{}", log.display());
    let id = run(world, &[STATUS, &uri], "echo here; sleep 1000")?;
    let first = pid(world, &id)?.context("it runs")?;
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    let second = wait_for_another(world, &id, first)?;
    wait::until("its output", PATIENCE, || {
        Ok(fs_err::read_to_string(&log).is_ok_and(|text| text == "here\n").then_some(()))
    })?;
    // Also if it ends while no daemon looks.
    world.daemon.kill9()?;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(second).context("a pid")?,
        rustix::process::Signal::KILL,
    )?;
    world.daemon.restart()?;
    wait_for_another(world, &id, second)?;
    let_go(world, &id)
}

fn a_container_that_is_to_stop_is_stopped(world: &mut World) -> Outcome {
    look_often(world)?;
    let id = run(world, &[], "sleep 1000")?;
    ensure!(pid(world, &id)?.is_some(), "it runs");
    world.ctr.ok(["containers", "label", &id, "containerd.io/restart.status=stopped"])?;
    wait::until("no task", PATIENCE, || Ok(world.ctr.state(&id)?.is_none().then_some(())))?;
    world.ctr.ok(["containers", "rm", &id])?;
    Ok(())
}

fn a_container_that_fails_is_started_again_so_often(world: &mut World) -> Outcome {
    look_often(world)?;
    let policy = "containerd.io/restart.policy=on-failure:2";
    let id = run(world, &[STATUS, policy], "exit 3")?;
    let counted = || {
        let info = world.ctr.ok(["containers", "info", &id])?;
        Ok(info.contains("\"containerd.io/restart.count\": \"2\"").then_some(()))
    };
    wait::until("two starts", PATIENCE, counted)?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    std::thread::sleep(Duration::from_millis(700));
    ensure!(counted()?.is_some(), "it was started a third time");
    let_go(world, &id)
}

fn what_was_stopped_on_purpose_stays_so(world: &mut World) -> Outcome {
    look_often(world)?;
    let policy = "containerd.io/restart.policy=unless-stopped";
    let id = run(world, &[STATUS, policy], "sleep 1000")?;
    let stopped = "containerd.io/restart.explicitly-stopped=true";
    world.ctr.ok(["containers", "label", &id, stopped])?;
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("STOPPED"));
    let_go(world, &id)
}
