// SPDX-License-Identifier: Apache-2.0
//! The service: finding the container that a call is about.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use api::containerd::{
    events::TaskDelete,
    runc::v1::ProcessDetails,
    task::v3::{
        CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        UpdateTaskRequest, WaitRequest, WaitResponse,
    },
    v1::types::{ProcessInfo, Status},
};
use async_trait::async_trait;
use shim::{Context, Task};
use types::{Error, Result};

use crate::{
    container::{self, Call, Handle},
    process::Facts,
};

/// All containers of a shim.
pub(crate) struct Service {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    containers: Mutex<Containers>,
}

#[derive(Default)]
struct Containers {
    there: BTreeMap<String, Arc<Handle>>,
    coming: BTreeSet<String>,
}

impl Service {
    pub(crate) fn new(context: Context) -> Self {
        let containers = Mutex::default();
        Self { shared: Arc::new(Shared { context, containers }) }
    }

    fn find(&self, id: &str) -> Result<Arc<Handle>> {
        let missing = || Error::not_found("container not created");
        self.shared.lock().there.get(id).cloned().ok_or_else(missing)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Containers> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn create(&self, request: CreateTaskRequest) -> Result<u32> {
        let id = request.id.clone();
        {
            let mut containers = self.lock();
            if containers.there.contains_key(&id) || !containers.coming.insert(id.clone()) {
                return Err(Error::already_exists(format!("container {id}")));
            }
        }
        let created = container::create(&self.context, request).await;
        let mut containers = self.lock();
        containers.coming.remove(&id);
        let owner = created?;
        let handle = owner.handle();
        let pid = handle.process("")?.facts.borrow().pid;
        containers.there.insert(id, handle);
        tokio::spawn(owner.run());
        Ok(pid)
    }

    async fn delete(&self, handle: &Handle, exec_id: String) -> Result<Facts> {
        let is_container = exec_id.is_empty();
        let facts = handle.ask(|reply| Call::Delete { exec_id, reply }).await?;
        if is_container {
            self.lock().there.remove(&handle.id);
            self.context.publisher.publish(&TaskDelete {
                container_id: handle.id.clone(),
                pid: facts.pid,
                exit_status: facts.exit_status(),
                exited_at: Some(facts.exited_at()),
                id: String::new(),
            });
        }
        Ok(facts)
    }
}

/// Runs work to its end, also when nobody waits for it any more.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work).await.map_err(|error| Error::internal(error.to_string()))?
}

