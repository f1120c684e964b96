// SPDX-License-Identifier: Apache-2.0
//! `ctr shim`: speaks to a shim itself, past its daemon. For shims that are being written, and for
//! daemons that do not answer.
use std::{
    io,
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
    time::Duration,
};

use api::{
    containerd::task::v3 as pb,
    service::{TASK_V2, TASK_V3},
};
use clap::{Args, Subcommand};
use fs_err as fs;
use prost_types::Any;
use serde_json::Value;
use ttrpc::{CallOptions, Client, Code, Status};
use types::{Context as _, Error, Kind, Result};

use crate::{connection::Connection, json, terminal::Terminal};

/// How a specification of a process is called on the wire (containerd `core/runtime/typeurl.go`).
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// The metadata that carries the namespace (containerd `pkg/namespaces/ttrpc.go`).
const NAMESPACE: &str = "containerd-namespace-ttrpc";
/// How long a shim may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// Speak to a shim itself, and not to the daemon.
#[derive(Debug, Args)]
pub(crate) struct Shim {
    /// The container's name
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    id: String,
    /// Where the shim listens, where that does not follow from address, namespace and name
    #[arg(long, value_name = "PATH", alias = "shim-address")]
    socket: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Delete a container that has ended, or a process that was added to it
    Delete {
        /// The process; the container where none is named
        #[arg(default_value = "", hide_default_value = true)]
        exec_id: String,
    },
    /// Add a process to the container, and start it
    Exec(NewProcess),
    /// Start a container that was created
    Start {
        /// A process that was added, and not the container
        #[arg(default_value = "", hide_default_value = true)]
        exec_id: String,
    },
    /// Print the state of the container, or of a process that was added to it
    State {
        /// The container, where the shim has several
        #[arg(long, short, value_name = "ID")]
        task_id: Option<String>,
        #[command(flatten)]
        spoken: Spoken,
        /// The process; the container where none is named
        #[arg(default_value = "", hide_default_value = true)]
        exec_id: String,
    },
    /// End a shim that has no containers any more
    Shutdown(Spoken),
}

/// Which version of the task API to speak.
#[derive(Clone, Copy, Debug, Args)]
struct Spoken {
    /// The version of the shim's API, 2 or 3; the newest that it knows where none is given
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u32).range(2..=3))]
    api_version: Option<u32>,
}

#[derive(Debug, Args)]
struct NewProcess {
    /// The named pipe for its input
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    stdin: String,
    /// The named pipe for its output
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    stdout: String,
    /// The named pipe for its errors
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    stderr: String,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Make the named pipes, and stay until the process has ended
    #[arg(long, short)]
    attach: bool,
    /// Further environment variables, KEY=value
    #[arg(long, short, value_name = "VARIABLE")]
    env: Vec<String>,
    /// The directory to start in
    #[arg(long, value_name = "DIRECTORY")]
    cwd: Option<String>,
    /// A file with the specification of the process, in JSON
    #[arg(long, value_name = "FILE")]
    spec: PathBuf,
    /// A name for the process
    exec_id: String,
}

impl Shim {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let address = self.address(connection)?;
        let dialled = tokio::time::timeout(PATIENCE, Client::connect(&address)).await;
        let client =
            dialled.map_err(|_elapsed| Error::deadline(format!("connect to {address}")))?.map_err(
                |error| Error::caused(Kind::Unavailable, format!("connect to {address}"), error),
            )?;
        let namespace = connection.namespace().to_owned();
        let mut peer = Peer { client, namespace, id: self.id, version: None };
        match self.command {
            Command::Delete { exec_id } => peer.delete(exec_id).await,
            Command::Exec(exec) => exec.run(&peer).await,
            Command::Start { exec_id } => peer.start(exec_id).await.map(drop),
            Command::State { task_id, spoken, exec_id } => {
                peer.version = spoken.api_version;
                peer.id = task_id.unwrap_or(peer.id);
                peer.state(exec_id).await
            }
            Command::Shutdown(spoken) => {
                peer.version = spoken.api_version;
                peer.shutdown().await
            }
        }
    }

    /// Where the shim of a container listens that is in no group (containerd
    /// `pkg/shim/util_unix.go`, `SocketAddress`).
    fn address(&self, connection: &Connection) -> Result<String> {
        if let Some(socket) = &self.socket {
            return Ok(format!("unix://{}", socket.strip_prefix("unix://").unwrap_or(socket)));
        }
        if self.id.is_empty() {
            return Err(Error::invalid("container id must be specified"));
        }
        let (daemon, namespace) =
            (connection.address().display().to_string(), connection.namespace());
        Ok(shim::socket::address(shim::socket::DIRECTORY, &daemon, namespace, &self.id))
    }
}

