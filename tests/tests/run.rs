// SPDX-License-Identifier: Apache-2.0
//! Running containers to their end.

use e2e::{Context, Image, Layer, Outcome, PATIENCE, Tar, World, for_each_shim, wait};

use crate::store::snapshots;

for_each_shim!(
    a_container_prints_and_is_gone,
    the_exit_status_is_passed_on,
    a_signal_is_an_exit_status_above_128,
    both_streams_arrive_apart,
    input_is_passed_in,
    a_long_output_arrives_whole,
    environment_and_directory_are_set,
    the_images_command_is_the_default,
    layers_are_seen_as_one,
    a_read_only_root_is_not_written,
    a_directory_of_the_host_is_mounted,
    limits_are_set_on_the_cgroup,
    a_container_has_namespaces_of_its_own,
    an_id_is_used_once,
    a_directory_serves_as_a_root,
    the_pid_is_written_to_a_file,
    many_containers_run_at_once,
);

fn a_container_prints_and_is_gone(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let said = world.ctr.ok(["run", "--rm", &image, &world.id("greet"), "echo", "hello"])?;
    assert_eq!(said, "hello\n");
    assert_eq!(world.ctr.lines(["containers", "ls", "-q"])?, Vec::<String>::new());
    assert_eq!(snapshots(world)?.len(), 1);
    Ok(())
}

/// Runs a shell script in a container of its own.
fn shell(world: &World, image: &str, options: &[&str], script: &str) -> Outcome<e2e::Output> {
    let id = world.id("sh");
    world.ctr.run([&["run", "--rm"], options, &[image, &id, "sh", "-c", script]].concat())
}

fn the_exit_status_is_passed_on(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    for status in [0, 1, 42, 255] {
        let output = shell(world, &image, &[], &format!("exit {status}"))?;
        assert_eq!(output.code(), Some(status), "{}", output.told());
    }
    Ok(())
}

fn a_signal_is_an_exit_status_above_128(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("victim");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    let removed = world.ctr.run(["tasks", "rm", &id])?;
    // Some clients exit with the status, all of them name it.
    assert!(removed.code() == Some(137) || removed.stderr.contains("137"), "{}", removed.told());
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}

fn both_streams_arrive_apart(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let output = shell(world, &image, &[], "echo out; echo err >&2")?;
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    Ok(())
}

fn input_is_passed_in(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let script = "read a; read b; echo $b $a";
    let id = world.id("reader");
    let mut ctr = world.ctr.start_fed(["run", "--rm", &image, &id, "sh", "-c", script])?;
    ctr.feed(b"first\nsecond\n")?;
    assert_eq!(ctr.wait(PATIENCE)?.ok()?, "second first\n");
    Ok(())
}

fn a_long_output_arrives_whole(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let said = shell(world, &image, &[], "seq 1 200000")?.ok()?;
    assert_eq!(said.lines().count(), 200_000);
    assert_eq!(said.lines().last(), Some("200000"));
    Ok(())
}

