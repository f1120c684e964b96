// SPDX-License-Identifier: Apache-2.0
//! Tasks behind a socket.
use std::sync::Arc;

use ::runtime::{Create, Exec, Exit, Metric, Pid, Process, Tasks};
use api::containerd::services::tasks::v1 as pb;
use async_trait::async_trait;
use pb::tasks_client::TasksClient;
use types::{Any, Descriptor, Filters, Labels, Result};

use crate::call::{Limits, Peer, error, limited};
use crate::convert::{FromWire, ToWire, present, time};

/// The tasks that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Tasks> {
    Arc::new(Remote { client: limited!(TasksClient::new(peer), Limits::default()) })
}

struct Remote {
    client: TasksClient<Peer>,
}

impl Remote {
    fn client(&self) -> TasksClient<Peer> {
        self.client.clone()
    }
}

fn exit(reply: &pb::DeleteResponse) -> Exit {
    Exit { pid: reply.pid, status: reply.exit_status, at: time(reply.exited_at) }
}

#[async_trait]
impl Tasks for Remote {
    async fn create(&self, create: Create) -> Result<u32> {
        Ok(self.client().create(create.to_wire()).await.map_err(error)?.into_inner().pid)
    }

    async fn start(&self, id: &str, exec_id: &str) -> Result<u32> {
        let request = pb::StartRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        Ok(self.client().start(request).await.map_err(error)?.into_inner().pid)
    }

    async fn delete(&self, id: &str) -> Result<Exit> {
        let request = pb::DeleteTaskRequest { container_id: id.to_owned() };
        Ok(exit(&self.client().delete(request).await.map_err(error)?.into_inner()))
    }

    async fn delete_process(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let (container_id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::DeleteProcessRequest { container_id, exec_id };
        Ok(exit(&self.client().delete_process(request).await.map_err(error)?.into_inner()))
    }

    async fn get(&self, id: &str, exec_id: &str) -> Result<Process> {
        let request = pb::GetRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let reply = self.client().get(request).await.map_err(error)?.into_inner();
        let found = Process::from_wire(present(reply.process, "process")?)?;
        Ok(Process { id: id.to_owned(), exec_id: exec_id.to_owned(), ..found })
    }

    async fn list(&self) -> Result<Vec<Process>> {
        let request = pb::ListTasksRequest::default();
        Vec::from_wire(self.client().list(request).await.map_err(error)?.into_inner().tasks)
    }

    async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let (container_id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::KillRequest { container_id, exec_id, signal, all };
        self.client().kill(request).await.map_err(error)?;
        Ok(())
    }

    async fn exec(&self, exec: Exec) -> Result<()> {
        self.client().exec(exec.to_wire()).await.map_err(error)?;
        Ok(())
    }

    async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let (container_id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::ResizePtyRequest { container_id, exec_id, width, height };
        self.client().resize_pty(request).await.map_err(error)?;
        Ok(())
    }

    async fn close_io(&self, id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        let (container_id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let request = pb::CloseIoRequest { container_id, exec_id, stdin };
        self.client().close_io(request).await.map_err(error)?;
        Ok(())
    }

    async fn pause(&self, id: &str) -> Result<()> {
        let request = pb::PauseTaskRequest { container_id: id.to_owned() };
        self.client().pause(request).await.map_err(error)?;
        Ok(())
    }

    async fn resume(&self, id: &str) -> Result<()> {
        let request = pb::ResumeTaskRequest { container_id: id.to_owned() };
        self.client().resume(request).await.map_err(error)?;
        Ok(())
    }

    async fn pids(&self, id: &str) -> Result<Vec<Pid>> {
        let request = pb::ListPidsRequest { container_id: id.to_owned() };
        let reply = self.client().list_pids(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.processes)
    }

    async fn checkpoint(&self, id: &str, options: Option<Any>) -> Result<Vec<Descriptor>> {
        let request = pb::CheckpointTaskRequest {
            container_id: id.to_owned(),
            parent_checkpoint: String::new(),
            options: options.map(ToWire::to_wire),
        };
        let reply = self.client().checkpoint(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.descriptors)
    }

    async fn update(&self, id: &str, resources: Option<Any>, annotations: Labels) -> Result<()> {
        let resources = resources.map(ToWire::to_wire);
        let request = pb::UpdateTaskRequest { container_id: id.to_owned(), resources, annotations };
        self.client().update(request).await.map_err(error)?;
        Ok(())
    }

    async fn metrics(&self, filters: &Filters) -> Result<Vec<Metric>> {
        let request = pb::MetricsRequest { filters: filters.texts() };
        let reply = self.client().metrics(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.metrics)
    }

    async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let request = pb::WaitRequest { container_id: id.to_owned(), exec_id: exec_id.to_owned() };
        let reply = self.client().wait(request).await.map_err(error)?.into_inner();
        Ok(Exit { pid: 0, status: reply.exit_status, at: time(reply.exited_at) })
    }
}
