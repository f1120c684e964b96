// SPDX-License-Identifier: Apache-2.0
//! Shims that are killed at each step, shims that hang, and what they take of the machine.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::process::{run, send};
use e2e::{Context, Outcome, PATIENCE, World, ensure, for_our_shim, over_the_wire, procfs};
use e2e::{only_ours, wait};

for_our_shim!(
    a_shim_killed_while_it_creates_leaves_nothing,
    a_shim_killed_while_it_starts_or_adds_leaves_nothing,
    a_shim_killed_while_it_ends_or_removes_leaves_nothing,
    a_container_without_its_shim_has_exited_with_137,
    much_output_takes_no_time_of_the_shim,
);
only_ours!(
    a_shim_that_died_with_its_daemon_is_cleaned_up_after,
    a_shim_can_be_spoken_to_without_its_daemon,
);
over_the_wire!(a_shim_tells_its_flags);

/// The words are those of Go's `flag` package; its newer shims have more flags.
fn a_shim_tells_its_flags(world: &mut World) -> Outcome {
    let program = world.daemon.home().join("bin/containerd-shim-runc-v2");
    let usage = format!("Usage of {}:\n  -address string\n", program.display());
    for (word, status, said) in [
        ("-h", 0, ""),
        ("--help", 0, ""),
        ("-nope=1", 2, "flag provided but not defined: -nope\n"),
        ("-id", 2, "flag needs an argument: -id\n"),
        ("--=x", 2, "bad flag syntax: --=x\n"),
        ("-debug=maybe", 2, "invalid boolean value \"maybe\" for -debug: parse error\n"),
    ] {
        let told = run(Command::new(&program).arg(word), PATIENCE)?;
        assert_eq!((told.code(), told.stdout.as_str()), (Some(status), ""), "{word}");
        ensure!(told.stderr.starts_with(&format!("{said}{usage}")), "{word}: {}", told.stderr);
        for line in ["  -id string\n    \tid of the task\n", "  -v\t", "\tsocket path to serve\n"] {
            ensure!(told.stderr.contains(line), "{line:?}: {}", told.stderr);
        }
    }
    Ok(())
}

/// Asks for everything, one thing after the other, until something fails.
pub(crate) fn live(world: &World, image: &str, id: &str) -> Outcome {
    let ctr = &world.ctr;
    ctr.ok(["run", "-d", "--null-io", image, id, "sleep", "1000"])?;
    let (exec_id, fifos) = (world.id("e"), world.daemon.home().join("tmp").display().to_string());
    let exec = ["tasks", "exec", "-d", "--fifo-dir", &fifos, "--exec-id", &exec_id];
    ctr.ok(exec.into_iter().chain([id, "sleep", "1000"]))?;
    ctr.ok(["tasks", "kill", "--signal", "KILL", id])?;
    ctr.wait_for_state(id, "STOPPED", Duration::from_secs(5))?;
    ctr.ok(["tasks", "rm", id]).map(drop)
}

/// Kills the shim at each place of a container's life, and looks for what it has left.
fn killed_at(world: &World, places: &[&str]) -> Outcome {
    let image = world.busybox()?;
    for place in places {
        let id = world.id(&place.replace('.', "-"));
        let place = format!("shim.{place}");
        world.daemon.arm(&place, "kill")?;
        // How it fails depends on who was told what; that it was killed there is what counts.
        drop(live(world, &image, &id));
        ensure!(world.daemon.was_reached(&place), "{place} was never reached");
        wait::until("the end of the task", PATIENCE, || {
            let state = world.ctr.state(&id)?;
            if state.is_some() {
                world.ctr.run(["tasks", "rm", "--force", &id])?;
            }
            Ok(state.is_none().then_some(()))
        })
        .map_err(|failure| failure.with_section("place", &place))?;
        let left = world.daemon.estate();
        left.assert_clean().map_err(|failure| failure.with_section("place", &place))?;
        // Where not even the task was made, the client has removed the container itself.
        world.ctr.run(["containers", "rm", &id])?;
    }
    Ok(())
}

fn a_shim_killed_while_it_creates_leaves_nothing(world: &mut World) -> Outcome {
    killed_at(world, &["create.begun", "create.mounted", "create.made", "create.told"])
}

fn a_shim_killed_while_it_starts_or_adds_leaves_nothing(world: &mut World) -> Outcome {
    killed_at(world, &["start.begun", "start.made", "exec.begun", "exec.made"])
}

fn a_shim_killed_while_it_ends_or_removes_leaves_nothing(world: &mut World) -> Outcome {
    killed_at(world, &["kill.begun", "exit.seen", "delete.begun", "delete.unmounted"])
}

