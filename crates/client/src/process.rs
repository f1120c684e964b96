// SPDX-License-Identifier: Apache-2.0
//! Processes: a task's first one, and those that are executed beside it.
//!
//! ```text
//! new_task --> created --start--> running --exits--> stopped --delete--> gone
//!                                    `-- exec --> created ...
//! ```
use std::sync::Arc;

use mount::Mount;
use records::Container;
use runtime::{Create, Exec, Exit, Status, Tasks};
use serde_json::Value;
use tokio::sync::oneshot;
use types::{Any, Descriptor, Error, Kind, Result};

use crate::{
    Client,
    stdio::{Copying, Fifos, Io, Streams},
};

/// SIGKILL.
const KILL: u32 = 9;

/// A task to be made from a container.
#[derive(Debug, Default)]
pub struct NewTask {
    /// Where its first process reads and writes.
    pub io: Io,
    /// Mounts of its root filesystem, beside those of the container's snapshot.
    pub rootfs: Vec<Mount>,
    /// Options for the runtime, in place of the container's.
    pub options: Option<Any>,
    /// A checkpoint to restore from.
    pub checkpoint: Option<Descriptor>,
    /// The shim to use, in place of the one that the container's runtime names.
    pub runtime_path: String,
}

/// A process, and the copying of what it reads and writes.
///
/// Dropped, it goes on running, but nothing is copied any more.
pub struct Process {
    tasks: Arc<dyn Tasks>,
    id: String,
    exec_id: String,
    pid: u32,
    fifos: Fifos,
    copying: Copying,
    /// Says that it runs, to whoever has to close its standard input.
    running: Option<oneshot::Sender<()>>,
}

impl Client {
    /// Makes a task from a container. Nothing of it runs before [`Process::start`].
    pub async fn new_task(&self, container: &Container, new: NewTask) -> Result<Process> {
        let mut rootfs = self.snapshot_mounts(container).await?;
        rootfs.extend(new.rootfs);
        let create = Create {
            id: container.id.clone(),
            rootfs,
            stdio: new.io.stdio(),
            checkpoint: new.checkpoint,
            options: new.options,
            runtime_path: new.runtime_path,
            endpoint: None,
        };
        let mut process = self.process(&container.id, "", new.io)?;
        match self.tasks.create(create).await {
            Ok(pid) => process.pid = pid,
            Err(error) => return Err(process.abandon(error).await),
        }
        Ok(process)
    }

    /// The mounts of a container's snapshot, labelled as its spec asks for.
    async fn snapshot_mounts(&self, container: &Container) -> Result<Vec<Mount>> {
        if container.snapshot_key.is_empty() {
            return Ok(Vec::new());
        }
        if container.snapshotter.is_empty() {
            let what = "unable to resolve rootfs mounts without snapshotter on container";
            return Err(Error::invalid(what));
        }
        let snapshotter = (self.snapshotters)(&container.snapshotter)?;
        let mut mounts = snapshotter.mounts(&container.snapshot_key).await?;
        if let Some(label) = mount_label(container) {
            for mount in &mut mounts {
                mount.options.push(format!("context=\"{label}\""));
            }
        }
        Ok(mounts)
    }

    /// Adds a process to a task. It does not run before [`Process::start`].
    pub async fn exec(&self, id: &str, exec_id: &str, spec: Any, io: Io) -> Result<Process> {
        if exec_id.is_empty() {
            return Err(Error::invalid("exec id must not be empty"));
        }
        let (id, exec_id) = (id.to_owned(), exec_id.to_owned());
        let exec = Exec { id: id.clone(), exec_id: exec_id.clone(), spec, stdio: io.stdio() };
        let process = self.process(&id, &exec_id, io)?;
        match self.tasks.exec(exec).await {
            Ok(()) => Ok(process),
            Err(error) => Err(process.abandon(error).await),
        }
    }

    /// Finds a process that is there; an `exec_id` of `""` is a task's first one. With `streams`, what
    /// it reads and writes is copied from and to them, in place of whoever did that before.
    ///
    /// Errors: `NotFound`.
    pub async fn attach(
        &self,
        id: &str,
        exec_id: &str,
        streams: Option<Streams>,
    ) -> Result<Process> {
        let missing = if exec_id.is_empty() { "task" } else { "process" };
        let found = self.tasks.get(id, exec_id).await;
        let found = found.map_err(|error| match error.kind() {
            Kind::NotFound => error.context(format!("no running {missing} found")),
            _ => error,
        })?;
        let fifos = Fifos::existing(&found.stdio);
        // There is nothing to attach to while the shim does not say where it is.
        let streams = streams.filter(|_| found.status != Status::Unknown).unwrap_or_default();
        let process = self.process(id, exec_id, Io::over(fifos, streams))?;
        let mut process = Process { pid: found.pid, ..process };
        process.is_running();
        Ok(process)
    }

