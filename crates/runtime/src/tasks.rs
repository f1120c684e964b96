// SPDX-License-Identifier: Apache-2.0
//! The tasks of one namespace, by way of their shims.
use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use api::containerd::task::v3 as pb;
use async_trait::async_trait;
use futures_util::future::join_all;
use mount::{Manager, Mount};
use prost::Message;
use records::{Container, Records};
use sys::failpoint;
use types::{Any, Context, Descriptor, Error, Fields, Filters, Kind, Labels, Result, identifiers};

use crate::{
    Checkpoints, Create, Endpoint, Exec, Exit, Metric, Pid, Process, Stdio, Tasks, binary,
    bundle::Bundle,
    checkpoints::{self, Scratch},
    load::keep_answer,
    log::Forwarding,
    rootfs::{self, Activation},
    shim::{Shim, domain_any, process, time},
    shims::Shims,
    table::{Phase, missing},
};

pub(crate) struct Scoped {
    shims: Arc<Shims>,
    namespace: String,
    containers: Arc<dyn Records<Container>>,
    mounts: Option<Arc<dyn Manager>>,
    checkpoints: Arc<dyn Checkpoints>,
}

impl Scoped {
    pub(crate) fn new(
        shims: Arc<Shims>,
        namespace: String,
        containers: Arc<dyn Records<Container>>,
        mounts: Option<Arc<dyn Manager>>,
        checkpoints: Arc<dyn Checkpoints>,
    ) -> Self {
        Self { shims, namespace, containers, mounts, checkpoints }
    }

    /// The shim of a task. That there is no container is the better reason where both are missing.
    async fn find(&self, id: &str) -> Result<Arc<Shim>> {
        let patience = self.shims.config.timeouts.load;
        match self.shims.table.find(&self.namespace, id, patience).await {
            Err(error) if error.is_not_found() => {
                self.containers.get(id).await?;
                Err(error)
            }
            found => found,
        }
    }

    /// A task in a list: unknown when its shim does not tell in time, none when it is gone meanwhile.
    async fn listed(&self, id: String) -> Option<Process> {
        let patience = self.shims.config.timeouts.state;
        let told = match self.shims.table.find(&self.namespace, &id, patience).await {
            Ok(shim) => self.state(&shim, "").await,
            Err(error) => Err(error),
        };
        match told {
            Ok(process) => Some(process),
            Err(error) if error.is_not_found() => None,
            Err(error) => {
                tracing::debug!(id, %error, "a shim does not tell the state of its task");
                Some(Process { id, ..Process::default() })
            }
        }
    }

