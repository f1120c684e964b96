// SPDX-License-Identifier: Apache-2.0
//! Go on the other side: the distribution's shim, called by our client, publishing to our server.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use fs_err as fs;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use ttrpc::{CallOptions, Client, Code, Context, Server, Status};

use super::support::soon;

const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
const RUNC: &str = "/usr/sbin/runc";
const BUSYBOX: &str = "/bin/busybox";
const NAMESPACE: &str = "ttrpctest";
const TASK: &str = "containerd.task.v2.Task";

/// The requests that name a task: `ConnectRequest`, `StateRequest` and more begin alike.
#[derive(Clone, PartialEq, Message)]
struct ById {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Create {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    bundle: String,
}

#[derive(Clone, PartialEq, Message)]
struct Kill {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(uint32, tag = "3")]
    signal: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Connected {
    #[prost(uint32, tag = "1")]
    shim_pid: u32,
    #[prost(uint32, tag = "2")]
    task_pid: u32,
}

/// The answers to Create, Start and (with another meaning) Wait.
#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(uint32, tag = "1")]
    number: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Forward {
    #[prost(message, optional, tag = "1")]
    envelope: Option<Envelope>,
}

#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// What a shim told our server: the namespace beside the request, and the topic in it.
type Told = (String, String);

/// A shim in a bundle of its own. Dropping it kills what is left.
struct GoShim {
    id: String,
    bundle: TempDir,
    address: String,
    told: UnboundedReceiver<Told>,
    events: JoinHandle<()>,
    /// The shim waits for a reader of its log before it serves.
    _log: fs::File,
}

impl GoShim {
    /// Starts a shim, or says what is missing for that.
    async fn start(id: &str) -> Option<Self> {
        if let Some(missing) = [SHIM, RUNC, BUSYBOX].iter().find(|path| !Path::new(path).exists()) {
            println!("skipped: {missing} is not installed");
            return None;
        }
        let id = format!("{id}-{}", std::process::id());
        let bundle = make_bundle(&id).await;
        let (events, told) = serve_events(&bundle.path().join("events.sock"));
        // Opened for both, since that does not wait for the other side.
        let log = fs::File::options().read(true).write(true).open(bundle.path().join("log"));
        let (address, log) = (String::new(), log.unwrap());
        let mut shim = Self { id, bundle, address, told, events, _log: log };
        shim.address = shim.run_start().await;
        Some(shim)
    }

    async fn run_start(&self) -> String {
        let output = Command::new(SHIM)
            .args(["-namespace", NAMESPACE, "-id", &self.id, "-address", "/nonexistent", "start"])
            .env("TTRPC_ADDRESS", self.bundle.path().join("events.sock"))
            .current_dir(self.bundle.path())
            .stdin(Stdio::null())
            .output();
        let output = soon(output).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Calls the task service about this task, and never waits for ever.
    async fn call<Q: Message, R: Message + Default>(
        &self,
        client: &Client,
        method: &str,
        request: &Q,
    ) -> Result<R, Status> {
        let options = CallOptions::new()
            .timeout(Duration::from_secs(20))
            .metadata("containerd-namespace-ttrpc", NAMESPACE);
        client.call(TASK, method, request, &options).await
    }

    fn by_id(&self) -> ById {
        ById { id: self.id.clone() }
    }

    async fn told(&mut self) -> Told {
        soon(self.told.recv()).await.expect("the event server outlives the shim")
    }

    /// Lists the processes whose command line names this task: the shim, since the id is unique.
    fn processes(&self) -> Vec<Pid> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let named = command.split(|byte| *byte == 0).any(|word| word == self.id.as_bytes());
            found.extend(pid.and_then(Pid::from_raw).filter(|_| named));
        }
        found
    }
}

impl Drop for GoShim {
    fn drop(&mut self) {
        self.events.abort();
        for pid in self.processes() {
            eprintln!("killing the shim {} of a test that did not end it", pid.as_raw_nonzero());
            kill_process(pid, Signal::KILL).ok();
        }
        // Of a task that was deleted there is nothing left, and runc says so: that is no failure.
        let root = format!("/run/containerd/runc/{NAMESPACE}");
        let mut runc = std::process::Command::new(RUNC);
        runc.args(["--root", &root, "delete", "--force", &self.id]).stderr(Stdio::null());
        runc.status().ok();
        fs::remove_dir(root).ok();
        fs::remove_file(self.address.trim_start_matches("unix://")).ok();
    }
}

