// SPDX-License-Identifier: Apache-2.0
//! What a client asks first.

use e2e::{Outcome, World, for_each_daemon, only_ours};

for_each_daemon!(both_versions_are_told, every_plugin_of_the_path_is_listed);
only_ours!(the_daemon_tells_who_it_is);

fn both_versions_are_told(world: &mut World) -> Outcome {
    let said = world.ctr.ok(["version"])?;
    for word in ["Client:", "Server:", "Version:", "Revision:", "UUID:"] {
        assert!(said.contains(word), "{word} in {said}");
    }
    Ok(())
}

fn every_plugin_of_the_path_is_listed(world: &mut World) -> Outcome {
    let lines = world.ctr.lines(["plugins", "ls"])?;
    let wanted = [
        ("io.containerd.content.v1", "content"),
        ("io.containerd.snapshotter.v1", "overlayfs"),
        ("io.containerd.snapshotter.v1", "native"),
        ("io.containerd.metadata.v1", "bolt"),
        ("io.containerd.differ.v1", "walking"),
        ("io.containerd.gc.v1", "scheduler"),
        ("io.containerd.runtime.v2", "task"),
        ("io.containerd.grpc.v1", "images"),
        ("io.containerd.grpc.v1", "tasks"),
    ];
    for (kind, id) in wanted {
        let listed = lines.iter().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.first() == Some(&kind) && words.get(1) == Some(&id) && words.last() == Some(&"ok")
        });
        assert!(listed, "{kind} {id} is not ok in {lines:#?}");
    }
    Ok(())
}

fn the_daemon_tells_who_it_is(world: &mut World) -> Outcome {
    let said = world.ctr.ok(["info"])?;
    let pid = world.daemon.pid()?.to_string();
    assert!(said.contains(&pid), "its process id {pid} in {said}");
    Ok(())
}
