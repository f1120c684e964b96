// SPDX-License-Identifier: Apache-2.0
//! A root of Go's containerd becomes ours on the first start, and could be Go's again.

use e2e::{Image, Layer, Outcome, PATIENCE, Parts, World, ensure};

e2e::plays!(everything_of_a_go_root_is_there_and_runs: go_then_ours REFERENCE);

/// What clients see of everything that is kept.
fn sights(world: &World) -> Outcome<Vec<(String, Vec<String>)>> {
    let mut sights = Vec::new();
    for words in [
        "namespaces ls",
        "images ls -q",
        "content ls -q",
        "containers ls",
        "snapshots ls",
        "leases ls -q",
        "tasks ls",
    ] {
        let mut lines = world.ctr.lines(words.split(' '))?;
        lines.sort();
        sights.push((words.to_owned(), lines));
    }
    let blobs = world.ctr.lines(["content", "ls"])?;
    // Go prints labels in an order that changes.
    let labels = blobs.iter().filter_map(|line| line.split_whitespace().last());
    let mut labels: Vec<_> = labels.flat_map(|all| all.split(',')).map(str::to_owned).collect();
    labels.sort();
    sights.push(("labels of content".to_owned(), labels));
    Ok(sights)
}

fn everything_of_a_go_root_is_there_and_runs(world: &mut World) -> Outcome {
    let image =
        world.pull(&Image::three_layers()?.with(Layer::text("more", 4000, 7)), "go/made:1")?;
    let busybox = world.busybox()?;
    let (asleep, runs) = (world.id("asleep"), world.id("runs"));
    world.ctr.ok(["containers", "create", "--label", "a=b", &busybox, &asleep, "echo", "awake"])?;
    world.ctr.ok(["run", "-d", &busybox, &runs, "sh", "-c", "while :; do sleep 0.1; done"])?;
    world.ctr.ok(["leases", "create", "--id", "kept", "x=y"])?;
    let namespace = world.ctr.namespace().to_owned();
    world.ctr.ok(["namespaces", "label", &namespace, "who=go"])?;
    let before = sights(world)?;
    let spec = world.ctr.ok(["containers", "info", &asleep])?;
    let files = [
        "io.containerd.metadata.v1.bolt/meta.db",
        "io.containerd.snapshotter.v1.overlayfs/metadata.db",
    ]
    .map(|file| world.daemon.home().join("root").join(file));

    world.daemon.terminate()?;
    let read = || files.iter().map(fs_err::read).collect::<Result<Vec<_>, _>>();
    let theirs = read()?;
    world.daemon.hand_over(Parts::GO_SHIM)?;

    // All of it is there, with every label and time, and stays when garbage is collected.
    let seen = sights(world)?;
    for (before, after) in before.iter().zip(&seen) {
        assert_eq!(before, after);
    }
    assert_eq!(world.ctr.ok(["containers", "info", &asleep])?, spec);
    crate::store::collect(world)?;
    assert_eq!(sights(world)?, before);

    // What ran goes on running, and what was made can be started.
    let said = world.ctr.ok(["tasks", "exec", "--exec-id", "e", &runs, "echo", "still here"])?;
    assert_eq!(said, "still here\n");
    assert_eq!(world.ctr.ok(["tasks", "start", &asleep])?, "awake\n");
    world.ctr.remove(&asleep)?;
    let again = world.id("again");
    assert_eq!(world.ctr.ok(["run", "--rm", &busybox, &again, "echo", "new"])?, "new\n");
    world.ctr.ok(["snapshots", "prepare", "fresh"])?;
    world.ctr.ok(["snapshots", "rm", "fresh"])?;
    world.ctr.ok(["tasks", "kill", "-s", "KILL", &runs])?;
    world.ctr.wait_for_state(&runs, "STOPPED", PATIENCE)?;
    world.ctr.remove(&runs)?;

    // Go's own files are as they were, and what is deleted stays so over another start.
    ensure!(read()? == theirs, "Go's metadata has changed");
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    let left = world.ctr.lines(["images", "ls", "-q"])?;
    assert_eq!(left, [busybox]);
    world.daemon.terminate()?;
    world.daemon.restart()?;
    assert_eq!(world.ctr.lines(["images", "ls", "-q"])?, left);
    Ok(())
}
