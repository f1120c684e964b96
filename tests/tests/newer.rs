// SPDX-License-Identifier: Apache-2.0
//! What containerd 2.x, Docker 28 and CRIU 4 showed that 1.6 and its contemporaries did not: each of
//! these was found by playing newer releases (`cargo xtask newer`).

use std::time::Duration;

use api::containerd::services::containers::v1 as containers;
use api::containerd::services::leases::v1 as leases;
use e2e::docker::Docker;
use e2e::{
    Context, Image, Outcome, PATIENCE, World, ensure, for_each_daemon, for_each_shim, only_ours,
    over_the_wire, parts, wait,
};
use serde_json::Value;

use crate::wire::Wire;

over_the_wire!(a_lease_without_a_name_is_given_one, docker_keeps_its_images_in_containerd);
for_each_daemon!(
    what_cannot_work_here_is_skipped_and_not_broken,
    a_checkpoint_without_a_task_is_an_image_of_what_changed,
);
e2e::plays!(the_last_word_of_a_pull_is_shown: go_ctr GO_CTR);
for_each_shim!(a_checkpoint_goes_on_where_it_was, a_checkpoint_has_its_terminal_again);
only_ours!(
    a_container_may_be_kept_without_a_spec,
    an_exported_index_says_what_it_is,
    what_a_transfer_could_not_find_is_told_in_the_words_of_two,
);

/// How long one call may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Go's `ctr leases create` leaves the name to the daemon, which refused it.
fn a_lease_without_a_name_is_given_one(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, "leases.v1.Leases")?;
    let ask = leases::CreateRequest::default;
    let mut names = Vec::new();
    for _ in 0..2 {
        let made: leases::CreateResponse = wire.ask("Create", ask(), LIMIT)?;
        names.push(made.lease.map(|lease| lease.id).unwrap_or_default());
    }
    ensure!(!names[0].is_empty() && names[0] != names[1], "{names:?}");
    let listed = world.ctr.lines(["leases", "ls", "-q"])?;
    ensure!(names.iter().all(|name| listed.contains(name)), "{names:?} in {listed:?}");
    names.iter().try_for_each(|name| world.ctr.ok(["leases", "rm", name]).map(drop))
}

/// A snapshotter without its file system was listed as broken, so that who looked for what is broken
/// found something on every machine.
fn what_cannot_work_here_is_skipped_and_not_broken(world: &mut World) -> Outcome {
    let lines = world.ctr.lines(["plugins", "ls"])?;
    let status = |id: &str| {
        let rows = lines.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut found = rows.filter(|row| row.get(1) == Some(&id));
        found.next().and_then(|row| row.last().map(|word| (*word).to_owned()))
    };
    let btrfs = status("btrfs");
    ensure!(matches!(btrfs.as_deref(), Some("skip" | "ok")), "{btrfs:?} in {lines:?}");
    Ok(())
}

/// Go's `ctr` draws it with the next blob it hears of, and stops listening when the call is answered.
/// With its own daemon it is seen where no tick of 300 ms fell into the end of the pull.
fn the_last_word_of_a_pull_is_shown(world: &mut World) -> Outcome {
    if parts::other_tools().is_none() {
        println!("skipped: ctr 1.6 pulls by itself");
        return Ok(());
    }
    let packed = Image::three_layers()?.pack()?;
    for turn in 0..5 {
        let image = world.registry()?.push(&packed, &format!("tools/three:{turn}"))?;
        let said = world.ctr.ok(["images", "pull", "--plain-http", &image])?;
        ensure!(said.contains("Completed pull from OCI Registry"), "{said}");
        world.ctr.ok(["images", "rm", "--sync", &image])?;
    }
    Ok(())
}

/// Since containerd 2.0 a container need not have one; 1.6 refused it.
fn a_container_may_be_kept_without_a_spec(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, "containers.v1.Containers")?;
    let runtime = containers::container::Runtime {
        name: "io.containerd.runc.v2".to_owned(),
        ..Default::default()
    };
    let container = containers::Container {
        id: "shapeless".to_owned(),
        runtime: Some(runtime),
        ..Default::default()
    };
    let request = containers::CreateContainerRequest { container: Some(container) };
    wire.accepts("Create", request)?;
    assert_eq!(world.ctr.lines(["containers", "ls", "-q"])?, ["shapeless"]);
    world.ctr.ok(["containers", "rm", "shapeless"]).map(drop)
}

