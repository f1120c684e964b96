// SPDX-License-Identifier: Apache-2.0
//! User-mode Linux: a kernel that runs as a program, on the same files. It has overlayfs, xfs and ext4
//! with project quotas, every controller of the cgroups, and AppArmor, but is older than most.

use std::path::Path;
use std::process::Command;

use e2e::{Context, Outcome, parts};

use super::Suite;
use crate::{install, run, show};

const SUITES: &[Suite] = &[
    Suite {
        package: "containerd-snapshots",
        target: "main",
        filters: "quota:: crash::overlay overlay::owners erofs::many",
    },
    Suite {
        package: "containerd-cgroups",
        target: "main",
        filters: "version_2 processes multiplies",
    },
    Suite { package: "containerd-spec", target: "main", filters: "apparmor" },
    Suite {
        package: "e2e",
        target: "e2e",
        filters: "memory_that_runs_out_is_told::ours metrics_are_counted::ours \
            limits_are_set_on_the_cgroup::ours limits_are_changed_while_a_task_runs::ours",
    },
];

/// What the kernel starts as its first process: mounts and modules.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t securityfs security /sys/kernel/security
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmp /mnt
mount -t tmpfs tmp /run
ip link set lo up
for name in quota_tree quota_v2 loop overlay erofs; do
    busybox insmod "$(find "/usr/lib/uml/modules/$(uname -r)" -name "$name.ko")"
done
for controller in cpu memory pids io cpuset; do
    echo "+$controller" > /sys/fs/cgroup/cgroup.subtree_control
done
export TMPDIR=/mnt RUST_BACKTRACE=0 TERM=dumb
"#;

/// Plays the tests that need quotas, cgroups of version 2 and AppArmor.
pub(super) fn run() -> Outcome {
    show::chapter("quotas, cgroups of version 2 and AppArmor, under user-mode Linux");
    install::packages(&[
        "user-mode-linux",
        "apparmor",
        "busybox-static",
        "iproute2",
        "e2fsprogs",
        "xfsprogs",
        "erofs-utils",
        "runc",
        "docker-registry",
    ])?;
    let programs = ["build", "-p", "containerd", "-p", "ctr", "-p", "containerd-shim-runc-v2"];
    run::watched(&mut run::cargo(&programs), std::time::Duration::from_mins(30), |line| {
        println!("{line}");
    })?;
    let kept = ["CARGO", "HOME", "CARGO_HOME", "RUSTUP_HOME", "CARGO_TARGET_DIR", "PATH"];
    let environment = kept
        .into_iter()
        .filter_map(|name| Some(format!("export {name}='{}'\n", std::env::var(name).ok()?)));
    let script = std::env::temp_dir().join(format!("containerd-kernel-{}", std::process::id()));
    let text = format!(
        "{INIT}{}{}busybox poweroff -f\n",
        environment.collect::<String>(),
        super::script(SUITES)?
    );
    super::write_program(&script, &text)?;
    let outcome = play(&script);
    fs_err::remove_file(&script).context("remove the first process")?;
    outcome
}

fn play(script: &Path) -> Outcome {
    let mut kernel = Command::new("linux.uml");
    kernel.args(["mem=3G", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null"]);
    kernel.args(["con0=null,fd:1", "ssl=null", "security=apparmor", "apparmor=1"]);
    kernel.arg(format!("init={}", script.display()));
    kernel.current_dir(parts::workspace());
    super::play(&mut kernel, SUITES.len())
}
