// SPDX-License-Identifier: Apache-2.0
//! Processes that are added to a container.
use api::containerd::{
    events::{TaskExecAdded, TaskExecStarted},
    task::v3::ExecProcessRequest,
};
use shim::{
    Context,
    stdio::{self, Handing, Io, Stdio},
};
use sys::failpoint;
use types::{Error, Result};

use super::{Message, Owner, Reply, Started, answer, missing};
use crate::{
    memory_file::MemoryFile,
    process::{Facts, Process, Streams, read_pid},
    runc::{Exec, Runc},
    spec,
    state::{Action, Role, State},
};

impl Owner {
    /// Adds a process. It is not yet started.
    pub(super) fn exec(&mut self, request: ExecProcessRequest) -> Result<()> {
        if self.execs.contains_key(&request.exec_id) {
            return Err(Error::already_exists(format!("id {}", request.exec_id)));
        }
        self.init.allow(Action::Exec)?;
        let json = request.spec.map(|any| any.value).unwrap_or_default();
        let stdio = Stdio {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let mut process = Process::new(Role::Exec, State::Created, stdio);
        process.spec = spec::process(&json, request.terminal)?;
        self.handle.introduce(&request.exec_id, &process);
        self.execs.insert(request.exec_id.clone(), process);
        self.context.publisher.publish(&TaskExecAdded {
            container_id: self.handle.id.clone(),
            exec_id: request.exec_id,
        });
        Ok(())
    }

    /// Starts an added process beside everything else: several may be started at once.
    pub(super) fn start_exec(&mut self, exec_id: String, reply: Reply<u32>) {
        let launch = match self.launch(&exec_id) {
            Ok(launch) => launch,
            Err(error) => return answer(reply, Err(error)),
        };
        let messages = self.handle.messages.clone();
        tokio::spawn(async move {
            let outcome = launch.run().await;
            // The owner goes only when the container does.
            drop(messages.send(Message::Started { exec_id, outcome, reply }));
        });
    }

    fn launch(&mut self, exec_id: &str) -> Result<Launch> {
        let is_over = self.held_exit.is_some() || self.init.state() == State::Stopped;
        let (context, handle) = (self.context.clone(), self.handle.clone());
        let io_owner = match (self.options.io_uid, self.options.io_gid) {
            (0, 0) => None,
            owner => Some(owner),
        };
        let process = self.process(exec_id)?;
        if is_over {
            let message = format!("container {} init process is not running", handle.id);
            return Err(Error::failed_precondition(message));
        }
        process.allow(Action::Start)?;
        process.enter(State::Starting);
        Ok(Launch {
            context,
            runc: handle.runc.clone(),
            id: handle.id.clone(),
            exec_id: exec_id.to_owned(),
            pid_file: handle.bundle.join(format!("{exec_id}.pid")).display().to_string(),
            bundle: handle.bundle.clone(),
            stdio: process.stdio.clone(),
            spec: process.spec.clone(),
            // Others that it starts may outlive it, and would keep its output open.
            handing: Handing::Relayed(io_owner),
        })
    }

    /// A process was started, or not.
    pub(super) async fn started(
        &mut self,
        exec_id: &str,
        outcome: Result<Box<Started>>,
        reply: Reply<u32>,
    ) {
        let Some(process) = self.execs.get_mut(exec_id) else { return };
        let waiting = std::mem::take(&mut process.waiting);
        match outcome {
            Ok(started) => {
                process.born(started.pid);
                process.io = started.io;
                process.enter(State::Running);
                self.context.publisher.publish(&TaskExecStarted {
                    container_id: self.handle.id.clone(),
                    exec_id: exec_id.to_owned(),
                    pid: started.pid,
                });
                self.watch_exit(exec_id, started.pid);
                answer(reply, Ok(started.pid));
            }
            Err(error) => {
                process.stillborn();
                answer(reply, Err(error));
            }
        }
        for call in waiting {
            self.serve(call).await;
        }
        self.release_exit().await;
    }

    /// Removes an added process that does not run. Its last output may take a while to be read,
    /// which holds up nobody else.
    pub(super) fn delete_exec(&mut self, exec_id: &str, reply: Reply<Facts>) {
        match self.forget(exec_id) {
            Err(error) => answer(reply, Err(error)),
            Ok(process) => drop(tokio::spawn(async move {
                let facts = process.facts();
                process.io.finish().await;
                answer(reply, Ok(facts));
            })),
        }
    }

    fn forget(&mut self, exec_id: &str) -> Result<Process> {
        self.process(exec_id)?.allow(Action::Delete)?;
        super::lock(&self.handle.processes).remove(exec_id);
        // It is there only if the process was ever started.
        drop(fs_err::remove_file(self.handle.bundle.join(format!("{exec_id}.pid"))));
        self.execs.remove(exec_id).ok_or_else(|| missing(exec_id))
    }
}

/// A process that is about to be started.
struct Launch {
    context: Context,
    runc: Runc,
    id: String,
    exec_id: String,
    pid_file: String,
    bundle: std::path::PathBuf,
    stdio: Stdio,
    spec: Vec<u8>,
    handing: Handing,
}

impl Launch {
    async fn run(self) -> Result<Box<Started>> {
        failpoint::reach("shim.exec.begun")?;
        let expecting = self.context.exits.expect();
        let owner =
            stdio::Owner { id: self.exec_id.clone(), namespace: self.context.namespace.clone() };
        let mut streams = Streams::prepare(&self.stdio, self.handing, &owner, &self.bundle).await?;
        let process = MemoryFile::with(&self.spec)?;
        let ends = streams.ends();
        let exec = Exec {
            name: &self.exec_id,
            process: &process.path(),
            pid_file: &self.pid_file,
            console: streams.console(),
        };
        // One of an attempt that failed would name a process of then.
        drop(fs_err::remove_file(&self.pid_file));
        if let Err(failure) = self.runc.exec(&self.id, &exec, ends).await {
            if failure.leaves_remains() {
                self.end_nameless();
            }
            return Err(failure.named("OCI runtime exec failed"));
        }
        failpoint::reach("shim.exec.made")?;
        let pid = read_pid(&self.pid_file)?;
        let io: Io = streams.connect(&self.stdio, &owner).await.inspect_err(|_| {
            // Nobody could speak to it.
            drop(sys::kill::process(pid, 9));
        })?;
        Ok(Box::new(Started { pid, io, _expecting: expecting }))
    }

    /// Ends a process that runs though what started it failed: nobody could speak to it.
    fn end_nameless(&self) {
        if let Ok(pid) = read_pid(&self.pid_file) {
            // It may have ended meanwhile.
            drop(sys::kill::process(pid, 9));
        }
    }
}
