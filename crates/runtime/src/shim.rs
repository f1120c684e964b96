// SPDX-License-Identifier: Apache-2.0
//! A running shim, as the daemon speaks to it.
use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use api::{
    containerd::{task::v3 as pb, v1::types as task},
    service::{SANDBOX, TASK_V2, TASK_V3},
};
use bytes::Bytes;
use cgroups::Cgroup;
use prost::Message;
use prost_types::Timestamp;
use shim::bootstrap::Answer;
use types::{Error, Kind, Result};

use crate::{
    Exit, Process, Status, Stdio,
    bundle::Bundle,
    channel::{self, Call, Channel, Connector},
    silence::{GRACE, Silence},
};

/// A shim that has answered, with its task or on the way to it.
pub(crate) struct Shim {
    pub(crate) bundle: Bundle,
    pub(crate) program: PathBuf,
    channel: Arc<dyn Channel>,
    /// Where it listens.
    pub(crate) answer: Answer,
    /// The task API that it speaks. A socket may be older than the program on disk, so an answer
    /// of "no such service" turns it down to 2.
    version: AtomicU32,
    silence: Silence,
    /// Where its task is, if the daemon may look there itself.
    cgroup: OnceLock<Cgroup>,
}

impl Shim {
    /// Connects to where `answer` says that a shim listens.
    ///
    /// Errors: `Unavailable` when nobody does.
    pub(crate) async fn connect(
        bundle: Bundle,
        program: PathBuf,
        answer: Answer,
        grpc: Option<&dyn Connector>,
        patience: Duration,
    ) -> Result<Self> {
        let connecting = async {
            match (answer.protocol.to_ascii_lowercase().as_str(), grpc) {
                ("ttrpc", _) => channel::ttrpc(&answer.address).await,
                ("grpc", Some(grpc)) => grpc.connect(&answer.address).await,
                _ => Err(Error::said(
                    Kind::Unknown,
                    format!("unexpected protocol: {:?}", answer.protocol),
                )),
            }
        };
        let channel = tokio::time::timeout(patience, connecting)
            .await
            .map_err(|_elapsed| Error::deadline(format!("connect to {}", answer.address)))??;
        let version = AtomicU32::new(answer.version);
        let silence = Silence::default();
        if let Some(pid) = bundle.shim_pid() {
            silence.is_of(pid);
        }
        Ok(Self { bundle, program, channel, answer, version, silence, cgroup: OnceLock::new() })
    }

    /// Where and how it is spoken to, as it turned out.
    pub(crate) fn answer(&self) -> Answer {
        Answer { version: self.version.load(Ordering::Relaxed), ..self.answer.clone() }
    }

    /// Whether its API turned out to be older than it had said.
    pub(crate) fn was_turned_down(&self) -> bool {
        self.answer() != self.answer
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
        self.ask(method, request, Some(patience)).await
    }

    /// Calls a method of the task service that may take for ever.
    pub(crate) async fn call_patiently<Q, R>(&self, method: &str, request: &Q) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        self.ask(method, request, None).await
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
        let namespace = &self.bundle.namespace;
        let payload = request.encode_to_vec().into();
        let call = Call { service: SANDBOX, method, namespace, payload, patience };
        decode(&self.channel.call(call).await?)
    }

    /// Asks what any shim can tell at once. One that does not is silent from then on.
    ///
    /// Errors: `DeadlineExceeded` when it is silent.
    pub(crate) async fn tell<Q, R>(
        &self,
        method: &str,
        request: &Q,
        patience: Duration,
    ) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        if self.silence.is_silent() {
            return Err(self.no_answer());
        }
        let mut call = std::pin::pin!(self.call(method, request, patience));
        let answer = match tokio::time::timeout(GRACE, &mut call).await {
            Ok(answer) => answer,
            Err(_) if self.silence.is_stopped() => Err(self.no_answer()),
            Err(_) => call.await,
        };
        if answer.as_ref().is_err_and(|error| error.kind() == Kind::DeadlineExceeded) {
            tracing::warn!(id = self.bundle.id, "a shim does not answer");
            self.silence.begin();
        }
        answer
    }

    fn no_answer(&self) -> Error {
        Error::deadline(format!("the shim of task {} does not answer", self.bundle.id))
    }

    /// Waits until the shim falls silent, and then until it has answered. It never ends by itself
    /// but for that.
    pub(crate) async fn revived(&self) {
        self.silence.begun().await;
        let request = pb::StateRequest { id: self.bundle.id.clone(), exec_id: String::new() };
        // Whatever it says, it has said something; that it is gone, others see.
        drop(self.call_patiently::<_, pb::StateResponse>("State", &request).await);
        if !self.is_closed() {
            tracing::info!(id = self.bundle.id, "a shim answers again");
            self.silence.end();
        }
    }

    async fn ask<Q, R>(&self, method: &str, request: &Q, patience: Option<Duration>) -> Result<R>
    where
        Q: Message,
        R: Message + Default,
    {
        let payload = Bytes::from(request.encode_to_vec());
        let call = |service| Call {
            service,
            method,
            namespace: &self.bundle.namespace,
            payload: payload.clone(),
            patience,
        };
        if self.version.load(Ordering::Relaxed) >= 3 {
            match self.channel.call(call(TASK_V3)).await {
                Err(error) if is_missing_service(&error) => {
                    self.version.store(2, Ordering::Relaxed);
                }
                answer => return decode(&answer?),
            }
        }
        decode(&self.channel.call(call(TASK_V2)).await?)
    }

    /// Waits until the shim is gone.
    pub(crate) async fn closed(&self) {
        self.channel.closed().await;
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.channel.is_closed()
    }

    /// Where the daemon may look itself for what the task uses.
    pub(crate) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.get()
    }

    /// Lets the daemon look there itself.
    pub(crate) fn is_in(&self, cgroup: Cgroup) {
        // A second answer would be the same.
        drop(self.cgroup.set(cgroup));
    }
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

fn decode<R: Message + Default>(answer: &Bytes) -> Result<R> {
    R::decode(answer.clone()).map_err(|e| Error::caused(Kind::Internal, "answer of a shim", e))
}

/// Whether there is no task service of version 3, in the words of ttrpc or of gRPC.
fn is_missing_service(error: &Error) -> bool {
    let text = error.to_string();
    error.kind() == Kind::Unimplemented && text.contains(TASK_V3) && !text.contains("method")
}

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

pub(crate) fn domain_any(any: prost_types::Any) -> types::Any {
    types::Any { type_url: any.type_url, value: any.value.into() }
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
    fn only_a_missing_service_turns_a_shim_down() {
        let said = |kind, text: &'static str| Error::said(kind, text);
        for text in ["service containerd.task.v3.Task", "unknown service containerd.task.v3.Task"] {
            assert!(is_missing_service(&said(Kind::Unimplemented, text)), "{text}");
            assert!(!is_missing_service(&said(Kind::NotFound, text)), "{text}");
        }
        let method = "unknown method Stats for service containerd.task.v3.Task";
        assert!(!is_missing_service(&said(Kind::Unimplemented, method)));
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
