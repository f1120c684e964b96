// SPDX-License-Identifier: Apache-2.0
//! Real cgroups and processes. Needs root and cgroups of version 1; what needs version 2 mounts it
//! over the other in a mount namespace of its own.

use std::{
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use cgroups::{Cgroup, Metrics, Mode};
use fs_err as fs;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    mount::{MountFlags, mount},
};
use sys::{
    Child, Command, Exit,
    thread::{Own, with},
};

/// A cgroup that is emptied and removed when the test ends, however it ends.
struct Scratch {
    cgroup: Cgroup,
    path: String,
}

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/containerd-test-{}-{number}", std::process::id());
        let cgroup = Cgroup::create(&path).expect("a new cgroup");
        Self { cgroup, path }
    }

    /// Starts a shell in the cgroup: it waits for a line before it runs the script.
    fn run(&self, script: &str) -> Child {
        let script = format!("read line; {script}");
        let command = Command::new("sh").args(["-c", &script]).stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell");
        self.cgroup.add(child.pid()).expect("the shell joins");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        std::io::Write::write_all(&mut stdin, b"go\n").expect("the shell is there");
        child
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.cgroup.kill());
        drop(self.cgroup.delete());
    }
}

fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..500 {
        if reached() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(reached(), "never reached: {what}");
}

fn is_version_1() -> bool {
    let mode = Mode::detect();
    let version_1 = matches!(mode, Mode::Legacy | Mode::Hybrid);
    if !version_1 {
        eprintln!("NOT TESTED: cgroups of version 1 are not mounted here ({mode:?})");
    }
    version_1
}

#[test]
fn a_task_is_measured_by_version_1() {
    if !is_version_1() {
        return;
    }
    let scratch = Scratch::new();
    let child = scratch.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60");
    let found = Cgroup::of_pid(child.pid()).unwrap();
    assert_eq!(found, scratch.cgroup);
    let measured = || match found.metrics().unwrap() {
        Metrics::V1(metrics) => *metrics,
        Metrics::V2(_) => panic!("the host has version 1"),
    };
    wait_until("two processes", || measured().pids.is_some_and(|pids| pids.current == 2));
    // The kernel adds up the counters of memory every other second only.
    wait_until("page faults", || measured().memory.is_some_and(|memory| memory.pg_fault > 0));
    let metrics = measured();
    let cpu = metrics.cpu.unwrap();
    assert!(cpu.usage.total > 0);
    assert_eq!(cpu.usage.per_cpu.iter().sum::<u64>(), cpu.usage.total);
    let memory = metrics.memory.unwrap();
    assert!(memory.usage.usage > 0 && memory.usage.max >= memory.usage.usage);
    assert!(memory.total_pg_fault >= memory.pg_fault);
    assert!(memory.usage.limit > 1 << 60, "no limit");
    assert_eq!(metrics.pids.unwrap().limit, 0);
    assert_eq!(metrics.memory_oom_control, Some(Default::default()));
    assert!(metrics.blkio.is_some() && metrics.rdma.is_none());
}

#[test]
fn processes_are_found_below_too_and_killed_together() {
    let scratch = Scratch::new();
    let below = Cgroup::create(&format!("{}/below", scratch.path)).unwrap();
    let mut first = scratch.run("sleep 60");
    let mut second = scratch.run("sleep 60");
    below.add(second.pid()).unwrap();
    let pids = scratch.cgroup.processes().unwrap();
    assert!(pids.contains(&first.pid()) && pids.contains(&second.pid()), "{pids:?}");
    assert_eq!(scratch.cgroup.delete().unwrap_err().kind(), types::Kind::FailedPrecondition);

    scratch.cgroup.kill().unwrap();
    assert_eq!(first.wait().unwrap(), Exit::Signal(9));
    assert_eq!(second.wait().unwrap(), Exit::Signal(9));
    assert!(scratch.cgroup.processes().unwrap().is_empty());

    scratch.cgroup.delete().unwrap();
    assert!(!scratch.cgroup.exists() && !below.exists());
    scratch.cgroup.delete().unwrap();
    assert!(scratch.cgroup.metrics().unwrap_err().is_not_found());
    assert!(scratch.cgroup.processes().unwrap_err().is_not_found());
}

