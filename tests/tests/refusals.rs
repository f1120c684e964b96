// SPDX-License-Identifier: Apache-2.0
//! Bad input at the command line: refused with words that name the thing, and nothing left behind.

use e2e::{Image, Outcome, Packed, World, for_each_daemon, for_each_shim};

use crate::store::{assert_empty, snapshots};

for_each_daemon!(
    what_does_not_exist_is_said_to_be_missing,
    a_bad_name_is_refused,
    a_bad_reference_is_refused,
    an_image_of_another_architecture_is_refused,
);
for_each_shim!(
    a_runtime_that_does_not_exist_is_refused,
    a_program_that_does_not_exist_is_refused,
    a_spec_that_runc_refuses_is_refused,
);

const ZEROS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

fn what_does_not_exist_is_said_to_be_missing(world: &mut World) -> Outcome {
    let cases: [(&[&str], &[&str]); 11] = [
        (&["content", "get", ZEROS], &[ZEROS, "not found"]),
        (&["snapshots", "info", "nope"], &["snapshot nope does not exist: not found"]),
        (&["snapshots", "rm", "nope"], &["snapshot nope does not exist: not found"]),
        (&["snapshots", "usage", "nope"], &["snapshot nope does not exist: not found"]),
        (&["snapshots", "prepare", "key", "nope"], &["nope does not exist: not found"]),
        (&["containers", "info", "nope"], &["container \"nope\"", "not found"]),
        (&["tasks", "kill", "nope"], &["container \"nope\"", "not found"]),
        (
            &["tasks", "exec", "--exec-id", &world.id("e"), "nope", "true"],
            &["container \"nope\"", "not found"],
        ),
        (&["images", "tag", "nope", "x"], &["image \"nope\": not found"]),
        (&["leases", "rm", "nope"], &["lease \"nope\": not found"]),
        (&["run", "nope", "x", "true"], &["image \"nope\": not found"]),
    ];
    cases.iter().try_for_each(|(args, words)| world.ctr.refused(*args, words))
}

fn a_bad_name_is_refused(world: &mut World) -> Outcome {
    world.ctr.refused(["namespaces", "create", "bad name"], &["\"bad name\" must match"])?;
    let image = world.busybox()?;
    world
        .ctr
        .refused(["containers", "create", &image, "bad/id", "true"], &["\"bad/id\" must match"])?;
    world.ctr.refused(["content", "get", "notadigest"], &["invalid checksum digest format"])?;
    assert_eq!(world.ctr.lines(["containers", "ls", "-q"])?, Vec::<String>::new());
    Ok(())
}

fn a_bad_reference_is_refused(world: &mut World) -> Outcome {
    let host = world.registry()?.host();
    let short = format!("{host}/tools/three@sha256:123");
    for (reference, words) in [("Bad Ref", "Bad Ref"), (&short, "sha256:123")] {
        world.ctr.refused(["images", "pull", "--plain-http", reference], &[words])?;
    }
    let missing = format!("{host}/tools/missing:1");
    let pull = ["images", "pull", "--plain-http", &missing];
    world.ctr.refused(pull, &[&missing, "not found"])?;
    assert_empty(world)
}

fn an_image_of_another_architecture_is_refused(world: &mut World) -> Outcome {
    // Only what an index offers is chosen from: an image asked for by itself is taken as it is.
    let (foreign, _) = Packed::index(&[Image::three_layers()?.architecture("s390x")])?;
    let image = world.registry()?.push(&foreign, "tools/foreign:1")?;
    world.ctr.refused(["images", "pull", "--plain-http", &image], &["no match for platform"])?;
    assert_eq!(snapshots(world)?, Vec::<String>::new());
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    assert_empty(world)
}

/// Checks that a refused `run --rm` left no container, task or snapshot of its own.
fn assert_no_container(world: &World) -> Outcome {
    assert_eq!(world.ctr.lines(["containers", "ls", "-q"])?, Vec::<String>::new());
    assert_eq!(world.ctr.lines(["tasks", "ls", "-q"])?, Vec::<String>::new());
    assert_eq!(snapshots(world)?.len(), 1);
    Ok(())
}

fn a_runtime_that_does_not_exist_is_refused(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("x");
    let run = |runtime| ["run", "--rm", "--runtime", runtime, &image, &id, "true"];
    world.ctr.refused(
        run("io.containerd.nope.v1"),
        &["failed to start shim", "io.containerd.nope.v1", "containerd-shim-nope-v1"],
    )?;
    world.ctr.refused(run("bad"), &["invalid runtime name bad"])?;
    assert_no_container(world)
}

fn a_program_that_does_not_exist_is_refused(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    world.ctr.refused(
        ["run", "--rm", &image, &world.id("x"), "/no/such/program"],
        &[
            "failed to create shim task: OCI runtime create failed",
            "/no/such/program",
            "no such file or directory",
        ],
    )?;
    assert_no_container(world)
}

fn a_spec_that_runc_refuses_is_refused(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    world.ctr.refused(
        ["run", "--rm", "--cwd", "relative", &image, &world.id("x"), "true"],
        &["failed to create shim task: OCI runtime create failed", "Cwd must be an absolute path"],
    )?;
    assert_no_container(world)
}
