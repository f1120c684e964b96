// SPDX-License-Identifier: Apache-2.0
//! Driving the shim: starting it by its command line, calling it over ttrpc.
use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use api::containerd::{runc::v1::Options, task::v3 as pb};
use prost::Message;
use serde_json::Value;
use ttrpc::{CallOptions, Client, Status};

use super::{
    bundle::{Ground, spec},
    daemon::{Daemon, eventually},
};

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-runc-v2");

/// A daemon's view of shims: a place on disk, a namespace, a socket for events.
pub(crate) struct Driver {
    pub(crate) ground: Ground,
    pub(crate) daemon: Daemon,
    pub(crate) namespace: String,
    pub(crate) options: Options,
    /// What shims find in their environment besides.
    pub(crate) env: Vec<(&'static str, String)>,
    /// Whether shims see a host with only the second version of cgroups.
    pub(crate) is_unified: bool,
}

impl Driver {
    /// A daemon that listens for events.
    pub(crate) fn new() -> Self {
        let mut driver = Self::without_daemon();
        driver.daemon.arrive();
        driver
    }

    /// A daemon that is away.
    pub(crate) fn without_daemon() -> Self {
        let ground = Ground::new();
        let daemon = Daemon::away(ground.path().join("ttrpc"));
        let name = ground.path().file_name().unwrap().to_str().unwrap();
        let namespace = name.replace('.', "-");
        let root = ground.runc_root().display().to_string();
        Self {
            daemon,
            namespace,
            options: Options { root, ..Default::default() },
            env: Vec::new(),
            is_unified: false,
            ground,
        }
    }

    /// An id that no other test has.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    /// Runs the shim's binary in a bundle.
    pub(crate) fn run(&self, bundle: &Path, id: &str, args: &[&str], input: &[u8]) -> Output {
        self.run_with(bundle, id, args, input, Some("3"))
    }

    /// The same for a daemon that names another version, or none.
    pub(crate) fn run_with(
        &self,
        bundle: &Path,
        id: &str,
        args: &[&str],
        input: &[u8],
        version: Option<&str>,
    ) -> Output {
        let mut command = self.program();
        let address = self.ground.path().join("containerd.sock");
        command.args(["-namespace", &self.namespace, "-id", id, "-address"]).arg(address);
        command.args(["-publish-binary", "/bin/false"]).args(args).current_dir(bundle);
        command.env("TTRPC_ADDRESS", &self.daemon.socket);
        command.env(sys::failpoint::DIRECTORY, self.ground.failpoints());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.envs(version.map(|version| ("MAX_SHIM_VERSION", version)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// The shim's binary, for the host that it is to see: one of mounts of its own, if need be.
    fn program(&self) -> Command {
        if !self.is_unified {
            return Command::new(SHIM);
        }
        let script = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, SHIM]);
        command
    }

    /// Has something happen to the shim when it comes to a place: see [`sys::failpoint`].
    pub(crate) fn arm(&self, place: &str, action: &str) {
        fs_err::write(self.ground.failpoints().join(place), action).unwrap();
    }

    /// Whether a shim has come to a place that was armed.
    pub(crate) fn was_reached(&self, place: &str) -> bool {
        !self.ground.failpoints().join(place).exists()
    }

    /// Starts a shim for a bundle, and connects to it.
    pub(crate) async fn shim(&self, id: &str, bundle: &Path) -> Shim {
        make_log(bundle);
        let output = self.run(bundle, id, &["start"], &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let answer = shim::bootstrap::Answer::parse(&text).unwrap();
        self.connect(id, bundle, &answer.address).await
    }

    pub(crate) async fn connect(&self, id: &str, bundle: &Path, address: &str) -> Shim {
        let client = Client::connect(address).await.unwrap();
        let mut shim = Shim {
            client,
            service: api::service::TASK_V3,
            id: id.to_owned(),
            namespace: self.namespace.clone(),
            bundle: bundle.to_owned(),
            address: address.to_owned(),
            runc_root: self.ground.runc_root(),
            pid: 0,
        };
        shim.pid = shim
            .call::<_, pb::ConnectResponse>("Connect", &pb::ConnectRequest { id: id.to_owned() })
            .await
            .unwrap()
            .shim_pid;
        shim
    }

    /// Creates a container with a process, with streams that a request may add.
    pub(crate) async fn container(
        &self,
        name: &str,
        process: &Value,
        change: impl FnOnce(&mut Value, &mut pb::CreateTaskRequest),
    ) -> Shim {
        let id = self.id(name);
        let mut spec = spec(&id, process);
        let mut request = self.create_request(&id);
        change(&mut spec, &mut request);
        let bundle = self.ground.bundle(&id, &spec);
        let shim = self.shim(&id, &bundle).await;
        shim.call::<_, pb::CreateTaskResponse>("Create", &request).await.unwrap();
        shim
    }

    pub(crate) fn create_request(&self, id: &str) -> pb::CreateTaskRequest {
        pb::CreateTaskRequest {
            id: id.to_owned(),
            bundle: self.ground.path().join("bundles").join(id).display().to_string(),
            rootfs: vec![self.ground.rootfs()],
            options: Some(api::pack(&self.options)),
            ..Default::default()
        }
    }
}

/// Waits until a process has ended, whether or not its parent has looked.
pub(crate) async fn ended(pid: u32) {
    let has_ended = || match fs_err::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z").then_some(()),
        Err(_) => Some(()),
    };
    eventually("a process ends", has_ended).await;
}

/// Daemons make the log before they start a shim.
fn make_log(bundle: &Path) {
    sys::fifo::create(&bundle.join("log"), 0o700).unwrap();
}

/// A shim that runs, and the container that it was started for.
pub(crate) struct Shim {
    client: Client,
    pub(crate) service: &'static str,
    pub(crate) id: String,
    pub(crate) namespace: String,
    pub(crate) bundle: PathBuf,
    pub(crate) address: String,
    runc_root: PathBuf,
    pub(crate) pid: u32,
}

impl Shim {
    pub(crate) async fn call<Q: Message, R: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<R, Status> {
        let options = CallOptions::new().timeout(Duration::from_mins(1));
        self.client.call(self.service, method, request, &options).await
    }

