// SPDX-License-Identifier: Apache-2.0
//! Namespaces: tenants that do not see each other.

use e2e::{Image, Outcome, World, for_each_daemon};

use crate::store::first_word;

for_each_daemon!(
    a_namespace_is_made_labelled_and_removed,
    a_namespace_in_use_is_not_removed,
    images_of_one_namespace_are_unknown_in_another,
);

fn a_namespace_is_made_labelled_and_removed(world: &mut World) -> Outcome {
    let name = format!("{}-tenant", world.ctr.namespace());
    world.ctr.ok(["namespaces", "create", &name, "color=green"])?;
    world.ctr.ok(["namespaces", "label", &name, "size=big"])?;
    let lines = world.ctr.lines(["namespaces", "ls"])?;
    let line = lines.iter().find(|line| first_word(line) == name);
    let line = line.map(String::as_str).unwrap_or_default();
    assert!(line.contains("color=green") && line.contains("size=big"), "{lines:?}");
    world.ctr.refused(["namespaces", "create", &name], &[&name, "already exists"])?;
    world.ctr.ok(["namespaces", "rm", &name])?;
    assert!(!world.ctr.lines(["namespaces", "ls", "-q"])?.contains(&name));
    Ok(())
}

fn a_namespace_in_use_is_not_removed(world: &mut World) -> Outcome {
    world.busybox()?;
    let name = world.ctr.namespace();
    world.ctr.refused(["namespaces", "rm", name], &[name, "must be empty", "images"])?;
    assert!(world.ctr.lines(["namespaces", "ls", "-q"])?.contains(&name.to_owned()));
    Ok(())
}

fn images_of_one_namespace_are_unknown_in_another(world: &mut World) -> Outcome {
    let image = world.pull(&Image::busybox()?, "tools/busybox:1")?;
    let other = world.ctr.in_namespace("other");
    assert_eq!(other.lines(["images", "ls", "-q"])?, Vec::<String>::new());
    assert_eq!(other.lines(["content", "ls", "-q"])?, Vec::<String>::new());
    other.refused(["run", "--rm", &image, &world.id("x"), "true"], &[&image, "not found"])?;
    other.ok(["images", "pull", "--plain-http", &image])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    // The blobs are shared on the disk: one tenant's collection must not take them from the other.
    let said = other.ok(["run", "--rm", &image, &world.id("x"), "echo", "still here"])?;
    assert_eq!(said, "still here\n");
    Ok(())
}
