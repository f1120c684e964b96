// SPDX-License-Identifier: Apache-2.0
//! What is refused before a shim is asked, in the words of containerd
//! (`plugins/services/tasks/local.go`, `core/runtime/v2/shim.go`).
use runtime::{Create, Exec};
use types::{Any, Kind};

use super::world::{Served, World, json, tasks};

#[tokio::test]
async fn an_exec_needs_a_task_and_a_name_that_is_one() {
    let world = World::new();
    let live = Served::v3(world.directory.path(), "s.sock");
    let program = world.program("shim", "exit 1");
    world.bundle("a", &program, &json(3, &live.address));
    let tasks = tasks(&world.open(), &program);
    for (id, exec_id, kind, text) in [
        ("a", "", Kind::InvalidArgument, "exec id cannot be empty"),
        ("none", "e", Kind::NotFound, "task none not found"),
        ("none", "../e", Kind::NotFound, "task none not found"),
        ("a", "../e", Kind::InvalidArgument, "invalid exec id ../e: "),
    ] {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let exec = Exec { id, exec_id, ..Exec::default() };
        let refused = tasks.exec(exec).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(refused.to_string().starts_with(text), "{refused}");
    }
}

#[tokio::test]
async fn a_task_needs_a_runtime_that_is_there() {
    let world = World::new();
    let program = world.program("shim", "exit 1");
    let tasks = tasks(&world.open(), &program);
    for (runtime_path, kind, text) in [
        ("/no/such/shim", Kind::NotFound, "invalid custom binary path: stat /no/such/shim"),
        ("./shim", Kind::InvalidArgument, "invalid runtime name ./shim, correct runtime name"),
        ("io.containerd.bogus.v1", Kind::NotFound, "runtime \"io.containerd.bogus.v1\" binary not"),
    ] {
        let runtime_path = runtime_path.to_owned();
        let create = Create { id: "b".into(), runtime_path, ..Create::default() };
        let refused = tasks.create(create).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
        assert!(refused.to_string().contains(text), "{refused}");
    }
    assert!(!world.path("state").join("ns/b").exists());
}

#[tokio::test]
async fn options_of_another_kind_make_no_checkpoint() {
    let world = World::new();
    let live = Served::v3(world.directory.path(), "s.sock");
    let program = world.program("shim", "exit 1");
    world.bundle("a", &program, &json(3, &live.address));
    let tasks = tasks(&world.open(), &program);
    let refused = tasks.checkpoint("a", Some(Any::new("containerd.runc.v1.Options", ""))).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("invalid task checkpoint option for "), "{text}");
}
