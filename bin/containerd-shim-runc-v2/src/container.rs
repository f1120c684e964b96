// SPDX-License-Identifier: Apache-2.0
//! One container and its processes, with one owner.
//!
//! The owner takes one message after the other: calls, and exits of processes. So an exit is told
//! after the start of the same process, whichever came first, and the exit of the first process is
//! told last of all.
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::containerd::{
    events::{TaskExit, TaskPaused, TaskResumed, TaskStart},
    runc::v1::Options,
    task::v3::{CheckpointTaskRequest, ExecProcessRequest},
};
use cgroups::Cgroup;
use shim::{Context, Exited, Expecting, stdio::Io, stdio::Stdio};
use sys::failpoint;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tracing::{error, warn};
use types::{Error, Result};

use crate::{
    oom::Oom,
    process::{Exit, Facts, Process, Target},
    runc::{Failure, Runc},
    state::{Action, State},
};

mod checkpoint;
mod create;
mod delete;
mod exec;

pub(crate) use create::create;

const SIGKILL: u32 = 9;
/// How long a container that is to be killed may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whoever answers is gone only if the shim is: then nobody is left to be answered.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What a container is asked for.
#[derive(Debug)]
pub(crate) enum Call {
    Start { exec_id: String, reply: Reply<u32> },
    Delete { exec_id: String, reply: Reply<Facts> },
    Exec { request: Box<ExecProcessRequest>, reply: Reply<()> },
    Kill { exec_id: String, signal: u32, all: bool, reply: Reply<()> },
    Resize { exec_id: String, columns: u16, rows: u16, reply: Reply<()> },
    CloseStdin { exec_id: String, reply: Reply<()> },
    Pause { reply: Reply<()> },
    Resume { reply: Reply<()> },
    Update { resources: Vec<u8>, reply: Reply<()> },
    Checkpoint { request: Box<CheckpointTaskRequest>, reply: Reply<()> },
}

impl Call {
    /// The process that it is about: the first has an empty id.
    fn exec_id(&self) -> &str {
        match self {
            Self::Start { exec_id, .. }
            | Self::Delete { exec_id, .. }
            | Self::Kill { exec_id, .. }
            | Self::Resize { exec_id, .. }
            | Self::CloseStdin { exec_id, .. } => exec_id,
            _ => "",
        }
    }
}

/// What an owner is told.
#[derive(Debug)]
pub(crate) enum Message {
    Call(Call),
    /// A process has ended.
    Exited {
        exec_id: String,
        exited: Exited,
    },
    /// A process was started, or not.
    Started {
        exec_id: String,
        outcome: Result<Box<Started>>,
        reply: Reply<u32>,
    },
}

/// A process that was started, and whose exit is not watched yet.
#[derive(Debug)]
pub(crate) struct Started {
    pid: u32,
    io: Io,
    _expecting: Expecting,
}

/// How others see a container: they ask its owner, or read what the owner has said.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) runc: Runc,
    messages: mpsc::UnboundedSender<Message>,
    processes: Mutex<BTreeMap<String, Known>>,
    cgroup: Mutex<Option<Cgroup>>,
}

/// A process as others see it.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) stdio: Stdio,
    target: Target,
    pub(crate) facts: watch::Receiver<Facts>,
}

impl Handle {
    /// Asks the owner, and waits for the answer. The call goes on when nobody waits any more.
    pub(crate) async fn ask<T>(&self, call: impl FnOnce(Reply<T>) -> Call) -> Result<T> {
        let gone = || Error::not_found("container not created");
        let (reply, answer) = oneshot::channel();
        self.messages.send(Message::Call(call(reply))).map_err(|_closed| gone())?;
        answer.await.unwrap_or_else(|_closed| Err(gone()))
    }

