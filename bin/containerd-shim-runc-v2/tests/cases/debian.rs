// SPDX-License-Identifier: Apache-2.0
//! The distribution's containerd and `ctr`, with our shim in the place of theirs.
use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use shim::socket;

use super::bundle::Ground;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");

/// The root filesystem says nothing of itself.
const PATH: &str = "PATH=/bin";

/// The distribution's daemon, on private directories, with our shim first on its PATH.
struct Debian {
    ground: Ground,
    daemon: Child,
    namespace: String,
}

impl Debian {
    /// Starts it, or says why not.
    fn start() -> Option<Self> {
        for tool in ["/usr/bin/containerd", "/usr/bin/ctr"] {
            if !Path::new(tool).exists() {
                eprintln!("SKIPPED: {tool} is missing: install the distribution's containerd");
                return None;
            }
        }
        let ground = Ground::new();
        let root = ground.path();
        fs_err::create_dir(root.join("path")).unwrap();
        fs_err::copy(SHIM, root.join("path/containerd-shim-runc-v2")).unwrap();
        let config = format!(
            "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{0}/c.sock\"\n[ttrpc]\naddress = \"{0}/c.sock.ttrpc\"\n",
            root.display()
        );
        fs_err::write(root.join("config.toml"), config).unwrap();
        let namespace = root.file_name().unwrap().to_str().unwrap().replace('.', "-");
        let daemon = spawn(root);
        let debian = Self { ground, daemon, namespace };
        debian.wait_until_ready();
        Some(debian)
    }

    fn wait_until_ready(&self) {
        let is_ready = || self.ctr(&["version"]).status.success();
        assert!(soon(is_ready), "containerd does not answer: {}", self.log());
    }

    /// Ends it without a word and starts it again.
    fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = spawn(self.ground.path());
        self.wait_until_ready();
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.ground.path().join("log")).unwrap_or_default()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut ctr = Command::new("/usr/bin/ctr");
        ctr.arg("-a").arg(self.ground.path().join("c.sock")).args(["-n", &self.namespace]);
        ctr.args(args);
        ctr
    }

    fn ctr(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `ctr`, which must succeed, and returns what it printed.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctr {args:?}: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    fn image(&self) -> String {
        self.ground.image().display().to_string()
    }

    fn task_is(&self, id: &str, status: &str) -> bool {
        let tasks = self.ok(&["tasks", "ls"]);
        tasks.lines().any(|line| line.starts_with(id) && line.contains(status))
    }

    fn bundles(&self) -> PathBuf {
        self.ground.path().join("state/io.containerd.runtime.v2.task").join(&self.namespace)
    }

    fn shims(&self) -> Vec<u32> {
        let socket = self.ground.path().join("c.sock").display().to_string();
        processes_with(&["containerd-shim-runc-v2", &socket])
    }

    /// Checks that soon nothing is left: the daemon cleans up after it has answered.
    fn nothing_is_left(&self) {
        assert!(soon(|| self.leftovers().is_empty()), "{:?} are left", self.leftovers());
    }

    fn leftovers(&self) -> Vec<String> {
        let names = |directory: &Path| {
            let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
            entries.map(|entry| entry.path().display().to_string()).collect::<Vec<_>>()
        };
        let shims = self.shims().into_iter().map(|pid| format!("shim {pid}"));
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        let bundles = self.bundles().display().to_string();
        let mounts = mounts.lines().filter(|line| line.contains(&bundles)).map(str::to_owned);
        let daemon = self.ground.path().join("c.sock").display().to_string();
        let sockets = ["a", "b", "c"].map(|id| {
            let address = socket::address(socket::DIRECTORY, &daemon, &self.namespace, id);
            address["unix://".len()..].to_owned()
        });
        let mut left: Vec<_> = shims.chain(mounts).collect();
        left.extend(names(&self.bundles()));
        left.extend(names(&Path::new("/run/containerd/runc").join(&self.namespace)));
        left.extend(sockets.into_iter().filter(|socket| Path::new(socket).exists()));
        left
    }
}

