// SPDX-License-Identifier: Apache-2.0
//! Daemons that die and come back.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::{
    Context, Fault, Image, KnobRegistry, Layer, Outcome, PATIENCE, Part, World, ensure,
    for_each_daemon, for_each_shim, procfs, wait,
};

use crate::store::{assert_empty, collect, first_word};

for_each_shim!(
    a_task_outlives_its_daemon,
    an_exit_while_no_daemon_ran_is_told_later,
    an_exit_after_a_restart_is_an_event,
    output_is_not_lost_over_a_restart,
    an_orderly_end_leaves_the_task_alone,
    a_paused_task_stays_paused_over_a_restart,
    a_process_that_was_added_outlives_the_daemon,
    a_terminal_outlives_the_daemon,
);
for_each_daemon!(a_pull_that_was_killed_is_resumed, records_outlive_a_power_cut);

const STUBBORN: &str = "trap 'exit 5' TERM; while :; do sleep 0.1; done";

fn background(world: &World, script: &str) -> Outcome<(String, i32)> {
    let image = world.busybox()?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", &image, &id, "sh", "-c", script])?;
    let pid = pid(world, &id)?;
    Ok((id, pid))
}

fn pid(world: &World, id: &str) -> Outcome<i32> {
    let lines = world.ctr.lines(["tasks", "ls"])?;
    let line = lines.iter().find(|line| line.starts_with(id)).context("a line for the task")?;
    Ok(line.split_whitespace().nth(1).context("a pid")?.parse()?)
}

/// Removes a stopped task and its container; checks the exit status that is told.
fn assert_status(world: &World, id: &str, status: i32) -> Outcome {
    world.ctr.wait_for_state(id, "STOPPED", PATIENCE)?;
    let removed = world.ctr.run(["tasks", "rm", id])?;
    let told =
        removed.code() == Some(status) || removed.stderr.contains(&format!("exit code {status}"));
    ensure!(told, "expected {status}\n{}", removed.told());
    world.ctr.ok(["containers", "rm", id]).map(drop)
}

/// Asks a task to end until it does: its shell may not have got to its trap yet.
fn ask_to_end(world: &World, id: &str) -> Outcome {
    wait::until("the end of the task", PATIENCE, || {
        world.ctr.run(["tasks", "kill", id])?;
        Ok((world.ctr.state(id)?.as_deref() == Some("STOPPED")).then_some(()))
    })
}

fn a_task_outlives_its_daemon(world: &mut World) -> Outcome {
    let (id, pid_before) = background(world, STUBBORN)?;
    world.daemon.kill9()?;
    assert!(procfs::alive(pid_before));
    world.daemon.restart()?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    assert_eq!(pid(world, &id)?, pid_before);
    let said =
        world.ctr.ok(["tasks", "exec", "--exec-id", &world.id("e"), &id, "echo", "still here"])?;
    assert_eq!(said, "still here\n");
    ask_to_end(world, &id)?;
    assert_status(world, &id, 5)
}

fn an_exit_while_no_daemon_ran_is_told_later(world: &mut World) -> Outcome {
    let script = "while [ ! -e /done ]; do sleep 0.1; done; exit 9";
    let (id, pid) = background(world, script)?;
    world.daemon.kill9()?;
    fs_err::write(format!("/proc/{pid}/root/done"), "")?;
    wait::until("the end of the process", PATIENCE, || Ok((!procfs::alive(pid)).then_some(())))?;
    world.daemon.restart()?;
    assert_status(world, &id, 9)
}

fn an_exit_after_a_restart_is_an_event(world: &mut World) -> Outcome {
    let (id, _) = background(world, STUBBORN)?;
    world.daemon.kill9()?;
    world.daemon.restart()?;
    let mut listener = world.events()?;
    ask_to_end(world, &id)?;
    let text = listener.wait_for("/tasks/exit", PATIENCE, |text| text.contains("/tasks/exit"))?;
    assert!(text.contains("\"exit_status\":5"), "{text}");
    assert_status(world, &id, 5)
}