    pub(crate) async fn start(&self, exec_id: &str) -> Result<u32, Status> {
        let request = pb::StartRequest { id: self.id.clone(), exec_id: exec_id.into() };
        self.call::<_, pb::StartResponse>("Start", &request).await.map(|started| started.pid)
    }

    pub(crate) async fn exec(&self, exec_id: &str, process: &Value) -> Result<(), Status> {
        self.exec_with(exec_id, process, |_| {}).await
    }

    pub(crate) async fn exec_with(
        &self,
        exec_id: &str,
        process: &Value,
        change: impl FnOnce(&mut pb::ExecProcessRequest),
    ) -> Result<(), Status> {
        let value = process.to_string().into_bytes();
        let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Process".into();
        let mut request = pb::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.into(),
            spec: Some(prost_types::Any { type_url, value }),
            ..Default::default()
        };
        change(&mut request);
        self.call("Exec", &request).await
    }

    pub(crate) async fn wait(&self, exec_id: &str) -> Result<u32, Status> {
        let request = pb::WaitRequest { id: self.id.clone(), exec_id: exec_id.into() };
        self.call::<_, pb::WaitResponse>("Wait", &request).await.map(|waited| waited.exit_status)
    }

    pub(crate) async fn kill(&self, exec_id: &str, signal: u32, all: bool) -> Result<(), Status> {
        let (id, exec_id) = (self.id.clone(), exec_id.into());
        self.call("Kill", &pb::KillRequest { id, exec_id, signal, all }).await
    }

    pub(crate) async fn delete(&self, exec_id: &str) -> Result<pb::DeleteResponse, Status> {
        let request = pb::DeleteRequest { id: self.id.clone(), exec_id: exec_id.into() };
        self.call("Delete", &request).await
    }

    pub(crate) async fn state(&self, exec_id: &str) -> Result<pb::StateResponse, Status> {
        let request = pb::StateRequest { id: self.id.clone(), exec_id: exec_id.into() };
        self.call("State", &request).await
    }

    pub(crate) async fn shutdown(&self) -> Result<(), Status> {
        self.call("Shutdown", &pb::ShutdownRequest { id: self.id.clone(), now: false }).await
    }

    /// Waits until the shim is gone with all that was its own.
    pub(crate) async fn gone(&self) {
        ended(self.pid).await;
        assert!(
            !Path::new(self.address.strip_prefix("unix://").unwrap()).exists(),
            "socket is left"
        );
        self.nothing_is_left();
    }

    /// Checks that the container has left nothing behind.
    pub(crate) fn nothing_is_left(&self) {
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.bundle.to_str().unwrap()), "a mount is left");
        assert!(
            !self.runc_root.join(&self.namespace).join(&self.id).exists(),
            "runc's state is left"
        );
        let cgroup = cgroups::Cgroup::at(&format!("/{}", self.id));
        assert!(cgroup.is_err(), "a cgroup is left");
    }

    /// Deletes what has ended, and ends the shim.
    pub(crate) async fn finish(self) {
        self.delete("").await.unwrap();
        self.shutdown().await.unwrap();
        self.gone().await;
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // In a test that passed all of this is gone already.
        if sys::kill::exists(self.pid) {
            drop(sys::kill::process(self.pid, 9));
        }
        let root = self.runc_root.join(&self.namespace);
        if root.join(&self.id).exists() {
            let mut runc = Command::new("runc");
            runc.arg("--root").arg(root).args(["delete", "--force", &self.id]);
            drop(runc.output());
        }
        let rootfs = self.bundle.join("rootfs");
        drop(mount::unmount_recursive(&rootfs, mount::UnmountFlags::DETACH));
        let address = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        drop(fs_err::remove_file(address));
    }
}