impl Drop for Debian {
    fn drop(&mut self) {
        for shim in self.shims() {
            drop(sys::kill::process(shim, 9));
        }
        drop(self.daemon.kill());
        drop(self.daemon.wait());
        let state = Path::new("/run/containerd/runc").join(&self.namespace);
        for entry in fs_err::read_dir(&state).into_iter().flatten().flatten() {
            let mut runc = Command::new("runc");
            runc.arg("--root").arg(&state).args(["delete", "--force"]).arg(entry.file_name());
            drop(runc.output());
        }
        drop(fs_err::remove_dir(&state));
        // The cgroup of the namespace is nobody's to remove, but ours.
        if let Ok(cgroup) = cgroups::Cgroup::at(&format!("/{}", self.namespace)) {
            drop(cgroup.delete());
        }
        let state = self.ground.path().join("state");
        drop(mount::unmount_recursive(&state, mount::UnmountFlags::DETACH));
    }
}

fn spawn(root: &Path) -> Child {
    let log = File::options().create(true).append(true).open(root.join("log")).unwrap();
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        root.join("path").display()
    );
    let mut daemon = Command::new("/usr/bin/containerd");
    daemon.arg("--config").arg(root.join("config.toml")).env("PATH", path);
    daemon.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    daemon.spawn().unwrap()
}

/// Processes that run and whose command line has all these words in it.
fn processes_with(words: &[&str]) -> Vec<u32> {
    let all = fs_err::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let matches = |pid: &u32| {
        let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        words.iter().all(|word| line.contains(word))
    };
    pids.filter(matches).collect()
}

