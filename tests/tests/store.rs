// SPDX-License-Identifier: Apache-2.0
//! What several scenarios ask about the stores.

use e2e::{Outcome, PATIENCE, World, ensure, wait};

/// Has the garbage collector run, and returns when it has.
///
/// Deleting a lease with `--sync` is the one request that does nothing else.
pub(crate) fn collect(world: &World) -> Outcome {
    let id = world.id("collect");
    world.ctr.ok(["leases", "create", "--id", &id])?;
    world.ctr.ok(["leases", "rm", "--sync", &id]).map(drop)
}

/// The digests in the content store, as a client sees them.
pub(crate) fn blobs(world: &World) -> Outcome<Vec<String>> {
    world.ctr.lines(["content", "ls", "-q"])
}

/// The keys of all snapshots, as a client sees them.
pub(crate) fn snapshots(world: &World) -> Outcome<Vec<String>> {
    let lines = world.ctr.lines(["snapshots", "ls"])?;
    Ok(lines.iter().skip(1).map(|line| first_word(line)).collect())
}

/// The first word of a line.
pub(crate) fn first_word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// Checks that the stores are empty, both as a client sees them and on the disk.
pub(crate) fn assert_empty(world: &World) -> Outcome {
    let images = world.ctr.lines(["images", "ls", "-q"])?;
    ensure!(images.is_empty(), "images are left: {images:?}");
    collect(world)?;
    let (blobs, snapshots) = (blobs(world)?, snapshots(world)?);
    ensure!(blobs.is_empty() && snapshots.is_empty(), "left: {blobs:?} {snapshots:?}");
    // Directories are removed after the records, and not by whoever asked.
    wait::until("empty directories", PATIENCE, || Ok(files(world)?.is_empty().then_some(())))
        .map_err(|failure| failure.with_section("left", &format!("{:?}", files(world))))
}

/// What the stores hold on the disk: blobs, ingests, snapshots.
fn files(world: &World) -> Outcome<Vec<String>> {
    let content = world.daemon.content();
    let mut found = Vec::new();
    for dir in [content.join("blobs/sha256"), content.join("ingest")] {
        if let Ok(entries) = fs_err::read_dir(dir) {
            found.extend(entries.map_while(Result::ok).map(|entry| entry.path()));
        }
    }
    found.extend(world.daemon.snapshots()?);
    Ok(found.iter().map(|path| path.display().to_string()).collect())
}
