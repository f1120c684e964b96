// SPDX-License-Identifier: Apache-2.0
//! Tests of what this machine's kernel may not have, under kernels that do.
//!
//! ```text
//! uml   the distribution's user-mode Linux, a program that is a kernel, on this machine's files:
//!       project quotas; version 2 of the cgroups with every controller, from the numbers that are
//!       read to a container that runs out of memory; the default profile of AppArmor
//! qemu  the distribution's kernel in an emulated machine, which sees this one's files read-only:
//!       fs-verity, and an older kernel under every snapshotter
//! ```
//!
//! Both are slow, and neither needs virtualization. Nothing is installed for the second: what it needs
//! is unpacked below the target directory.

mod qemu;
mod uml;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use e2e::{Context, Failure, Outcome, ensure, parts};

use crate::{run, show};

/// A test program, and which of its tests are worth another kernel.
struct Suite {
    package: &'static str,
    target: &'static str,
    filters: &'static str,
}

/// Plays all of them, or those of one kernel.
pub(crate) fn run(words: &[&str]) -> Outcome {
    parts::require_root()?;
    match words {
        [] => uml::run().and_then(|()| qemu::run()),
        ["uml"] => uml::run(),
        ["qemu"] => qemu::run(),
        other => Err(Failure::new(format!("kernels does not know {other:?}"))),
    }
}

/// The lines of a script that run the tests of these suites, each with `--test-threads 2`.
fn script(suites: &[Suite]) -> Outcome<String> {
    let line = |Suite { package, target, filters }: &Suite| {
        let program = built(package, target)?;
        Ok(format!(
            "echo 'suite {package}'; {} --nocapture --color never --test-threads 2 {filters}\n",
            program.display()
        ))
    };
    suites.iter().map(line).collect()
}

/// The test program of a package.
fn built(package: &str, target: &str) -> Outcome<PathBuf> {
    let words = ["test", "-p", package, "--test", target, "--no-run", "--message-format=json"];
    let mut found = None;
    let built = run::watched(&mut run::cargo(&words), Duration::from_mins(30), |line| {
        let program =
            line.split(r#""executable":""#).nth(1).and_then(|rest| rest.split('"').next());
        found = program.map(PathBuf::from).or(found.take());
    })?;
    ensure!(built, "the tests of {package} do not build");
    found.context(format!("cargo named no test program of {package}"))
}

/// Runs a kernel to its end, shows what its tests say, and fails unless all suites passed with nothing
/// skipped: the kernel was chosen for what it has.
fn play(kernel: &mut Command, suites: usize) -> Outcome {
    let mut said = String::new();
    run::watched(kernel, Duration::from_mins(20), |line| {
        let words = ["test ", "suite ", "panicked", "skipped", "NOT TESTED", "Kernel panic"];
        if words.iter().any(|word| line.contains(word)) {
            println!("{}", line.trim_end());
            show::flush();
        }
        said.push_str(line);
        said.push('\n');
    })?;
    let passed = said.matches("test result: ok.").count();
    ensure!(passed == suites, "only {passed} of {suites} suites passed:\n{said}");
    ensure!(!said.contains("skipped:"), "this kernel lacks something as well");
    Ok(())
}

/// Writes a script that can be run.
fn write_program(path: &Path, text: &str) -> Outcome {
    fs_err::write(path, text)?;
    let mut chmod = Command::new("chmod");
    e2e::process::run(chmod.arg("755").arg(path), Duration::from_secs(10))?.ok().map(drop)
}