    fn process(&self, id: &str, exec_id: &str, io: Io) -> Result<Process> {
        let (tasks, id, exec_id) = (Arc::clone(&self.tasks), id.to_owned(), exec_id.to_owned());
        let (running, when) = oneshot::channel();
        let close = {
            let (tasks, id, exec_id) = (Arc::clone(&tasks), id.clone(), exec_id.clone());
            async move {
                // There may be no input at all: a shim that does not know the process yet could not
                // be told, and would hold its input open for ever.
                if when.await.is_ok() {
                    // The process may be gone by now, and then nobody needs to be told.
                    drop(tasks.close_io(&id, &exec_id, true).await);
                }
            }
        };
        let (fifos, copying) = io.start(close)?;
        Ok(Process { tasks, id, exec_id, pid: 0, fifos, copying, running: Some(running) })
    }
}

impl Process {
    /// Its pid on the host; 0 for an executed process that has not been started.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Starts it.
    pub async fn start(&mut self) -> Result<()> {
        match self.tasks.start(&self.id, &self.exec_id).await {
            Ok(pid) => {
                self.pid = pid;
                self.is_running();
            }
            Err(error) => {
                self.copying.cancel().await;
                self.fifos.remove();
                return Err(error);
            }
        }
        Ok(())
    }

    fn is_running(&mut self) {
        if let Some(running) = self.running.take() {
            // Nobody listens where there is no input to close.
            running.send(()).ok();
        }
    }

    /// Waits for it to end, however long that takes.
    pub async fn wait(&self) -> Result<Exit> {
        self.tasks.wait(&self.id, &self.exec_id).await
    }

    /// Tells what it is doing.
    pub async fn status(&self) -> Result<runtime::Process> {
        self.tasks.get(&self.id, &self.exec_id).await
    }

    /// Sends it a signal, or with `all` to each process of its task.
    pub async fn kill(&self, signal: u32, all: bool) -> Result<()> {
        self.tasks.kill(&self.id, &self.exec_id, signal, all).await
    }

    /// Tells its terminal its size.
    pub async fn resize(&self, width: u32, height: u32) -> Result<()> {
        self.tasks.resize(&self.id, &self.exec_id, width, height).await
    }

    /// Kills it and waits until it has ended. That it has ended already is as good (containerd
    /// `client/task_opts.go`, `WithProcessKill`).
    pub async fn end(&self) -> Result<()> {
        if self.pid == 0 {
            return Ok(());
        }
        match self.kill(KILL, self.exec_id.is_empty()).await {
            Ok(()) => {}
            Err(error) if error.is_not_found() => {}
            Err(error) if error.kind() == Kind::FailedPrecondition => return Ok(()),
            Err(error) => return Err(error),
        }
        match self.wait().await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Deletes it once it has ended, after all that it wrote has been copied.
    ///
    /// Errors: `FailedPrecondition` while it runs.
    pub async fn delete(mut self) -> Result<Exit> {
        self.refuse_running().await?;
        if let Err(error) = self.copying.finish().await {
            // Whoever wanted the output has gone. That is no reason to keep the process.
            tracing::warn!(id = self.id, exec_id = self.exec_id, %error, "failed to copy output");
        }
        let exit = match self.exec_id.as_str() {
            "" => self.tasks.delete(&self.id).await?,
            exec_id => self.tasks.delete_process(&self.id, exec_id).await?,
        };
        self.fifos.remove();
        Ok(exit)
    }

    /// The texts of containerd `client/task.go` and `client/process.go`, `Delete`.
    async fn refuse_running(&self) -> Result<()> {
        let status = match self.status().await {
            Ok(process) => process.status,
            Err(error) if error.is_not_found() => return Err(error),
            Err(_) => Status::Unknown,
        };
        let is_task = self.exec_id.is_empty();
        let word = match status {
            Status::Stopped | Status::Unknown => return Ok(()),
            Status::Created if !is_task || self.pid == 0 => return Ok(()),
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Pausing => "pausing",
        };
        let what = if is_task {
            format!("task must be stopped before deletion: {word}")
        } else {
            format!("current process state: {word}, process must be stopped before deletion")
        };
        Err(Error::failed_precondition(what))
    }

    /// Cleans up after a process that came to nothing.
    async fn abandon(mut self, error: Error) -> Error {
        self.copying.cancel().await;
        self.fifos.remove();
        error
    }
}

/// The SELinux label that a container's spec asks its mounts to have.
fn mount_label(container: &Container) -> Option<String> {
    let spec: Value = serde_json::from_slice(&container.spec.as_ref()?.value).ok()?;
    let label = spec.pointer("/linux/mountLabel")?.as_str()?;
    (!label.is_empty()).then(|| label.to_owned())
}
