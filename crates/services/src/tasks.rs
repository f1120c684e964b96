// SPDX-License-Identifier: Apache-2.0
//! The tasks service (`containerd.services.tasks.v1`).
mod client;

use std::sync::Arc;

use ::runtime::{
    Create, Endpoint, Exec, Exit, Metric, Pid, Process, Status, Stdio, Tasks as Contract,
};
use api::containerd::{services::tasks::v1 as pb, types as wire, v1::types as task};
use pb::tasks_server::{Tasks, TasksServer};
use tonic::{Request, Response};
use types::{Descriptor, Result, Scope};

pub use client::connect;

use crate::call::{Limits, Reply, Scoped, detached, limited, status};
use crate::convert::{FromWire, ToWire, any, filters, non_empty, time};

/// Serves the tasks that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> TasksServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    limited!(TasksServer::new(Scoped::new(find)), limits)
}

#[tonic::async_trait]
impl<F> Tasks for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Contract>> + Send + Sync + 'static,
{
    async fn create(
        &self,
        request: Request<pb::CreateTaskRequest>,
    ) -> Reply<pb::CreateTaskResponse> {
        let (tasks, request) = self.open(request)?;
        let create = Create::from_wire(request).map_err(status)?;
        let container_id = create.id.clone();
        let pid = detached(async move { tasks.create(create).await }).await?;
        Ok(Response::new(pb::CreateTaskResponse { container_id, pid }))
    }

    async fn start(&self, request: Request<pb::StartRequest>) -> Reply<pb::StartResponse> {
        let (tasks, request) = self.open(request)?;
        let pb::StartRequest { container_id, exec_id } = request;
        let pid = detached(async move { tasks.start(&container_id, &exec_id).await }).await?;
        Ok(Response::new(pb::StartResponse { pid }))
    }

    async fn delete(&self, request: Request<pb::DeleteTaskRequest>) -> Reply<pb::DeleteResponse> {
        let (tasks, request) = self.open(request)?;
        let id = request.container_id.clone();
        let exit = detached(async move { tasks.delete(&request.container_id).await }).await?;
        Ok(Response::new(deleted(id, exit)))
    }