fn soon(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) {
        if is_so() {
            return true;
        }
        sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn a_container_is_run_and_its_status_is_ours() {
    let Some(debian) = Debian::start() else { return };
    let image = debian.image();
    let out = debian.ok(&["run", "--rm", "--env", PATH, "--rootfs", &image, "a", "echo", "hello"]);
    assert_eq!(out, "hello\n");
    let output = debian.ctr(&[
        "run",
        "--rm",
        "--env",
        PATH,
        "--rootfs",
        &image,
        "b",
        "sh",
        "-c",
        "echo bad >&2; exit 7",
    ]);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "bad\n");
    let output = debian.ctr(&["run", "--rm", "--env", PATH, "--rootfs", &image, "c", "/no/such"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let want = "OCI runtime create failed: runc create failed: unable to start container process: \
                exec: \"/no/such\"";
    assert!(!output.status.success() && text.contains(want), "{text}");
    assert_eq!(text.lines().count(), 1, "runc's own complaint reached the client: {text}");
    debian.nothing_is_left();
}

#[test]
fn a_container_is_run_in_the_background_and_looked_after() {
    let Some(debian) = Debian::start() else { return };
    debian.ok(&["run", "-d", "--env", PATH, "--rootfs", &debian.image(), "a", "sleep", "1000"]);
    assert!(debian.task_is("a", "RUNNING"));
    assert_eq!(debian.ok(&["tasks", "exec", "--exec-id", "e", "a", "echo", "added"]), "added\n");
    let code = debian.ctr(&["tasks", "exec", "--exec-id", "f", "a", "sh", "-c", "exit 9"]).status;
    assert_eq!(code.code(), Some(9));
    assert!(debian.ok(&["tasks", "metrics", "a"]).contains("pids.current"));
    assert!(debian.ok(&["tasks", "ps", "a"]).lines().count() >= 2);
    debian.ok(&["tasks", "pause", "a"]);
    assert!(debian.task_is("a", "PAUSED"));
    debian.ok(&["tasks", "resume", "a"]);
    debian.ok(&["tasks", "kill", "-s", "KILL", "a"]);
    assert!(soon(|| debian.task_is("a", "STOPPED")));
    let output = debian.ctr(&["tasks", "kill", "a"]);
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("process already finished: not found")
    );
    let output = debian.ctr(&["tasks", "rm", "a"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("exit code 137"));
    debian.ok(&["containers", "rm", "a"]);
    debian.nothing_is_left();
}

#[test]
fn what_is_typed_reaches_the_container_and_its_end_too() {
    let Some(debian) = Debian::start() else { return };
    let image = debian.image();
    let mut ctr = debian.command(&["run", "--rm", "--env", PATH, "--rootfs", &image, "a", "cat"]);
    let mut child = ctr.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"typed\n").unwrap();
    // This ctr overlooks an input that ends before its container is created, with any shim.
    let mut first = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    assert_eq!(&first, b"typed\n");
    stdin.write_all(b"more\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "more\n");
    debian.nothing_is_left();
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(debian) = Debian::start() else { return };
    let image = debian.image();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let inside = File::options().read(true).write(true).open(name).unwrap();
    let mut ctr =
        debian.command(&["run", "--rm", "-t", "--env", PATH, "--rootfs", &image, "a", "sh"]);
    ctr.stdin(inside.try_clone().unwrap()).stdout(inside.try_clone().unwrap()).stderr(inside);
    let mut child = ctr.spawn().unwrap();
    drop(ctr);
    let mut master = File::from(master);
    master.write_all(b"tty; echo $((6*7)); exit 3\n").unwrap();
    let mut shown = Vec::new();
    // A terminal whose inside is closed ends with an error.
    drop(master.read_to_end(&mut shown));
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("/dev/pts/") && shown.contains("42\r"), "{shown:?}");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    debian.nothing_is_left();
}

#[test]
fn a_container_survives_its_daemon() {
    let Some(mut debian) = Debian::start() else { return };
    let image = debian.image();
    debian.ok(&["run", "-d", "--env", PATH, "--rootfs", &image, "a", "sleep", "1000"]);
    debian.ok(&["run", "-d", "--env", PATH, "--rootfs", &image, "b", "sleep", "1000"]);
    debian.restart();
    assert!(debian.task_is("a", "RUNNING") && debian.task_is("b", "RUNNING"));
    assert_eq!(debian.ok(&["tasks", "exec", "--exec-id", "e", "a", "echo", "again"]), "again\n");
    for id in ["a", "b"] {
        debian.ok(&["tasks", "kill", "-s", "KILL", id]);
        assert!(soon(|| debian.task_is(id, "STOPPED")));
        debian.ctr(&["tasks", "rm", id]);
        debian.ok(&["containers", "rm", id]);
    }
    debian.nothing_is_left();
}

#[test]
fn a_shim_that_is_killed_is_cleaned_up_after() {
    let Some(debian) = Debian::start() else { return };
    debian.ok(&["run", "-d", "--env", PATH, "--rootfs", &debian.image(), "a", "sleep", "1000"]);
    for shim in debian.shims() {
        sys::kill::process(shim, 9).unwrap();
    }
    let is_gone = || !debian.ok(&["tasks", "ls"]).contains("RUNNING");
    assert!(soon(is_gone), "{}", debian.ok(&["tasks", "ls"]));
    debian.ctr(&["tasks", "rm", "a"]);
    debian.ok(&["containers", "rm", "a"]);
    debian.nothing_is_left();
}

#[test]
fn every_exit_arrives_of_many_at_once() {
    let Some(debian) = Debian::start() else { return };
    let image = debian.image();
    let runs: Vec<_> = (0..12)
        .map(|number| {
            let id = format!("c{number}");
            let script = format!("echo {number}; exit {number}");
            let args = ["run", "--rm", "--env", PATH, "--rootfs", &image, &id, "sh", "-c", &script];
            let mut ctr = debian.command(&args);
            ctr.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (number, run) in runs.into_iter().enumerate() {
        let output = run.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(number as i32));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{number}\n"));
    }
    debian.nothing_is_left();
}
