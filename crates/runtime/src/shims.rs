// SPDX-License-Identifier: Apache-2.0
//! The shims of a daemon: started, watched, found again after a restart, cleaned up when dead.
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ::shim::bootstrap::Answer;
use api::containerd::{
    events::{TaskDelete, TaskExit},
    task::v3 as pb,
};
use events::{Event, Publisher, Typed};
use futures_util::future::BoxFuture;
use mount::Manager;
use records::{Container, Records};
use sys::failpoint;
use tokio_util::task::TaskTracker;
use types::{Any, Context, Error, Kind, Result, Scope};

use crate::{
    Checkpoints, Connector, Endpoint, Exit, Tasks, binary,
    bootstrap::Dialects,
    bundle::Bundle,
    log::Forwarding,
    rootfs::Allowed,
    shim::{Shim, time},
    table::Table,
    tasks::Scoped,
    usage,
};

/// Where shims are found and what they are told.
#[derive(Clone)]
pub struct Config {
    /// Where work directories are, which outlive a reboot.
    pub root: PathBuf,
    /// Where bundles are, which do not.
    pub state: PathBuf,
    /// The daemon's gRPC socket.
    pub address: String,
    /// The daemon's ttrpc socket, where shims publish their events.
    pub ttrpc_address: String,
    /// The daemon's own program, which shims may call to publish.
    pub publish_binary: PathBuf,
    /// A directory in which shims are looked for before the PATH.
    pub beside: Option<PathBuf>,
    /// Whether shims shall log everything.
    pub debug: bool,
    /// The daemon's version, which shims are told.
    pub version: String,
    /// Which boot of the machine this is: what was found of another boot is dead.
    pub boot_id: String,
    /// What is added to the environment of shims, each as `NAME=value`.
    pub env: Vec<String>,
    /// How shims are reached that speak gRPC; none where they are not.
    pub grpc: Option<Arc<dyn Connector>>,
    /// How long each thing may take.
    pub timeouts: Timeouts,
}

#[cfg(test)]
impl Config {
    /// A config whose directories are below `directory`.
    pub(crate) fn for_tests(directory: &std::path::Path) -> Self {
        Self {
            root: directory.join("root"),
            state: directory.join("state"),
            address: String::new(),
            ttrpc_address: String::new(),
            publish_binary: PathBuf::new(),
            beside: None,
            debug: false,
            version: String::new(),
            boot_id: String::new(),
            env: Vec::new(),
            grpc: None,
            timeouts: Timeouts::default(),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("state", &self.state).finish_non_exhaustive()
    }
}

/// How long what leaves the process may take. The names are those of the config's table `timeouts`,
/// with defaults as containerd has them where it has one.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To start a shim.
    pub start: Duration,
    /// `io.containerd.timeout.shim.load`: to reach a shim that was there before the daemon.
    pub load: Duration,
    /// `io.containerd.timeout.shim.cleanup`: to clean up after a dead one.
    pub cleanup: Duration,
    /// `io.containerd.timeout.shim.shutdown`: to end one.
    pub shutdown: Duration,
    /// `io.containerd.timeout.task.state`: to tell a state.
    pub state: Duration,
    /// `io.containerd.timeout.metrics.shimstats`: to tell statistics.
    pub stats: Duration,
    /// For everything else, which may have to wait for a runtime.
    pub call: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(30),
            load: Duration::from_secs(5),
            cleanup: Duration::from_secs(5),
            shutdown: Duration::from_secs(3),
            state: Duration::from_secs(2),
            stats: Duration::from_secs(2),
            call: Duration::from_mins(2),
        }
    }
}

/// The shims of a daemon.
pub struct Shims {
    pub(crate) config: Config,
    pub(crate) table: Arc<Table>,
    publisher: Arc<dyn Publisher>,
    /// Owns the task that watches each shim.
    pub(crate) watchers: TaskTracker,
    dialects: Dialects,
    sandboxes: OnceLock<Box<FindSandbox>>,
    pub(crate) allowed: Allowed,
}

/// Finds where the tasks of a sandbox are served, by its namespace and its id.
pub type FindSandbox = dyn Fn(&str, &str) -> BoxFuture<'static, Result<Endpoint>> + Send + Sync;

impl Shims {
    /// Looks for the shims that were there before, and returns without waiting for them: each task
    /// is there at once, and whoever names it waits for its shim alone.
    pub fn open(config: Config, publisher: Arc<dyn Publisher>) -> Result<Arc<Self>> {
        let shims = Arc::new(Self {
            config,
            table: Arc::new(Table::default()),
            publisher,
            watchers: TaskTracker::new(),
            dialects: Dialects::default(),
            sandboxes: OnceLock::new(),
            allowed: Allowed::default(),
        });
        shims.load_all()?;
        Ok(shims)
    }

    /// The tasks of one namespace, made from `containers`. What shims cannot mount `mounts` does, if
    /// there is one; what is written down of tasks is kept in `checkpoints`.
    pub fn tasks(
        self: &Arc<Self>,
        scope: &Scope,
        containers: Arc<dyn Records<Container>>,
        mounts: Option<Arc<dyn Manager>>,
        checkpoints: Arc<dyn Checkpoints>,
    ) -> Arc<dyn Tasks> {
        let namespace = scope.namespace().to_owned();
        Arc::new(Scoped::new(self.clone(), namespace, containers, mounts, checkpoints))
    }

    /// Lets containers be made in the sandboxes that `find` finds. It is said once.
    pub fn find_sandboxes(&self, find: Box<FindSandbox>) {
        drop(self.sandboxes.set(find));
    }

