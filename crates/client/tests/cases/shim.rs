// SPDX-License-Identifier: Apache-2.0
//! Tasks without containers: each process is a thread that speaks through its named pipes as a shim
//! does, and says back what it is told.
use std::{
    collections::HashMap,
    io::{Read, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use fs_err::File;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use runtime::{Create, Exec, Exit, Metric, Pid, Process, Status, Stdio, Tasks};
use types::{Any, Descriptor, Error, Filters, Labels, Result};

type Key = (String, String);

#[derive(Default)]
pub(crate) struct Shim {
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    processes: HashMap<Key, Process>,
    created: Vec<Create>,
    calls: Vec<String>,
    closed: Vec<Key>,
}

impl Shim {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    /// The tasks that were made.
    pub(crate) fn created(&self) -> Vec<Create> {
        self.state().created.clone()
    }

    /// What was asked for, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Ends a process.
    pub(crate) fn exit(&self, id: &str, exec_id: &str, status: u32) {
        exit(&self.state, &key(id, exec_id), status);
    }

    fn add(&self, id: &str, exec_id: &str, stdio: Stdio) -> Result<u32> {
        let mut state = self.state();
        let pid = 1000 + state.processes.len() as u32;
        let process = Process {
            id: id.into(),
            exec_id: exec_id.into(),
            pid,
            status: Status::Created,
            stdio,
            exit: None,
        };
        match state.processes.insert(key(id, exec_id), process) {
            None => Ok(pid),
            Some(_) => Err(Error::already_exists(format!("task {id}"))),
        }
    }
}

fn key(id: &str, exec_id: &str) -> Key {
    (id.to_owned(), exec_id.to_owned())
}

fn exit(state: &(Mutex<State>, Condvar), key: &Key, status: u32) {
    let mut locked = state.0.lock().unwrap();
    if let Some(process) = locked.processes.get_mut(key) {
        process.status = Status::Stopped;
        process.exit = Some(Exit { pid: process.pid, status, at: SystemTime::now() });
    }
    state.1.notify_all();
}

/// Runs a process: it copies its input to its output, says so on its error output, and exits with 7
/// once its input has been closed and has ended.
fn run(state: &(Mutex<State>, Condvar), key: &Key, stdio: &Stdio) {
    let open =
        |path: &str| (!path.is_empty()).then(|| File::options().write(true).open(path).unwrap());
    let (mut out, mut err) = (open(&stdio.stdout), open(&stdio.stderr));
    if !stdio.stdin.is_empty() {
        // A shim takes its time, and holds the writing end too until it is told to close it.
        thread::sleep(Duration::from_millis(30));
        let mut input = File::options().read(true).custom_flags(0o4000).open(&stdio.stdin).unwrap();
        let mut buffer = [0; 4096];
        let mut ends = 0;
        while ends < 2 {
            match input.read(&mut buffer) {
                Ok(len) if len > 0 => out.as_mut().unwrap().write_all(&buffer[..len]).unwrap(),
                _ if state.0.lock().unwrap().closed.contains(key) => ends += 1,
                _ => thread::sleep(Duration::from_millis(1)),
            }
        }
    }
    if let Some(err) = &mut err {
        err.write_all(b"done").unwrap();
    }
    drop((out, err));
    exit(state, key, 7);
}

#[async_trait]
impl Tasks for Shim {
    async fn create(&self, create: Create) -> Result<u32> {
        if create.id == "broken" {
            return Err(Error::unavailable("shim"));
        }
        let pid = self.add(&create.id, "", create.stdio.clone())?;
        self.state().created.push(create);
        Ok(pid)
    }

    async fn start(&self, id: &str, exec_id: &str) -> Result<u32> {
        let mut state = self.state();
        let process = state.processes.get_mut(&key(id, exec_id)).unwrap();
        process.status = Status::Running;
        let (pid, stdio, key) = (process.pid, process.stdio.clone(), key(id, exec_id));
        if stdio != Stdio::default() {
            let state = self.state.clone();
            thread::spawn(move || run(&state, &key, &stdio));
        }
        Ok(pid)
    }

    async fn delete(&self, id: &str) -> Result<Exit> {
        self.delete_process(id, "").await
    }

    async fn delete_process(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let mut state = self.state();
        state.calls.push(format!("delete {id} {exec_id}"));
        Ok(state.processes.remove(&key(id, exec_id)).unwrap().exit.unwrap())
    }

    async fn get(&self, id: &str, exec_id: &str) -> Result<Process> {
        let process = self.state().processes.get(&key(id, exec_id)).cloned();
        process.ok_or_else(|| Error::not_found(format!("task {id}")))
    }

    async fn list(&self) -> Result<Vec<Process>> {
        Ok(self.state().processes.values().cloned().collect())
    }

    async fn kill(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Result<()> {
        self.state().calls.push(format!("kill {id} {exec_id} {signal} {all}"));
        self.exit(id, exec_id, 128 + signal);
        Ok(())
    }

    async fn exec(&self, exec: Exec) -> Result<()> {
        self.add(&exec.id, &exec.exec_id, exec.stdio).map(drop)
    }

    async fn resize(&self, id: &str, _exec_id: &str, width: u32, height: u32) -> Result<()> {
        self.state().calls.push(format!("resize {id} {width}x{height}"));
        Ok(())
    }

    async fn close_io(&self, id: &str, exec_id: &str, stdin: bool) -> Result<()> {
        assert!(stdin);
        self.state().closed.push(key(id, exec_id));
        Ok(())
    }

    async fn pause(&self, _id: &str) -> Result<()> {
        Err(Error::unimplemented("pause"))
    }

    async fn resume(&self, _id: &str) -> Result<()> {
        Err(Error::unimplemented("resume"))
    }

    async fn pids(&self, _id: &str) -> Result<Vec<Pid>> {
        Err(Error::unimplemented("pids"))
    }

    async fn checkpoint(&self, _id: &str, _options: Option<Any>) -> Result<Vec<Descriptor>> {
        Err(Error::unimplemented("checkpoint"))
    }

    async fn update(&self, _id: &str, _resources: Option<Any>, _notes: Labels) -> Result<()> {
        Err(Error::unimplemented("update"))
    }

    async fn metrics(&self, _filters: &Filters) -> Result<Vec<Metric>> {
        Err(Error::unimplemented("metrics"))
    }

    async fn wait(&self, id: &str, exec_id: &str) -> Result<Exit> {
        let (state, key) = (self.state.clone(), key(id, exec_id));
        let waiting = tokio::task::spawn_blocking(move || {
            let mut locked = state.0.lock().unwrap();
            loop {
                match locked.processes.get(&key) {
                    None => return Err(Error::not_found("task")),
                    Some(Process { exit: Some(exit), .. }) => return Ok(*exit),
                    Some(_) => locked = state.1.wait(locked).unwrap(),
                }
            }
        });
        waiting.await.unwrap()
    }
}
