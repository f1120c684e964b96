// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use api::{
    containerd::{runc::v1::ProcessDetails, task::v3 as pb, v1::types::Status},
    io::containerd::cgroups,
};
use serde_json::json;

use super::{
    bundle::{process, shell},
    driver::{Driver, ended},
};

#[tokio::test]
async fn a_container_lives_and_everything_is_told_in_order() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    let id = shim.id.clone();
    assert_eq!(shim.state("").await.unwrap().status(), Status::Created);
    let pid = shim.start("").await.unwrap();
    let state = shim.state("").await.unwrap();
    assert_eq!((state.status(), state.pid, state.id), (Status::Running, pid, id.clone()));

    shim.exec("e", &shell("exit 3")).await.unwrap();
    assert_eq!(shim.state("e").await.unwrap().status(), Status::Created);
    shim.start("e").await.unwrap();
    assert_eq!(shim.wait("e").await.unwrap(), 3);
    assert_eq!(shim.delete("e").await.unwrap().exit_status, 3);

    shim.kill("", 15, false).await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    let deleted = shim.delete("").await.unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    assert!(deleted.exited_at.unwrap().seconds > 1_700_000_000);
    shim.shutdown().await.unwrap();
    shim.gone().await;

    let want = [
        format!("create {id}"),
        format!("start {id}"),
        "exec-added e".into(),
        "exec-started e".into(),
        "exit e 3".into(),
        format!("exit {id} 137"),
        format!("delete {id} 137"),
    ];
    assert_eq!(driver.daemon.events.all(), want);
}

#[tokio::test]
async fn no_exit_is_lost_however_fast_processes_end() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    let exec_ids: Vec<_> = (0..50).map(|number| format!("e{number}")).collect();
    let run = |exec_id: &'_ String| {
        let (shim, exec_id) = (&shim, exec_id.clone());
        async move {
            shim.exec(&exec_id, &process(&["true"])).await.unwrap();
            shim.start(&exec_id).await.unwrap();
            shim.wait(&exec_id).await.unwrap()
        }
    };
    let statuses = futures_of(exec_ids.iter().map(run)).await;
    assert_eq!(statuses, vec![0; 50]);

    let all = driver
        .daemon
        .events
        .wait_for("fifty exits", |all| {
            all.iter().filter(|line| line.starts_with("exit ")).count() == 50
        })
        .await;
    for exec_id in &exec_ids {
        let mine: Vec<_> =
            all.iter().filter(|line| line.split(' ').nth(1) == Some(exec_id)).collect();
        let want = [
            format!("exec-added {exec_id}"),
            format!("exec-started {exec_id}"),
            format!("exit {exec_id} 0"),
        ];
        assert_eq!(mine, want.iter().collect::<Vec<_>>());
    }
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

/// Runs futures at the same time, and returns what they return in their order.
async fn futures_of<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, slot) in running.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *slot = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_container_that_ends_at_once_is_started_before_it_has_exited() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["false"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 1);
    let id = shim.id.clone();
    shim.finish().await;
    let want = ["create", "start", "exit", "delete"];
    let all = driver.daemon.events.all();
    let words: Vec<_> = all.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, want, "of {id}");
}

#[tokio::test]
async fn what_happens_while_the_daemon_is_away_is_told_when_it_is_back() {
    let mut driver = Driver::new();
    let shim =
        driver.container("a", &shell("trap 'exit 4' TERM; sleep 100 & wait"), |_, _| {}).await;
    driver.daemon.events.wait_for_line(&format!("create {}", shim.id)).await;
    driver.daemon.leave().await;
    shim.start("").await.unwrap();
    shim.exec("e", &process(&["true"])).await.unwrap();
    shim.start("e").await.unwrap();
    shim.wait("e").await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    driver.daemon.arrive();
    let last = format!("exit {} 137", shim.id);
    driver.daemon.events.wait_for_line(&last).await;
    let want = ["create", "start", "exec-added", "exec-started", "exit", "exit"];
    let all = driver.daemon.events.all();
    let words: Vec<_> = all.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, want);
    shim.finish().await;
}