    /// Calls a method on a task's shim. A task whose shim has died is not there any more.
    async fn call<Q, R>(&self, id: &str, method: &str, request: Q) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let shim = self.find(id).await?;
        let answer = shim.call(method, &request, self.shims.config.timeouts.call).await;
        answer.map_err(|error| if shim.is_closed() { missing(id) } else { error })
    }

    fn bundle(&self, id: &str) -> Result<Bundle> {
        let config = &self.shims.config;
        Bundle::at(&config.root, &config.state, &self.namespace, id)
    }

    /// Starts a shim and has it make the task. What fails leaves nothing behind.
    async fn make(
        &self,
        bundle: &Bundle,
        container: &Container,
        mut create: Create,
    ) -> Result<(u32, Shim, Forwarding)> {
        failpoint::reach("daemon.create.bundled")?;
        let runtime = match create.runtime_path.as_str() {
            "" => &container.runtime.name,
            path => path,
        };
        let program = binary::find(runtime, self.shims.config.beside.as_deref())
            .context(|| "failed to start shim: failed to resolve runtime path")?;
        let checkpoint = self.restored(bundle, &create).await?;
        let given = non_empty(create.options.as_ref());
        let options = non_empty(container.runtime.options.as_ref());
        let started = match self.endpoint(container, &create).await? {
            Some(endpoint) => self.shims.join(bundle, program.clone(), &endpoint).await,
            None => self.shims.start(bundle, program.clone(), options.or(given)).await,
        };
        let (shim, log) = match started {
            Ok(started) => started,
            Err(error) => {
                self.shims.clean(bundle, Some(program)).await;
                return Err(error.context("failed to start shim"));
            }
        };
        let options = given.or(options).cloned();
        let mounts = std::mem::take(&mut create.rootfs);
        let activation = match self.activate(bundle, runtime, &shim, mounts).await {
            Ok(activation) => activation,
            Err(error) => {
                self.undo(&shim).await;
                return Err(error);
            }
        };
        let Activation { rootfs, is_own } = activation;
        let create = Create { rootfs, ..create };
        let request = create_request(bundle, create, checkpoint, options.as_ref());
        let patience = self.shims.config.timeouts.call;
        let made = shim.call::<_, pb::CreateTaskResponse>("Create", &request, patience).await;
        match made.and_then(|made| Ok(failpoint::reach("daemon.create.made").map(|()| made)?)) {
            Ok(made) => {
                keep_answer(&shim);
                Ok((made.pid, shim, log))
            }
            Err(error) => {
                self.undo(&shim).await;
                if is_own {
                    self.deactivate(&bundle.id).await;
                }
                Err(error.context("failed to create shim task"))
            }
        }
    }

    /// Performs what the shim leaves to us of a root filesystem.
    async fn activate(
        &self,
        bundle: &Bundle,
        runtime: &str,
        shim: &Shim,
        rootfs: Vec<Mount>,
    ) -> Result<Activation> {
        failpoint::reach("daemon.create.connected")?;
        match &self.mounts {
            Some(manager) if !rootfs.is_empty() => {
                let config = &self.shims.config;
                let allowed = self.shims.allowed.of(config, runtime, &shim.program).await;
                rootfs::activate(&**manager, &bundle.id, rootfs, allowed).await
            }
            _ => Ok(Activation { rootfs, is_own: false }),
        }
    }

    async fn deactivate(&self, id: &str) {
        if let Some(manager) = &self.mounts {
            rootfs::deactivate(&**manager, id).await;
        }
    }

    /// The directory that the task is to be restored from, if it is: one that is named, or a place
    /// for what is kept. The runtime reads it when the task is started, so it goes with the bundle.
    async fn restored(&self, bundle: &Bundle, create: &Create) -> Result<Option<PathBuf>> {
        if let Some(path) = checkpoints::restored_path(create.options.as_ref()) {
            return Ok(Some(path));
        }
        let Some(checkpoint) = &create.checkpoint else { return Ok(None) };
        // Compat: how CRI restores (containerd `plugins/services/tasks/local.go`).
        if let Some(path) = checkpoint.annotations.get("RestoreFromPath") {
            return Ok(Some(path.into()));
        }
        let directory = bundle.work.join("restore");
        fs_err::create_dir_all(&directory)?;
        self.checkpoints.unpack(checkpoint, &directory).await?;
        Ok(Some(directory))
    }

    /// Has a task written to a directory.
    async fn dump(&self, shim: &Shim, path: &Path, options: Option<Any>) -> Result<()> {
        let request = pb::CheckpointTaskRequest {
            id: shim.bundle.id.clone(),
            path: path.display().to_string(),
            options: options.as_ref().map(wire_any),
        };
        let id = &shim.bundle.id;
        let dumped = shim.call("Checkpoint", &request, self.shims.config.timeouts.call).await;
        dumped.map_err(|error| if shim.is_closed() { missing(id) } else { error })
    }

    /// Who serves the task instead of a shim of its own: whom the request names, or the sandbox.
    async fn endpoint(&self, container: &Container, create: &Create) -> Result<Option<Endpoint>> {
        match (&create.endpoint, container.sandbox.as_str()) {
            (Some(endpoint), _) => Ok(Some(endpoint.clone())),
            (None, "") => Ok(None),
            (None, id) => self.shims.sandbox(&self.namespace, id).await.map(Some),
        }
    }

    /// Ends a shim whose task could not be made.
    async fn undo(&self, shim: &Shim) {
        let request = pb::DeleteRequest { id: shim.bundle.id.clone(), exec_id: String::new() };
        let patience = self.shims.config.timeouts.cleanup;
        let deleted = shim.call::<_, pb::DeleteResponse>("Delete", &request, patience).await;
        self.shims.shut_down(shim).await;
        let is_clean = deleted.is_ok() || deleted.is_err_and(|error| error.is_not_found());
        if is_clean {
            shim.bundle.remove();
        } else {
            self.shims.clean(&shim.bundle, Some(shim.program.clone())).await;
        }
    }

    async fn state(&self, shim: &Shim, exec_id: &str) -> Result<Process> {
        let id = shim.bundle.id.clone();
        let request = pb::StateRequest { id: id.clone(), exec_id: exec_id.to_owned() };
        let patience = self.shims.config.timeouts.state;
        let answer = shim.tell::<_, pb::StateResponse>("State", &request, patience).await;
        let gone = |error| if shim.is_closed() { missing(&id) } else { error };
        Ok(process(&id, exec_id, answer.map_err(gone)?))
    }

    /// How a task ended whose shim died while somebody waited.
    async fn end(&self, id: &str) -> Result<Exit> {
        let gone = || Error::unavailable(format!("task {id}: its shim died"));
        let Some(mut phase) = self.shims.table.watch(&self.namespace, id) else {
            return Err(gone());
        };
        let cleanup = self.shims.config.timeouts.cleanup + Duration::from_secs(1);
        let ended = phase.wait_for(|phase| matches!(phase, Phase::Gone(_)));
        match tokio::time::timeout(cleanup, ended).await {
            Ok(Ok(phase)) => match &*phase {
                Phase::Gone(Some(exit)) => Ok(*exit),
                _ => Err(gone()),
            },
            _ => Err(gone()),
        }
    }
}

