// SPDX-License-Identifier: Apache-2.0
//! Shims that are killed, at each step: their command cleans up, however far they had come.
use api::containerd::task::v3 as pb;

use super::{
    bundle::{process, spec},
    driver::{Driver, Shim, ended},
};

/// Asks for everything, one thing after the other, until the shim is gone.
async fn live(driver: &Driver, shim: &Shim) -> Option<()> {
    let request = driver.create_request(&shim.id);
    shim.call::<_, pb::CreateTaskResponse>("Create", &request).await.ok()?;
    shim.start("").await.ok()?;
    shim.exec("e", &process(&["sleep", "100"])).await.ok()?;
    shim.start("e").await.ok()?;
    shim.kill("", 9, false).await.ok()?;
    shim.wait("").await.ok()?;
    shim.delete("").await.ok().map(drop)
}

/// Processes that are in a container, or were to be.
fn processes_of(id: &str) -> Vec<u32> {
    let numbers = fs_err::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok());
    let is_inside = |pid: &u32| {
        let cgroups = fs_err::read_to_string(format!("/proc/{pid}/cgroup"));
        cgroups.is_ok_and(|cgroups| cgroups.lines().any(|line| line.ends_with(id)))
    };
    numbers.filter(is_inside).collect()
}

fn clean_up(driver: &Driver, shim: &Shim) -> pb::DeleteResponse {
    let bundle = shim.bundle.display().to_string();
    let output = driver.run(&shim.bundle, &shim.id, &["-bundle", &bundle, "delete"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    prost::Message::decode(output.stdout.as_slice()).unwrap()
}

async fn check(place: &str) {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["sleep", "100"])));
    let shim = driver.shim(&id, &bundle).await;
    driver.arm(place, "kill");
    assert_eq!(live(&driver, &shim).await, None, "{place}");
    assert!(driver.was_reached(place), "{place} was never reached");
    ended(shim.pid).await;
    assert_eq!(clean_up(&driver, &shim).exit_status, 137, "{place}");
    for pid in processes_of(&id) {
        ended(pid).await;
    }
    shim.nothing_is_left();
    let address = shim.address.strip_prefix("unix://").unwrap();
    assert!(!std::path::Path::new(address).exists(), "{place}: a socket is left");
    // What is clean stays clean.
    clean_up(&driver, &shim);
}

#[tokio::test]
async fn killed_while_it_creates() {
    for place in ["begun", "mounted", "made", "told"] {
        check(&format!("shim.create.{place}")).await;
    }
}

#[tokio::test]
async fn killed_while_it_starts_and_adds() {
    for place in ["start.begun", "start.made", "exec.begun", "exec.made"] {
        check(&format!("shim.{place}")).await;
    }
}

#[tokio::test]
async fn killed_while_it_ends_and_removes() {
    for place in ["kill.begun", "exit.seen", "delete.begun", "delete.deleted", "delete.unmounted"] {
        check(&format!("shim.{place}")).await;
    }
}

#[tokio::test]
async fn a_step_that_fails_can_be_taken_again() {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["sleep", "100"])));
    let shim = driver.shim(&id, &bundle).await;
    let request = driver.create_request(&id);
    for place in ["shim.create.begun", "shim.create.mounted", "shim.create.made"] {
        driver.arm(place, "no luck");
        let failed = shim.call::<_, pb::CreateTaskResponse>("Create", &request).await;
        assert!(failed.unwrap_err().message.contains("no luck"), "{place}");
        shim.nothing_is_left();
    }
    shim.call::<_, pb::CreateTaskResponse>("Create", &request).await.unwrap();
    driver.arm("shim.start.begun", "no luck");
    shim.start("").await.unwrap_err();
    shim.start("").await.unwrap();
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    for place in ["shim.delete.begun", "shim.delete.deleted", "shim.delete.unmounted"] {
        driver.arm(place, "no luck");
        assert!(shim.delete("").await.unwrap_err().message.contains("no luck"), "{place}");
    }
    assert_eq!(shim.delete("").await.unwrap().exit_status, 137);
    shim.shutdown().await.unwrap();
    shim.gone().await;
}

#[tokio::test]
async fn a_bundle_of_which_little_is_there_is_cleaned_up() {
    let driver = Driver::new();
    let id = driver.id("a");
    let bundle = driver.ground.bundle(&id, &spec(&id, &process(&["sleep", "100"])));
    let shim = driver.shim(&id, &bundle).await;
    let request = driver.create_request(&id);
    shim.call::<_, pb::CreateTaskResponse>("Create", &request).await.unwrap();
    let pid = shim.start("").await.unwrap();
    sys::kill::process(shim.pid, 9).unwrap();
    ended(shim.pid).await;
    // Without it nobody knows where the runtime keeps its state: that is in the options.
    for file in ["config.json", "init.pid", "log.json", "runtime", "shim.pid"] {
        fs_err::remove_file(bundle.join(file)).unwrap();
    }
    assert_eq!(clean_up(&driver, &shim).pid, 0);
    ended(pid).await;
    shim.nothing_is_left();
    fs_err::remove_dir_all(&bundle).unwrap();
    let here = driver.ground.path();
    let gone = bundle.display().to_string();
    let output = driver.run(here, &id, &["-bundle", &gone, "delete"], &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
