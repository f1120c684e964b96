// SPDX-License-Identifier: Apache-2.0
//! Many at once, shims that stand still, disks that are full, files that vanish, runtimes that hang.

use std::time::{Duration, Instant};

use e2e::process::{Output, run, send};
use e2e::{
    Outcome, PATIENCE, World,
    churn::{self, Pace},
    ensure, only_ours, procfs, wait,
};
use rustix::process::Signal;

only_ours!(
    many_containers_leave_nothing,
    shims_that_stand_still_hold_up_nobody_else,
    a_full_disk_is_told_and_got_over,
    a_container_outlives_its_root_filesystem,
    a_runtime_that_hangs_holds_up_only_its_own,
    a_process_that_dies_while_it_is_created_is_told,
);

fn many_containers_leave_nothing(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let pace = Pace { at_once: 8, round: 30, rest: Duration::ZERO };
    let report = churn::churn(&world.daemon, &image, 60, pace)?;
    println!("{report}");
    report.assert_clean()
}

/// A container in the background without streams.
fn sleeper(world: &World, image: &str, name: &str) -> Outcome<String> {
    let id = world.id(name);
    world.ctr.ok(["run", "-d", "--null-io", image, &id, "sleep", "1000"])?;
    Ok(id)
}

/// The middle of how long a few goes at something take.
fn middle(mut what: impl FnMut() -> Outcome) -> Outcome<Duration> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        what()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[2])
}

fn shims_that_stand_still_hold_up_nobody_else(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let names: Vec<String> = (0..10).map(|number| format!("still{number}")).collect();
    let still = names.iter().map(|name| sleeper(world, &image, name));
    let still: Vec<String> = still.collect::<Outcome<_>>()?;
    let shims = world.daemon.estate().shims();
    assert_eq!(shims.len(), 10);
    let ctr = &world.ctr;
    let mut count = 0;
    let mut start = || {
        count += 1;
        let id = sleeper(world, &image, &format!("other{count}"))?;
        ctr.remove_at_once(&id)
    };
    let normal = middle(&mut start)?;
    for shim in &shims {
        send(shim.pid, Signal::STOP)?;
    }
    let slowed = middle(&mut start);
    let begun = Instant::now();
    let listed = ctr.lines(["tasks", "ls"]);
    let listing = begun.elapsed();
    for shim in &shims {
        send(shim.pid, Signal::CONT)?;
    }
    let (slowed, listed) = (slowed?, listed?);
    println!(
        "start to removal: {normal:?}, beside ten that stand still {slowed:?}; list {listing:?}"
    );
    // What else the machine does meanwhile falls on either.
    let most = normal * 2 + Duration::from_millis(100);
    ensure!(slowed < most, "{slowed:?} instead of {normal:?}");
    // All of them are waited for together, for as long as a state may take.
    ensure!(listing < Duration::from_secs(4), "a list took {listing:?}");
    let unknown = listed.iter().filter(|line| line.ends_with("UNKNOWN")).count();
    assert_eq!(unknown, 10, "{listed:?}");
    for id in &still {
        ctr.wait_for_state(id, "RUNNING", PATIENCE)?;
        let exec = ["tasks", "exec", "--exec-id", "e", id, "echo", "back"];
        assert_eq!(ctr.ok(exec)?, "back\n");
    }
    let after: Vec<i32> = world.daemon.estate().shims().iter().map(|shim| shim.pid).collect();
    assert_eq!(after, shims.iter().map(|shim| shim.pid).collect::<Vec<_>>());
    still.iter().try_for_each(|id| ctr.remove_at_once(id))
}

fn sh(script: &str) -> Outcome<Output> {
    run(std::process::Command::new("sh").args(["-c", script]), PATIENCE)
}

fn a_full_disk_is_told_and_got_over(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let state = world.daemon.home().join("state").display().to_string();
    world.daemon.kill9()?;
    sh(&format!("rm -rf {state}/* && mount -t tmpfs -o size=256k tmpfs {state}"))?.ok()?;
    world.daemon.restart()?;
    let fill = format!("dd if=/dev/zero of={state}/fill bs=4k 2>/dev/null; true");
    sh(&fill)?.ok()?;
    let id = world.id("full");
    let run = ["run", "-d", "--null-io", &image, &id, "sleep", "1000"];
    world.ctr.refused(run, &["space left on device"])?;
    ensure!(world.daemon.estate().shims().is_empty(), "a shim is left");
    let tasks = world.ctr.lines(["tasks", "ls", "-q"])?;
    ensure!(tasks.is_empty(), "left: {tasks:?}");
    world.ctr.run(["containers", "rm", &id])?;
    fs_err::remove_file(format!("{state}/fill"))?;
    let said = world.ctr.ok(["run", "--rm", &image, &id, "echo", "space"])?;
    assert_eq!(said, "space\n");
    world.daemon.terminate()?;
    sh(&format!("umount {state}"))?.ok()?;
    world.daemon.restart()
}

