// SPDX-License-Identifier: Apache-2.0
//! Hosts with only the second version of cgroups, on which there is one more runtime.
use api::containerd::{task::v3 as pb, v1::types::Status};

use super::{
    bundle::{process, shell},
    driver::Driver,
};

async fn a_whole_life(runtime: &str) {
    let mut driver = Driver::new();
    driver.is_unified = true;
    driver.options.binary_name = runtime.into();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    let pid = shim.start("").await.unwrap();
    let id = || shim.id.clone();
    let cgroup = fs_err::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(cgroup.lines().any(|line| line.starts_with("0::") && line.contains(&shim.id)));

    shim.exec("e", &shell("exit 3")).await.unwrap();
    shim.start("e").await.unwrap();
    assert_eq!(shim.wait("e").await.unwrap(), 3);
    shim.delete("e").await.unwrap();

    shim.call::<_, ()>("Pause", &pb::PauseRequest { id: id() }).await.unwrap();
    assert_eq!(shim.state("").await.unwrap().status(), Status::Paused);
    shim.call::<_, ()>("Resume", &pb::ResumeRequest { id: id() }).await.unwrap();
    let pids: pb::PidsResponse = shim.call("Pids", &pb::PidsRequest { id: id() }).await.unwrap();
    assert_eq!(pids.processes.iter().map(|one| one.pid).collect::<Vec<_>>(), [pid]);
    let stats: pb::StatsResponse =
        shim.call("Stats", &pb::StatsRequest { id: id() }).await.unwrap();
    let kind = stats.stats.unwrap().type_url;
    assert_eq!(kind, "io.containerd.cgroups.v2.Metrics");

    shim.kill("", 9, true).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    let id = shim.id.clone();
    shim.finish().await;
    let want = [
        format!("create {id}"),
        format!("start {id}"),
        "exec-added e".into(),
        "exec-started e".into(),
        "exit e 3".into(),
        "TaskPaused".into(),
        "TaskResumed".into(),
        format!("exit {id} 137"),
        format!("delete {id} 137"),
    ];
    assert_eq!(driver.daemon.events.all(), want);
}

#[tokio::test]
async fn runc_lives_there() {
    a_whole_life("").await;
}

#[tokio::test]
async fn crun_lives_there() {
    a_whole_life("crun").await;
}
