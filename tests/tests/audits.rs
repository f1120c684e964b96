// SPDX-License-Identifier: Apache-2.0
//! `ctr store`: what there is, and why.

use e2e::{Outcome, World, ensure, only_ours};

use crate::store::collect;

only_ours!(
    each_kind_of_orphan_on_the_disk_is_found_and_pruned,
    a_running_container_is_no_orphan_and_its_bundle_without_it_is,
    a_backup_can_be_opened,
);

fn each_kind_of_orphan_on_the_disk_is_found_and_pruned(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    collect(world)?;
    world.ctr.ok(["store", "check"])?;
    let digest = e2e::digest(b"stray");
    let hex = digest.trim_start_matches("sha256:");
    fs_err::write(world.daemon.content().join("blobs/sha256").join(hex), b"stray")?;
    let snapshots =
        world.daemon.home().join("root/io.containerd.snapshotter.v1.overlayfs/snapshots");
    let directory = snapshots.join("4711");
    fs_err::create_dir_all(directory.join("fs"))?;
    let told = world.ctr.run(["store", "check"])?;
    told.refused(&["not all is as it should be"])?;
    let lines: Vec<&str> = told.stdout.lines().filter(|line| line.starts_with("orphan")).collect();
    ensure!(lines.len() == 2, "two orphans were made: {}", told.stdout);
    let has = |word: &str| lines.iter().any(|line| line.contains(word));
    ensure!(has(&digest) && has("4711"), "{}", told.stdout);
    world.ctr.ok(["store", "prune"])?;
    world.ctr.ok(["store", "check"])?;
    ensure!(!directory.exists(), "{} is still there", directory.display());
    let why = world.ctr.ok(["store", "explain", "overlayfs/"])?;
    ensure!(why.contains(&format!("kept by image {image}")), "{why}");
    let room = world.ctr.ok(["store", "du"])?;
    ensure!(room.contains("snapshot") && room.contains("MiB"), "{room}");
    Ok(())
}

fn a_running_container_is_no_orphan_and_its_bundle_without_it_is(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("kept");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "100"])?;
    let all = world.ctr.ok(["store", "check", "--all"])?;
    let shim = |line: &str| line.starts_with("kept") && line.contains("shim") && line.contains(&id);
    ensure!(all.lines().any(shim), "{all}");
    ensure!(all.contains(&format!("container {id}")), "{all}");
    world.ctr.remove(&id)?;
    let stray = world.daemon.home().join("state/io.containerd.runtime.v2.task/nobody/stray");
    fs_err::create_dir_all(&stray)?;
    let told = world.ctr.run(["store", "check"])?;
    told.refused(&["not all is as it should be"])?;
    ensure!(told.stdout.contains("bundle") && told.stdout.contains("stray"), "{}", told.stdout);
    fs_err::remove_dir_all(&stray)?;
    world.ctr.ok(["store", "check"]).map(drop)
}

fn a_backup_can_be_opened(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let file = world.daemon.home().join("backup.sqlite");
    let name = file.to_string_lossy().into_owned();
    world.ctr.ok(["store", "backup", &name])?;
    world.ctr.refused(["store", "backup", &name], &["already exists"])?;
    let mut query = std::process::Command::new("sqlite3");
    query.arg(&file).arg("SELECT name FROM images");
    let found = e2e::process::run(&mut query, e2e::PATIENCE)?.ok()?;
    ensure!(found.trim() == image, "{found}");
    Ok(())
}