fn a_container_outlives_its_root_filesystem(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = sleeper(world, &image, "bare")?;
    let rootfs = world.daemon.estate().mounts();
    ensure!(!rootfs.is_empty(), "no root filesystem is mounted");
    for point in &rootfs {
        sh(&format!("umount -l {}", point.display()))?.ok()?;
    }
    for dir in world.daemon.snapshots()? {
        fs_err::remove_dir_all(dir.join("fs"))?;
    }
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    let exec = ["tasks", "exec", "--exec-id", "e", &id, "/bin/none"];
    world.ctr.refused(exec, &["no such file or directory"])?;
    world.ctr.remove(&id)?;
    world.ctr.ok(["images", "rm", "--sync", &image]).map(drop)
}

/// A runtime that says nothing any more once a file is there.
fn hanging(world: &World) -> Outcome<(String, String)> {
    // Its name says that it runs plain processes, which may be signalled without it.
    let dir = world.daemon.home().join("tmp/slow");
    fs_err::create_dir(&dir)?;
    let (program, flag) = (dir.join("runc"), dir.join("hang"));
    let flag = flag.display().to_string();
    let script = format!("#!/bin/sh\nwhile [ -e {flag} ]; do sleep 0.1; done\nexec runc \"$@\"\n");
    sys::program::install(&program, script.as_bytes())?;
    Ok((program.display().to_string(), flag))
}

fn a_runtime_that_hangs_holds_up_only_its_own(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let (program, flag) = hanging(world)?;
    let (slow, other) = (world.id("slow"), world.id("other"));
    let run = ["run", "-d", "--null-io", "--runc-binary", &program, &image, &slow, "sleep", "1000"];
    world.ctr.ok(run)?;
    fs_err::write(&flag, "")?;
    let exec = world.ctr.start(["tasks", "exec", "--exec-id", "e", &slow, "echo", "late"])?;
    let calls = || {
        let of_it = |process: &procfs::Process| process.command.contains(&program);
        world.daemon.estate().processes().into_iter().filter(of_it).count()
    };
    wait::until("a runtime that hangs", PATIENCE, || Ok((calls() > 0).then_some(())))?;
    let started = Instant::now();
    assert_eq!(world.ctr.ok(["run", "--rm", &image, &other, "echo", "quick"])?, "quick\n");
    assert_eq!(world.ctr.state(&slow)?.as_deref(), Some("RUNNING"));
    ensure!(started.elapsed() < Duration::from_secs(10), "others waited {:?}", started.elapsed());
    fs_err::remove_file(&flag)?;
    let late = exec.wait(PATIENCE)?;
    assert_eq!((late.code(), late.stdout.as_str()), (Some(0), "late\n"), "{}", late.told());
    // Killed while the runtime hangs: the call in the way is ended with it.
    fs_err::write(&flag, "")?;
    let pause = world.ctr.start(["tasks", "pause", &slow])?;
    wait::until("a runtime that hangs", PATIENCE, || Ok((calls() > 0).then_some(())))?;
    let started = Instant::now();
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &slow])?;
    ensure!(started.elapsed() < Duration::from_secs(10), "a kill took {:?}", started.elapsed());
    pause.wait(PATIENCE)?.refused(&["was interrupted"])?;
    fs_err::remove_file(&flag)?;
    world.ctr.wait_for_state(&slow, "STOPPED", PATIENCE)?;
    world.ctr.remove(&slow)
}

/// Short of memory, the first process may be killed before the runtime has said which one it is
/// (containerd's issue 9103).
fn a_process_that_dies_while_it_is_created_is_told(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let program = world.daemon.home().join("tmp/killing/runc");
    fs_err::create_dir(program.parent().expect("it is in a folder"))?;
    let script = "#!/bin/sh\nrunc \"$@\" || exit\ncase \" $* \" in\n\
        *\" create \"*) kill -KILL $(cat init.pid); sleep 0.5;;\nesac\n";
    sys::program::install(&program, script.as_bytes())?;
    let (program, id) = (program.display().to_string(), world.id("stillborn"));
    let create = ["containers", "create", "--runc-binary", &program, &image, &id, "sleep", "1000"];
    world.ctr.ok(create)?;
    world.ctr.refused(["tasks", "start", "--null-io", "-d", &id], &["stopped"])?;
    world.ctr.remove(&id)?;
    // A shim that does not know of the end waits for it in vain when it deletes.
    let log = world.daemon.log();
    ensure!(!log.contains("did not end in time"), "{log}");
    Ok(())
}
