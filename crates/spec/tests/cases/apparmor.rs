// SPDX-License-Identifier: Apache-2.0
//! The default profile, as AppArmor's own parser understands it, and as a kernel holds to it.
use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use spec::apparmor::Profile;

/// What the kernel has loaded; it is there only where AppArmor is.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";

/// Gives the parser a profile (the package is `apparmor`).
fn parse(words: &[&str], profile: &Profile) -> Output {
    let mut parser = Command::new("apparmor_parser");
    parser.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        parser.spawn().expect("this machine lacks apparmor_parser: apt-get install apparmor");
    child.stdin.take().unwrap().write_all(profile.text().as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_parser_takes_the_default_profile() {
    for profile in [
        Profile::new("bare").unwrap(),
        Profile::of_machine("cri-containerd.apparmor.d").unwrap(),
        Profile::of_machine("with blanks (and more)").unwrap(),
    ] {
        let made = parse(&["--skip-kernel-load", "--skip-cache", "--stdout"], &profile);
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success() && !made.stdout.is_empty(), "{said}\n{}", profile.text());
    }
}

/// Loads a profile, and unloads it in the end.
struct Loaded(Profile);

impl Loaded {
    fn new(profile: Profile) -> Self {
        let made = parse(&["--replace", "--skip-cache"], &profile);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(profile)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        parse(&["--remove"], &self.0);
    }
}

/// Whether a shell can do this.
fn can(script: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null());
    shell.status().unwrap().success()
}

/// Whether a shell that is held by the profile can.
fn can_held(name: &str, script: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "echo \"exec $0\" > /proc/self/attr/exec && exec sh -c \"$1\"",
        name,
        script,
    ]);
    shell.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn the_kernel_holds_a_process_to_the_default_profile() {
    if fs_err::metadata(LOADED).is_err() {
        println!("skipped: this kernel has no AppArmor");
        return;
    }
    let name = format!("containerd-spec-{}", std::process::id());
    let _loaded = Loaded::new(Profile::of_machine(&name).unwrap());
    for script in [
        &format!("test \"$(cat /proc/self/attr/current)\" = \"{name} (enforce)\""),
        "cat /proc/sys/kernel/ostype && cat /sys/kernel/uevent_seqnum",
        "kept=$(cat /proc/sys/kernel/shmmni) && echo $kept > /proc/sys/kernel/shmmni",
        "echo 0 > /proc/self/oom_score_adj",
        "kill -URG $$",
    ] {
        assert!(can_held(&name, script), "{script}");
    }
    let place = tempfile::tempdir().unwrap();
    let place = place.path().display();
    for script in [
        "kept=$(cat /proc/sys/vm/dirty_ratio) && echo $kept > /proc/sys/vm/dirty_ratio",
        "kept=$(cat /proc/sys/kernel/msgmax) && echo $kept > /proc/sys/kernel/msgmax",
        "cd /sys/class/net/lo && kept=$(cat tx_queue_len) && echo $kept > tx_queue_len",
        "cat /sys/kernel/security/apparmor/profiles",
        &format!("mount -t tmpfs tmpfs {place} && umount {place}"),
        // A signal that changes nothing.
        &format!("kill -URG {}", std::process::id()),
    ] {
        assert!(can(script) && !can_held(&name, script), "{script}");
    }
}