#[test]
fn a_process_that_multiplies_does_not_get_away() {
    let scratch = Scratch::new();
    if let Some(dir) = scratch.cgroup.dir("pids") {
        fs::write(dir.join("pids.max"), "100").unwrap();
    }
    let mut child = scratch.run("while :; do (sleep 0.01; sleep 60) & done");
    wait_until("many processes", || scratch.cgroup.processes().unwrap().len() > 50);
    scratch.cgroup.kill().unwrap();
    // Killed, unless it was quick enough to meet the limit: a shell that cannot fork ends with 2.
    let ended = child.wait().unwrap();
    assert!(matches!(ended, Exit::Signal(9) | Exit::Code(2)), "{ended:?}");
    assert!(scratch.cgroup.processes().unwrap().is_empty());
}

#[test]
fn the_top_of_a_tree_is_neither_killed_nor_deleted() {
    let membership = fs::read_to_string("/proc/1/cgroup").unwrap();
    let init = Cgroup::of_pid(1).unwrap();
    if membership.lines().all(|line| line.ends_with(":/")) {
        init.kill().unwrap_err();
        init.delete().unwrap_err();
    } else {
        eprintln!("NOT TESTED: process 1 is not at the top");
    }
}

#[test]
fn what_does_not_exist_is_not_found() {
    assert!(Cgroup::of_pid(i32::MAX as u32).unwrap_err().is_not_found());
    assert!(Cgroup::at("/no/such/cgroup").unwrap_err().is_not_found());
    assert_eq!(Cgroup::at("/../x").unwrap_err().kind(), types::Kind::InvalidArgument);
}

fn is_ready(watch: &cgroups::OomWatch, seconds: i64) -> bool {
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&timeout)).expect("polling") > 0
}

#[test]
fn running_out_of_memory_is_told_and_so_is_the_end() {
    if !is_version_1() {
        return;
    }
    let scratch = Scratch::new();
    let limit = scratch.cgroup.dir("memory").unwrap().join("memory.limit_in_bytes");
    fs::write(limit, (8 << 20).to_string()).unwrap();
    let mut watch = scratch.cgroup.watch_oom().unwrap();
    assert!(!is_ready(&watch, 0));
    assert_eq!(watch.check().unwrap(), Default::default());

    let mut child = scratch.run("exec tail /dev/zero");
    assert_eq!(child.wait().unwrap(), Exit::Signal(9));
    assert!(is_ready(&watch, 10));
    assert!(watch.check().unwrap().oom);
    assert!(!is_ready(&watch, 0));
    wait_until("the kill is counted", || scratch.cgroup.oom_kills() == Some(1));
    let Metrics::V1(metrics) = scratch.cgroup.metrics().unwrap() else { panic!("version 1") };
    assert_eq!(metrics.memory_oom_control.unwrap().oom_kill, 1);

    scratch.cgroup.delete().unwrap();
    assert!(is_ready(&watch, 10));
    let report = watch.check().unwrap();
    assert!(report.gone && !report.oom);
}

/// Runs a test where cgroups are of version 2.
fn on_a_unified_host(test: impl FnOnce() + Send) {
    with(Own::Mounts, || {
        if Mode::detect() != Mode::Unified {
            mount("cgroup2", "/sys/fs/cgroup", "cgroup2", MountFlags::empty(), None)
                .expect("cgroups of version 2");
        }
        assert_eq!(Mode::detect(), Mode::Unified);
        test();
    })
    .expect("mounts of its own");
}