/// Since containerd 2.0 the index of an archive has a media type, and so another digest.
fn an_exported_index_says_what_it_is(world: &mut World) -> Outcome {
    let image = world.pull(&Image::three_layers()?, "tools/three:1")?;
    world.ctr.ok(["images", "export", "three.tar", &image])?;
    let mut tar = std::process::Command::new("tar");
    tar.args(["-xOf", "three.tar", "index.json"]).current_dir(world.daemon.home());
    let index: Value = serde_json::from_str(&e2e::process::run(&mut tar, PATIENCE)?.ok()?)?;
    assert_eq!(index["mediaType"], "application/vnd.oci.image.index.v1+json");
    Ok(())
}

fn what_a_transfer_could_not_find_is_told_in_the_words_of_two(world: &mut World) -> Outcome {
    let missing = format!("{}/tools/missing:1", world.registry()?.host());
    let words = format!("failed to resolve image: {missing}: not found");
    world.ctr.refused(["images", "pull", "--plain-http", &missing], &[&words])?;
    let nobody = ["images", "pull", "--plain-http", "127.0.0.1:1/a/b:1"];
    world.ctr.refused(nobody, &["dial tcp 127.0.0.1:1: connect: connection refused"])?;
    world.ctr.refused(["images", "export", "x.tar", "nope"], &["image \"nope\": not found"])
}

/// Nothing of it needs CRIU, and the container runs on.
fn a_checkpoint_without_a_task_is_an_image_of_what_changed(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("changes"));
    world.ctr.ok(["run", "-d", &image, &id, "sh", "-c", "echo mine > /mine; sleep 1000"])?;
    let written = || {
        let read = world.ctr.run(["tasks", "exec", "--exec-id", "look", &id, "cat", "/mine"])?;
        Ok((read.stdout == "mine\n").then_some(()))
    };
    wait::until("it has written", PATIENCE, written)?;
    world.ctr.ok(["containers", "checkpoint", "--rw", "--image", &id, "saved:1"])?;
    let tasks = world.ctr.lines(["tasks", "ls"])?;
    ensure!(tasks.iter().any(|row| row.contains(&id) && row.contains("RUNNING")), "{tasks:?}");
    let images = world.ctr.lines(["images", "ls"])?;
    let row = images.iter().find(|row| row.starts_with("saved:1 ")).context("a checkpoint")?;
    let digest = row.split_whitespace().find(|it| it.starts_with("sha256:")).context("a digest")?;
    let index: Value = serde_json::from_str(&world.ctr.ok(["content", "get", digest])?)?;
    let told = &index["annotations"];
    assert_eq!(told["org.opencontainers.image.ref.name"], *image);
    assert_eq!(told["io.containerd.checkpoint.runtime"], "io.containerd.runc.v2");
    assert_eq!(told["io.containerd.checkpoint.snapshotter"], "overlayfs");
    let parts = index["manifests"].as_array().context("parts")?;
    let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
    let kinds: Vec<_> = parts.iter().filter_map(|part| part["mediaType"].as_str()).collect();
    ensure!(kinds.len() >= 2 && kinds.contains(&layer), "{kinds:?}");
    world.ctr.refused(["containers", "restore", "--live", "other", "saved:1"], &["ound"])?;
    world.ctr.remove(&id)?;
    world.ctr.ok(["images", "rm", "--sync", "saved:1"]).map(drop)
}

/// A container that wrote to its fifo itself could not be saved: CRIU knows pipes, but no file that
/// the container's mounts do not have.
fn a_checkpoint_goes_on_where_it_was(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("counts"));
    let script = "i=0; while :; do i=$((i+1)); echo $i > /tmp/n; sleep 0.05; done";
    world.ctr.ok(["run", "-d", &image, &id, "sh", "-c", script])?;
    wait::until("it counts", PATIENCE, || Ok((count(world, &id).unwrap_or(0) > 5).then_some(())))?;
    let saved =
        world.ctr.run(["containers", "checkpoint", "--rw", "--image", "--task", &id, "saved:1"])?;
    if !saved.status.success() && parts::other_tools().is_none() {
        println!("skipped: this machine's CRIU can make no checkpoints\n{}", saved.told());
        return world.ctr.remove(&id);
    }
    saved.ok()?;
    let then = count(world, &id)?;
    world.ctr.remove(&id)?;
    world.ctr.ok(["containers", "restore", "--rw", "--live", &id, "saved:1"])?;
    let goes_on = || Ok((count(world, &id)? > then).then_some(()));
    let restored = count(world, &id)?;
    ensure!(restored > 5, "it begins anew at {restored}");
    wait::until("it goes on counting", PATIENCE, goes_on)?;
    world.ctr.remove(&id)
}

