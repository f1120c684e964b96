// SPDX-License-Identifier: Apache-2.0
//! What is done to a container while it runs.

use e2e::{Outcome, PATIENCE, World, ensure, for_each_shim, only_ours, procfs, wait};

for_each_shim!(
    a_task_in_the_background_is_listed_killed_and_removed,
    a_created_container_is_started_later,
    an_exec_prints_and_passes_its_status_on,
    an_exec_runs_as_another_user_elsewhere,
    an_exec_in_the_background_is_killed_alone,
    an_exec_of_nothing_is_refused,
    a_signal_reaches_the_process,
    all_processes_are_killed_with_the_first,
    a_task_is_paused_and_resumed,
    processes_are_listed,
    metrics_are_counted,
    attaching_waits_for_the_end,
    a_running_task_is_not_removed,
    a_killed_shim_takes_its_container_along,
);

// Go's client may tell of the end of its input before there is anybody who could be told.
only_ours!(a_task_without_input_is_told_so);

/// A container in the background that runs a script.
fn background(world: &World, name: &str, script: &str) -> Outcome<String> {
    let image = world.busybox()?;
    let id = world.id(name);
    world.ctr.ok(["run", "-d", &image, &id, "sh", "-c", script])?;
    Ok(id)
}

/// The pid that `tasks ls` shows.
fn pid(world: &World, id: &str) -> Outcome<i32> {
    let lines = world.ctr.lines(["tasks", "ls"])?;
    let line = lines.iter().find(|line| line.starts_with(id));
    let word = line.and_then(|line| line.split_whitespace().nth(1)).unwrap_or_default();
    Ok(word.parse()?)
}

fn a_task_in_the_background_is_listed_killed_and_removed(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    assert!(procfs::alive(pid(world, &id)?));
    assert_eq!(world.ctr.lines(["tasks", "ls", "-q"])?, [id.as_str()]);
    assert_eq!(world.ctr.lines(["containers", "ls", "-q"])?, [id.as_str()]);
    let info = world.ctr.ok(["containers", "info", &id])?;
    assert!(info.contains("io.containerd.runc.v2") && info.contains("sleep 1000"), "{info}");
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    world.ctr.run(["tasks", "rm", &id])?;
    assert_eq!(world.ctr.state(&id)?, None);
    world.ctr.ok(["containers", "rm", &id])?;
    assert_eq!(world.ctr.lines(["containers", "ls", "-q"])?, Vec::<String>::new());
    Ok(())
}

