// SPDX-License-Identifier: Apache-2.0
//! Real damage, and what `ctr store repair` and `containerd rebuild` make of it.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::process::run;
use e2e::{Context, Outcome, PATIENCE, World, ensure, only_ours, wait};

use crate::store::{blobs, collect, first_word};

only_ours!(
    a_flipped_bit_is_found_put_aside_and_fetched_again,
    layers_that_are_gone_are_unpacked_again,
    what_nobody_on_the_host_looks_after_is_found_and_taken_away,
    a_database_that_is_gone_is_made_anew_from_its_copy,
    without_any_database_images_come_back_by_what_is_on_the_disk,
    a_damaged_database_is_refused_and_rebuilt,
    a_truncated_database_gives_back_what_it_still_has,
    who_asks_for_a_rebuild_gets_one_at_the_next_start,
);

/// The image's container prints a word.
fn runs(world: &World, image: &str) -> Outcome {
    let id = world.id("whole");
    let said = world.ctr.ok(["run", "--rm", image, &id, "echo", "whole"])?;
    ensure!(said.trim() == "whole", "{said}");
    Ok(())
}

fn wrong(world: &World, words: &[&str]) -> Outcome {
    let told = world.ctr.run(["store", "check", "--digests"])?;
    told.refused(&["not all is as it should be"])?;
    let all = words.iter().all(|word| told.stdout.contains(word));
    ensure!(all, "not all of {words:?} is in: {}", told.stdout);
    Ok(())
}

fn a_flipped_bit_is_found_put_aside_and_fetched_again(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    for digest in blobs(world)? {
        let hex = digest.trim_start_matches("sha256:");
        let path = world.daemon.content().join("blobs/sha256").join(hex);
        let mut bytes = fs_err::read(&path)?;
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
        fs_err::write(&path, bytes)?;
    }
    // It takes a look at the bytes.
    world.ctr.ok(["store", "check"])?;
    wrong(world, &["broken", "blob", &image])?;
    let done = world.ctr.ok(["store", "repair"])?;
    ensure!(done.contains("quarantined blob"), "{done}");
    wrong(world, &["missing"])?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    world.ctr.ok(["store", "check", "--digests"])?;
    ensure!(world.daemon.content().join("quarantine").exists(), "the bad bytes are kept");
    runs(world, &image)
}

fn layers_that_are_gone_are_unpacked_again(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let container = world.id("writer");
    world.ctr.ok(["run", "-d", &image, &container, "sleep", "100"])?;
    world.ctr.remove(&container)?;
    collect(world)?;
    for directory in world.daemon.snapshots()? {
        fs_err::remove_dir_all(directory)?;
    }
    wrong(world, &["missing", "directory"])?;
    let done = world.ctr.ok(["store", "repair"])?;
    ensure!(done.contains("unpack its image again"), "{done}");
    world.ctr.ok(["store", "check"])?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    runs(world, &image)?;
    world.ctr.ok(["store", "check"]).map(drop)
}

fn what_nobody_on_the_host_looks_after_is_found_and_taken_away(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("alive");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    let home = world.daemon.home().to_owned();
    let stray = home.join("state/io.containerd.runtime.v2.task").join(world.ctr.namespace());
    let stray = stray.join("stray");
    fs_err::create_dir_all(stray.join("rootfs"))?;
    let shell = |line: String| run(Command::new("sh").args(["-ec", &line]), PATIENCE)?.ok();
    shell(format!("mount -t tmpfs stray {}/rootfs", stray.display()))?;
    let file = home.join("root/stray.img");
    shell(format!("truncate -s 1M {}", file.display()))?;
    let device = shell(format!("losetup -f --show {}", file.display()))?.trim().to_owned();
    let group = first_cgroup(world)?.join("stray");
    fs_err::create_dir(&group)?;
    let (loops, groups) = (format!("loop {device}"), "cgroup".to_owned());
    // What is young may be in the making.
    wait::until("all orphans", 2 * PATIENCE, || {
        let told = world.ctr.run(["store", "check"])?.stdout;
        let orphans: Vec<_> = told.lines().filter(|line| line.starts_with("orphan")).collect();
        let has = |kind: &str| orphans.iter().any(|line| line.contains(kind));
        let all = ["mount", "bundle", "loop", "cgroup"].iter().all(|kind| has(kind));
        Ok(all.then_some(()))
    })?;
    let all = world.ctr.ok(["store", "explain", &id])?;
    for kind in ["mount", "bundle", "shim", "cgroup"] {
        ensure!(all.contains(&format!("{kind} ")), "no {kind} in {all}");
    }
    ensure!(all.contains(&format!("kept by container {id}")), "{all}");
    let done = world.ctr.ok(["store", "repair"])?;
    for word in [loops.as_str(), groups.as_str(), "mount", "bundle"] {
        ensure!(done.contains(&format!("removed {word}")), "{done}");
    }
    ensure!(!stray.exists() && !group.exists(), "they are still there");
    let left = shell("losetup -a".to_owned())?;
    ensure!(!left.contains(&*file.to_string_lossy()), "{left}");
    world.ctr.ok(["store", "check"])?;
    world.ctr.wait_for_state(&id, "RUNNING", Duration::from_secs(1))?;
    fs_err::remove_file(file)?;
    world.ctr.remove(&id)
}