fn environment_and_directory_are_set(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let options = ["--env", "COLOR=green", "--cwd", "/tmp"];
    let said = shell(world, &image, &options, "echo $COLOR; pwd; echo $PATH")?.ok()?;
    assert_eq!(said, "green\n/tmp\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
    Ok(())
}

fn the_images_command_is_the_default(world: &mut World) -> Outcome {
    let image = Image::busybox()?.command(&["echo", "by", "default"]);
    let image = world.pull(&image, "tools/default:1")?;
    assert_eq!(world.ctr.ok(["run", "--rm", &image, &world.id("x")])?, "by default\n");
    Ok(())
}

fn layers_are_seen_as_one(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    let script = "cd /srv; ls; ls hidden; cat link replaced; stat -c '%a %h' replaced";
    let said = shell(world, &image, &[], script)?.ok()?;
    assert_eq!(
        said,
        "hidden\nkept\nlink\nreplaced\ntwin\nnew\nfrom the second layer\nnew\n600 2\n"
    );
    Ok(())
}

fn a_read_only_root_is_not_written(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let output = shell(world, &image, &["--read-only"], "touch /made")?;
    assert!(!output.status.success(), "{}", output.told());
    assert!(output.stderr.contains("Read-only file system"), "{}", output.told());
    shell(world, &image, &[], "touch /made")?.ok().map(drop)
}

fn a_directory_of_the_host_is_mounted(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let dir = world.daemon.home().join("shared");
    fs_err::create_dir(&dir)?;
    fs_err::write(dir.join("question"), "why\n")?;
    let mount = format!("type=bind,src={},dst=/shared,options=rbind:rw", dir.display());
    let script = "cat /shared/question; echo because > /shared/answer";
    assert_eq!(shell(world, &image, &["--mount", &mount], script)?.ok()?, "why\n");
    assert_eq!(fs_err::read_to_string(dir.join("answer"))?, "because\n");
    Ok(())
}

fn limits_are_set_on_the_cgroup(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("small");
    let limit = ["--memory-limit", "67108864"];
    world.ctr.ok([&["run", "-d"], &limit[..], &[&image, &id, "sleep", "1000"]].concat())?;
    let cgroups = world.daemon.estate().cgroups();
    let files = ["memory.limit_in_bytes", "memory.max"];
    let limits = cgroups.iter().flat_map(|dir| files.map(|file| dir.join(file)));
    let limits: Vec<String> = limits.filter_map(|path| fs_err::read_to_string(path).ok()).collect();
    assert!(limits.iter().any(|limit| limit.trim() == "67108864"), "{limits:?} in {cgroups:?}");
    world.ctr.remove(&id)
}

fn a_container_has_namespaces_of_its_own(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("x");
    let said = shell(world, &image, &[], "echo $$; hostname; ls /sys/class/net")?.ok()?;
    let own = fs_err::read_to_string("/proc/sys/kernel/hostname")?;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!((lines.first(), lines.last()), (Some(&"1"), Some(&"lo")), "{said}");
    // Without --net-host the client names the host as the container is named, or not at all.
    assert!(lines[1] == world.id("sh") || lines[1] == own.trim(), "{said}");
    let host = world.ctr.ok(["run", "--rm", "--net-host", &image, &id, "ls", "/sys/class/net"])?;
    let mut names: Vec<String> = host.lines().map(str::to_owned).collect();
    let mut wanted: Vec<String> = fs_err::read_dir("/sys/class/net")?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Outcome<_>>()?;
    names.sort();
    wanted.sort();
    assert_eq!(names, wanted);
    Ok(())
}

fn an_id_is_used_once(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("once");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    world.ctr.refused(["run", "--rm", &image, &id, "true"], &[&id, "already exists"])?;
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

fn a_directory_serves_as_a_root(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let target = world.daemon.home().join("rootfs");
    fs_err::create_dir(&target)?;
    let place = target.display().to_string();
    world.ctr.ok(["images", "mount", "--rw", &image, &place])?;
    let said =
        world.ctr.ok(["run", "--rm", "--rootfs", &place, &world.id("x"), "/bin/echo", "rooted"])?;
    assert_eq!(said, "rooted\n");
    world.ctr.ok(["images", "unmount", "--rm", &place]).map(drop)
}

fn the_pid_is_written_to_a_file(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("x");
    let file = world.daemon.home().join("pid");
    let path = file.display().to_string();
    world.ctr.ok(["run", "-d", "--pid-file", &path, &image, &id, "sleep", "1000"])?;
    let pid = fs_err::read_to_string(&file)?;
    // It has none for a moment while it becomes its program.
    let command = wait::until("the program", PATIENCE, || {
        let words = fs_err::read(format!("/proc/{}/cmdline", pid.trim()))?;
        Ok((!words.is_empty() && !words.starts_with(b"runc")).then_some(words))
    })?;
    assert_eq!(command, b"sleep\x001000\x00");
    world.ctr.remove(&id)
}

fn many_containers_run_at_once(world: &mut World) -> Outcome {
    let layer = Layer::new(Tar::new().file("etc/own", 0o644, b"own\n"));
    let image = world.pull(&Image::busybox()?.with(layer), "tools/own:1")?;
    let ids: Vec<String> = (0..6).map(|number| world.id(&format!("many{number}"))).collect();
    let started = ids.iter().map(|id| {
        world.ctr.start(["run", "--rm", &image, id, "sh", "-c", "cat /etc/own; sleep 1"])
    });
    let started: Vec<_> = started.collect::<Outcome<_>>()?;
    for (ctr, id) in started.into_iter().zip(&ids) {
        assert_eq!(ctr.wait(PATIENCE)?.ok().context(id)?, "own\n");
    }
    Ok(())
}
