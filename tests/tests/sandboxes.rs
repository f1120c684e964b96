// SPDX-License-Identifier: Apache-2.0
//! Sandboxes: a shim or a pause process, and the containers inside. The distribution's `ctr` has no
//! words for them, and its shim does not serve them.

use e2e::{Context, Outcome, PATIENCE, World, ensure, only_ours, procfs, wait};
use serde_json::Value;

only_ours!(
    a_sandbox_that_is_a_shim_is_run_and_removed,
    a_container_is_made_in_the_shim_of_its_sandbox,
    a_sandbox_takes_its_containers_along,
    a_pod_is_a_process_that_pauses,
    a_sandbox_outlives_its_daemon,
    a_sandbox_that_is_missing_or_taken_is_refused,
);

fn sandbox(world: &World, sandboxer: &str) -> Outcome<String> {
    let id = world.id("pod");
    let said = world.ctr.ok(["sandboxes", "run", "--sandboxer", sandboxer, &id])?;
    assert_eq!(said.trim(), id);
    Ok(id)
}

fn info(world: &World, id: &str) -> Outcome<Value> {
    Ok(serde_json::from_str(&world.ctr.ok(["sandboxes", "info", id])?)?)
}

fn assert_ready(world: &World, id: &str) -> Outcome<i32> {
    let info = info(world, id)?;
    assert_eq!(info["Status"]["State"], "SANDBOX_READY", "{info:#}");
    let pid = info["Status"]["Pid"].as_i64().context("a pid")? as i32;
    ensure!(procfs::alive(pid), "{info:#}");
    Ok(pid)
}

fn remove(world: &World, id: &str) -> Outcome {
    world.ctr.ok(["sandboxes", "rm", id])?;
    assert_eq!(world.ctr.lines(["sandboxes", "ls", "-q"])?, Vec::<String>::new());
    let ended = || Ok(world.daemon.estate().shims().is_empty().then_some(()));
    wait::until("the end of the shim", PATIENCE, ended)
}

fn a_sandbox_that_is_a_shim_is_run_and_removed(world: &mut World) -> Outcome {
    let mut listener = world.events()?;
    let id = sandbox(world, "")?;
    assert_ready(world, &id)?;
    assert_eq!(world.daemon.estate().shims().len(), 1);
    let lines = world.ctr.lines(["sandboxes", "ls"])?;
    ensure!(lines[1].starts_with(&id) && lines[1].contains("io.containerd.runc.v2"), "{lines:?}");
    assert_eq!(world.ctr.lines(["tasks", "ls", "-q"])?, Vec::<String>::new());
    remove(world, &id)?;
    let text =
        listener.wait_for("/sandboxes/exit", PATIENCE, |it| it.contains("/sandboxes/exit"))?;
    let at = |topic| text.find(topic).context(format!("{topic} in {text}"));
    ensure!(at("/sandboxes/create")? < at("/sandboxes/start")?, "{text}");
    ensure!(at("/sandboxes/start")? < at("/sandboxes/exit")?, "{text}");
    Ok(())
}

fn a_container_is_made_in_the_shim_of_its_sandbox(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let pod = sandbox(world, "shim")?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", "--null-io", "--sandbox", &pod, &image, &id, "sleep", "1000"])?;
    assert_eq!(world.daemon.estate().shims().len(), 1);
    assert_eq!(
        world.ctr.ok(["tasks", "exec", "--exec-id", &world.id("e"), &id, "echo", "hi"])?,
        "hi\n"
    );
    world.ctr.remove(&id)?;
    // The shim is the sandbox's: it stays.
    assert_ready(world, &pod)?;
    let said = world.ctr.ok(["run", "--rm", "--sandbox", &pod, &image, &id, "echo", "again"])?;
    assert_eq!(said, "again\n");
    assert_ready(world, &pod)?;
    remove(world, &pod)?;
    Ok(())
}

fn a_sandbox_takes_its_containers_along(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let pod = sandbox(world, "shim")?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", "--null-io", "--sandbox", &pod, &image, &id, "sleep", "1000"])?;
    remove(world, &pod)?;
    wait::until("the end of the task", PATIENCE, || {
        Ok(world.ctr.state(&id)?.is_none().then_some(()))
    })?;
    world.ctr.ok(["containers", "rm", &id])?;
    Ok(())
}

fn a_pod_is_a_process_that_pauses(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let pod = sandbox(world, "podsandbox")?;
    let pid = assert_ready(world, &pod)?;
    let program = fs_err::read_link(format!("/proc/{pid}/exe"))?;
    assert_eq!(program.display().to_string(), "/pause");
    let (id, shared) = (world.id("web"), format!("pid:/proc/{pid}/ns/pid"));
    let run = ["run", "--rm", "--sandbox", &pod, "--with-ns", &shared, &image, &id];
    let said = world.ctr.ok(run.into_iter().chain(["ps", "-o", "pid,comm"]))?;
    ensure!(said.lines().any(|line| line.split_whitespace().eq(["1", "pause"])), "{said}");
    assert_eq!(world.daemon.estate().shims().len(), 1);
    remove(world, &pod)?;
    Ok(())
}

fn a_sandbox_outlives_its_daemon(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let pod = sandbox(world, "shim")?;
    world.daemon.kill9()?;
    world.daemon.restart()?;
    let mut listener = world.events()?;
    remove(world, &pod)?;
    listener.wait_for("/sandboxes/exit", PATIENCE, |it| it.contains("/sandboxes/exit"))?;
    for sandboxer in ["shim", "podsandbox"] {
        let pod = sandbox(world, sandboxer)?;
        let pid = assert_ready(world, &pod)?;
        let id = world.id("web");
        world.ctr.ok([
            "run",
            "-d",
            "--null-io",
            "--sandbox",
            &pod,
            &image,
            &id,
            "sleep",
            "1000",
        ])?;
        world.daemon.kill9()?;
        world.daemon.restart()?;
        assert_eq!(assert_ready(world, &pod)?, pid);
        assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
        world.ctr.remove(&id)?;
        assert_ready(world, &pod)?;
        remove(world, &pod)?;
    }
    Ok(())
}

fn a_sandbox_that_is_missing_or_taken_is_refused(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    world.ctr.refused(["sandboxes", "info", "none"], &["sandbox \"none\": not found"])?;
    world.ctr.refused(
        ["sandboxes", "run", "--sandboxer", "bogus", "x"],
        &["failed to get sandbox controller by bogus"],
    )?;
    let id = world.id("web");
    let run = ["run", "--sandbox", "none", &image, &id, "true"];
    world.ctr.refused(run, &["can't find sandbox none", "not found"])?;
    world.ctr.ok(["containers", "rm", &id])?;
    let pod = sandbox(world, "shim")?;
    world.ctr.refused(["sandboxes", "run", &pod], &["already exists"])?;
    remove(world, &pod)?;
    assert_eq!(world.ctr.lines(["sandboxes", "ls", "-q"])?, Vec::<String>::new());
    Ok(())
}