/// A shim, and the container that it is asked about.
struct Peer {
    client: Client,
    namespace: String,
    id: String,
    /// The only version of the API that it is spoken to in.
    version: Option<u32>,
}

impl Peer {
    /// Calls a method of the newest task API, and of the one before if the shim knows no newer.
    async fn call<Q, R>(&self, method: &str, request: &Q, options: CallOptions) -> Result<R>
    where
        Q: prost::Message,
        R: prost::Message + Default,
    {
        let options = options.metadata(NAMESPACE, self.namespace.clone());
        let newest = if self.version == Some(2) { TASK_V2 } else { TASK_V3 };
        let answer = match self.client.call(newest, method, request, &options).await {
            Err(status) if self.version.is_none() && status.code == Code::Unimplemented => {
                self.client.call(TASK_V2, method, request, &options).await
            }
            answer => answer,
        };
        answer.map_err(|Status { code, message, .. }| {
            Error::said(Kind::from_code(code as i32), message)
        })
    }

    async fn start(&self, exec_id: String) -> Result<u32> {
        let request = pb::StartRequest { id: self.id.clone(), exec_id };
        let started: pb::StartResponse = self.call("Start", &request, in_time()).await?;
        Ok(started.pid)
    }

    async fn delete(&self, exec_id: String) -> Result<()> {
        let request = pb::DeleteRequest { id: self.id.clone(), exec_id };
        let deleted: pb::DeleteResponse = self.call("Delete", &request, in_time()).await?;
        println!("container deleted and returned exit status {}", deleted.exit_status);
        Ok(())
    }

    async fn state(&self, exec_id: String) -> Result<()> {
        let request = pb::StateRequest { id: self.id.clone(), exec_id };
        let state: pb::StateResponse = self.call("State", &request, in_time()).await?;
        let shown = serde_json::to_string_pretty(&shown(&state));
        println!("{}", shown.map_err(io::Error::from)?);
        Ok(())
    }

    async fn shutdown(&self) -> Result<()> {
        let request = pb::ShutdownRequest { id: self.id.clone(), now: false };
        self.call("Shutdown", &request, in_time()).await
    }

    async fn wait(&self, exec_id: String) -> Result<()> {
        let request = pb::WaitRequest { id: self.id.clone(), exec_id };
        let _: pb::WaitResponse = self.call("Wait", &request, CallOptions::new()).await?;
        Ok(())
    }
}

fn in_time() -> CallOptions {
    CallOptions::new().timeout(PATIENCE)
}

/// A state in JSON, in the words of its definition.
fn shown(state: &pb::StateResponse) -> Value {
    use json::Field as _;
    json::object([
        ("id", state.id.value()),
        ("bundle", state.bundle.value()),
        ("pid", state.pid.value()),
        ("status", Value::from(state.status().as_str_name())),
        ("stdin", state.stdin.value()),
        ("stdout", state.stdout.value()),
        ("stderr", state.stderr.value()),
        ("terminal", state.terminal.value()),
        ("exit_status", state.exit_status.value()),
        ("exited_at", state.exited_at.value()),
        ("exec_id", state.exec_id.value()),
    ])
}

impl NewProcess {
    async fn run(self, peer: &Peer) -> Result<()> {
        let value = self.process(&fs::read(&self.spec)?)?;
        let carriers = if self.attach { self.carry()? } else { Vec::new() };
        let request = pb::ExecProcessRequest {
            id: peer.id.clone(),
            exec_id: self.exec_id.clone(),
            terminal: self.tty,
            stdin: self.stdin.clone(),
            stdout: self.stdout.clone(),
            stderr: self.stderr.clone(),
            spec: Some(Any { type_url: PROCESS.to_owned(), value }),
        };
        let _: () = peer.call("Exec", &request, in_time()).await?;
        let pid = peer.start(self.exec_id.clone()).await?;
        println!("exec running with pid {pid}");
        if !self.attach {
            return Ok(());
        }
        let terminal = self.tty.then(Terminal::raw).transpose()?;
        if let Some(size) = terminal.as_ref().and_then(Terminal::size) {
            let (id, exec_id) = (peer.id.clone(), self.exec_id.clone());
            let request =
                pb::ResizePtyRequest { id, exec_id, width: size.width, height: size.height };
            let _: () = peer.call("ResizePty", &request, in_time()).await?;
        }
        peer.wait(self.exec_id.clone()).await?;
        let ended = tokio::task::spawn_blocking(|| carriers.into_iter().for_each(finish));
        ended.await.map_err(|error| Error::internal(error.to_string()))
    }

