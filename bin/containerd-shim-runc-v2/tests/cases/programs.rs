// SPDX-License-Identifier: Apache-2.0
use std::process::{Command, Stdio};

use api::containerd::{
    runc::v1::Options,
    runtime::bootstrap::v1::{BootstrapParams, BootstrapResult},
    runtime::sandbox::v1 as sandbox,
    types::RuntimeInfo,
};
use prost::Message;

use super::{
    bundle::{process, spec},
    driver::Driver,
};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");

#[test]
fn the_version_is_printed() {
    for flag in ["-v", "--version"] {
        let output = Command::new(SHIM).arg(flag).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("containerd-shim-runc-v2:\n  Version:  "), "{text}");
    }
}

#[test]
fn a_namespace_is_needed() {
    let output = Command::new(SHIM).output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text, "io.containerd.runc.v2: shim namespace cannot be empty");
}

#[test]
fn what_the_runtime_can_do_is_printed() {
    let mut shim = Command::new(SHIM);
    shim.arg("-info").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = shim.spawn().unwrap();
    let options = api::pack(&Options { binary_name: "runc".into(), ..Default::default() });
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &options.encode_to_vec()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let info = RuntimeInfo::decode(output.stdout.as_slice()).unwrap();
    assert_eq!(info.name, "io.containerd.runc.v2");
    assert_eq!(info.options, Some(options));
    assert!(info.features.is_none_or(|features| features.type_url.ends_with("/features/Features")));
}

#[tokio::test]
async fn each_daemon_is_answered_as_it_understands() {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["true"])));
    let shim = driver.shim(&id, &bundle).await;

    let bare = driver.run_with(&bundle, &id, &["start"], &[], None);
    assert_eq!(String::from_utf8(bare.stdout).unwrap(), shim.address);
    let json = driver.run_with(&bundle, &id, &["start"], &[], Some("2"));
    let want = format!(r#"{{"version":2,"address":"{}","protocol":"ttrpc"}}"#, shim.address);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json, serde_json::from_str::<serde_json::Value>(&want).unwrap());
    let params = BootstrapParams {
        instance_id: id.clone(),
        namespace: driver.namespace.clone(),
        containerd_grpc_address: driver.ground.path().join("containerd.sock").display().to_string(),
        ..Default::default()
    };
    let message = driver.run_with(&bundle, &id, &["start"], &params.encode_to_vec(), None);
    let result = BootstrapResult::decode(message.stdout.as_slice()).unwrap();
    assert_eq!((result.version, result.address.as_str()), (3, shim.address.as_str()));

    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn a_shim_listens_where_it_is_told_and_scores_above_its_daemon() {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["true"])));
    sys::fifo::create(&bundle.join("log"), 0o700).unwrap();
    let directory = driver.ground.path().join("s").display().to_string();
    let params = BootstrapParams {
        instance_id: id.clone(),
        namespace: driver.namespace.clone(),
        socket_dir: Some(directory.clone()),
        ..Default::default()
    };
    let output = driver.run(&bundle, &id, &["start"], &params.encode_to_vec());
    let result = BootstrapResult::decode(output.stdout.as_slice()).unwrap();
    assert!(result.address.starts_with(&format!("unix://{directory}/")), "{}", result.address);
    let shim = driver.connect(&id, &bundle, &result.address).await;
    let ours = sys::oom_score::get(std::process::id()).unwrap();
    assert_eq!(sys::oom_score::get(shim.pid).unwrap(), (ours + 1).min(1000));
    let pid = fs_err::read_to_string(bundle.join("shim.pid")).unwrap();
    assert_eq!(pid, shim.pid.to_string());
    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn a_shim_joins_the_cgroup_that_it_is_told() {
    let driver = Driver::new();
    let id = driver.id("a");
    let cgroup = format!("/{id}-shim");
    let made = cgroups::Cgroup::create(&cgroup).unwrap();
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["true"])));
    let options = api::pack(&Options { shim_cgroup: cgroup.clone(), ..Default::default() });
    let output = driver.run(&bundle, &id, &["start"], &options.encode_to_vec());
    let address = shim::bootstrap::Answer::parse(str::from_utf8(&output.stdout).unwrap()).unwrap();
    let shim = driver.connect(&id, &bundle, &address.address).await;
    assert_eq!(made.processes().unwrap(), [shim.pid]);
    shim.shutdown().await.unwrap();
    shim.gone().await;
    made.delete().unwrap();

    let options = api::pack(&Options { shim_cgroup: "/no/such".into(), ..Default::default() });
    let output = driver.run(&bundle, &id, &["start"], &options.encode_to_vec());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("failed to load cgroup /no/such: "), "{text}");
}

#[tokio::test]
async fn a_shim_stands_for_its_sandbox() {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["true"])));
    let mut shim = driver.shim(&id, &bundle).await;
    shim.service = api::service::SANDBOX;
    let sandbox_id = || id.clone();
    let request = sandbox::CreateSandboxRequest { sandbox_id: sandbox_id(), ..Default::default() };
    shim.call::<_, sandbox::CreateSandboxResponse>("CreateSandbox", &request).await.unwrap();
    let request = sandbox::StartSandboxRequest { sandbox_id: sandbox_id() };
    let started: sandbox::StartSandboxResponse = shim.call("StartSandbox", &request).await.unwrap();
    assert_eq!(started.pid, shim.pid);
    let request = sandbox::SandboxStatusRequest { sandbox_id: sandbox_id(), verbose: false };
    let status: sandbox::SandboxStatusResponse =
        shim.call("SandboxStatus", &request).await.unwrap();
    assert_eq!((status.sandbox_id, status.state.as_str()), (sandbox_id(), "SANDBOX_READY"));
    assert_eq!(status.created_at, started.created_at);

    let wait = sandbox::WaitSandboxRequest { sandbox_id: sandbox_id() };
    let wait = shim.call::<_, sandbox::WaitSandboxResponse>("WaitSandbox", &wait);
    let stop = sandbox::StopSandboxRequest { sandbox_id: sandbox_id(), timeout_secs: 1 };
    let stop = shim.call::<_, sandbox::StopSandboxResponse>("StopSandbox", &stop);
    let (waited, stopped) = tokio::join!(wait, stop);
    stopped.unwrap();
    assert!(waited.unwrap().exited_at.is_some());
    shim.gone().await;
}

#[tokio::test]
async fn a_shim_that_is_to_share_no_core_does_not_or_says_why_it_cannot() {
    let mut driver = Driver::new();
    driver.env.push(("SCHED_CORE", "1".into()));
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["true"])));
    let can = sys::Command::new("true").core_scheduling().spawn();
    if let Err(error) = can {
        println!("skipped: cores without threads: {error}");
        let output = driver.run(&bundle, &id, &["start"], &[]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("enable sched core support: "), "{text}");
        assert!(!output.status.success());
        return;
    }
    let shim = driver.shim(&id, &bundle).await;
    shim.shutdown().await.unwrap();
    shim.gone().await;
}