/// Compat: the words of containerd `plugins/services/tasks/local.go`.
fn nameless() -> Error {
    Error::said(Kind::InvalidArgument, "exec id cannot be empty")
}

/// Options that say something: an empty message under an empty name is none.
fn non_empty(options: Option<&Any>) -> Option<&Any> {
    options.filter(|any| !any.type_url.is_empty() || !any.value.is_empty())
}

fn create_request(
    bundle: &Bundle,
    create: Create,
    checkpoint: Option<PathBuf>,
    options: Option<&Any>,
) -> pb::CreateTaskRequest {
    let Stdio { stdin, stdout, stderr, terminal } = create.stdio;
    pb::CreateTaskRequest {
        id: bundle.id.clone(),
        bundle: bundle.path.display().to_string(),
        rootfs: create.rootfs.into_iter().map(wire_mount).collect(),
        terminal,
        stdin,
        stdout,
        stderr,
        checkpoint: checkpoint.map(|path| path.display().to_string()).unwrap_or_default(),
        parent_checkpoint: String::new(),
        options: options.map(wire_any),
    }
}

pub(crate) fn wire_mount(mount: Mount) -> api::containerd::types::Mount {
    let Mount { kind: r#type, source, target, options } = mount;
    api::containerd::types::Mount { r#type, source, target, options }
}

pub(crate) fn wire_any(any: &Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url.clone(), value: any.value.to_vec() }
}

#[async_trait]
impl Tasks for Scoped {
    async fn create(&self, create: Create) -> Result<u32> {
        let container = self.containers.get(&create.id).await?;
        let bundle = self.bundle(&create.id)?;
        let reservation = self.shims.table.reserve(&self.namespace, &create.id)?;
        let spec = container.spec.clone().unwrap_or_default();
        let made = bundle.clone();
        blocking(move || made.create(&spec.value)).await?;
        let (pid, shim, log) = match self.make(&bundle, &container, create).await {
            Ok(made) => made,
            Err(error) => {
                blocking(move || {
                    bundle.remove();
                    Ok(())
                })
                .await?;
                return Err(error);
            }
        };
        let shim = Arc::new(shim);
        reservation.live(shim.clone());
        self.shims.watch(shim, log, pid);
        Ok(pid)
    }

    async fn start(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = pb::StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
        failpoint::reach("daemon.start.begun")?;
        let started: pb::StartResponse = self.call(id, "Start", request).await?;
        failpoint::reach("daemon.start.done")?;
        Ok(started.pid)
    }

    async fn delete(&self, id: &str) -> Result<Exit> {
        let shim = self.find(id).await?;
        let Some(deleting) = self.shims.table.begin_delete(&shim) else {
            // Somebody else deletes it: when that is done it is not there, and until then neither.
            return Err(missing(id));
        };
        failpoint::reach("daemon.delete.begun")?;
        let request = pb::DeleteRequest { id: id.to_owned(), exec_id: String::new() };
        let patience = self.shims.config.timeouts.call;
        let exit = match shim.call::<_, pb::DeleteResponse>("Delete", &request, patience).await {
            Ok(deleted) => {
                Exit { pid: deleted.pid, status: deleted.exit_status, at: time(deleted.exited_at) }
            }
            Err(error) if error.is_not_found() || shim.is_closed() => {
                let exit = self.shims.clean(&shim.bundle, Some(shim.program.clone())).await;
                self.deactivate(id).await;
                deleting.done(exit);
                return Ok(exit);
            }
            Err(error) => return Err(error.context("failed to delete task")),
        };
        failpoint::reach("daemon.delete.deleted")?;
        self.shims.shut_down(&shim).await;
        failpoint::reach("daemon.delete.shut")?;
        let bundle = shim.bundle.clone();
        blocking(move || {
            bundle.remove();
            Ok(())
        })
        .await?;
        failpoint::reach("daemon.delete.removed")?;
        self.deactivate(id).await;
        deleting.done(exit);
        Ok(exit)
    }

    async fn delete_process(&self, id: &str, exec_id: &str) -> Result<Exit> {
        if exec_id.is_empty() {
            return Err(nameless());
        }
        let request = pb::DeleteRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
        let deleted: pb::DeleteResponse = self.call(id, "Delete", request).await?;
        let at = time(deleted.exited_at);
        Ok(Exit { pid: deleted.pid, status: deleted.exit_status, at })
    }

    async fn get(&self, id: &str, exec_id: &str) -> Result<Process> {
        let shim = self.find(id).await?;
        match self.state(&shim, exec_id).await {
            // Compat: who does not answer is unknown, not wrong (containerd `getProcessState`).
            Err(error) if error.kind() == Kind::DeadlineExceeded => {
                let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
                Ok(Process { id, exec_id, ..Process::default() })
            }
            told => told,
        }
    }

    async fn list(&self) -> Result<Vec<Process>> {
        let here = self.shims.table.list(&self.namespace);
        let states = here.into_iter().map(|(id, _)| async move { self.listed(id).await });
        let mut tasks: Vec<_> = join_all(states).await.into_iter().flatten().collect();
        tasks.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(tasks)
    }

    async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::KillRequest { id: id.clone(), exec_id, signal, all };
        failpoint::reach("daemon.kill.begun")?;
        self.call::<_, ()>(&id, "Kill", request).await?;
        Ok(failpoint::reach("daemon.kill.done")?)
    }

    async fn exec(&self, exec: Exec) -> Result<()> {
        if exec.exec_id.is_empty() {
            return Err(nameless());
        }
        self.find(&exec.id).await?;
        identifiers::validate(&exec.exec_id)
            .map_err(|error| error.context(format!("invalid exec id {}", exec.exec_id)))?;
        let Stdio { stdin, stdout, stderr, terminal } = exec.stdio;
        let request = pb::ExecProcessRequest {
            id: exec.id.clone(),
            exec_id: exec.exec_id,
            terminal,
            stdin,
            stdout,
            stderr,
            spec: Some(wire_any(&exec.spec)),
        };
        failpoint::reach("daemon.exec.begun")?;
        self.call::<_, ()>(&exec.id, "Exec", request).await?;
        Ok(failpoint::reach("daemon.exec.done")?)
    }

    async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::ResizePtyRequest { id: id.clone(), exec_id, width, height };
        self.call(&id, "ResizePty", request).await
    }

    async fn close_io(&self, id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::CloseIoRequest { id: id.clone(), exec_id, stdin };
        self.call(&id, "CloseIO", request).await
    }

    async fn pause(&self, id: &str) -> Result<()> {
        self.call(id, "Pause", pb::PauseRequest { id: id.to_owned() }).await
    }

    async fn resume(&self, id: &str) -> Result<()> {
        self.call(id, "Resume", pb::ResumeRequest { id: id.to_owned() }).await
    }

    async fn pids(&self, id: &str) -> Result<Vec<Pid>> {
        let request = pb::PidsRequest { id: id.to_owned() };
        let found: pb::PidsResponse = self.call(id, "Pids", request).await?;
        let processes = found.processes.into_iter();
        Ok(processes.map(|p| Pid { pid: p.pid, info: p.info.map(domain_any) }).collect())
    }

    async fn checkpoint(&self, id: &str, options: Option<Any>) -> Result<Vec<Descriptor>> {
        let container = self.containers.get(id).await?;
        let shim = self.find(id).await?;
        let given = checkpoints::given_path(&container.runtime.name, options.as_ref())?;
        if let Some(path) = given {
            self.dump(&shim, &path, options).await?;
            return Ok(Vec::new());
        }
        let scratch = Scratch::make(&shim.bundle.work)?;
        self.dump(&shim, scratch.path(), options).await?;
        let spec = wire_any(&container.spec.unwrap_or_default()).encode_to_vec();
        self.checkpoints.keep(scratch.path(), spec.into()).await
    }

    async fn update(&self, id: &str, resources: Option<Any>, annotations: Labels) -> Result<()> {
        let resources = resources.as_ref().map(wire_any);
        let request = pb::UpdateTaskRequest { id: id.to_owned(), resources, annotations };
        self.call(id, "Update", request).await
    }

    async fn metrics(&self, filters: &Filters) -> Result<Vec<Metric>> {
        let here = self.shims.table.list(&self.namespace).into_iter();
        let wanted =
            here.filter(|(id, _)| filters.matches(&Named { id, namespace: &self.namespace }));
        let usage = self.shims.measure(wanted.filter_map(|(_, shim)| shim).collect()).await;
        Ok(usage.into_iter().map(|it| Metric { id: it.id, at: it.at, data: it.data }).collect())
    }

    async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let shim = self.find(id).await?;
        let request = pb::WaitRequest { id: id.to_owned(), exec_id: exec_id.to_owned() };
        match shim.call_patiently::<_, pb::WaitResponse>("Wait", &request).await {
            Ok(ended) => Ok(Exit { pid: 0, status: ended.exit_status, at: time(ended.exited_at) }),
            Err(error) if error.kind() == Kind::Unavailable && exec_id.is_empty() => {
                self.end(id).await
            }
            Err(error) => Err(error),
        }
    }
}

/// A task, as filters of metrics see it (containerd `plugins/services/tasks/local.go`).
struct Named<'a> {
    id: &'a str,
    namespace: &'a str,
}

impl Fields for Named<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id"] => Some(self.id.into()),
            ["namespace"] => Some(self.namespace.into()),
            _ => None,
        }
    }
}

/// Runs what touches the disk where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|ended| Error::caused(Kind::Internal, "a blocking task", ended))?
}
