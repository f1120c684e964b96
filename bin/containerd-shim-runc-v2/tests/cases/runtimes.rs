// SPDX-License-Identifier: Apache-2.0
//! Runtimes that are killed or hang, at each step.
use std::path::PathBuf;

use api::containerd::{task::v3 as pb, v1::types::Status};
use serde_json::json;
use tokio::time::Instant;

use super::{
    bundle::{process, shell, spec},
    daemon::eventually,
    driver::{Driver, Shim},
};

/// What becomes of the runtime when it is asked for something for the first time.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It is killed before it has done anything.
    KilledBefore,
    /// It is killed when it has done everything, and has not said so.
    KilledAfter,
    /// It does nothing, for ever.
    Hangs,
}

/// Puts a runc before the real one that meets its fate once, when it is asked for `verb`.
fn runtime(driver: &Driver, verb: &str, fate: Fate) -> PathBuf {
    let dir = driver.ground.path().join(format!("{verb}-{fate:?}"));
    fs_err::create_dir(&dir).unwrap();
    let once = dir.join("once").display().to_string();
    let fate = match fate {
        Fate::KilledBefore => "kill -9 $$",
        Fate::KilledAfter => "/usr/sbin/runc \"$@\"; kill -9 $$",
        Fate::Hangs => "exec sleep 1000",
    };
    let script = format!(
        "#!/bin/sh\ncase \" $* \" in *\" {verb} \"*) if mkdir {once} 2>/dev/null; then\n{fate}\n\
         fi;; esac\nexec /usr/sbin/runc \"$@\"\n"
    );
    let path = dir.join("runc");
    sys::program::install(&path, script.as_bytes()).unwrap();
    path
}

fn driver_with(verb: &str, fate: Fate) -> Driver {
    let mut driver = Driver::new();
    driver.options.binary_name = runtime(&driver, verb, fate).display().to_string();
    driver
}

async fn sleeper(driver: &Driver) -> Shim {
    driver.container("a", &process(&["sleep", "100"]), |_, _| {}).await
}

async fn end(shim: Shim) {
    shim.kill("", 9, false).await.unwrap();
    assert_eq!(shim.wait("").await.unwrap(), 137);
    shim.finish().await;
}

#[tokio::test]
async fn killed_while_it_creates_it_leaves_nothing_and_may_try_again() {
    for fate in [Fate::KilledBefore, Fate::KilledAfter] {
        let driver = driver_with("create", fate);
        let id = driver.id("a");
        let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["sleep", "100"])));
        let shim = driver.shim(&id, &bundle).await;
        let request = driver.create_request(&id);
        let failed = shim.call::<_, pb::CreateTaskResponse>("Create", &request).await.unwrap_err();
        assert!(failed.message.starts_with("OCI runtime create failed: "), "{}", failed.message);
        assert!(failed.message.contains("signal: killed"), "{}", failed.message);
        shim.nothing_is_left();
        shim.call::<_, pb::CreateTaskResponse>("Create", &request).await.unwrap();
        shim.start("").await.unwrap();
        end(shim).await;
    }
}

#[tokio::test]
async fn killed_while_it_starts_it_may_try_again() {
    for fate in [Fate::KilledBefore, Fate::KilledAfter] {
        let driver = driver_with("start", fate);
        let shim = sleeper(&driver).await;
        let message = shim.start("").await.unwrap_err().message;
        assert!(message.starts_with("OCI runtime start failed: "), "{message}");
        shim.start("").await.unwrap();
        assert_eq!(shim.state("").await.unwrap().status(), Status::Running);
        end(shim).await;
    }
}