#[tokio::test]
async fn processes_are_paused_and_listed_and_measured_and_limited() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    let pid = shim.start("").await.unwrap();
    shim.exec("e", &process(&["sleep", "100"])).await.unwrap();
    let exec_pid = shim.start("e").await.unwrap();
    let id = || shim.id.clone();

    let pids: pb::PidsResponse = shim.call("Pids", &pb::PidsRequest { id: id() }).await.unwrap();
    let found: BTreeSet<_> = pids.processes.iter().map(|process| process.pid).collect();
    assert_eq!(found, [pid, exec_pid].into());
    let info = pids.processes.iter().find(|process| process.pid == exec_pid).unwrap();
    let details = api::unpack::<ProcessDetails>(info.info.as_ref().unwrap()).unwrap().unwrap();
    assert_eq!(details.exec_id, "e");

    shim.call::<_, ()>("Pause", &pb::PauseRequest { id: id() }).await.unwrap();
    assert_eq!(shim.state("").await.unwrap().status(), Status::Paused);
    assert_eq!(shim.state("e").await.unwrap().status(), Status::Paused);
    shim.call::<_, ()>("Resume", &pb::ResumeRequest { id: id() }).await.unwrap();
    assert_eq!(shim.state("").await.unwrap().status(), Status::Running);

    let limit = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 77}});
    let resources = prost_types::Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
        value: limit.to_string().into_bytes(),
    };
    let request =
        pb::UpdateTaskRequest { id: id(), resources: Some(resources), ..Default::default() };
    shim.call::<_, ()>("Update", &request).await.unwrap();
    let stats: pb::StatsResponse =
        shim.call("Stats", &pb::StatsRequest { id: id() }).await.unwrap();
    let stats = stats.stats.unwrap();
    if let Some(metrics) = api::unpack::<cgroups::v1::Metrics>(&stats) {
        let metrics = metrics.unwrap();
        assert_eq!(metrics.memory.unwrap().usage.unwrap().limit, 64 << 20);
        assert_eq!(metrics.pids.unwrap().limit, 77);
    } else {
        api::unpack::<cgroups::v2::Metrics>(&stats).expect("metrics of a known version").unwrap();
    }

    shim.kill("", 9, true).await.unwrap();
    shim.wait("e").await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
    let all = driver.daemon.events.all();
    assert!(all.contains(&"TaskPaused".into()) && all.contains(&"TaskResumed".into()), "{all:?}");
}

#[tokio::test]
async fn a_paused_container_can_be_killed() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    let id = shim.id.clone();
    shim.call::<_, ()>("Pause", &pb::PauseRequest { id: id.clone() }).await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    shim.call::<_, ()>("Resume", &pb::ResumeRequest { id }).await.ok();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    shim.finish().await;
}

#[tokio::test]
async fn the_first_process_exits_last_though_others_would_outlive_it() {
    let driver = Driver::new();
    let shared = |spec: &mut serde_json::Value, _: &mut pb::CreateTaskRequest| {
        spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    };
    let shim = driver.container("a", &process(&["sleep", "100"]), shared).await;
    shim.start("").await.unwrap();
    for exec_id in ["e1", "e2"] {
        shim.exec(exec_id, &process(&["sleep", "100"])).await.unwrap();
        shim.start(exec_id).await.unwrap();
    }
    shim.kill("", 9, false).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    let exits: Vec<_> = driver
        .daemon
        .events
        .wait_for("three exits", |all| {
            all.iter().filter(|line| line.starts_with("exit")).count() == 3
        })
        .await
        .into_iter()
        .filter(|line| line.starts_with("exit"))
        .collect();
    assert_eq!(exits[2], format!("exit {} 137", shim.id));
    shim.finish().await;
}

#[tokio::test]
async fn a_container_that_was_never_started_can_be_deleted() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.finish().await;
    let all = driver.daemon.events.all();
    let words: Vec<_> = all.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(words, ["create", "exit", "delete"]);
}

#[tokio::test]
async fn running_out_of_memory_is_told_before_the_exit() {
    let driver = Driver::new();
    let limit = |spec: &mut serde_json::Value, _: &mut pb::CreateTaskRequest| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 8 << 20, "swap": 8 << 20}});
    };
    let eater = shell("dd if=/dev/zero of=/dev/null bs=64M; sleep 1");
    let shim = driver.container("a", &eater, limit).await;
    shim.start("").await.unwrap();
    shim.wait("").await.unwrap();
    let exit = |line: &String| line.starts_with("exit");
    let all = driver.daemon.events.wait_for("an exit", |all| all.iter().any(exit)).await;
    let oom = all.iter().position(|line| line.starts_with("oom")).expect("memory ran out");
    assert!(oom < all.iter().position(exit).unwrap());
    shim.finish().await;
}

#[tokio::test]
async fn an_added_process_that_runs_out_of_memory_is_told_of_likewise() {
    let driver = Driver::new();
    let limit = |spec: &mut serde_json::Value, _: &mut pb::CreateTaskRequest| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    };
    let shim = driver.container("a", &process(&["sleep", "100"]), limit).await;
    shim.start("").await.unwrap();
    shim.exec("e", &process(&["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"])).await.unwrap();
    shim.start("e").await.unwrap();
    assert_eq!(shim.wait("e").await.unwrap(), 137);
    driver.daemon.events.wait_for_line("exit e 137").await;
    let all = driver.daemon.events.all();
    let oom = all.iter().position(|line| line.starts_with("oom")).expect("memory ran out");
    assert!(oom < all.iter().position(|line| line == "exit e 137").unwrap(), "{all:?}");
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn a_shim_ends_on_a_signal_and_its_command_cleans_up_after_it() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    let pid = shim.start("").await.unwrap();
    sys::kill::process(shim.pid, 15).unwrap();
    ended(shim.pid).await;
    assert!(sys::kill::exists(pid), "the container does not end with its shim");
    let bundle = shim.bundle.display().to_string();
    let output = driver.run(&shim.bundle, &shim.id, &["-bundle", &bundle, "delete"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let deleted: pb::DeleteResponse = prost::Message::decode(output.stdout.as_slice()).unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 137));
    ended(pid).await;
    shim.nothing_is_left();
    // Nothing is left to clean up, and that is no error.
    let output = driver.run(&shim.bundle, &shim.id, &["-bundle", &bundle, "delete"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
