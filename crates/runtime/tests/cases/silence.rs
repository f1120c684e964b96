// SPDX-License-Identifier: Apache-2.0
//! Shims that do not answer.
use std::time::{Duration, Instant};

use runtime::Status;

use super::world::{Served, World, json, tasks};

/// Every list waited for every shim that hangs, for as long as it hung (containerd issue 3440).
#[tokio::test(flavor = "multi_thread")]
async fn shims_that_hang_are_unknown_and_cost_their_deadline_once() {
    let world = World::new();
    let program = world.program("shim", "exit 1");
    let name = |number| format!("shim{number}");
    let served = |number| Served::v3(world.directory.path(), &name(number));
    let served: Vec<_> = (0..5).map(served).collect();
    for (number, shim) in served.iter().enumerate() {
        world.bundle(&name(number), &program, &json(3, &shim.address));
    }
    let tasks = tasks(&world.open(), &program);
    let statuses = || async {
        let began = Instant::now();
        let all = tasks.list().await.unwrap();
        (all.into_iter().map(|task| task.status).collect::<Vec<_>>(), began.elapsed())
    };
    assert_eq!(statuses().await.0, [Status::Running; 5]);
    served[1..].iter().for_each(Served::freeze);
    let some_unknown = [&[Status::Running][..], &[Status::Unknown; 4]].concat();
    let (seen, took) = statuses().await;
    assert_eq!(seen, some_unknown);
    assert!(took < world.timeouts.state * 2, "{took:?}");
    let asked = served[1].times_asked();
    for _ in 0..20 {
        let (seen, took) = statuses().await;
        assert_eq!(seen, some_unknown);
        assert!(took < world.timeouts.state / 3, "{took:?}");
    }
    assert_eq!(tasks.get("shim1", "").await.unwrap().status, Status::Unknown);
    // One question is left with it, however often somebody wanted to know.
    assert!(served[1].times_asked() <= asked + 1);
    served[1..].iter().for_each(Served::thaw);
    let deadline = Instant::now() + Duration::from_secs(5);
    while statuses().await.0 != [Status::Running; 5] {
        assert!(Instant::now() < deadline, "they do not come back");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