    async fn delete_process(
        &self,
        request: Request<pb::DeleteProcessRequest>,
    ) -> Reply<pb::DeleteResponse> {
        let (tasks, request) = self.open(request)?;
        let pb::DeleteProcessRequest { container_id, exec_id } = request;
        let id = exec_id.clone();
        let exit =
            detached(async move { tasks.delete_process(&container_id, &exec_id).await }).await?;
        Ok(Response::new(deleted(id, exit)))
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Reply<pb::GetResponse> {
        let (tasks, request) = self.open(request)?;
        let process = tasks.get(&request.container_id, &request.exec_id).await.map_err(status)?;
        Ok(Response::new(pb::GetResponse { process: Some(process.to_wire()) }))
    }

    /// Compat: Go takes the filter of this request and does not look at it.
    async fn list(&self, request: Request<pb::ListTasksRequest>) -> Reply<pb::ListTasksResponse> {
        let (tasks, _) = self.open(request)?;
        let tasks = tasks.list().await.map_err(status)?.to_wire();
        Ok(Response::new(pb::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<pb::KillRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        let pb::KillRequest { container_id, exec_id, signal, all } = request;
        detached(async move { tasks.kill(&container_id, &exec_id, signal, all).await })
            .await
            .map(Response::new)
    }

    async fn exec(&self, request: Request<pb::ExecProcessRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        let exec = Exec::from_wire(request).map_err(status)?;
        detached(async move { tasks.exec(exec).await }).await.map(Response::new)
    }

    async fn resize_pty(&self, request: Request<pb::ResizePtyRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        let pb::ResizePtyRequest { container_id, exec_id, width, height } = request;
        tasks
            .resize(&container_id, &exec_id, width, height)
            .await
            .map(Response::new)
            .map_err(status)
    }

    async fn close_io(&self, request: Request<pb::CloseIoRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        let pb::CloseIoRequest { container_id, exec_id, stdin } = request;
        tasks.close_io(&container_id, &exec_id, stdin).await.map(Response::new).map_err(status)
    }

    async fn pause(&self, request: Request<pb::PauseTaskRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        detached(async move { tasks.pause(&request.container_id).await }).await.map(Response::new)
    }

    async fn resume(&self, request: Request<pb::ResumeTaskRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        detached(async move { tasks.resume(&request.container_id).await }).await.map(Response::new)
    }

    async fn list_pids(
        &self,
        request: Request<pb::ListPidsRequest>,
    ) -> Reply<pb::ListPidsResponse> {
        let (tasks, request) = self.open(request)?;
        let processes = tasks.pids(&request.container_id).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<pb::CheckpointTaskRequest>,
    ) -> Reply<pb::CheckpointTaskResponse> {
        let (tasks, request) = self.open(request)?;
        let options = request.options.map(any);
        let work = async move { tasks.checkpoint(&request.container_id, options).await };
        let descriptors = detached(work).await?.to_wire();
        Ok(Response::new(pb::CheckpointTaskResponse { descriptors }))
    }

    async fn update(&self, request: Request<pb::UpdateTaskRequest>) -> Reply<()> {
        let (tasks, request) = self.open(request)?;
        let pb::UpdateTaskRequest { container_id, resources, annotations } = request;
        detached(async move { tasks.update(&container_id, resources.map(any), annotations).await })
            .await
            .map(Response::new)
    }

    async fn metrics(&self, request: Request<pb::MetricsRequest>) -> Reply<pb::MetricsResponse> {
        let (tasks, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let metrics = tasks.metrics(&filters).await.map_err(status)?.to_wire();
        Ok(Response::new(pb::MetricsResponse { metrics }))
    }

    async fn wait(&self, request: Request<pb::WaitRequest>) -> Reply<pb::WaitResponse> {
        let (tasks, request) = self.open(request)?;
        let exit = tasks.wait(&request.container_id, &request.exec_id).await.map_err(status)?;
        let (exit_status, exited_at) = (exit.status, exit.at.to_wire());
        Ok(Response::new(pb::WaitResponse { exit_status, exited_at }))
    }
}

fn deleted(id: String, exit: Exit) -> pb::DeleteResponse {
    pb::DeleteResponse { id, pid: exit.pid, exit_status: exit.status, exited_at: exit.at.to_wire() }
}

impl ToWire for Create {
    type Wire = pb::CreateTaskRequest;

    fn to_wire(self) -> pb::CreateTaskRequest {
        pb::CreateTaskRequest {
            container_id: self.id,
            rootfs: self.rootfs.to_wire(),
            stdin: self.stdio.stdin,
            stdout: self.stdio.stdout,
            stderr: self.stdio.stderr,
            terminal: self.stdio.terminal,
            checkpoint: self.checkpoint.map(ToWire::to_wire),
            options: self.options.map(ToWire::to_wire),
            runtime_path: self.runtime_path,
            task_api_version: self.endpoint.as_ref().map_or(0, |it| it.version),
            task_api_address: self.endpoint.map(|it| it.address).unwrap_or_default(),
        }
    }
}

impl FromWire<pb::CreateTaskRequest> for Create {
    fn from_wire(wire: pb::CreateTaskRequest) -> Result<Self> {
        let pb::CreateTaskRequest { stdin, stdout, stderr, terminal, .. } = wire;
        Ok(Self {
            id: wire.container_id,
            rootfs: Vec::from_wire(wire.rootfs)?,
            stdio: Stdio { stdin, stdout, stderr, terminal },
            checkpoint: wire.checkpoint.map(Descriptor::from_wire).transpose()?,
            options: wire.options.map(any),
            runtime_path: wire.runtime_path,
            endpoint: non_empty(&wire.task_api_address).map(|address| Endpoint {
                address: address.to_owned(),
                version: wire.task_api_version,
            }),
        })
    }
}

impl ToWire for Exec {
    type Wire = pb::ExecProcessRequest;

    fn to_wire(self) -> pb::ExecProcessRequest {
        pb::ExecProcessRequest {
            container_id: self.id,
            stdin: self.stdio.stdin,
            stdout: self.stdio.stdout,
            stderr: self.stdio.stderr,
            terminal: self.stdio.terminal,
            spec: Some(self.spec.to_wire()),
            exec_id: self.exec_id,
        }
    }
}

impl FromWire<pb::ExecProcessRequest> for Exec {
    fn from_wire(wire: pb::ExecProcessRequest) -> Result<Self> {
        let pb::ExecProcessRequest { container_id: id, exec_id, spec, .. } = wire;
        let pb::ExecProcessRequest { stdin, stdout, stderr, terminal, .. } = wire;
        let spec = spec.map(any).unwrap_or_default();
        Ok(Self { id, exec_id, spec, stdio: Stdio { stdin, stdout, stderr, terminal } })
    }
}

impl ToWire for Process {
    type Wire = task::Process;

    fn to_wire(self) -> task::Process {
        let id = if self.exec_id.is_empty() { self.id.clone() } else { self.exec_id };
        task::Process {
            container_id: self.id,
            id,
            pid: self.pid,
            status: self.status as i32,
            stdin: self.stdio.stdin,
            stdout: self.stdio.stdout,
            stderr: self.stdio.stderr,
            terminal: self.stdio.terminal,
            exit_status: self.exit.map(|exit| exit.status).unwrap_or_default(),
            exited_at: self.exit.and_then(|exit| exit.at.to_wire()),
        }
    }
}

/// A process, and whose it is: Go leaves the container's id out, and `exec_id` is empty for the
/// first process.
impl FromWire<task::Process> for Process {
    fn from_wire(wire: task::Process) -> Result<Self> {
        let status = match wire.status() {
            task::Status::Unknown => Status::Unknown,
            task::Status::Created => Status::Created,
            task::Status::Running => Status::Running,
            task::Status::Stopped => Status::Stopped,
            task::Status::Paused => Status::Paused,
            task::Status::Pausing => Status::Pausing,
        };
        let exit = Exit { pid: wire.pid, status: wire.exit_status, at: time(wire.exited_at) };
        let is_exec = !wire.container_id.is_empty() && wire.container_id != wire.id;
        let (id, exec_id) =
            if is_exec { (wire.container_id, wire.id) } else { (wire.id, String::new()) };
        Ok(Self {
            id,
            exec_id,
            pid: wire.pid,
            status,
            stdio: Stdio {
                stdin: wire.stdin,
                stdout: wire.stdout,
                stderr: wire.stderr,
                terminal: wire.terminal,
            },
            exit: (status == Status::Stopped).then_some(exit),
        })
    }
}

impl ToWire for Pid {
    type Wire = task::ProcessInfo;

    fn to_wire(self) -> task::ProcessInfo {
        task::ProcessInfo { pid: self.pid, info: self.info.map(ToWire::to_wire) }
    }
}

impl FromWire<task::ProcessInfo> for Pid {
    fn from_wire(wire: task::ProcessInfo) -> Result<Self> {
        Ok(Self { pid: wire.pid, info: wire.info.map(any) })
    }
}

impl ToWire for Metric {
    type Wire = wire::Metric;

    fn to_wire(self) -> wire::Metric {
        let (timestamp, data) = (self.at.to_wire(), Some(self.data.to_wire()));
        wire::Metric { timestamp, id: self.id, data }
    }
}

impl FromWire<wire::Metric> for Metric {
    fn from_wire(wire: wire::Metric) -> Result<Self> {
        let data = wire.data.map(any).unwrap_or_default();
        Ok(Self { id: wire.id, at: time(wire.timestamp), data })
    }
}