fn a_checkpoint_has_its_terminal_again(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("reads"));
    let script = "echo ready; read line; echo z${line}z";
    let mut first = world.ctr.on_terminal(["run", "-t", &image, &id, "sh", "-c", script])?;
    first.expect("ready", PATIENCE)?;
    let saved =
        world.ctr.run(["containers", "checkpoint", "--rw", "--image", "--task", &id, "saved:1"])?;
    if !saved.status.success() && parts::other_tools().is_none() {
        println!("skipped: this machine's CRIU can make no checkpoints\n{}", saved.told());
        first.type_in("\n")?;
        return first.wait(PATIENCE).map(drop);
    }
    saved.ok()?;
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    // Whoever ran it deletes its task.
    first.wait(PATIENCE)?;
    world.ctr.ok(["containers", "rm", &id])?;
    let mut again =
        world.ctr.on_terminal(["containers", "restore", "--rw", "--live", &id, "saved:1"])?;
    wait::until("it runs again", PATIENCE, || {
        Ok((world.ctr.state(&id)?.as_deref() == Some("RUNNING")).then_some(()))
    })?;
    again.type_in("hello\n")?;
    again.expect("zhelloz", PATIENCE)?;
    again.wait(PATIENCE)?;
    world.ctr.ok(["containers", "rm", &id]).map(drop)
}

/// How far a container has counted.
fn count(world: &World, id: &str) -> Outcome<u32> {
    let said = world.ctr.ok(["tasks", "exec", "--exec-id", "look", id, "cat", "/tmp/n"])?;
    Ok(said.trim().parse::<u32>().unwrap_or(0))
}

/// The image store of newer engines is containerd's own: content, snapshots, leases, and images by
/// the engine's names.
fn docker_keeps_its_images_in_containerd(world: &mut World) -> Outcome {
    if parts::other_tools().is_none() {
        println!("skipped: an engine that can do so is fetched by `cargo xtask newer`");
        return Ok(());
    }
    let image = world.registry()?.push(&Image::busybox()?.pack()?, "tools/busybox:1")?;
    let docker = Docker::start_with_image_store(&world.daemon)?;
    assert_eq!(
        docker.inspect_engine("DriverStatus")?,
        "[[driver-type io.containerd.snapshotter.v1]]"
    );
    docker.ok(&["pull", "-q", &image])?;
    let run = |image: &str, script: &str| {
        docker.ok(&["run", "--rm", "--net", "none", image, "sh", "-c", script])
    };
    assert_eq!(run(&image, "echo hi")?, "hi");
    docker.ok(&[
        "run",
        "--net",
        "none",
        "--name",
        "wrote",
        &image,
        "sh",
        "-c",
        "echo new > /new",
    ])?;
    ensure!(docker.ok(&["diff", "wrote"])?.contains("A /new"), "what it wrote is seen");
    let own = format!("{}/tools/own:1", world.registry()?.host());
    docker.ok(&["commit", "wrote", &own])?;
    docker.ok(&["rm", "wrote"])?;
    assert_eq!(run(&own, "cat /new")?, "new");
    docker.ok(&["push", &own])?;
    let archive = world.daemon.home().join("own.tar").display().to_string();
    docker.ok(&["save", "-o", &archive, &own])?;
    docker.ok(&["rmi", &own])?;
    docker.ok(&["load", "-i", &archive])?;
    assert_eq!(run(&own, "cat /new")?, "new");
    docker.ok(&["rmi", &own])?;
    docker.ok(&["pull", "-q", &own])?;
    assert_eq!(run(&own, "cat /new")?, "new");
    docker.ok(&["system", "prune", "-af", "--volumes"])?;
    assert_eq!(docker.ok(&["images", "-q"])?, "");
    assert_eq!(world.ctr.lines(["content", "ls", "-q"])?, Vec::<String>::new());
    Ok(())
}