#[async_trait]
impl Task for Service {
    async fn create(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse> {
        let shared = Arc::clone(&self.shared);
        let pid = to_the_end(async move { shared.create(request).await }).await?;
        Ok(CreateTaskResponse { pid })
    }

    async fn start(&self, request: StartRequest) -> Result<StartResponse> {
        let handle = self.find(&request.id)?;
        let pid = handle.ask(|reply| Call::Start { exec_id: request.exec_id, reply }).await?;
        Ok(StartResponse { pid })
    }

    async fn state(&self, request: StateRequest) -> Result<StateResponse> {
        let handle = self.find(&request.id)?;
        let known = handle.process(&request.exec_id)?;
        let facts = *known.facts.borrow();
        let is_init = request.exec_id.is_empty();
        let whole = handle.process("")?.facts.borrow().state.status();
        Ok(StateResponse {
            id: if is_init { request.id } else { request.exec_id.clone() },
            bundle: handle.bundle.display().to_string(),
            pid: facts.pid,
            status: status(facts, whole).into(),
            stdin: known.stdio.stdin,
            stdout: known.stdio.stdout,
            stderr: known.stdio.stderr,
            terminal: known.stdio.terminal,
            exit_status: facts.exit_status(),
            exited_at: Some(facts.exited_at()),
            exec_id: request.exec_id,
        })
    }

    async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse> {
        let (shared, handle) = (Arc::clone(&self.shared), self.find(&request.id)?);
        let facts =
            to_the_end(async move { shared.delete(&handle, request.exec_id).await }).await?;
        Ok(DeleteResponse {
            pid: facts.pid,
            exit_status: facts.exit_status(),
            exited_at: Some(facts.exited_at()),
        })
    }

    async fn pids(&self, request: PidsRequest) -> Result<PidsResponse> {
        let handle = self.find(&request.id)?;
        let pids = handle.runc.processes(&handle.id).await.map_err(|failure| failure.plain())?;
        let exec_ids = handle.exec_ids();
        let details = |exec_id: &String| api::pack(&ProcessDetails { exec_id: exec_id.clone() });
        let info = |pid| ProcessInfo { pid, info: exec_ids.get(&pid).map(details) };
        Ok(PidsResponse { processes: pids.into_iter().map(info).collect() })
    }

    async fn pause(&self, request: PauseRequest) -> Result<()> {
        self.find(&request.id)?.ask(|reply| Call::Pause { reply }).await
    }

    async fn resume(&self, request: ResumeRequest) -> Result<()> {
        self.find(&request.id)?.ask(|reply| Call::Resume { reply }).await
    }

    async fn checkpoint(&self, request: CheckpointTaskRequest) -> Result<()> {
        let handle = self.find(&request.id)?;
        handle.ask(|reply| Call::Checkpoint { request: Box::new(request), reply }).await
    }

    async fn kill(&self, request: KillRequest) -> Result<()> {
        let KillRequest { id, exec_id, signal, all } = request;
        self.find(&id)?.kill(exec_id, signal, all).await
    }

    async fn exec(&self, request: ExecProcessRequest) -> Result<()> {
        let handle = self.find(&request.id)?;
        handle.ask(|reply| Call::Exec { request: Box::new(request), reply }).await
    }

    async fn resize_pty(&self, request: ResizePtyRequest) -> Result<()> {
        let handle = self.find(&request.id)?;
        let (columns, rows) = (request.width as u16, request.height as u16);
        let exec_id = request.exec_id;
        handle.ask(|reply| Call::Resize { exec_id, columns, rows, reply }).await
    }

    async fn close_io(&self, request: CloseIoRequest) -> Result<()> {
        let handle = self.find(&request.id)?;
        handle.ask(|reply| Call::CloseStdin { exec_id: request.exec_id, reply }).await
    }

    async fn update(&self, request: UpdateTaskRequest) -> Result<()> {
        let handle = self.find(&request.id)?;
        let resources = request.resources.map(|any| any.value).unwrap_or_default();
        handle.ask(|reply| Call::Update { resources, reply }).await
    }

    async fn wait(&self, request: WaitRequest) -> Result<WaitResponse> {
        let mut known = self.find(&request.id)?.process(&request.exec_id)?;
        let over = known.facts.wait_for(|facts| facts.exit.is_some() || facts.failed).await;
        // When it is deleted without having ended, there is nothing to wait for either.
        let facts = over.map(|facts| *facts).ok();
        let facts = facts.unwrap_or_else(|| *known.facts.borrow());
        Ok(WaitResponse { exit_status: facts.exit_status(), exited_at: Some(facts.exited_at()) })
    }

    async fn stats(&self, request: StatsRequest) -> Result<StatsResponse> {
        let handle = self.find(&request.id)?;
        let missing = || Error::not_found("cgroup does not exist");
        let metrics = handle.cgroup().ok_or_else(missing)?.metrics()?;
        Ok(StatsResponse { stats: Some(shim::metrics::pack(metrics)) })
    }

    async fn connect(&self, request: ConnectRequest) -> Result<ConnectResponse> {
        let init = self.find(&request.id).and_then(|handle| handle.process(""));
        let task_pid = init.map_or(0, |known| known.facts.borrow().pid);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ConnectResponse { shim_pid: std::process::id(), task_pid, version })
    }

    async fn shutdown(&self, _: ShutdownRequest) -> Result<()> {
        if self.is_idle() {
            self.shared.context.stop.now();
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        let containers = self.shared.lock();
        containers.there.is_empty() && containers.coming.is_empty()
    }
}

/// A process of a container that is paused is paused.
fn status(facts: Facts, whole: Status) -> Status {
    match whole {
        Status::Paused | Status::Pausing => whole,
        _ => facts.state.status(),
    }
}
