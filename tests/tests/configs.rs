// SPDX-License-Identifier: Apache-2.0
//! The daemon as a program: its config on the command line, what it tells of itself, its signals.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use e2e::parts::tool;
use e2e::{Context, Outcome, PATIENCE, World, ensure, only_ours, process, wait};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

only_ours!(
    a_dump_has_what_was_imported_and_is_read_by_others,
    a_daemon_tells_when_it_is_ready_and_when_it_ends,
    a_signal_has_it_write_down_what_it_does,
    a_runtime_tells_what_it_can_do,
    what_is_deprecated_is_listed,
    a_daemon_without_what_it_needs_does_not_start,
);

/// Our daemon's program, not as a daemon.
fn containerd(world: &World, words: &[&str]) -> Outcome<String> {
    let mut command = Command::new(world.daemon.home().join("bin/containerd"));
    process::run(command.args(words), PATIENCE)?.ok()
}

fn a_dump_has_what_was_imported_and_is_read_by_others(world: &mut World) -> Outcome {
    let home = world.daemon.home();
    let main = home.join("main.toml");
    fs_err::write(&main, "version = 2\nimports = [\"more/*.toml\"]\nroot = \"/r\"\n")?;
    fs_err::create_dir(home.join("more"))?;
    let more =
        "version = 2\n[plugins.\"io.containerd.gc.v1.scheduler\"]\n  mutation_threshold = 7\n";
    fs_err::write(home.join("more/gc.toml"), more)?;
    let path = main.display().to_string();
    let dumped = containerd(world, &["--config", &path, "config", "dump"])?;
    for line in ["version = 3", "root = \"/r\"", "mutation_threshold = 7", "pause_threshold = 0.02"]
    {
        ensure!(dumped.lines().any(|it| it == line), "{line} in\n{dumped}");
    }
    let migrated = containerd(world, &["--config", &path, "config", "migrate"])?;
    ensure!(migrated.contains("mutation_threshold = 100"), "{migrated}");

    // What we print, the distribution's daemon reads (but for the version, which is newer).
    for text in [containerd(world, &["config", "default"])?, dumped] {
        let printed = home.join("printed.toml");
        let printed_path = printed.display().to_string();
        let text =
            text.replace("version = 3", "version = 2").replace("conf.d/*.toml", "none/*.toml");
        fs_err::write(&printed, text)?;
        let mut theirs = Command::new(tool("containerd")?);
        theirs.args(["--config", &printed_path, "config", "dump"]);
        let read = process::run(&mut theirs, PATIENCE)?.ok()?;
        ensure!(read.contains("schedule_delay = \"0s\""), "{read}");
    }
    let version = containerd(world, &["--version"])?;
    assert_eq!(version.split_whitespace().count(), 4, "{version}");
    ensure!(version.starts_with("containerd github.com/containerd/containerd/v2 2."), "{version}");
    Ok(())
}

fn a_daemon_tells_when_it_is_ready_and_when_it_ends(world: &mut World) -> Outcome {
    world.daemon.terminate()?;
    let path = world.daemon.home().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let told = || -> Outcome<String> {
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).context("a notification")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let mut command = world.daemon.command();
    let mut child =
        command.env("NOTIFY_SOCKET", &path).stderr(std::process::Stdio::null()).spawn()?;
    let checked = (|| {
        assert_eq!(told()?, "READY=1");
        kill_process(Pid::from_child(&child), Signal::TERM)?;
        assert_eq!(told()?, "STOPPING=1");
        wait::until("its end", PATIENCE, || Ok(child.try_wait()?))
    })();
    drop(child.kill());
    drop(child.wait());
    checked.map(drop)
}

fn a_signal_has_it_write_down_what_it_does(world: &mut World) -> Outcome {
    let pid = world.daemon.pid()?;
    kill_process(Pid::from_raw(pid).context("a pid")?, Signal::USR1)?;
    let path = world.daemon.home().join(format!("state/containerd.{pid}.stacks.log"));
    let text = wait::until("the file", PATIENCE, || Ok(fs_err::read_to_string(&path).ok()))?;
    ensure!(
        text.contains("\ntasks ") && text.contains("thread ") && text.contains("open files"),
        "{text}"
    );
    world.ctr.ok(["version"]).map(drop)
}

fn a_runtime_tells_what_it_can_do(world: &mut World) -> Outcome {
    let told: Value = serde_json::from_str(&world.ctr.ok(["plugins", "inspect-runtime"])?)?;
    assert_eq!(told["Name"], "io.containerd.runc.v2");
    ensure!(
        told["Features"].is_null() || told["Features"]["ociVersionMax"].is_string(),
        "{told:#}"
    );
    world.ctr.refused(
        ["plugins", "inspect-runtime", "--runtime", "io.containerd.bogus.v1"],
        &["failed to resolve runtime path", "containerd-shim-bogus-v1"],
    )?;
    let lines = world.ctr.lines(["plugins", "ls"])?;
    for (kind, id) in [
        ("io.containerd.runtime.v2", "task"),
        ("io.containerd.sandbox.controller.v1", "shim"),
        ("io.containerd.podsandbox.controller.v1", "podsandbox"),
        ("io.containerd.sandbox.store.v1", "local"),
        ("io.containerd.monitor.container.v1", "restart"),
        ("io.containerd.grpc.v1", "sandbox-controllers"),
    ] {
        let is_listed = |line: &String| line.split_whitespace().take(2).eq([kind, id]);
        ensure!(lines.iter().any(is_listed), "{kind} {id} in {lines:?}");
    }
    let info: Value = serde_json::from_str(&world.ctr.ok(["info"])?)?;
    assert_eq!(info["server"]["pid"].as_i64(), Some(i64::from(world.daemon.pid()?)));
    Ok(())
}

fn configure(world: &mut World, more: &str) -> Outcome {
    world.daemon.terminate()?;
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    Ok(fs_err::write(&path, format!("{text}{more}"))?)
}

fn what_is_deprecated_is_listed(world: &mut World) -> Outcome {
    let list = ["deprecations", "list", "--format", "json"];
    assert_eq!(world.ctr.ok(list)?, "[]\n");
    let mirrors = "[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  \
                   endpoint = [\"https://mirror\"]\n";
    configure(world, mirrors)?;
    world.daemon.restart()?;
    let told: Value = serde_json::from_str(&world.ctr.ok(list)?)?;
    assert_eq!(told[0]["id"], "io.containerd.deprecation/cri-registry-mirrors", "{told:#}");
    let lines = world.ctr.lines(["deprecations", "list"])?;
    ensure!(lines[1].contains("Use `config_path` instead"), "{lines:?}");
    Ok(())
}

fn a_daemon_without_what_it_needs_does_not_start(world: &mut World) -> Outcome {
    world.daemon.terminate()?;
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    let needs = "required_plugins = [\"io.containerd.snapshotter.v1.bogus\"]\n";
    fs_err::write(&path, format!("{needs}{text}"))?;
    let output = process::run(&mut world.daemon.command(), PATIENCE)?;
    output.refused(&["required plugins [io.containerd.snapshotter.v1.bogus] not included"])?;
    fs_err::write(&path, text)?;
    world.daemon.restart()
}