fn output_is_not_lost_over_a_restart(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    let fifos = world.daemon.home().join("fifos");
    fs_err::create_dir(&fifos)?;
    let dir = fifos.display().to_string();
    // It waits until somebody listens, and then says a line every few milliseconds.
    let script = "while [ ! -e /go ]; do sleep 0.05; done; \
                  for i in $(seq 1 300); do echo line $i; sleep 0.01; done";
    world.ctr.ok(["run", "-d", "--fifo-dir", &dir, &image, &id, "sh", "-c", script])?;
    let mut listener = open_fifo(&stdout_of(&fifos)?)?;
    let pid = pid(world, &id)?;
    fs_err::write(format!("/proc/{pid}/root/go"), "")?;
    let mut text = String::new();
    listen(&mut listener, &mut text, "line 50\n")?;
    world.daemon.kill9()?;
    listen(&mut listener, &mut text, "line 150\n")?;
    world.daemon.restart()?;
    listen(&mut listener, &mut text, "line 300\n")?;
    let wanted: String =
        (1..=300).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
    assert_eq!(text, wanted);
    assert_status(world, &id, 0)
}

/// Finds the one fifo for standard output below a directory.
fn stdout_of(dir: &Path) -> Outcome<PathBuf> {
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs_err::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with("-stdout") {
                return Ok(path);
            }
        }
    }
    Err(e2e::Failure::new("no fifo for standard output"))
}

fn open_fifo(path: &Path) -> Outcome<std::fs::File> {
    // Without this flag, opening would wait for a writer.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = fs_err::OpenOptions::new();
    options.read(true).options_mut().custom_flags(nonblock);
    Ok(options.open(path)?.into_parts().0)
}