/// Where the containers of the world's namespace have their groups, in some tree.
fn first_cgroup(world: &World) -> Outcome<PathBuf> {
    let groups = world.daemon.estate().cgroups();
    let first = groups.first().context("a cgroup of a container")?;
    Ok(first.parent().context("a namespace's group")?.to_owned())
}

fn database(world: &World) -> PathBuf {
    world.daemon.home().join("root/io.containerd.metadata.v1.sqlite/meta.sqlite")
}

/// Removes the database, and its copy too if that is meant.
fn lose(world: &World, copy: bool) {
    let path = database(world);
    for suffix in ["", "-wal", "-shm"] {
        drop(fs_err::remove_file(format!("{}{suffix}", path.display())));
    }
    if copy {
        drop(fs_err::remove_file(format!("{}.copy", path.display())));
    }
}

fn rebuild(world: &World) -> Outcome<e2e::process::Output> {
    let mut command = world.daemon.command();
    run(command.arg("rebuild"), PATIENCE)
}

fn a_database_that_is_gone_is_made_anew_from_its_copy(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("kept");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    world.ctr.ok(["images", "label", &image, "mine=1"])?;
    // Each start makes a copy, a little later.
    world.daemon.terminate()?;
    drop(fs_err::remove_file(format!("{}.copy", database(world).display())));
    world.daemon.restart()?;
    let copy = format!("{}.copy", database(world).display());
    wait::until("a copy", PATIENCE, || Ok(PathBuf::from(&copy).exists().then_some(())))?;
    world.daemon.kill9()?;
    lose(world, false);
    world.daemon.restart()?;
    let list = world.ctr.ok(["images", "ls"])?;
    ensure!(list.contains(&image) && list.contains("mine=1"), "{list}");
    ensure!(world.ctr.state(&id)?.as_deref() == Some("RUNNING"), "the container is known");
    world.ctr.ok(["store", "check", "--digests"])?;
    world.ctr.remove(&id)?;
    runs(world, &image)
}

fn without_any_database_images_come_back_by_what_is_on_the_disk(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let before = blobs(world)?;
    let snapshots = crate::store::snapshots(world)?;
    let writable = world.id("mine");
    world.ctr.ok(["snapshots", "prepare", &writable, &snapshots[0]])?;
    world.daemon.terminate()?;
    lose(world, true);
    let done = rebuild(world)?.ok()?;
    ensure!(done.contains("recovered@sha256:"), "{done}");
    world.daemon.restart()?;
    collect(world)?;
    ensure!(blobs(world)? == before, "blobs: {:?}, before: {before:?}", blobs(world)?);
    let list = world.ctr.ok(["images", "ls", "-q"])?;
    let name = list.lines().find(|line| line.starts_with("recovered@")).context("an image")?;
    runs(world, name)?;
    let now = crate::store::snapshots(world)?;
    ensure!(now.contains(&writable) && now.contains(&snapshots[0]), "{now:?}");
    world.ctr.ok(["store", "check", "--digests"])?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    runs(world, &image)?;
    world.ctr.ok(["snapshots", "rm", &writable]).map(drop)
}

fn a_damaged_database_is_refused_and_rebuilt(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let refused = rebuild(world)?;
    ensure!(refused.ok().is_err(), "a daemon runs on that root");
    world.daemon.kill9()?;
    lose_the_log(world)?;
    let path = database(world);
    let mut bytes = fs_err::read(&path)?;
    let (from, to) = (bytes.len() / 3, bytes.len() / 3 * 2);
    bytes[from..to].fill(0x5a);
    fs_err::write(&path, bytes)?;
    let started = run(&mut world.daemon.command(), PATIENCE)?;
    started.refused(&["containerd rebuild"])?;
    let done = rebuild(world)?.ok()?;
    ensure!(done.contains("the database as it was"), "{done}");
    world.daemon.restart()?;
    collect(world)?;
    world.ctr.ok(["store", "check", "--digests"])?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    runs(world, &image)
}

/// Moves what is in the log into the database, so that all of it is in one file.
fn lose_the_log(world: &World) -> Outcome {
    let mut query = Command::new("sqlite3");
    query.arg(database(world)).arg("PRAGMA wal_checkpoint(TRUNCATE)");
    run(&mut query, PATIENCE)?.ok().map(drop)
}

fn a_truncated_database_gives_back_what_it_still_has(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    world.daemon.kill9()?;
    lose_the_log(world)?;
    drop(fs_err::remove_file(format!("{}.copy", database(world).display())));
    let file = fs_err::OpenOptions::new().write(true).open(database(world))?;
    let pages = file.metadata()?.len() / 4096;
    file.set_len(pages * 3 / 4 * 4096)?;
    drop(file);
    rebuild(world)?.ok()?;
    world.daemon.restart()?;
    collect(world)?;
    world.ctr.ok(["store", "check", "--digests"])?;
    let images = world.ctr.lines(["images", "ls", "-q"])?;
    let found = images.iter().find(|name| **name == image || name.starts_with("recovered@"));
    runs(world, found.context("an image by some name")?)
}

fn who_asks_for_a_rebuild_gets_one_at_the_next_start(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    world.ctr.ok(["store", "rebuild"])?;
    world.daemon.terminate()?;
    world.daemon.restart()?;
    ensure!(world.daemon.log().contains("the metadata was made anew"), "{}", world.daemon.log());
    let rows = world.ctr.lines(["images", "ls"])?;
    ensure!(rows.iter().any(|row| first_word(row) == image), "{rows:?}");
    world.ctr.ok(["store", "check", "--digests"])?;
    runs(world, &image)
}
