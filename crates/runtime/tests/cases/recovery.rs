// SPDX-License-Identifier: Apache-2.0
//! A daemon that comes back, and what it finds.
use std::time::{Duration, Instant};

use events::Bus;
use fs_err as fs;
use runtime::Status;
use types::Filters;

use super::world::{NAMESPACE, Served, World, json, tasks, topics};

/// What the `delete` of a shim prints for pid 7 and status 9.
const DELETED: &str = r"sleep 0.3; printf '\010\007\020\011'";

/// On one machine, each dead shim cost the daemon 50 to 100 seconds at its start, one after the
/// other, before it served (containerd issue 5597).
#[tokio::test(flavor = "multi_thread")]
async fn twenty_dead_shims_keep_nobody_waiting_and_one_live_is_found() {
    let world = World::new();
    let live = Served::v3(world.directory.path(), "live.sock");
    let program = world.program("shim", DELETED);
    for number in 0..20 {
        let nobody = format!("unix://{}/dead{number}", world.directory.path().display());
        world.bundle(&format!("dead{number}"), &program, &json(3, &nobody));
    }
    world.bundle("live", &program, &json(3, &live.address));
    let mut events = world.exchange.subscribe(Filters::default()).await.unwrap();
    let started = Instant::now();
    let shims = world.open();
    assert!(started.elapsed() < Duration::from_millis(250), "{:?}", started.elapsed());
    let tasks = tasks(&shims, &program);
    assert_eq!(tasks.get("live", "").await.unwrap().status, Status::Running);
    assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
    // How a task ended that is being cleaned up after is what its shim's program says.
    assert!(tasks.get("dead7", "").await.unwrap_err().is_not_found());
    let told = topics(&mut events, 40).await;
    assert_eq!((told["/tasks/exit"], told["/tasks/delete"]), (20, 20));
    let one_after_the_other = Duration::from_millis(300) * 20;
    assert!(started.elapsed() < one_after_the_other, "{:?}", started.elapsed());
    let left: Vec<_> = tasks.list().await.unwrap().into_iter().map(|task| task.id).collect();
    assert_eq!(left, ["live"]);
    assert_eq!(fs::read_dir(world.path("state").join(NAMESPACE)).unwrap().count(), 1);
}

#[tokio::test]
async fn a_socket_that_is_older_than_its_bundle_says_is_turned_down_for_good() {
    let world = World::new();
    let old = Served::v2(world.directory.path(), "old.sock");
    let program = world.program("shim", DELETED);
    let bundle = world.bundle("old", &program, &json(3, &old.address));
    let tasks = tasks(&world.open(), &program);
    assert_eq!(tasks.get("old", "").await.unwrap().status, Status::Running);
    let kept = fs::read_to_string(bundle.join("bootstrap.json")).unwrap();
    assert!(kept.contains(r#""version":2"#), "{kept}");
}

#[tokio::test]
async fn the_bare_address_of_an_older_daemon_is_written_down_anew() {
    let world = World::new();
    let old = Served::v2(world.directory.path(), "old.sock");
    let program = world.program("shim", DELETED);
    let bundle = world.bundle("old", &program, "");
    fs::remove_file(bundle.join("bootstrap.json")).unwrap();
    fs::write(bundle.join("address"), &old.address).unwrap();
    let tasks = tasks(&world.open(), &program);
    assert_eq!(tasks.get("old", "").await.unwrap().status, Status::Running);
    let kept = fs::read_to_string(bundle.join("bootstrap.json")).unwrap();
    assert!(kept.contains(&old.address) && kept.contains("ttrpc"), "{kept}");
}

#[tokio::test]
async fn after_a_start_of_the_machine_no_shim_is_connected_to() {
    let mut world = World::new();
    let stranger = Served::v3(world.directory.path(), "s.sock");
    let program = world.program("shim", DELETED);
    drop(world.open());
    world.boot_id = "two".into();
    world.bundle("a", &program, &json(3, &stranger.address));
    let mut events = world.exchange.subscribe(Filters::default()).await.unwrap();
    let tasks = tasks(&world.open(), &program);
    let told = topics(&mut events, 2).await;
    assert_eq!((told["/tasks/exit"], told["/tasks/delete"]), (1, 1));
    assert!(tasks.get("a", "").await.unwrap_err().is_not_found());
    assert_eq!(stranger.times_asked(), 0);
}

#[tokio::test]
async fn who_waits_for_a_dead_task_learns_how_it_ended() {
    let world = World::new();
    let live = Served::v3(world.directory.path(), "s.sock");
    let program = world.program("shim", DELETED);
    world.bundle("a", &program, &json(3, &live.address));
    let tasks = tasks(&world.open(), &program);
    tasks.get("a", "").await.unwrap();
    drop(live);
    let mut events = world.exchange.subscribe(Filters::default()).await.unwrap();
    let told = topics(&mut events, 2).await;
    assert_eq!(told["/tasks/exit"], 1);
    assert!(tasks.get("a", "").await.unwrap_err().is_not_found());
}
