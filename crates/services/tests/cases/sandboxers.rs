// SPDX-License-Identifier: Apache-2.0
//! Controllers of sandboxes: pods with the distribution's shim and runc, and shims that are sandboxes
//! themselves, which here are servers in this process. Each is tried directly and over the wire.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use ::content::Memory;
use ::events::Exchange;
use ::runtime::{
    Config, Shims, Timeouts,
    sandbox::{
        Controller, Pods, Sandboxes,
        suite::{self, Bench},
    },
};
use api::{
    containerd::{runtime::sandbox::v1 as pb, types::Platform as WirePlatform},
    service::SANDBOX,
};
use fs_err as fs;
use metadata::{Backends, Db, Options};
use rustix::process::{Pid, Signal, kill_process};
use services::{Limits, events, sandboxers};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch};
use tonic::service::Routes;
use types::{Platform, Scope};

use super::world::Served;

const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// A daemon's shims in a namespace of their own. Dropped, nothing is left of them.
struct World {
    directory: TempDir,
    scope: Scope,
    shims: Arc<Shims>,
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let scope = Scope::new(format!("suite-{}-{number}", std::process::id())).unwrap();
        let directory = TempDir::new().unwrap();
        let exchange = Arc::new(Exchange::new());
        let ttrpc_address = listen(directory.path(), exchange.clone());
        let config = Config {
            root: directory.path().join("root"),
            state: directory.path().join("state"),
            address: directory.path().join("nobody.sock").display().to_string(),
            ttrpc_address,
            publish_binary: "/bin/false".into(),
            beside: None,
            debug: false,
            version: "1".into(),
            boot_id: "one".into(),
            env: Vec::new(),
            grpc: None,
            timeouts: Timeouts::default(),
        };
        let shims = Shims::open(config, exchange).unwrap();
        Self { directory, scope, shims }
    }

    async fn pods(&self) -> Arc<dyn Controller> {
        let backends = Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
        let file = self.directory.path().join("meta.sqlite");
        let db = Db::open(file, backends, Options::default()).await.unwrap();
        let pods = Pods::open(self.shims.clone(), self.directory.path(), pause::PROGRAM).unwrap();
        pods.controller(&self.scope, db.scope(self.scope.clone()).containers())
    }

    fn shims(&self) -> Arc<dyn Controller> {
        let [root, state] = ["s-root", "s-state"].map(|name| self.directory.path().join(name));
        Sandboxes::open(self.shims.clone(), root, state).unwrap().controller(&self.scope)
    }
}