#[test]
fn a_task_is_measured_by_version_2() {
    on_a_unified_host(|| {
        let scratch = Scratch::new();
        let child = scratch.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60");
        let found = Cgroup::of_pid(child.pid()).unwrap();
        assert_eq!(found, scratch.cgroup);
        assert!(found.dir("memory").unwrap().starts_with(Path::new("/sys/fs/cgroup/")));
        // Without any controller the kernel counts processor time all the same.
        wait_until("processor time", || {
            let Metrics::V2(metrics) = found.metrics().unwrap() else { panic!("version 2") };
            metrics.cpu.unwrap().usage_usec > 0
        });
    });
}

/// Whether cgroups of version 2 have this machine's controllers, which are switched on then.
fn has_controllers() -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap();
    let wanted = ["memory", "pids"];
    if !wanted.iter().all(|name| controllers.split_whitespace().any(|it| it == *name)) {
        println!("skipped: this kernel keeps memory to cgroups of version 1");
        return false;
    }
    for name in wanted {
        fs::write(root.join("cgroup.subtree_control"), format!("+{name}")).unwrap();
    }
    true
}

fn version_2(cgroup: &Cgroup) -> cgroups::v2::Metrics {
    match cgroup.metrics().unwrap() {
        Metrics::V2(metrics) => *metrics,
        Metrics::V1(_) => panic!("the host has version 2"),
    }
}

#[test]
fn controllers_of_version_2_are_read() {
    on_a_unified_host(|| {
        if !has_controllers() {
            return;
        }
        let scratch = Scratch::new();
        let dir = scratch.cgroup.dir("memory").unwrap();
        fs::write(dir.join("pids.max"), "77").unwrap();
        fs::write(dir.join("memory.max"), "67108864").unwrap();
        let _child = scratch.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 60");
        let measured = || version_2(&scratch.cgroup);
        wait_until("two processes", || measured().pids.is_some_and(|pids| pids.current == 2));
        let metrics = measured();
        assert_eq!(metrics.pids.unwrap().limit, 77);
        let memory = metrics.memory.unwrap();
        assert!(memory.usage > 0 && memory.anon > 0, "{memory:?}");
        assert_eq!(memory.usage_limit, 67_108_864);
        assert_eq!(metrics.memory_events.unwrap().oom_kill, 0);
        assert!(metrics.cpu.unwrap().usage_usec > 0);
    });
}

#[test]
fn running_out_of_memory_is_told_by_version_2_too() {
    on_a_unified_host(|| {
        if !has_controllers() {
            return;
        }
        let scratch = Scratch::new();
        fs::write(scratch.cgroup.dir("memory").unwrap().join("memory.max"), "8388608").unwrap();
        // The one that takes too much is killed, and the other stays.
        let _other = scratch.run("exec sleep 60");
        let mut watch = scratch.cgroup.watch_oom().unwrap();
        let mut hog = scratch.run("exec tail /dev/zero");
        assert_eq!(hog.wait().unwrap(), Exit::Signal(9));
        assert!(is_ready(&watch, 10));
        let mut is_told = false;
        wait_until("it is told", || {
            is_told |= watch.check().unwrap().oom;
            is_told
        });
        assert_eq!(version_2(&scratch.cgroup).memory_events.unwrap().oom_kill, 1);
        assert_eq!(scratch.cgroup.oom_kills(), Some(1));
        scratch.cgroup.kill().unwrap();
        wait_until("its end", || watch.check().unwrap().gone);
    });
}

#[test]
fn a_tree_of_version_2_is_killed_at_once() {
    on_a_unified_host(|| {
        let scratch = Scratch::new();
        let mut child = scratch.run("sleep 60 & sleep 60");
        wait_until("three processes", || scratch.cgroup.processes().unwrap().len() == 3);
        scratch.cgroup.kill().unwrap();
        assert_eq!(child.wait().unwrap(), Exit::Signal(9));
        scratch.cgroup.delete().unwrap();
        assert!(!scratch.cgroup.exists());
    });
}