/// Reads until what was read ends with `last`.
fn listen(fifo: &mut std::fs::File, text: &mut String, last: &str) -> Outcome {
    let started = Instant::now();
    let mut chunk = [0; 4096];
    while !text.contains(last) {
        ensure!(started.elapsed() < PATIENCE, "{last:?} did not come, but {text:?}");
        match fifo.read(&mut chunk) {
            Ok(count @ 1..) => text.push_str(&String::from_utf8_lossy(&chunk[..count])),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(())
}

fn an_orderly_end_leaves_the_task_alone(world: &mut World) -> Outcome {
    let (id, pid_before) = background(world, STUBBORN)?;
    let status = world.daemon.terminate()?;
    ensure!(status.success(), "SIGTERM ended containerd with {status}");
    assert!(procfs::alive(pid_before));
    world.daemon.restart()?;
    assert_eq!(pid(world, &id)?, pid_before);
    world.ctr.remove(&id)
}

fn a_paused_task_stays_paused_over_a_restart(world: &mut World) -> Outcome {
    let (id, pid_before) = background(world, "sleep 1000")?;
    world.ctr.ok(["tasks", "pause", &id])?;
    world.daemon.kill9()?;
    world.daemon.restart()?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("PAUSED"));
    world.ctr.ok(["tasks", "resume", &id])?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    // And the other way round: what was not paused before can be now.
    world.daemon.kill9()?;
    world.daemon.restart()?;
    world.ctr.ok(["tasks", "pause", &id])?;
    world.ctr.wait_for_state(&id, "PAUSED", PATIENCE)?;
    world.ctr.ok(["tasks", "resume", &id])?;
    assert_eq!(pid(world, &id)?, pid_before);
    world.ctr.remove(&id)
}

fn a_process_that_was_added_outlives_the_daemon(world: &mut World) -> Outcome {
    let (id, _) = background(world, "sleep 1000")?;
    let fifos = world.daemon.home().join("fifos").display().to_string();
    let (added, later) = (world.id("added"), world.id("later"));
    let exec = ["tasks", "exec", "-d", "--fifo-dir", &fifos, "--exec-id", &added, &id];
    world.ctr.ok(exec.into_iter().chain(["sleep", "77"]))?;
    let count = || -> Outcome<usize> { Ok(world.ctr.lines(["tasks", "ps", &id])?.len() - 1) };
    wait::until("a second process", PATIENCE, || Ok((count()? == 2).then_some(())))?;
    world.daemon.kill9()?;
    world.daemon.restart()?;
    let count = || -> Outcome<usize> { Ok(world.ctr.lines(["tasks", "ps", &id])?.len() - 1) };
    assert_eq!(count()?, 2);
    let taken = ["tasks", "exec", "--exec-id", &added, &id, "true"];
    world.ctr.refused(taken, &["already exists"])?;
    let said = world.ctr.run(["tasks", "exec", "--exec-id", &later, &id, "sh", "-c", "exit 6"])?;
    assert_eq!(said.code(), Some(6), "{}", said.told());
    world.ctr.ok(["tasks", "kill", "--exec-id", &added, "--signal", "KILL", &id])?;
    wait::until("its end", PATIENCE, || Ok((count()? == 1).then_some(())))?;
    world.ctr.remove(&id)
}

fn a_terminal_outlives_the_daemon(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("tty");
    let fifos = world.daemon.home().join("fifos").display().to_string();
    let run = ["run", "-d", "-t", "--fifo-dir", &fifos, &image, &id, "sh"];
    let mut client = world.ctr.on_terminal(run)?;
    ensure!(client.wait(PATIENCE)?.success(), "{}", client.shown());
    world.daemon.kill9()?;
    world.daemon.restart()?;
    let mut pty = world.ctr.on_terminal(["tasks", "attach", &id])?;
    pty.type_in("test -t 0 && echo still-$((1 + 2))-here\n")?;
    pty.expect("still-3-here", PATIENCE)?;
    pty.type_in("until stty size | grep '33 111'; do sleep 0.1; done; exit 4\n")?;
    wait::until("the new size", PATIENCE, || {
        pty.resize(33, 111)?;
        Ok(pty.shown().contains("33 111\r").then_some(()))
    })?;
    // Who was attached removes the task.
    assert_eq!(pty.wait(PATIENCE)?.code(), Some(4), "{}", pty.shown());
    world.ctr.remove(&id)
}

fn a_pull_that_was_killed_is_resumed(world: &mut World) -> Outcome {
    let registry = KnobRegistry::start()?;
    let packed = Image::busybox()?.with(Layer::noise("srv/noise", 8 << 20, 5)).pack()?;
    let image = registry.put(&packed, "tools/big:1")?;
    let big = &packed.layers[1];
    registry
        .fault(Part::Blob(big.digest.clone()), Fault::Slow(256 << 10, Duration::from_millis(100)));
    let pull = world.ctr.start(["images", "pull", "--plain-http", &image])?;
    wait::until("half of the layer", PATIENCE, || Ok((ingested(world) > 3 << 20).then_some(())))?;
    world.daemon.kill9()?;
    assert!(!pull.wait(PATIENCE)?.status.success(), "a pull without a daemon succeeded");
    registry.heal();
    world.daemon.restart()?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    let path = format!("/blobs/{}", big.digest);
    let asked = registry.seen();
    let offsets =
        asked.iter().filter(|seen| seen.path.ends_with(&path)).filter_map(|seen| seen.from);
    let offsets: Vec<u64> = offsets.collect();
    assert!(offsets.iter().any(|from| *from > 1 << 20), "it began anew: {offsets:?}");
    let size =
        world.ctr.ok(["run", "--rm", &image, &world.id("x"), "stat", "-c", "%s", "/srv/noise"])?;
    assert_eq!(size.trim(), (8 << 20).to_string());
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    drop_leases(world)?;
    assert_empty(world)
}

/// Bytes of unfinished blobs on the disk.
fn ingested(world: &World) -> u64 {
    let Ok(entries) = fs_err::read_dir(world.daemon.content().join("ingest")) else { return 0 };
    let data = entries.filter_map(|entry| fs_err::metadata(entry.ok()?.path().join("data")).ok());
    data.map(|data| data.len()).sum()
}

/// Removes what a client that was cut off could not remove itself: its lease lasts for a day.
fn drop_leases(world: &World) -> Outcome {
    let lines = world.ctr.lines(["leases", "ls"])?;
    for id in lines.iter().skip(1).map(|line| first_word(line)) {
        world.ctr.ok(["leases", "rm", "--sync", &id])?;
    }
    collect(world)
}

fn records_outlive_a_power_cut(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    let id = world.id("kept");
    world.ctr.ok(["containers", "create", "--label", "kind=kept", &image, &id, "true"])?;
    world.ctr.ok(["leases", "create", "--id", "kept"])?;
    let ask = |words: &[&str]| world.ctr.ok(words.iter().copied());
    let questions: [&[&str]; 5] = [
        &["images", "ls"],
        &["containers", "info", &id],
        &["snapshots", "ls"],
        &["leases", "ls"],
        &["content", "ls", "-q"],
    ];
    let before: Vec<String> = questions.iter().map(|words| ask(words)).collect::<Outcome<_>>()?;
    world.daemon.kill9()?;
    world.daemon.restart()?;
    for (words, was) in questions.iter().zip(before) {
        assert_eq!(world.ctr.ok(words.iter().copied())?, was, "{words:?}");
    }
    assert_eq!(world.ctr.ok(["run", "--rm", &image, &world.id("x"), "cat", "/srv/twin"])?, "new\n");
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}
