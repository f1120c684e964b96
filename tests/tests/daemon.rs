// SPDX-License-Identifier: Apache-2.0
//! The daemon as a program: flags, config file, beginning and end.

use e2e::{
    Outcome, PATIENCE, Running, World, ensure, for_each_daemon, only_ours, probe, process, wait,
};
use rustix::process::Signal;

for_each_daemon!(
    the_version_is_printed,
    flags_win_over_the_config,
    a_disabled_plugin_is_not_served,
    a_config_that_cannot_be_read_is_refused,
    sockets_are_there_again_after_a_restart,
);
only_ours!(
    what_a_config_names_and_nobody_knows_is_a_warning,
    a_config_of_version_3_is_read,
    a_second_daemon_on_the_same_root_is_refused,
);

fn the_version_is_printed(world: &mut World) -> Outcome {
    let said = process::run(world.daemon.command().arg("--version"), PATIENCE)?.ok()?;
    assert!(said.starts_with("containerd "), "{said}");
    assert_eq!(said.split_whitespace().count(), 4, "{said}");
    Ok(())
}

fn flags_win_over_the_config(world: &mut World) -> Outcome {
    let home = world.daemon.home().to_owned();
    let mut command = world.daemon.command();
    for (flag, name) in [("--root", "root2"), ("--state", "state2"), ("--address", "two.sock")] {
        command.arg(flag).arg(home.join(name));
    }
    // The sockets of shims are in the config alone: two daemons cannot have the same.
    world.daemon.terminate()?;
    let second = Running::start(&mut command)?;
    wait::until(
        "an answer",
        PATIENCE,
        || Ok(probe::answers(&home.join("two.sock")).then_some(())),
    )?;
    assert!(home.join("root2/io.containerd.content.v1.content").is_dir());
    assert!(home.join("state2").is_dir());
    assert!(!probe::answers(&world.daemon.address()), "it listens where the config says too");
    second.signal(Signal::TERM)?;
    let ended = second.wait(PATIENCE)?;
    ensure!(ended.status.success(), "{}", ended.told());
    world.daemon.restart()
}

/// Replaces the config file and starts the daemon again.
fn reconfigure(world: &mut World, change: impl Fn(&str) -> String) -> Outcome {
    let path = world.daemon.home().join("config.toml");
    world.daemon.terminate()?;
    fs_err::write(&path, change(&fs_err::read_to_string(&path)?))?;
    world.daemon.restart()
}

fn a_disabled_plugin_is_not_served(world: &mut World) -> Outcome {
    reconfigure(world, |config| {
        let cri = "\"io.containerd.grpc.v1.cri\"";
        config.replace(cri, &format!("{cri}, \"io.containerd.snapshotter.v1.native\""))
    })?;
    world.ctr.refused(
        ["snapshots", "--snapshotter", "native", "prepare", "key"],
        &["snapshotter not loaded: native"],
    )?;
    world.ctr.ok(["snapshots", "prepare", "key"]).map(drop)
}

fn a_config_that_cannot_be_read_is_refused(world: &mut World) -> Outcome {
    let path = world.daemon.home().join("bad.toml");
    fs_err::write(&path, "version = 2\nroot = [unfinished\n")?;
    let mut command = std::process::Command::new(world.daemon.home().join("bin/containerd"));
    let output = process::run(command.arg("--config").arg(&path), PATIENCE)?;
    ensure!(!output.status.success(), "{}", output.told());
    ensure!(output.stderr.contains("bad.toml"), "{}", output.told());
    Ok(())
}

fn sockets_are_there_again_after_a_restart(world: &mut World) -> Outcome {
    // A socket that nobody listens on any more must not keep the next daemon from its place.
    for _ in 0..2 {
        world.daemon.kill9()?;
        world.daemon.restart()?;
        world.ctr.ok(["version"])?;
    }
    Ok(())
}

fn what_a_config_names_and_nobody_knows_is_a_warning(world: &mut World) -> Outcome {
    reconfigure(world, |config| {
        format!(
            "{config}\n[plugins.\"io.containerd.nope.v1.nope\"]\n  a = 1\n\n[nonsense]\n  b = 2\n"
        )
    })?;
    let log = world.daemon.log();
    for word in ["io.containerd.nope.v1.nope", "nonsense"] {
        assert!(log.contains(word), "{word} in {log}");
    }
    Ok(())
}

fn a_config_of_version_3_is_read(world: &mut World) -> Outcome {
    reconfigure(world, |config| {
        let config = config.replace("version = 2", "version = 3");
        format!("{config}\n[plugins.\"io.containerd.gc.v1.scheduler\"]\n  startup_delay = \"1s\"\n")
    })?;
    world.ctr.ok(["version"]).map(drop)
}

fn a_second_daemon_on_the_same_root_is_refused(world: &mut World) -> Outcome {
    let home = world.daemon.home().to_owned();
    let mut second = world.daemon.command();
    for (flag, path) in [("--address", "other.sock"), ("--state", "other-state")] {
        second.arg(flag).arg(home.join(path));
    }
    let output = process::run(&mut second, PATIENCE)?;
    assert!(!output.status.success(), "{}", output.told());
    let root = home.join("root").display().to_string();
    assert!(output.stderr.contains(&root), "{root} in {}", output.told());
    world.ctr.ok(["version"]).map(drop)
}
