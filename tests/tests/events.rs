// SPDX-License-Identifier: Apache-2.0
//! Events: what happened, in the promised order.

use e2e::{Image, Outcome, PATIENCE, Running, World, ensure, for_each_daemon, for_each_shim};

for_each_shim!(
    the_life_of_a_container_is_told_in_order,
    an_exec_is_told_in_order,
    the_exit_event_carries_the_status,
    memory_that_runs_out_is_told,
);
for_each_daemon!(a_pull_is_told, a_filter_lets_through_what_it_names);

/// The topics of a client's own namespace, in order, but for those that [`World::events`] makes.
fn topics(world: &World, listener: &Running) -> Vec<String> {
    let namespace = format!(" {} ", world.ctr.namespace());
    let text = listener.stdout();
    let own = text.lines().filter(|line| line.contains(&namespace));
    own.filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .filter(|topic| !topic.starts_with("/namespaces/"))
        .map(str::to_owned)
        .collect()
}

fn wait_for(listener: &mut Running, topic: &str) -> Outcome {
    listener.wait_for(topic, PATIENCE, |text| text.contains(topic)).map(drop)
}

fn the_life_of_a_container_is_told_in_order(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let mut listener = world.events()?;
    world.ctr.ok(["run", "--rm", &image, &world.id("x"), "true"])?;
    wait_for(&mut listener, "/containers/delete")?;
    let wanted = [
        "/snapshot/prepare",
        "/containers/create",
        "/tasks/create",
        "/tasks/start",
        "/tasks/exit",
        "/tasks/delete",
        "/snapshot/remove",
        "/containers/delete",
    ];
    assert_eq!(topics(world, &listener), wanted, "{}", listener.stdout());
    Ok(())
}

fn an_exec_is_told_in_order(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("x");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    let mut listener = world.events()?;
    world.ctr.ok(["tasks", "exec", "--exec-id", &world.id("e"), &id, "true"])?;
    wait_for(&mut listener, "/tasks/exit")?;
    let wanted = ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"];
    assert_eq!(topics(world, &listener), wanted, "{}", listener.stdout());
    world.ctr.remove(&id)
}

fn the_exit_event_carries_the_status(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("x");
    let mut listener = world.events()?;
    world.ctr.run(["run", "--rm", &image, &id, "sh", "-c", "exit 42"])?;
    wait_for(&mut listener, "/tasks/exit")?;
    let text = listener.stdout();
    let line = text.lines().find(|line| line.contains("/tasks/exit")).unwrap_or_default();
    for word in [format!("\"container_id\":\"{id}\""), "\"exit_status\":42".to_owned()] {
        assert!(line.contains(&word), "{word} in {line}");
    }
    Ok(())
}

/// The one that takes too much is killed, and the rest of the container goes on.
fn memory_that_runs_out_is_told(world: &mut World) -> Outcome {
    let (image, id) = (world.busybox()?, world.id("hog"));
    let mut listener = world.events()?;
    let words = ["run", "-d", "--null-io", "--memory-limit", "33554432", &image, &id];
    // It keeps what it reads until a line ends.
    let script = ["sh", "-c", "tail /dev/zero; sleep 1000"];
    world.ctr.ok([&words[..], &script].concat())?;
    wait_for(&mut listener, "/tasks/oom")?;
    let text = listener.stdout();
    let line = text.lines().find(|line| line.contains("/tasks/oom")).unwrap_or_default();
    assert!(line.contains(&format!("\"container_id\":\"{id}\"")), "{line}");
    assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
    world.ctr.remove(&id)
}

fn a_pull_is_told(world: &mut World) -> Outcome {
    let image = world.registry()?.push(&Image::three_layers()?.pack()?, "tools/three:1")?;
    let mut listener = world.events()?;
    world.ctr.ok(["images", "pull", "--plain-http", &image])?;
    world.ctr.ok(["images", "rm", "--sync", &image])?;
    wait_for(&mut listener, "/images/delete")?;
    let topics = topics(world, &listener);
    let count = |topic: &str| topics.iter().filter(|other| *other == topic).count();
    ensure!(count("/images/create") == 1, "{topics:?}");
    ensure!(count("/snapshot/prepare") == 3 && count("/snapshot/commit") == 3, "{topics:?}");
    Ok(())
}

fn a_filter_lets_through_what_it_names(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let mut all = world.events()?;
    let mut chosen = world.ctr.start(["events", "topic==\"/tasks/exit\""])?;
    let id = world.id("x");
    e2e::wait::until("an event through the filter", PATIENCE, || {
        world.ctr.ok(["run", "--rm", &image, &id, "true"])?;
        Ok((!topics(world, &chosen).is_empty()).then_some(()))
    })?;
    world.ctr.ok(["run", "--rm", &image, &id, "true"])?;
    wait_for(&mut all, "/containers/delete")?;
    wait_for(&mut chosen, "/tasks/exit")?;
    let topics = topics(world, &chosen);
    assert!(topics.iter().all(|topic| topic == "/tasks/exit"), "{topics:?}");
    Ok(())
}
