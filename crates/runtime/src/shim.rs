// SPDX-License-Identifier: Apache-2.0
//! A running shim, as the daemon speaks to it.
use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use api::{
    containerd::{task::v3 as pb, v1::types as task},
    service::{SANDBOX, TASK_V2, TASK_V3},
};
use prost::Message;
use prost_types::Timestamp;
use shim::bootstrap::Answer;
use ttrpc::{CallOptions, Client, Code};
use types::{Error, Kind, Result};

use crate::{Exit, Process, Status, Stdio, bundle::Bundle};

/// The metadata that carries the namespace (containerd `pkg/namespaces/ttrpc.go`).
const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// A shim that has answered, with its task or on the way to it.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) bundle: Bundle,
    pub(crate) program: PathBuf,
    /// Where it listens.
    pub(crate) answer: Answer,
    client: Client,
    /// The task API that it speaks. A socket may be older than the program on disk, so an answer
    /// of "no such service" turns it down to 2.
    version: AtomicU32,
}

impl Shim {
    /// Connects to where `answer` says that a shim listens.
    ///
    /// Errors: `Unavailable` when nobody does.
    pub(crate) async fn connect(
        bundle: Bundle,
        program: PathBuf,
        answer: &Answer,
        patience: Duration,
    ) -> Result<Self> {
        if answer.protocol != "ttrpc" {
            let message = format!("shim protocol {:?}", answer.protocol);
            return Err(Error::unimplemented(message));
        }
        let client = tokio::time::timeout(patience, Client::connect(&answer.address))
            .await
            .map_err(|_elapsed| Error::deadline(format!("connect to {}", answer.address)))?
            .map_err(|e| Error::caused(Kind::Unavailable, "", e))?;
        let (answer, version) = (answer.clone(), AtomicU32::new(answer.version));
        Ok(Self { bundle, program, answer, client, version })
    }

    /// Calls a method of the task service, for at most `patience`.
    pub(crate) async fn call<Q, R>(
        &self,
        method: &str,
        request: &Q,
        patience: Duration,
    ) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        self.ask(method, request, CallOptions::new().timeout(patience)).await
    }

    /// Calls a method of the task service that may take for ever.
    pub(crate) async fn call_patiently<Q, R>(&self, method: &str, request: &Q) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        self.ask(method, request, CallOptions::new()).await
    }

    /// Calls a method of the sandbox service, which without `patience` may take for ever.
    pub(crate) async fn call_sandbox<Q, R>(
        &self,
        method: &str,
        request: &Q,
        patience: Option<Duration>,
    ) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let options = CallOptions { timeout: patience, ..CallOptions::new() };
        let options = options.metadata(NAMESPACE, self.bundle.namespace.clone());
        self.client.call(SANDBOX, method, request, &options).await.map_err(error)
    }

    async fn ask<Q, R>(&self, method: &str, request: &Q, options: CallOptions) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let options = options.metadata(NAMESPACE, self.bundle.namespace.clone());
        if self.version.load(Ordering::Relaxed) >= 3 {
            match self.client.call(TASK_V3, method, request, &options).await {
                Err(status) if is_missing_service(&status) => {
                    self.version.store(2, Ordering::Relaxed);
                }
                answer => return answer.map_err(error),
            }
        }
        self.client.call(TASK_V2, method, request, &options).await.map_err(error)
    }

    /// Waits until the shim is gone.
    pub(crate) async fn closed(&self) {
        self.client.closed().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

fn is_missing_service(status: &ttrpc::Status) -> bool {
    status.code == Code::Unimplemented && status.message.contains(TASK_V3)
}

/// What a shim says, in its own words.
fn error(status: ttrpc::Status) -> Error {
    let kind =
        if status.is_closed() { Kind::Unavailable } else { Kind::from_code(status.code as i32) };
    let mut words = status.message;
    // Compat: people and programs know these words by their end (containerd `errdefs/grpc.go`).
    if kind == Kind::Unknown && !words.ends_with(UNKNOWN) {
        words.push_str(UNKNOWN);
    }
    Error::said(kind, words)
}

/// How what has no better code ends.
const UNKNOWN: &str = ": unknown";

/// A state as a shim tells it. The task API of Go's shims may leave ids out, so the caller says them.
pub(crate) fn process(id: &str, exec_id: &str, state: pb::StateResponse) -> Process {
    let status = match state.status() {
        task::Status::Unknown => Status::Unknown,
        task::Status::Created => Status::Created,
        task::Status::Running => Status::Running,
        task::Status::Stopped => Status::Stopped,
        task::Status::Paused => Status::Paused,
        task::Status::Pausing => Status::Pausing,
    };
    let exit = Exit { pid: state.pid, status: state.exit_status, at: time(state.exited_at) };
    Process {
        id: id.to_owned(),
        exec_id: exec_id.to_owned(),
        pid: state.pid,
        status,
        stdio: Stdio {
            stdin: state.stdin,
            stdout: state.stdout,
            stderr: state.stderr,
            terminal: state.terminal,
        },
        exit: (status == Status::Stopped).then_some(exit),
    }
}

pub(crate) fn time(timestamp: Option<Timestamp>) -> SystemTime {
    timestamp
        .and_then(|timestamp| SystemTime::try_from(timestamp).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_code_says_so_once() {
        let said = |words: &str| error(ttrpc::Status::new(Code::Unknown, words)).to_string();
        assert_eq!(
            said("cannot start a running process"),
            "cannot start a running process: unknown"
        );
        assert_eq!(said("no luck: unknown"), "no luck: unknown");
        let missing = error(ttrpc::Status::new(Code::NotFound, "process does not exist a"));
        assert_eq!(missing.to_string(), "process does not exist a");
    }

    #[test]
    fn only_a_stopped_process_has_an_exit() {
        let mut state = pb::StateResponse { pid: 7, exit_status: 3, ..Default::default() };
        state.set_status(task::Status::Running);
        assert_eq!(process("a", "", state.clone()).exit, None);
        state.set_status(task::Status::Stopped);
        let exit = process("a", "", state).exit.unwrap();
        assert_eq!((exit.pid, exit.status), (7, 3));
    }
}
