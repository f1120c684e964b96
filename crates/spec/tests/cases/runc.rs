// SPDX-License-Identifier: Apache-2.0
//! Our specs, run.
use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use spec::{Container, Exec, Host, ImageConfig, Options, Seccomp, Spec, Users};

/// A bundle of busybox, or nothing when this machine has no runc or busybox.
fn bundle() -> Option<tempfile::TempDir> {
    let busybox = Path::new("/bin/busybox");
    let runc = Command::new("runc").arg("--version").stdout(Stdio::null()).status();
    if !runc.is_ok_and(|status| status.success()) || !busybox.exists() {
        eprintln!("SKIPPED: runc and /bin/busybox are needed");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let rootfs = folder.path().join("rootfs");
    for name in ["bin", "etc", "proc", "sys", "dev", "run", "tmp"] {
        fs_err::create_dir_all(rootfs.join(name)).unwrap();
    }
    fs_err::copy(busybox, rootfs.join("bin/busybox")).unwrap();
    fs_err::write(rootfs.join("etc/passwd"), "alice:x:1000:1001::/:/bin/sh\n").unwrap();
    fs_err::write(rootfs.join("etc/group"), "alice:x:1001:\naudio:x:29:alice\n").unwrap();
    Some(folder)
}

/// A name that no other test has.
fn name(bundle: &Path) -> String {
    format!("spec-{}", bundle.file_name().unwrap().to_string_lossy().replace('.', "x"))
}

fn run(bundle: &Path, spec: &Spec) -> Output {
    fs_err::write(bundle.join("config.json"), spec.to_json()).unwrap();
    Command::new("runc")
        .arg("--root")
        .arg(bundle.join("state"))
        .args(["run", "--bundle"])
        .arg(bundle)
        .arg(name(bundle))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// What `script` prints in a container made to `options`.
fn shell(bundle: &Path, options: Options, script: &str) -> String {
    let args = ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec();
    let users = Users::read(&bundle.join("rootfs")).unwrap();
    let image = ImageConfig { user: "alice".into(), ..ImageConfig::default() };
    let id = name(bundle);
    let container = Container::new("spec-test", &id).image(&image);
    // The runtime removes the group, but not what is above it.
    let options = Options { args, cgroup: Some(format!("/{id}")), ..options };
    let spec = options.plan(&container, &users, &Host::read().unwrap()).unwrap();
    let output = run(bundle, &spec);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_default_spec_runs_as_the_user_that_the_image_names() {
    let Some(bundle) = bundle() else { return };
    let said = shell(bundle.path(), Options::default(), "busybox id; pwd; busybox hostname");
    assert!(said.starts_with("uid=1000(alice) gid=1001(alice) groups=29(audio)"), "{said}");
    assert!(said.contains("\n/\n"), "{said}");
}

#[test]
fn options_have_the_effect_that_they_promise() {
    let Some(bundle) = bundle() else { return };
    let options = Options {
        user: Some("0".into()),
        hostname: Some("named".into()),
        env: vec!["SAY=hello".into()],
        read_only: true,
        mounts: vec!["type=tmpfs,dst=/scratch,options=rw".parse().unwrap()],
        rlimit_nofile: Some(spec::rlimit_nofile("77").unwrap()),
        ..Options::default()
    };
    let script = "busybox hostname; echo $SAY; ulimit -n; busybox touch /x 2>/dev/null || echo ro; \
                  busybox touch /scratch/x && echo rw; busybox grep NoNewPrivs /proc/self/status";
    fs_err::create_dir(bundle.path().join("rootfs/scratch")).unwrap();
    let said = shell(bundle.path(), options, script);
    assert_eq!(said, "named\nhello\n77\nro\nrw\nNoNewPrivs:\t1");
}

#[test]
fn the_seccomp_profile_lets_a_shell_live_and_stops_what_it_should() {
    let Some(bundle) = bundle() else { return };
    let options =
        Options { user: Some("0".into()), seccomp: Seccomp::Default, ..Options::default() };
    let script = "busybox grep Seccomp: /proc/self/status; \
                  busybox unshare -m true 2>&1 || true; busybox ls / | busybox wc -l";
    let said = shell(bundle.path(), options, script);
    assert!(said.starts_with("Seccomp:\t2"), "{said}");
    assert!(said.contains("Operation not permitted"), "{said}");
}

#[test]
fn a_further_process_keeps_the_limits_of_the_first() {
    let spec = spec::default("ns", "id", &Host::default());
    let exec = Exec { args: vec!["x".into()], user: Some("5".into()), ..Exec::default() };
    let process = exec.plan(&spec, &Users::default()).unwrap();
    assert_eq!(process.capabilities, spec.process.capabilities);
    assert_eq!((process.user.uid, &process.user.additional_gids[..]), (5, &[0][..]));
}