#[tokio::test]
async fn killed_while_it_pauses_or_resumes_the_state_is_true_and_it_may_try_again() {
    for (verb, fate) in [
        ("pause", Fate::KilledBefore),
        ("pause", Fate::KilledAfter),
        ("resume", Fate::KilledBefore),
        ("resume", Fate::KilledAfter),
    ] {
        let driver = driver_with(verb, fate);
        let shim = sleeper(&driver).await;
        shim.start("").await.unwrap();
        let pause = pb::PauseRequest { id: shim.id.clone() };
        let resume = pb::ResumeRequest { id: shim.id.clone() };
        if verb == "pause" {
            shim.call::<_, ()>("Pause", &pause).await.unwrap_err();
            assert_eq!(shim.state("").await.unwrap().status(), Status::Running);
            shim.exec("e", &process(&["true"])).await.unwrap();
            shim.start("e").await.unwrap();
            assert_eq!(shim.wait("e").await.unwrap(), 0, "it is not paused");
        }
        shim.call::<_, ()>("Pause", &pause).await.unwrap();
        if verb == "resume" {
            shim.call::<_, ()>("Resume", &resume).await.unwrap_err();
        }
        shim.call::<_, ()>("Resume", &resume).await.unwrap();
        assert_eq!(shim.state("").await.unwrap().status(), Status::Running);
        end(shim).await;
    }
}

#[tokio::test]
async fn killed_while_it_adds_a_process_none_is_left_without_a_name() {
    for fate in [Fate::KilledBefore, Fate::KilledAfter] {
        let driver = driver_with("exec", fate);
        let shim = sleeper(&driver).await;
        shim.start("").await.unwrap();
        shim.exec("e", &process(&["sleep", "77"])).await.unwrap();
        let message = shim.start("e").await.unwrap_err().message;
        assert!(message.starts_with("OCI runtime exec failed: "), "{message}");
        let cgroup = cgroups::Cgroup::at(&format!("/{}", shim.id)).unwrap();
        let is_alone = || (cgroup.processes().unwrap().len() == 1).then_some(());
        eventually("the first process is alone", is_alone).await;
        shim.delete("e").await.unwrap();
        end(shim).await;
    }
}

#[tokio::test]
async fn killed_while_it_removes_it_may_try_again() {
    for fate in [Fate::KilledBefore, Fate::KilledAfter] {
        let driver = driver_with("delete", fate);
        let shim = driver.container("a", &shell("exit 4"), |_, _| {}).await;
        shim.start("").await.unwrap();
        assert_eq!(shim.wait("").await.unwrap(), 4);
        let message = shim.delete("").await.unwrap_err().message;
        assert!(message.starts_with("failed to delete task: "), "{message}");
        shim.finish().await;
    }
}

#[tokio::test]
async fn a_runtime_that_hangs_holds_up_its_own_container_only_and_ends_with_it() {
    let mut driver = driver_with("start", Fate::Hangs);
    let grouped = |spec: &mut serde_json::Value, _: &mut pb::CreateTaskRequest| {
        spec["annotations"] = json!({"io.kubernetes.cri.sandbox-id": "pod"});
    };
    let sleep = process(&["sleep", "100"]);
    let stuck = driver.container("a", &sleep, grouped).await;
    driver.options.binary_name = String::new();
    let other = driver.container("b", &sleep, grouped).await;
    assert_eq!(stuck.pid, other.pid);

    let hung = stuck.start("");
    let meanwhile = async {
        eventually("the runtime hangs", || {
            driver.ground.path().join("start-Hangs/once").exists().then_some(())
        })
        .await;
        let begun = Instant::now();
        assert_eq!(stuck.state("").await.unwrap().status(), Status::Created);
        other.start("").await.unwrap();
        other.kill("", 9, false).await.unwrap();
        assert_eq!(other.wait("").await.unwrap(), 137);
        other.delete("").await.unwrap();
        assert!(begun.elapsed().as_secs() < 4, "{:?}", begun.elapsed());
        stuck.kill("", 9, false).await.unwrap();
        assert_eq!(stuck.wait("").await.unwrap(), 137);
    };
    let (hung, ()) = tokio::join!(hung, meanwhile);
    assert!(hung.unwrap_err().message.contains("was interrupted"));
    stuck.delete("").await.unwrap();
    stuck.nothing_is_left();
    stuck.shutdown().await.unwrap();
    stuck.gone().await;
}