fn a_container_without_its_shim_has_exited_with_137(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", "--null-io", &image, &id, "sleep", "1000"])?;
    let mut listener = world.events()?;
    let shim = world.daemon.estate().shims().pop().context("a shim")?;
    send(shim.pid, rustix::process::Signal::KILL)?;
    let text = listener.wait_for("/tasks/exit", PATIENCE, |text| text.contains("/tasks/exit"))?;
    ensure!(text.contains("\"exit_status\":137"), "{text}");
    world.daemon.estate().assert_clean()?;
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}

fn a_shim_that_died_with_its_daemon_is_cleaned_up_after(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", "--null-io", &image, &id, "sleep", "1000"])?;
    let shim = world.daemon.estate().shims().pop().context("a shim")?;
    world.daemon.kill9()?;
    send(shim.pid, rustix::process::Signal::KILL)?;
    wait::until("its end", PATIENCE, || Ok((!procfs::alive(shim.pid)).then_some(())))?;
    world.daemon.restart()?;
    world.daemon.estate().assert_clean()?;
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}

/// Processor time that a process has taken, in ticks of 10 ms.
fn ticks(pid: i32) -> Outcome<u64> {
    let stat = fs_err::read_to_string(format!("/proc/{pid}/stat"))?;
    let rest = stat.rsplit(')').next().context("the fields")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

fn much_output_takes_no_time_of_the_shim(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    // What a container complains of passes through the shim, though not through its memory; and so
    // does all that it says where CRIU may be asked to save it.
    let has_criu = e2e::parts::tool("criu").is_ok();
    for (stream, limit) in [("1", if has_criu { 40 } else { 2 }), ("2", 40)] {
        let id = world.id(&format!("much{stream}"));
        let script = format!(
            "while [ ! -e /go ]; do sleep 0.05; done; \
             dd if=/dev/zero bs=64k count=2048 >&{stream} 2>/dev/null; touch /done; sleep 1000"
        );
        let mut client = world.ctr.command(["run", &image, &id, "sh", "-c", &script]);
        let mut client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let pid = wait::until("a task", PATIENCE, || pid_of(world, &id))?;
        let shim = world.daemon.estate().shims().pop().context("a shim")?;
        let (begun, before) = (Instant::now(), ticks(shim.pid)?);
        fs_err::write(format!("/proc/{pid}/root/go"), "")?;
        let done = format!("/proc/{pid}/root/done");
        let is_done = || Ok(Path::new(&done).exists().then_some(()));
        wait::until("128 MiB", PATIENCE, is_done)?;
        let taken = ticks(shim.pid)? - before;
        println!("128 MiB of {stream} in {:?}: {} ms of the shim", begun.elapsed(), taken * 10);
        ensure!(taken <= limit, "the shim has taken {taken} ticks for {stream}");
        world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
        client.wait()?;
        world.ctr.remove(&id)?;
    }
    Ok(())
}

/// The number of a task's process, once it runs.
fn pid_of(world: &World, id: &str) -> Outcome<Option<u32>> {
    let lines = world.ctr.lines(["tasks", "ls"])?;
    let rows = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut running = rows.filter(|row| row.first() == Some(&id) && row.last() == Some(&"RUNNING"));
    Ok(running.next().and_then(|row| row.get(1)?.parse().ok()))
}

fn a_shim_can_be_spoken_to_without_its_daemon(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", "--null-io", &image, &id, "sleep", "1000"])?;
    world.daemon.kill9()?;
    let shim = |words: &[&str]| {
        let words = ["shim", "--id", &id].iter().chain(words).copied().collect::<Vec<_>>();
        world.ctr.run(words)
    };
    let state: serde_json::Value = serde_json::from_str(&shim(&["state"])?.ok()?)?;
    assert_eq!((&state["id"], &state["status"]), (&id.clone().into(), &"RUNNING".into()));
    let spec = world.daemon.home().join("process.json");
    let process = serde_json::json!({
        "args": ["sh", "-c", "echo $WHO; pwd; exit 3"], "cwd": "/", "user": {"uid": 0, "gid": 0},
        "env": ["PATH=/bin"],
    });
    fs_err::write(&spec, process.to_string())?;
    let (spec, fifo) = (spec.display().to_string(), world.daemon.home().join("tmp/out"));
    let fifo = fifo.display().to_string();
    let said = shim(&[
        "exec", "-a", "--stdout", &fifo, "--spec", &spec, "-e", "WHO=me", "--cwd", "/tmp", "e",
    ])?;
    let said = said.ok()?;
    ensure!(said.contains("me\n/tmp\n") && said.contains("exec running with pid "), "{said}");
    let state: serde_json::Value = serde_json::from_str(&shim(&["state", "e"])?.ok()?)?;
    assert_eq!((&state["status"], &state["exit_status"]), (&"STOPPED".into(), &3.into()));
    assert_eq!(shim(&["delete", "e"])?.ok()?, "container deleted and returned exit status 3\n");
    shim(&["delete"])?.refused(&["cannot delete a running process"])?;
    shim(&["state", "f"])?.refused(&["process does not exist f"])?;
    world.daemon.restart()?;
    world.ctr.remove(&id)
}