/// Takes the events of shims.
fn listen(directory: &Path, exchange: Arc<Exchange>) -> String {
    let path = directory.join("ttrpc.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = events::serve_shims(ttrpc::Server::new(), exchange);
    // It ends with the runtime of the test.
    drop(tokio::spawn(async move { server.serve(listener, std::future::pending()).await }));
    path.display().to_string()
}

impl Drop for World {
    fn drop(&mut self) {
        let namespace = self.scope.namespace();
        let directory = self.directory.path().display().to_string();
        let Ok(processes) = fs::read_dir("/proc") else { return };
        for entry in processes.flatten() {
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let told = [read("cmdline"), read("cgroup")].concat();
            let told = String::from_utf8_lossy(&told);
            let is_ours = told.contains(&directory) || told.contains(&format!("/{namespace}/"));
            let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            if let Some(pid) = pid.filter(|_| is_ours) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
        for bundle in fs::read_dir(self.directory.path().join("state").join(namespace))
            .into_iter()
            .flatten()
            .flatten()
        {
            drop(::mount::unmount_all(
                &bundle.path().join("rootfs"),
                ::mount::UnmountFlags::DETACH,
            ));
        }
        drop(fs::remove_dir_all(Path::new("/run/containerd/runc").join(namespace)));
        for tree in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let parent = tree.path().join(namespace);
            for name in ["pod", "one", "two"] {
                drop(fs::remove_dir(parent.join(name)));
            }
            drop(fs::remove_dir(parent));
        }
    }
}

/// Runs the suite over controllers that `make` makes of worlds, directly and over the wire.
async fn run(runtime: &str, make: impl AsyncFn(&World) -> (String, Arc<dyn Controller>)) {
    assert!(Path::new(runtime).is_absolute() || Path::new(SHIM).exists(), "no {SHIM}");
    let (worlds, servers) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    suite::run(async || {
        let world = World::new();
        let (runtime, controller) = make(&world).await;
        worlds.lock().unwrap().push(world);
        Bench { controller, runtime }
    })
    .await;
    suite::run(async || {
        let world = World::new();
        let (runtime, controller) = make(&world).await;
        let routes = sandboxers::serve(move |_, _| Ok(controller.clone()), Limits::default());
        let served = Served::new(Routes::new(routes));
        let controller = sandboxers::connect(served.peer().await, "tested");
        worlds.lock().unwrap().push(world);
        servers.lock().unwrap().push(served);
        Bench { controller, runtime }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_controlled_as_the_suite_says() {
    run("io.containerd.runc.v2", async |world| (SHIM.to_owned(), world.pods().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_that_are_sandboxes_are_controlled_as_the_suite_says() {
    run("/", async |world| {
        let program = shim_program(world.directory.path());
        (program.display().to_string(), world.shims())
    })
    .await;
}

/// A shim's program: it has a server in this process started for its sandbox, and says where it is.
fn shim_program(directory: &Path) -> PathBuf {
    let program = directory.join("shim");
    let here = directory.display();
    let script = format!(
        "#!/bin/sh\nwhile [ $# -gt 1 ]; do [ \"$1\" = -id ] && id=$2; shift; done\n\
         [ \"$1\" = start ] || exit 0\n\
         rm -f {here}/$id.sock; echo > {here}/$id.wanted\n\
         while [ ! -S {here}/$id.sock ]; do sleep 0.01; done\n\
         printf '{{\"version\":3,\"address\":\"unix://{here}/%s.sock\",\"protocol\":\"ttrpc\"}}' $id\n"
    );
    sys::program::install(&program, script.as_bytes()).unwrap();
    drop(tokio::spawn(serve_wanted(directory.to_owned())));
    program
}

/// Starts the servers that programs want, until the directory is gone.
async fn serve_wanted(directory: PathBuf) {
    while let Ok(entries) = fs::read_dir(&directory) {
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "wanted") {
                drop(fs::remove_file(&path));
                let listener = UnixListener::bind(path.with_extension("sock")).unwrap();
                drop(tokio::spawn(serve_sandbox(listener)));
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A shim that is a sandbox: it ends when it is stopped or shut down, as runc's does.
async fn serve_sandbox(listener: UnixListener) {
    let (stop, mut stopped) = watch::channel(false);
    let (stop, created_at) = (Arc::new(stop), Some(SystemTime::now().into()));
    let (by_stop, by_shutdown, waits) = (stop.clone(), stop.clone(), stop.clone());
    let server = ttrpc::Server::new()
        .method(SANDBOX, "CreateSandbox", |_, _: pb::CreateSandboxRequest| async {
            Ok(pb::CreateSandboxResponse {})
        })
        .method(SANDBOX, "StartSandbox", move |_, _: pb::StartSandboxRequest| async move {
            Ok(pb::StartSandboxResponse { pid: 7, created_at, spec: None })
        })
        .method(SANDBOX, "Platform", |_, _: pb::PlatformRequest| async {
            let Platform { os, architecture, .. } = Platform::host();
            let platform = Some(WirePlatform { os, architecture, ..Default::default() });
            Ok(pb::PlatformResponse { platform })
        })
        .method(SANDBOX, "SandboxStatus", move |_, request: pb::SandboxStatusRequest| async move {
            let (sandbox_id, state) = (request.sandbox_id, "SANDBOX_READY".to_owned());
            let info = BTreeMap::new();
            Ok(pb::SandboxStatusResponse {
                sandbox_id,
                pid: 7,
                state,
                info,
                created_at,
                ..Default::default()
            })
        })
        .method(SANDBOX, "SandboxMetrics", |_, _: pb::SandboxMetricsRequest| async {
            Ok(pb::SandboxMetricsResponse::default())
        })
        .method(SANDBOX, "WaitSandbox", move |_, _: pb::WaitSandboxRequest| {
            let mut ended = waits.subscribe();
            async move {
                drop(ended.wait_for(|ended| *ended).await);
                let exited_at = Some(SystemTime::now().into());
                Ok(pb::WaitSandboxResponse { exit_status: 0, exited_at })
            }
        })
        .method(SANDBOX, "StopSandbox", move |_, _: pb::StopSandboxRequest| {
            by_stop.send_replace(true);
            async { Ok(pb::StopSandboxResponse {}) }
        })
        .method(SANDBOX, "ShutdownSandbox", move |_, _: pb::ShutdownSandboxRequest| {
            by_shutdown.send_replace(true);
            async { Ok(pb::ShutdownSandboxResponse {}) }
        });
    let end = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
    server.serve(listener, end).await.unwrap();
}
