// SPDX-License-Identifier: Apache-2.0
//! What a shim takes of the machine, and that it takes no more as time goes by.
use std::time::Duration;

use super::{
    bundle::process,
    driver::{Driver, Shim},
};

/// Processes that are added before the first look: by then everything that is kept for the next
/// time is there.
const BEFORE: usize = 60;
/// And before the second look.
const BETWEEN: usize = 120;

#[derive(Debug)]
struct Taken {
    /// Bytes that are its own.
    anonymous: usize,
    open_files: usize,
}

impl Taken {
    fn by(pid: u32) -> Self {
        let rollup = fs_err::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")).unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        let open_files = fs_err::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { anonymous: kib << 10, open_files }
    }
}

async fn add_and_remove(shim: &Shim, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let exec_id = format!("e{number}");
        shim.exec(&exec_id, &process(&["true"])).await.unwrap();
        shim.start(&exec_id).await.unwrap();
        shim.wait(&exec_id).await.unwrap();
        shim.delete(&exec_id).await.unwrap();
    }
}

#[tokio::test]
async fn processes_that_come_and_go_leave_nothing_in_the_shim() {
    let driver = Driver::new();
    let shim = driver.container("a", &process(&["sleep", "1000"]), |_, _| {}).await;
    shim.start("").await.unwrap();
    add_and_remove(&shim, 0..BEFORE).await;
    let before = Taken::by(shim.pid);
    add_and_remove(&shim, BEFORE..BEFORE + BETWEEN).await;
    // Memory is given back when nobody has called for a second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let after = Taken::by(shim.pid);
    assert!(after.open_files <= before.open_files, "{before:?}, then {after:?}");
    assert!(after.anonymous < before.anonymous + (64 << 10), "{before:?}, then {after:?}");
    shim.kill("", 9, false).await.unwrap();
    shim.wait("").await.unwrap();
    shim.finish().await;
}