    /// Sends a signal. A container whose runtime hangs can still be killed: then its first process
    /// is, and what the runtime was at with it.
    pub(crate) async fn kill(&self, exec_id: String, signal: u32, all: bool) -> Result<()> {
        let is_last_word = signal == SIGKILL && exec_id.is_empty();
        let asked = self.ask(|reply| Call::Kill { exec_id, signal, all, reply });
        if !is_last_word || !self.runc.has_plain_processes() {
            return asked.await;
        }
        match timeout(PATIENCE, asked).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                warn!(id = self.id, "the runtime hangs, and is killed with the container");
                let sent = self.process("")?.target.signal(signal);
                self.runc.interrupt();
                sent
            }
        }
    }

    /// What is known of a process; the first has an empty id.
    pub(crate) fn process(&self, exec_id: &str) -> Result<Known> {
        lock(&self.processes).get(exec_id).cloned().ok_or_else(|| missing(exec_id))
    }

    /// The processes that were added, by their numbers.
    pub(crate) fn exec_ids(&self) -> BTreeMap<u32, String> {
        let processes = lock(&self.processes);
        let added = processes.iter().filter(|(exec_id, _)| !exec_id.is_empty());
        added.map(|(exec_id, known)| (known.facts.borrow().pid, exec_id.clone())).collect()
    }

    /// Where its resources are counted.
    pub(crate) fn cgroup(&self) -> Option<Cgroup> {
        lock(&self.cgroup).clone()
    }

    fn introduce(&self, exec_id: &str, process: &Process) {
        let (stdio, target) = (process.stdio.clone(), process.target().clone());
        let known = Known { stdio, target, facts: process.watch() };
        lock(&self.processes).insert(exec_id.to_owned(), known);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one who changes anything about a container.
pub(crate) struct Owner {
    context: Context,
    handle: Arc<Handle>,
    inbox: mpsc::UnboundedReceiver<Message>,
    options: Options,
    checkpoint: String,
    parent_checkpoint: String,
    /// Whether the kernel ends all processes with the first.
    ends_together: bool,
    init: Process,
    execs: BTreeMap<String, Process>,
    /// The exit of the first process, until those of all others were told.
    held_exit: Option<Exited>,
    oom: Oom,
}

impl Owner {
    /// How others see the container.
    pub(crate) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handle)
    }

    /// Looks after the container until it is deleted.
    pub(crate) async fn run(mut self) {
        loop {
            let message = tokio::select! {
                Some(message) = self.inbox.recv() => message,
                () = self.oom.happened() => {
                    self.oom.tell(&self.handle.id, &self.context.publisher);
                    continue;
                }
            };
            match message {
                Message::Call(Call::Delete { exec_id, reply }) if exec_id.is_empty() => {
                    let deleted = self.delete().await;
                    let is_gone = deleted.is_ok();
                    answer(reply, deleted);
                    if is_gone {
                        return;
                    }
                }
                Message::Call(call) => self.serve(call).await,
                Message::Exited { exec_id, exited } => self.exited(&exec_id, exited).await,
                Message::Started { exec_id, outcome, reply } => {
                    self.started(&exec_id, outcome, reply).await;
                }
            }
        }
    }

    async fn serve(&mut self, call: Call) {
        if let Some(process) = self.execs.get_mut(call.exec_id())
            && process.state() == State::Starting
        {
            return process.waiting.push_back(call);
        }
        match call {
            Call::Start { exec_id, reply } if exec_id.is_empty() => {
                answer(reply, self.start().await);
            }
            Call::Start { exec_id, reply } => self.start_exec(exec_id, reply),
            Call::Delete { exec_id, reply } => self.delete_exec(&exec_id, reply),
            Call::Exec { request, reply } => answer(reply, self.exec(*request)),
            Call::Kill { exec_id, signal, all, reply } => {
                answer(reply, self.kill(&exec_id, signal, all).await);
            }
            Call::Resize { exec_id, columns, rows, reply } => {
                answer(reply, self.resize(&exec_id, columns, rows));
            }
            Call::CloseStdin { exec_id, reply } => {
                answer(reply, self.process(&exec_id).map(|process| process.io.close_stdin()));
            }
            Call::Pause { reply } => answer(reply, self.pause().await),
            Call::Resume { reply } => answer(reply, self.resume().await),
            Call::Update { resources, reply } => answer(reply, self.update(&resources).await),
            Call::Checkpoint { request, reply } => answer(reply, self.checkpoint(&request).await),
        }
    }

    fn process(&mut self, exec_id: &str) -> Result<&mut Process> {
        if exec_id.is_empty() {
            return Ok(&mut self.init);
        }
        self.execs.get_mut(exec_id).ok_or_else(|| missing(exec_id))
    }

    /// Starts the first process.
    async fn start(&mut self) -> Result<u32> {
        self.init.allow(Action::Start)?;
        if self.init.state() == State::Restorable {
            self.restore().await?;
            self.count();
        } else {
            // Before it runs: it may run out of memory in no time.
            self.count();
            failpoint::reach("shim.start.begun")?;
            let called = self.handle.runc.start(&self.handle.id).await;
            let called = called.or_else(Failure::unless_done);
            called.map_err(|failure| failure.named("OCI runtime start failed"))?;
        }
        failpoint::reach("shim.start.made")?;
        self.init.enter(State::Running);
        let pid = self.init.facts().pid;
        let start = TaskStart { container_id: self.handle.id.clone(), pid };
        self.context.publisher.publish(&start);
        Ok(pid)
    }

    /// Finds where resources are counted, and whether memory runs out there.
    fn count(&mut self) {
        let mut found = lock(&self.handle.cgroup);
        if found.is_none() {
            *found = Cgroup::of_pid(self.init.facts().pid).ok();
        }
        if let Some(cgroup) = &*found {
            self.oom = Oom::watch(cgroup);
        }
    }

    async fn kill(&mut self, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        process.allow(Action::Kill)?;
        failpoint::reach("shim.kill.begun")?;
        if !exec_id.is_empty() {
            return process.target().signal(signal);
        }
        // A process that is stopped where it is may need to be woken up to die.
        let is_simple = !all && matches!(process.state(), State::Created | State::Running);
        if is_simple && self.handle.runc.has_plain_processes() {
            return self.init.target().signal(signal);
        }
        let called = self.handle.runc.kill(&self.handle.id, signal, all).await;
        called.map_err(|failure| failure.of_kill())
    }

    fn resize(&mut self, exec_id: &str, columns: u16, rows: u16) -> Result<()> {
        let process = self.process(exec_id)?;
        process.allow(Action::Resize)?;
        Ok(process.io.resize(columns, rows)?)
    }

    async fn pause(&mut self) -> Result<()> {
        self.init.allow(Action::Pause)?;
        self.init.enter(State::Pausing);
        if let Err(failure) = self.handle.runc.pause(&self.handle.id).await {
            if failure.leaves_remains() {
                // It may be paused nevertheless; if it is not, this says so and does nothing.
                drop(self.handle.runc.resume_if_it_answers(&self.handle.id).await);
            }
            self.init.enter(State::Running);
            return Err(failure.named("OCI runtime pause failed"));
        }
        self.init.enter(State::Paused);
        let paused = TaskPaused { container_id: self.handle.id.clone() };
        self.context.publisher.publish(&paused);
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        self.init.allow(Action::Resume)?;
        let called = self.handle.runc.resume(&self.handle.id).await;
        let called = called.or_else(Failure::unless_done);
        called.map_err(|failure| failure.named("OCI runtime resume failed"))?;
        self.init.enter(State::Running);
        let resumed = TaskResumed { container_id: self.handle.id.clone() };
        self.context.publisher.publish(&resumed);
        Ok(())
    }

    async fn update(&mut self, resources: &[u8]) -> Result<()> {
        self.init.allow(Action::Update)?;
        let called = self.handle.runc.update(&self.handle.id, resources).await;
        called.map_err(|failure| failure.plain())
    }

    /// A process has ended.
    async fn exited(&mut self, exec_id: &str, exited: Exited) {
        // What happened has happened: at this place a shim can only be killed.
        drop(failpoint::reach("shim.exit.seen"));
        // Why it has ended is told before that it has.
        self.oom.tell(&self.handle.id, &self.context.publisher);
        if exec_id.is_empty() {
            if !self.ends_together {
                self.kill_the_rest().await;
            }
            self.held_exit = Some(exited);
        } else if let Some(process) = self.execs.get_mut(exec_id) {
            process.ended(exited.into());
            let pid = process.facts().pid;
            self.tell_exit(exec_id.to_owned(), pid, exited.into());
        }
        self.release_exit().await;
    }

    /// Tells the exit of the first process, unless others are still to end before.
    async fn release_exit(&mut self) {
        if self.execs.values().any(|process| process.state().is_alive()) {
            return;
        }
        let Some(exited) = self.held_exit.take() else { return };
        if self.init.state() == State::Paused
            && let Err(failure) = self.handle.runc.resume(&self.handle.id).await
        {
            warn!(error = %failure.plain(), "resuming exited container from paused state");
        }
        self.init.ended(exited.into());
        let (id, pid) = (self.handle.id.clone(), self.init.facts().pid);
        self.tell_exit(id, pid, exited.into());
    }

    fn tell_exit(&self, id: String, pid: u32, exit: Exit) {
        self.context.publisher.publish(&TaskExit {
            container_id: self.handle.id.clone(),
            id,
            pid,
            exit_status: exit.status,
            exited_at: Some(exit.at.into()),
        });
    }

    /// Ends what the kernel does not, because others share the processes' namespace.
    async fn kill_the_rest(&self) {
        let called = self.handle.runc.kill(&self.handle.id, SIGKILL, true).await;
        if let Err(failure) = called.or_else(Failure::unless_gone) {
            error!(error = %failure.plain(), id = self.handle.id, "failed to kill init's children");
        }
    }

    /// Has the exit of a process told to the owner.
    fn watch_exit(&self, exec_id: &str, pid: u32) {
        let (messages, exec_id) = (self.handle.messages.clone(), exec_id.to_owned());
        self.context.exits.watch(pid, move |exited| {
            // Once the container is deleted, nobody wants to know.
            drop(messages.send(Message::Exited { exec_id, exited }));
        });
    }
}

fn missing(exec_id: &str) -> Error {
    Error::not_found(format!("process does not exist {exec_id}"))
}

/// Answers whoever still waits.
fn answer<T>(reply: Reply<T>, result: Result<T>) {
    drop(reply.send(result));
}