fn a_created_container_is_started_later(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("later");
    world.ctr.ok(["containers", "create", &image, &id, "sleep", "1000"])?;
    assert_eq!(world.ctr.state(&id)?, None);
    world.ctr.ok(["tasks", "start", "-d", &id])?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

fn a_task_without_input_is_told_so(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    for _ in 0..5 {
        world.ctr.ok(["containers", "create", &image, &id, "cat"])?;
        // It reads until there is no more, and so ends.
        world.ctr.ok(["tasks", "start", &id])?;
        world.ctr.ok(["containers", "rm", &id])?;
    }
    Ok(())
}

fn an_exec_prints_and_passes_its_status_on(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    let said =
        world.ctr.ok(["tasks", "exec", "--exec-id", &world.id("one"), &id, "echo", "inside"])?;
    assert_eq!(said, "inside\n");
    let script = "echo out; echo err >&2; exit 7";
    let output =
        world.ctr.run(["tasks", "exec", "--exec-id", &world.id("two"), &id, "sh", "-c", script])?;
    assert_eq!(output.code(), Some(7), "{}", output.told());
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    // The id of one that has ended is free again.
    world.ctr.ok(["tasks", "exec", "--exec-id", &world.id("one"), &id, "true"])?;
    world.ctr.remove(&id)
}

fn an_exec_runs_as_another_user_elsewhere(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    let options = ["tasks", "exec", "--exec-id", &world.id("e"), "--user", "web", "--cwd", "/tmp"];
    let said = world.ctr.ok([&options[..], &[&id, "sh", "-c", "id -u; id -g; pwd"]].concat())?;
    assert_eq!(said, "33\n33\n/tmp\n");
    world.ctr.remove(&id)
}

fn an_exec_in_the_background_is_killed_alone(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    // Nobody removes the fifos of a detached exec: let them go with everything else.
    let fifos = world.daemon.home().join("fifos").display().to_string();
    let options = ["tasks", "exec", "-d", "--fifo-dir", &fifos, "--exec-id", &world.id("side")];
    world.ctr.ok([&options[..], &[&id, "sleep", "77"]].concat())?;
    let aside = || -> Outcome<bool> { Ok(listed(world, &id)?.len() == 2) };
    wait::until("a second process", PATIENCE, || Ok(aside()?.then_some(())))?;
    world.ctr.ok(["tasks", "kill", "--exec-id", &world.id("side"), "--signal", "KILL", &id])?;
    wait::until("its end", PATIENCE, || Ok((!aside()?).then_some(())))?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

/// The pids that `tasks ps` shows.
fn listed(world: &World, id: &str) -> Outcome<Vec<i32>> {
    let lines = world.ctr.lines(["tasks", "ps", id])?;
    let words = lines.iter().skip(1).filter_map(|line| line.split_whitespace().next());
    words.map(|word| Ok(word.parse()?)).collect()
}

fn an_exec_of_nothing_is_refused(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    world.ctr.refused(
        ["tasks", "exec", "--exec-id", &world.id("e"), &id, "/no/such/program"],
        &["OCI runtime exec failed", "/no/such/program", "no such file or directory"],
    )?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

const STUBBORN: &str = "trap 'exit 5' TERM; while :; do sleep 0.1; done";

fn a_signal_reaches_the_process(world: &mut World) -> Outcome {
    let id = background(world, "web", STUBBORN)?;
    // The shell may not have got to its trap yet: then the signal does nothing to process 1.
    wait::until("the end of the task", PATIENCE, || {
        world.ctr.run(["tasks", "kill", &id])?;
        Ok((world.ctr.state(&id)?.as_deref() == Some("STOPPED")).then_some(()))
    })?;
    let removed = world.ctr.run(["tasks", "rm", &id])?;
    let names = removed.code() == Some(5) || removed.stderr.contains("exit code 5");
    assert!(names, "{}", removed.told());
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}

fn all_processes_are_killed_with_the_first(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 500 & sleep 600 & sleep 1000")?;
    wait::until("four processes", PATIENCE, || Ok((listed(world, &id)?.len() >= 3).then_some(())))?;
    let pids = listed(world, &id)?;
    world.ctr.ok(["tasks", "kill", "--all", "--signal", "KILL", &id])?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    wait::until("the end of all", PATIENCE, || {
        Ok(pids.iter().all(|pid| !procfs::alive(*pid)).then_some(()))
    })?;
    world.ctr.remove(&id)
}

fn a_task_is_paused_and_resumed(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    world.ctr.ok(["tasks", "pause", &id])?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("PAUSED"));
    world.ctr.ok(["tasks", "resume", &id])?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

fn processes_are_listed(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 500 & sleep 1000")?;
    wait::until("the processes", PATIENCE, || Ok((listed(world, &id)?.len() >= 2).then_some(())))?;
    let pids = listed(world, &id)?;
    assert!(pids.contains(&pid(world, &id)?), "{pids:?}");
    world.ctr.remove(&id)
}

fn metrics_are_counted(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    let text = world.ctr.ok(["tasks", "metrics", &id])?;
    let value = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
    };
    // Version 1 of the cgroups, or version 2.
    let memory = value("memory.usage_in_bytes").or(value("memory.usage"));
    let pids = value("pids.current");
    assert!(memory.is_some_and(|bytes| bytes > 0) && pids == Some(1), "{text}");
    world.ctr.remove(&id)
}

fn attaching_waits_for_the_end(world: &mut World) -> Outcome {
    let id = background(world, "web", "while [ ! -e /done ]; do sleep 0.1; done; exit 9")?;
    let attached = world.ctr.start(["tasks", "attach", &id])?;
    // Not by an exec: that could be cut off by the end that it causes.
    fs_err::write(format!("/proc/{}/root/done", pid(world, &id)?), "")?;
    let output = attached.wait(PATIENCE)?;
    assert_eq!(output.code(), Some(9), "{}", output.told());
    world.ctr.remove(&id)
}

fn a_running_task_is_not_removed(world: &mut World) -> Outcome {
    let id = background(world, "web", "sleep 1000")?;
    let refused = world.ctr.run(["tasks", "rm", &id])?;
    ensure!(refused.stderr.contains("must be stopped before deletion"), "{}", refused.told());
    world.ctr.refused(["containers", "rm", &id], &["cannot delete a non stopped container"])?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

fn a_killed_shim_takes_its_container_along(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    // Fifos would be removed by whoever removes the task, but then there is none.
    world.ctr.ok(["run", "-d", "--null-io", &image, &id, "sleep", "1000"])?;
    let pid = pid(world, &id)?;
    let shims = world.daemon.estate().shims();
    assert_eq!(shims.len(), 1, "{shims:?}");
    e2e::process::send(shims[0].pid, rustix::process::Signal::KILL)?;
    wait::until("the end of its process", PATIENCE, || Ok((!procfs::alive(pid)).then_some(())))?;
    wait::until("the end of its task", PATIENCE, || {
        Ok(world.ctr.state(&id)?.is_none_or(|state| state == "STOPPED").then_some(()))
    })?;
    world.ctr.remove(&id)
}
