// SPDX-License-Identifier: Apache-2.0
//! The service that a shim offers: one contract, two names on the wire.
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use api::containerd::task::v3::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::sync::Notify;
use ttrpc::{Code, Service, Status};
use types::{Error, Result};

/// The tasks of a shim (containerd `api/runtime/task/v3/shim.proto`).
///
/// The future of a call may be dropped at any time, when the caller is gone: what must not be left
/// half done runs on a task of its own. Errors carry the texts of Go's shim, which clients match on.
#[async_trait]
pub trait Task: Send + Sync + 'static {
    /// Creates a container, with its first process not yet running.
    async fn create(&self, request: CreateTaskRequest) -> Result<CreateTaskResponse>;
    /// Starts the first process, or one that was added.
    async fn start(&self, request: StartRequest) -> Result<StartResponse>;
    /// Says what a process is doing.
    async fn state(&self, request: StateRequest) -> Result<StateResponse>;
    /// Removes a container, or a process that was added, once it does not run.
    async fn delete(&self, request: DeleteRequest) -> Result<DeleteResponse>;
    /// Lists the processes of a container.
    async fn pids(&self, request: PidsRequest) -> Result<PidsResponse>;
    /// Stops all processes of a container where they are.
    async fn pause(&self, request: PauseRequest) -> Result<()>;
    /// Lets them go on.
    async fn resume(&self, request: ResumeRequest) -> Result<()>;
    /// Saves a container to a directory.
    async fn checkpoint(&self, request: CheckpointTaskRequest) -> Result<()>;
    /// Sends a signal to a process or to all.
    async fn kill(&self, request: KillRequest) -> Result<()>;
    /// Adds a process to a container, not yet running.
    async fn exec(&self, request: ExecProcessRequest) -> Result<()>;
    /// Sets the size of a terminal.
    async fn resize_pty(&self, request: ResizePtyRequest) -> Result<()>;
    /// Ends the input of a process.
    async fn close_io(&self, request: CloseIoRequest) -> Result<()>;
    /// Changes the limits of a container.
    async fn update(&self, request: UpdateTaskRequest) -> Result<()>;
    /// Waits for a process to end.
    async fn wait(&self, request: WaitRequest) -> Result<WaitResponse>;
    /// Measures what a container uses.
    async fn stats(&self, request: StatsRequest) -> Result<StatsResponse>;
    /// Says which processes these are.
    async fn connect(&self, request: ConnectRequest) -> Result<ConnectResponse>;
    /// Ends the shim if it has no tasks.
    async fn shutdown(&self, request: ShutdownRequest) -> Result<()>;

    /// Whether there is nothing to look after: such a shim ends when nobody calls for a while.
    fn is_idle(&self) -> bool;
}

/// The contract as bytes. The messages of versions 2 and 3 are the same, so one serves both names.
pub(crate) struct Wire {
    task: Arc<dyn Task>,
    activity: Arc<Activity>,
}

impl Wire {
    pub(crate) fn new(task: Arc<dyn Task>, activity: Arc<Activity>) -> Self {
        Self { task, activity }
    }
}

macro_rules! dispatch {
    ($self:ident, $method:ident, $payload:ident, {$($name:literal => $call:ident),* $(,)?}) => {
        match $method {
            $($name => encode($self.task.$call(decode($payload)?).await)),*,
            other => Err(Status::unknown_method(other)),
        }
    };
}

#[async_trait]
impl Service for Wire {
    async fn call(&self, _: ttrpc::Context, method: &str, payload: Bytes) -> Result<Bytes, Status> {
        let _running = self.activity.begin();
        dispatch!(self, method, payload, {
            "Create" => create,
            "Start" => start,
            "State" => state,
            "Delete" => delete,
            "Pids" => pids,
            "Pause" => pause,
            "Resume" => resume,
            "Checkpoint" => checkpoint,
            "Kill" => kill,
            "Exec" => exec,
            "ResizePty" => resize_pty,
            "CloseIO" => close_io,
            "Update" => update,
            "Wait" => wait,
            "Stats" => stats,
            "Connect" => connect,
            "Shutdown" => shutdown,
        })
    }
}

pub(crate) fn decode<M: Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))
}

pub(crate) fn encode<M: Message>(answer: Result<M>) -> Result<Bytes, Status> {
    answer.map(|message| message.encode_to_vec().into()).map_err(|error| status(&error))
}

fn status(error: &Error) -> Status {
    Status::new(Code::from(error.kind().code()), error.to_string())
}

/// How much a shim is used.
#[derive(Debug)]
pub(crate) struct Activity {
    running: AtomicUsize,
    last: Mutex<Instant>,
    kept: AtomicBool,
    ended: Notify,
}

impl Activity {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            running: AtomicUsize::new(0),
            last: Mutex::new(Instant::now()),
            kept: AtomicBool::new(false),
            ended: Notify::new(),
        })
    }

    fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        Running(Arc::clone(self))
    }

    /// Takes note that the shim is wanted though nobody calls it.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// Waits until a call has ended, or has since this was last waited for.
    pub(crate) async fn call_ended(&self) {
        self.ended.notified().await;
    }

    /// For how long nobody has wanted anything.
    pub(crate) fn quiet_for(&self) -> Duration {
        match self.running.load(Ordering::Relaxed) {
            0 if !self.kept.load(Ordering::Relaxed) => {
                self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
            }
            _ => Duration::ZERO,
        }
    }
}

/// A call that runs.
struct Running(Arc<Activity>);

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_its_kind_and_its_text() {
        let status = status(&Error::not_found("process does not exist x"));
        assert_eq!(status.code, Code::NotFound);
        assert_eq!(status.message, "process does not exist x: not found");
    }

    #[test]
    fn a_shim_is_quiet_only_between_calls() {
        let activity = Activity::new();
        let running = activity.begin();
        assert_eq!(activity.quiet_for(), Duration::ZERO);
        drop(running);
        std::thread::sleep(Duration::from_millis(1));
        assert!(activity.quiet_for() > Duration::ZERO);
        activity.keep();
        assert_eq!(activity.quiet_for(), Duration::ZERO);
    }
}
