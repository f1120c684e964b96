// SPDX-License-Identifier: Apache-2.0
//! Tests of what this machine's kernel may not have, under one that does: project quotas.
//!
//! The distribution's user-mode Linux is a kernel that runs as a program, on the same files. It has
//! overlayfs, xfs and ext4 with project quotas, but is older than most.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Outcome, ensure, parts};

use crate::{install, run, show};

/// The tests that are worth another kernel.
const TESTS: &str = "quota:: crash::overlay overlay::owners erofs::many";

/// What the kernel starts as its first process: modules, then the tests.
const INIT: &str = r#"#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /mnt
for name in quota_tree quota_v2 loop overlay erofs; do
    busybox insmod "$(find "/usr/lib/uml/modules/$(uname -r)" -name "$name.ko")"
done
export TMPDIR=/mnt RUST_BACKTRACE=0
"#;

/// Plays the tests of snapshotters that need quotas.
pub(crate) fn run() -> Outcome {
    show::chapter("project quotas, under user-mode Linux");
    install::packages(&[
        "user-mode-linux",
        "busybox-static",
        "e2fsprogs",
        "xfsprogs",
        "erofs-utils",
    ])?;
    let tests = build()?;
    let script = std::env::temp_dir().join(format!("containerd-quotas-{}", std::process::id()));
    let text = format!(
        "{INIT}{} --nocapture --test-threads 2 {TESTS}\nbusybox poweroff -f\n",
        tests.display()
    );
    fs_err::write(&script, text).context("write the first process")?;
    let played = Command::new("chmod").arg("+x").arg(&script).status().context("chmod");
    let outcome = played.map(drop).and_then(|()| play(&script));
    fs_err::remove_file(&script).context("remove the first process")?;
    outcome
}

fn play(script: &std::path::Path) -> Outcome {
    let mut kernel = Command::new("linux.uml");
    kernel.args(["mem=2G", "rootfstype=hostfs", "rootflags=/", "rw", "quiet", "con=null"]);
    kernel.args(["con0=null,fd:1", "ssl=null"]).arg(format!("init={}", script.display()));
    let mut said = String::new();
    run::watched(&mut kernel, Duration::from_mins(5), |line| {
        let is_test =
            line.starts_with("test ") || line.contains("panicked") || line.contains("skipped");
        if is_test {
            println!("{line}");
        }
        said.push_str(line);
        said.push('\n');
    })?;
    ensure!(said.contains("test result: ok."), "the tests failed:\n{said}");
    ensure!(!said.contains("skipped: this kernel"), "this kernel has no quotas either");
    Ok(())
}

/// The test program of the snapshotters.
fn build() -> Outcome<PathBuf> {
    let words = [
        "test",
        "-p",
        "containerd-snapshots",
        "--test",
        "main",
        "--no-run",
        "--message-format=json",
    ];
    let mut found = None;
    let built = run::watched(&mut run::cargo(&words), Duration::from_mins(30), |line| {
        let program =
            line.split(r#""executable":""#).nth(1).and_then(|rest| rest.split('"').next());
        found = program.map(PathBuf::from).or(found.take());
    })?;
    ensure!(built, "the tests of {} do not build", parts::workspace().display());
    found.context("cargo named no test program")
}