/// Makes a bundle whose container sleeps, in a root file system of busybox alone.
async fn make_bundle(id: &str) -> TempDir {
    let bundle = TempDir::with_prefix(id).unwrap();
    let path = bundle.path();
    for folder in ["bin", "proc", "dev", "sys"] {
        fs::create_dir_all(path.join("rootfs").join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, path.join("rootfs/bin/busybox")).unwrap();
    fs::set_permissions(path.join("rootfs/bin/busybox"), PermissionsExt::from_mode(0o755)).unwrap();
    symlink("busybox", path.join("rootfs/bin/sleep")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, path.join("log"), rustix::fs::Mode::RWXU).unwrap();

    let spec = Command::new(RUNC).arg("spec").current_dir(path).status();
    assert!(soon(spec).await.unwrap().success());
    let config = fs::read_to_string(path.join("config.json")).unwrap();
    let config = config
        .replace("\"terminal\": true", "\"terminal\": false")
        .replace("\"sh\"", "\"sleep\", \"300\"");
    fs::write(path.join("config.json"), config).unwrap();
    bundle
}

/// Serves what a containerd offers to its shims, and passes on what they say.
fn serve_events(socket: &Path) -> (JoinHandle<()>, UnboundedReceiver<Told>) {
    let (tell, told) = unbounded_channel();
    let forward = move |ctx: Context, request: Forward| {
        let namespace = ctx.metadata.get("containerd-namespace-ttrpc").map(str::to_owned);
        let envelope = request.envelope.unwrap_or_default();
        assert_eq!(namespace.as_ref(), Some(&envelope.namespace));
        tell.send((envelope.namespace, envelope.topic)).ok();
        async { Ok(Empty {}) }
    };
    let server = Server::new().require_same_user().method(
        "containerd.services.events.ttrpc.v1.Events",
        "Forward",
        forward,
    );
    let listener = UnixListener::bind(socket).unwrap();
    let serving = tokio::spawn(async move {
        server.serve(listener, std::future::pending()).await.expect("the listener works");
    });
    (serving, told)
}

#[tokio::test]
async fn a_go_shim_answers_and_fails_and_leaves() {
    let Some(shim) = GoShim::start("ttrpc-idle").await else { return };
    let client = Client::connect(&shim.address).await.unwrap();

    let connected: Connected = shim.call(&client, "Connect", &shim.by_id()).await.unwrap();
    assert_eq!(
        Pid::from_raw(connected.shim_pid as i32).into_iter().collect::<Vec<_>>(),
        shim.processes()
    );
    let missing = shim.call::<_, Empty>(&client, "State", &shim.by_id()).await.unwrap_err();
    assert_eq!(missing.code, Code::NotFound, "{missing}");
    assert!(missing.message.ends_with(": not found"), "{missing}");

    // What Go says to what it does not have, and to what it cannot read, is what we say.
    let method = shim.call::<_, Empty>(&client, "Missing", &shim.by_id()).await.unwrap_err();
    assert_eq!(method.code, Code::Unimplemented);
    let service = client.call::<_, Empty>("no.Service", "M", &Empty {}, &CallOptions::new()).await;
    assert_eq!(service.unwrap_err().code, Code::Unimplemented);
    let garbage = Bytes::from_static(b"\xff\xff\xff");
    let unread = client.call_raw(TASK, "State", garbage, &CallOptions::new()).await.unwrap_err();
    assert_ne!(unread.code, Code::Ok);

    // A Go shim leaves without an answer, or with one, depending on who is faster.
    let left = shim.call::<_, Empty>(&client, "Shutdown", &shim.by_id()).await;
    assert!(left.as_ref().err().is_none_or(Status::is_closed), "{left:?}");
    soon(client.closed()).await;
    soon(async {
        while !shim.processes().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_go_shim_runs_a_container_and_publishes_to_our_server() {
    let Some(mut shim) = GoShim::start("ttrpc-run").await else { return };
    let client = Client::connect(&shim.address).await.unwrap();
    let bundle = shim.bundle.path().to_str().unwrap().to_owned();
    let create = Create { id: shim.id.clone(), bundle };
    let created: Number = shim.call(&client, "Create", &create).await.unwrap();
    assert_eq!(shim.told().await, (NAMESPACE.to_owned(), "/tasks/create".to_owned()));
    let started: Number = shim.call(&client, "Start", &shim.by_id()).await.unwrap();
    assert_eq!(started, created);
    assert_eq!(shim.told().await.1, "/tasks/start");

    // A call that waits for the end, and meanwhile others on the same connection.
    let kill = Kill { id: shim.id.clone(), signal: 9 };
    let (exit, killed) = tokio::join!(shim.call::<_, Number>(&client, "Wait", &kill), async {
        for _ in 0..100 {
            let state: Connected = shim.call(&client, "Connect", &kill).await.unwrap();
            assert_eq!(state.task_pid, created.number);
        }
        shim.call::<_, Empty>(&client, "Kill", &kill).await
    },);
    killed.unwrap();
    assert_eq!(exit.unwrap().number, 137);
    assert_eq!(shim.told().await.1, "/tasks/exit");
    let _: Empty = shim.call(&client, "Delete", &shim.by_id()).await.unwrap();
    assert_eq!(shim.told().await.1, "/tasks/delete");

    shim.call::<_, Empty>(&client, "Shutdown", &shim.by_id()).await.ok();
    soon(client.closed()).await;
}
