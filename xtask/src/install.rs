// SPDX-License-Identifier: Apache-2.0
//! The distribution's packages that the tasks stand on.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use e2e::{Context, Outcome, ensure, parts};

use crate::show;

/// Makes sure that these Debian packages are there, and says what it does.
pub(crate) fn packages(names: &[&str]) -> Outcome {
    let missing: Vec<&str> = names.iter().copied().filter(|name| !installed(name)).collect();
    println!("packages: {}", names.join(", "));
    if missing.is_empty() {
        println!("all of them are installed");
        return Ok(());
    }
    parts::require_root()?;
    println!("installing {}", missing.join(", "));
    if apt(&[&["install"], missing.as_slice()].concat())? {
        return Ok(());
    }
    // A fresh machine has no lists of packages yet.
    println!("fetching the lists of packages first");
    ensure!(apt(&["update"])?, "apt-get update failed");
    let words = [&["install"], missing.as_slice()].concat();
    ensure!(apt(&words)?, "apt-get could not install {}", missing.join(", "));
    Ok(())
}

fn installed(name: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f=${Status}", name]).output();
    query.is_ok_and(|answer| answer.stdout.starts_with(b"install ok installed"))
}

/// Runs apt-get without questions. It is not cut short when we are told to stop: a half-installed
/// package would be left behind.
fn apt(words: &[&str]) -> Outcome<bool> {
    let mut command = Command::new("apt-get");
    command.args(["-y", "-q", "--no-install-recommends"]).args(words);
    // The packages of containerd and docker-registry would start a service where there is an init
    // system: this says that it is not the time (invoke-rc.d(8)).
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command.stdin(Stdio::null()).process_group(0);
    println!("$ {}", e2e::process::shown(&command));
    show::flush();
    let status = command.status().context("run apt-get: this needs Debian or its like")?;
    Ok(status.success())
}