    /// The process, with what was said on the command line.
    fn process(&self, json: &[u8]) -> Result<Vec<u8>> {
        let name = || self.spec.display().to_string();
        let mut process: Value =
            serde_json::from_slice(json).map_err(io::Error::from).context(name)?;
        let Some(fields) = process.as_object_mut() else {
            return Err(Error::invalid(format!("{} is no process", name())));
        };
        if let Some(cwd) = &self.cwd {
            fields.insert("cwd".into(), cwd.clone().into());
        }
        let env = fields.entry("env").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(env) = env.as_array_mut() {
            env.extend(self.env.iter().map(|variable| Value::from(variable.as_str())));
        }
        Ok(process.to_string().into_bytes())
    }

    /// Makes the pipes that were named, and starts to carry what goes through them.
    fn carry(&self) -> Result<Vec<JoinHandle<()>>> {
        let made = |name: &str| -> Result<Option<PathBuf>> {
            if name.is_empty() {
                return Ok(None);
            }
            sys::fifo::create(Path::new(name), 0o700).context(|| name.to_owned())?;
            Ok(Some(name.into()))
        };
        if let Some(path) = made(&self.stdin)? {
            // It ends with the program, whoever still types.
            drop(thread::spawn(move || {
                let writer = fs::OpenOptions::new().write(true).open(path);
                copy(io::stdin(), writer.map(|file| file.into_parts().0));
            }));
        }
        let mut carriers = Vec::new();
        if let Some(path) = made(&self.stdout)? {
            carriers.push(thread::spawn(move || pass_on(path, io::stdout())));
        }
        if let Some(path) = made(&self.stderr)?.filter(|_| !self.tty) {
            carriers.push(thread::spawn(move || pass_on(path, io::stderr())));
        }
        Ok(carriers)
    }
}

fn pass_on(path: PathBuf, to: impl io::Write) {
    if let Ok(reader) = fs::File::open(path) {
        copy(reader.into_parts().0, Ok(to));
    }
}

/// Copies to the end, or until nobody takes any more, which is an end too.
fn copy(mut from: impl io::Read, to: io::Result<impl io::Write>) {
    if let Ok(mut to) = to {
        drop(io::copy(&mut from, &mut to));
    }
}

fn finish(carrier: JoinHandle<()>) {
    // It reports nothing and does not panic.
    drop(carrier.join());
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        shim: Shim,
    }

    #[test]
    fn the_words_of_go_are_known() {
        for line in [
            "--id a state",
            "--id a start",
            "--id a delete e",
            "--id a shutdown --api-version 2",
            "--shim-address unix:///s state -t a --api-version 3",
        ] {
            let words = ["ctr"].into_iter().chain(line.split(' '));
            assert!(Line::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn what_is_said_is_added_to_the_process() {
        let line = "ctr --id a exec --spec f --cwd /x -e A=b e";
        let shim = Line::try_parse_from(line.split(' ')).unwrap().shim;
        let Command::Exec(exec) = shim.command else { panic!("{line}") };
        let process = exec.process(br#"{"args":["sh"],"cwd":"/","env":["C=d"]}"#).unwrap();
        let process: Value = serde_json::from_slice(&process).unwrap();
        let want = serde_json::json!({"args": ["sh"], "cwd": "/x", "env": ["C=d", "A=b"]});
        assert_eq!(process, want);
        assert!(exec.process(b"[]").is_err());
    }

    #[test]
    fn a_state_is_shown_in_the_words_of_the_wire() {
        let mut state = pb::StateResponse { id: "a".into(), pid: 7, ..Default::default() };
        state.set_status(api::containerd::v1::types::Status::Running);
        assert_eq!(shown(&state).to_string(), r#"{"id":"a","pid":7,"status":"RUNNING"}"#);
    }
}