    /// Where the tasks of a sandbox are served (the text is that of containerd
    /// `core/runtime/v2/shim_manager.go`).
    pub(crate) async fn sandbox(&self, namespace: &str, id: &str) -> Result<Endpoint> {
        let cannot = || format!("can't find sandbox {id}");
        let Some(find) = self.sandboxes.get() else { return Err(Error::not_found(cannot())) };
        find(namespace, id).await.context(cannot)
    }

    /// Connects to who serves the tasks of a sandbox, on behalf of one of them.
    pub(crate) async fn join(
        &self,
        bundle: &Bundle,
        program: PathBuf,
        endpoint: &Endpoint,
    ) -> Result<(Shim, Forwarding)> {
        let answer = endpoint.answer()?;
        bundle.remember(&program, &answer)?;
        bundle.remember_sandboxed()?;
        let log = Forwarding::open(&bundle.log(), &bundle.id)?;
        let (grpc, patience) = (self.config.grpc.as_deref(), self.config.timeouts.load);
        let shim = Shim::connect(bundle.clone(), program, answer, grpc, patience).await?;
        Ok((shim, log))
    }

    /// Starts a shim for `bundle` and connects to it.
    pub(crate) async fn start(
        &self,
        bundle: &Bundle,
        program: PathBuf,
        options: Option<&Any>,
    ) -> Result<(Shim, Forwarding)> {
        let log = Forwarding::open(&bundle.log(), &bundle.id)?;
        let started = binary::start(&self.config, &self.dialects, &program, bundle, options);
        let answer: Answer = started.await?;
        failpoint::reach("daemon.create.started")?;
        bundle.remember(&program, &answer)?;
        failpoint::reach("daemon.create.remembered")?;
        let (grpc, patience) = (self.config.grpc.as_deref(), self.config.timeouts.load);
        let shim = Shim::connect(bundle.clone(), program, answer, grpc, patience).await?;
        Ok((shim, log))
    }

    /// Looks after a shim for as long as it lives, and cleans up if it dies before its task is
    /// deleted. The log is read until then. `pid` is of the task's first process.
    pub(crate) fn watch(self: &Arc<Self>, shim: Arc<Shim>, log: Forwarding, pid: u32) {
        let shims = self.clone();
        self.watchers.spawn(async move {
            settle(shim.clone(), pid).await;
            loop {
                tokio::select! {
                    () = shim.closed() => break,
                    () = shim.revived() => {}
                }
            }
            drop(log);
            if !shims.table.is_live(&shim) {
                return;
            }
            tracing::warn!(id = shim.bundle.id, "a shim died before its task was deleted");
            let exit = shims.clean(&shim.bundle, Some(shim.program.clone())).await;
            shims.publish_end(&shim.bundle, exit).await;
            shims.table.end(&shim, Some(exit));
        });
    }

    /// Has the shim's program clean up what the shim left, and removes the bundle. What cannot be
    /// learned of how the task ended is status 255, as in Go (`core/runtime/v2/shim.go`).
    pub(crate) async fn clean(&self, bundle: &Bundle, program: Option<PathBuf>) -> Exit {
        let unknown = Exit { pid: 0, status: 255, at: std::time::SystemTime::now() };
        let exit = match program.filter(|program| !program.as_os_str().is_empty()) {
            None => unknown,
            Some(program) => match binary::delete(&self.config, &program, bundle).await {
                Ok(answer) => {
                    Exit { pid: answer.pid, status: answer.exit_status, at: time(answer.exited_at) }
                }
                Err(error) => {
                    tracing::warn!(id = bundle.id, %error, "failed to clean up after a shim");
                    unknown
                }
            },
        };
        bundle.remove();
        exit
    }

    /// Asks a shim to end, which it does when it has nothing left to look after.
    pub(crate) async fn shut_down(&self, shim: &Shim) {
        if shim.bundle.is_sandboxed() {
            // It is the sandbox's, and ends with that.
            return;
        }
        let request = pb::ShutdownRequest { id: shim.bundle.id.clone(), now: false };
        let asked = shim.call::<_, ()>("Shutdown", &request, self.config.timeouts.shutdown).await;
        // A shim that ends may do so before it has answered.
        if let Err(error) = asked
            && error.kind() != Kind::Unavailable
        {
            tracing::warn!(id = shim.bundle.id, %error, "a shim could not be asked to end");
        }
    }

    /// Tells of the end of a task on behalf of its shim, which cannot any more.
    pub(crate) async fn publish_end(&self, bundle: &Bundle, exit: Exit) {
        let Exit { pid, status: exit_status, at } = exit;
        let (container_id, exited_at) = (bundle.id.clone(), Some(at.into()));
        let ended = TaskExit {
            container_id: container_id.clone(),
            id: container_id.clone(),
            pid,
            exit_status,
            exited_at,
        };
        let deleted = TaskDelete { container_id, pid, exit_status, exited_at, id: String::new() };
        self.publish(bundle, &ended).await;
        self.publish(bundle, &deleted).await;
    }

    async fn publish(&self, bundle: &Bundle, event: &impl Typed) {
        let Event { topic, body } = Event::of(event);
        if let Err(error) = self.publisher.publish(&bundle.namespace, topic, body).await {
            tracing::warn!(id = bundle.id, topic, %error, "failed to publish");
        }
    }
}

async fn settle(shim: Arc<Shim>, pid: u32) {
    let settled = tokio::task::spawn_blocking(move || {
        if let Err(error) = usage::settle(&shim, pid) {
            tracing::debug!(id = shim.bundle.id, %error, "the statistics of a task are its shim's");
        }
    });
    if let Err(error) = settled.await {
        tracing::warn!(%error, "the search for a control group ended");
    }
}

impl std::fmt::Debug for Shims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shims").field("config", &self.config).finish_non_exhaustive()
    }
}
