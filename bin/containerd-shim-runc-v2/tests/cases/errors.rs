// SPDX-License-Identifier: Apache-2.0
use api::containerd::task::v3 as pb;
use ttrpc::{Code, Status};

use super::{
    bundle::{process, shell, spec},
    driver::Driver,
};

#[track_caller]
fn check<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, text: &str) {
    let status = result.unwrap_err();
    assert_eq!((status.code, status.message.as_str()), (code, text));
}

#[tokio::test]
async fn each_state_refuses_what_it_must_in_go_s_words() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    let request = pb::PauseRequest { id: shim.id.clone() };
    let pause = || shim.call::<_, ()>("Pause", &request);
    check(pause().await, Code::Unknown, "cannot pause task in created state");
    check(shim.state("no").await, Code::NotFound, "process does not exist no: not found");
    check(shim.start("no").await, Code::NotFound, "process does not exist no: not found");

    shim.start("").await.unwrap();
    check(shim.start("").await, Code::Unknown, "cannot start a running process");
    check(shim.delete("").await, Code::Unknown, "cannot delete a running process");
    shim.exec("e", &shell("exit 0")).await.unwrap();
    check(shim.exec("e", &shell("exit 0")).await, Code::AlreadyExists, "id e: already exists");
    check(
        shim.kill("e", 9, false).await,
        Code::FailedPrecondition,
        "process not created: failed precondition",
    );
    shim.start("e").await.unwrap();
    shim.wait("e").await.unwrap();
    check(shim.kill("e", 9, false).await, Code::NotFound, "process already finished: not found");
    check(shim.start("e").await, Code::Unknown, "cannot start a stopped process");

    shim.exec("late", &shell("exit 0")).await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    check(shim.kill("", 9, false).await, Code::NotFound, "process already finished: not found");
    check(shim.start("").await, Code::Unknown, "cannot start a stopped process");
    check(pause().await, Code::Unknown, "cannot pause a stopped container");
    check(shim.exec("x", &shell("")).await, Code::Unknown, "cannot exec in a stopped state");
    let text = format!("container {} init process is not running: failed precondition", shim.id);
    check(shim.start("late").await, Code::FailedPrecondition, &text);

    shim.delete("").await.unwrap();
    check(shim.state("").await, Code::NotFound, "container not created: not found");
    check(shim.delete("").await, Code::NotFound, "container not created: not found");
    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn what_runc_refuses_is_told_and_leaves_nothing() {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["/no/such/program"])));
    let shim = driver.shim(&id, &bundle).await;
    let request = driver.create_request(&id);
    let created = shim.call::<_, pb::CreateTaskResponse>("Create", &request).await;
    let status = created.unwrap_err();
    assert_eq!(status.code, Code::Unknown);
    let want = "OCI runtime create failed: runc create failed: unable to start container process: \
                exec: \"/no/such/program\"";
    assert!(status.message.starts_with(want), "{}", status.message);
    shim.nothing_is_left();
    check(shim.state("").await, Code::NotFound, "container not created: not found");

    let mut request = driver.create_request(&id);
    request.rootfs[0].source = "/no/such/directory".into();
    let created = shim.call::<_, pb::CreateTaskResponse>("Create", &request).await;
    let message = created.unwrap_err().message;
    assert!(message.starts_with("failed to mount rootfs component: "), "{message}");
    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn an_added_process_that_cannot_run_is_told_and_can_be_deleted() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    shim.exec("e", &process(&["/no/such/program"])).await.unwrap();
    let status = shim.start("e").await.unwrap_err();
    let want = "OCI runtime exec failed: exec failed: unable to start container process: \
                exec: \"/no/such/program\"";
    assert!(status.message.starts_with(want), "{}", status.message);
    assert_eq!(shim.wait("e").await.unwrap(), 0);
    shim.delete("e").await.unwrap();
    check(shim.delete("e").await, Code::NotFound, "process does not exist e: not found");
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_made_says_where_the_reason_is() {
    let mut driver = Driver::new();
    // A runc that has no CRIU to call.
    let wrapper = driver.ground.path().join("runc-without-criu");
    let script = "#!/bin/sh\ncase \"$*\" in *checkpoint*) echo no criu >&2; exit 3;; esac\n\
                  exec /usr/sbin/runc \"$@\"\n";
    sys::program::install(&wrapper, script.as_bytes()).unwrap();
    driver.options.binary_name = wrapper.display().to_string();
    let shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    let path = driver.ground.path().join("checkpoint").display().to_string();
    let request = pb::CheckpointTaskRequest { id: shim.id.clone(), path, options: None };
    let status = shim.call::<_, ()>("Checkpoint", &request).await.unwrap_err();
    let dump = shim.bundle.join("criu-dump.log");
    let text = format!("exit status 3: no criu path= {}", dump.display());
    assert_eq!((status.code, status.message), (Code::Unknown, text));
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}

#[tokio::test]
async fn a_runtime_that_is_missing_is_named() {
    let mut driver = Driver::new();
    driver.options.binary_name = "no-such-runc".into();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["true"])));
    let shim = driver.shim(&id, &bundle).await;
    let request = driver.create_request(&id);
    let created = shim.call::<_, pb::CreateTaskResponse>("Create", &request).await;
    let message = created.unwrap_err().message;
    assert!(
        message.contains("exec: \"no-such-runc\": executable file not found in $PATH"),
        "{message}"
    );
    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn both_versions_are_served_and_others_are_not() {
    let driver = Driver::new();
    let mut shim = driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await;
    shim.service = api::service::TASK_V2;
    shim.start("").await.unwrap();
    shim.service = "containerd.task.v4.Task";
    check(shim.state("").await, Code::Unimplemented, "service containerd.task.v4.Task");
    shim.service = api::service::TASK_V3;
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}
