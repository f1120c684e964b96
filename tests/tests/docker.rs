// SPDX-License-Identifier: Apache-2.0
//! A Docker user who swaps the socket and notices nothing.

use std::thread;
use std::time::Duration;

use e2e::docker::{Docker, IMAGE};
use e2e::{Outcome, PATIENCE, World, ensure, only_ours, over_the_wire, wait};

over_the_wire!(
    docker_runs_execs_and_stops,
    docker_gives_a_terminal_and_takes_input,
    docker_is_told_of_a_container_out_of_memory,
    docker_and_containerd_restart_under_a_container,
    docker_runs_twenty_at_once,
);
// On Go's containerd it depends on who is back first, the shim's next try or Docker.
only_ours!(docker_learns_of_ends_while_containerd_was_down);

/// Runs a container that has no network, with these words before the image and those after it.
fn words<'a>(before: &[&'a str], after: &[&'a str]) -> Vec<&'a str> {
    [&["run", "--net", "none"], before, &[IMAGE], after].concat()
}

fn status(docker: &Docker, name: &str) -> Outcome<String> {
    docker.inspect(name, ".State.Status")
}

fn docker_runs_execs_and_stops(world: &mut World) -> Outcome {
    let docker = Docker::start(&world.daemon)?;
    let said = docker.run(&words(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]))?;
    assert_eq!((said.code(), said.stdout.as_str(), said.stderr.as_str()), {
        (Some(7), "out\n", "err\n")
    });
    let script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done";
    docker.ok(&words(&["-d", "--init", "--name", "web"], &["sh", "-c", script]))?;
    assert_eq!(docker.ok(&["exec", "web", "echo", "inside"])?, "inside");
    assert_eq!(docker.run(&["exec", "web", "sh", "-c", "exit 3"])?.code(), Some(3));
    assert_eq!(docker.run(&["exec", "web", "/no/such"])?.code(), Some(126));
    assert!(docker.ok(&["top", "web"])?.contains("docker-init"));
    docker.ok(&["pause", "web"])?;
    assert_eq!(status(&docker, "web")?, "paused");
    docker.ok(&["unpause", "web"])?;
    docker.ok(&["update", "--memory", "64m", "--memory-swap", "64m", "web"])?;
    let stats = docker.ok(&["stats", "--no-stream", "--format", "{{.MemUsage}}", "web"])?;
    assert!(stats.ends_with("/ 64MiB"), "{stats}");
    wait::until("its first word", PATIENCE, || {
        Ok(docker.ok(&["logs", "web"])?.contains("up").then_some(()))
    })?;
    docker.ok(&["stop", "web"])?;
    assert_eq!(docker.ok(&["logs", "web"])?, "up\nbye");
    assert_eq!(docker.inspect("web", ".State.ExitCode")?, "5");
    docker.ok(&["start", "web"])?;
    docker.ok(&["kill", "web"])?;
    assert_eq!(docker.ok(&["wait", "web"])?, "137");
    docker.ok(&["rm", "web"]).map(drop)
}

fn docker_gives_a_terminal_and_takes_input(world: &mut World) -> Outcome {
    let docker = Docker::start(&world.daemon)?;
    let mut shell = docker.on_terminal(&words(&["-it", "--rm"], &["sh"]), 31, 97)?;
    shell.expect("# ", PATIENCE)?;
    shell.type_in("stty size; exit 6\n")?;
    shell.expect("31 97", PATIENCE)?;
    assert_eq!(shell.wait(PATIENCE)?.code(), Some(6), "{}", shell.shown());
    let mut cat = docker.start_fed(&words(&["-i", "--rm"], &["cat"]))?;
    let text = "0123456789abcde\n".repeat(60_000);
    cat.feed(text.as_bytes())?;
    cat.hang_up();
    let output = cat.wait(PATIENCE)?;
    ensure!(output.stdout == text, "{} bytes of {} came back", output.stdout.len(), text.len());
    Ok(())
}

fn docker_is_told_of_a_container_out_of_memory(world: &mut World) -> Outcome {
    let docker = Docker::start(&world.daemon)?;
    let script = "x=a; while :; do x=$x$x; done";
    let limits = ["--name", "oom", "--memory", "16m", "--memory-swap", "16m"];
    let output = docker.run(&words(&limits, &["sh", "-c", script]))?;
    assert_eq!(output.code(), Some(137), "{}", output.told());
    assert_eq!(docker.inspect("oom", ".State.OOMKilled")?, "true");
    docker.ok(&["rm", "oom"]).map(drop)
}

fn docker_and_containerd_restart_under_a_container(world: &mut World) -> Outcome {
    let mut docker = Docker::start(&world.daemon)?;
    let script = "i=0; while :; do i=$((i+1)); echo tick $i; sleep 0.05; done";
    docker.ok(&words(&["-d", "--name", "live"], &["sh", "-c", script]))?;
    docker.restart()?;
    assert_eq!(docker.ok(&["exec", "live", "echo", "in"])?, "in");
    world.daemon.kill9()?;
    world.daemon.restart()?;
    wait::until("an exec after containerd's restart", PATIENCE, || {
        Ok(docker.run(&["exec", "live", "echo", "in"])?.status.success().then_some(()))
    })?;
    let ticks = docker.ok(&["logs", "live"])?;
    let expected: Vec<String> =
        (1..=ticks.lines().count()).map(|number| format!("tick {number}")).collect();
    assert_eq!(ticks, expected.join("\n"), "no line is lost");
    docker.ok(&["stop", "--time", "0", "live"])?;
    docker.ok(&["rm", "live"]).map(drop)
}

fn docker_runs_twenty_at_once(world: &mut World) -> Outcome {
    let docker = Docker::start(&world.daemon)?;
    thread::scope(|scope| {
        let started: Vec<_> = (0..20)
            .map(|number| {
                let docker = &docker;
                scope.spawn(move || {
                    let number = number.to_string();
                    let said = docker.ok(&words(&["--rm"], &["echo", &number]))?;
                    ensure!(said == number, "{number} said {said}");
                    Outcome::Ok(())
                })
            })
            .collect();
        started.into_iter().try_for_each(|one| one.join().expect("a container's thread ends"))
    })
}

fn docker_learns_of_ends_while_containerd_was_down(world: &mut World) -> Outcome {
    let docker = Docker::start(&world.daemon)?;
    let script = "while [ ! -e /done ]; do sleep 0.05; done; exit 9";
    docker.ok(&words(&["-d", "--name", "brief"], &["sh", "-c", script]))?;
    let pid = docker.inspect("brief", ".State.Pid")?;
    world.daemon.kill9()?;
    fs_err::write(format!("/proc/{pid}/root/done"), "")?;
    thread::sleep(Duration::from_millis(300));
    world.daemon.restart()?;
    wait::until("the end to be told", PATIENCE, || {
        Ok((status(&docker, "brief")? == "exited").then_some(()))
    })?;
    assert_eq!(docker.inspect("brief", ".State.ExitCode")?, "9");
    docker.ok(&["rm", "brief"]).map(drop)
}
