// SPDX-License-Identifier: Apache-2.0
//! Telling the daemon what happened, in order, also when it is away for a while.
//!
//! ```text
//! publish(event) --> [queue, 2048] --> one task --Forward--> the daemon's ttrpc socket
//!                                        `-- away? wait, and try the same event again
//! ```
use std::{
    fmt,
    process::Stdio,
    time::{Duration, SystemTime},
};

use api::containerd::{services::events::ttrpc::v1::ForwardRequest, types::Envelope};
use events::Typed;
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};
use tracing::{error, warn};
use ttrpc::{CallOptions, Client, Code, Status};

use crate::process::finished;

/// As many events as Go's shims keep (containerd `pkg/shim/publisher.go`).
const QUEUE: usize = 2048;
/// How long one attempt may take (the same).
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long an event is offered to a daemon that is away, before it and not the next is lost.
const PATIENCE: Duration = Duration::from_mins(10);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The metadata that carries the namespace (containerd `pkg/namespaces/ttrpc.go`).
const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";

/// Where a shim tells what happened. Clones tell the same daemon.
#[derive(Clone, Debug)]
pub struct Publisher {
    namespace: String,
    queue: mpsc::Sender<Item>,
}

#[derive(Debug)]
enum Item {
    Event(Box<Envelope>),
    /// Answered when everything before it was told or given up.
    Mark(oneshot::Sender<()>),
}

/// How to reach the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Daemon {
    /// The ttrpc socket; if it is empty the program is run instead.
    pub(crate) ttrpc_address: String,
    /// The gRPC socket, which the program is told.
    pub(crate) address: String,
    /// The program that publishes.
    pub(crate) publish_binary: String,
}

impl Publisher {
    /// Starts the task that tells.
    pub(crate) fn start(namespace: &str, daemon: Daemon) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        tokio::spawn(Teller { daemon, connection: None }.run(items));
        Self { namespace: namespace.to_owned(), queue }
    }

    /// Tells that something has just happened. It never waits; when the daemon has been away for
    /// thousands of events, further ones are lost and logged.
    pub fn publish<T: Typed>(&self, event: &T) {
        let any = event.to_any();
        let envelope = Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: self.namespace.clone(),
            topic: T::TOPIC.to_owned(),
            event: Some(prost_types::Any { type_url: any.type_url, value: any.value.into() }),
        };
        if self.queue.try_send(Item::Event(Box::new(envelope))).is_err() {
            error!(topic = T::TOPIC, "too many events wait for the daemon: one is lost");
        }
    }

    /// Waits until all that was published before is told, but no longer than this.
    pub(crate) async fn flush(&self, limit: Duration) {
        let (mark, reached) = oneshot::channel();
        let flushed = timeout(limit, async {
            self.queue.send(Item::Mark(mark)).await.ok()?;
            reached.await.ok()
        });
        if flushed.await.is_err() {
            warn!("the daemon did not take all events in time");
        }
    }
}

/// The one who tells.
struct Teller {
    daemon: Daemon,
    connection: Option<Client>,
}

impl Teller {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(item) = items.recv().await {
            match item {
                Item::Event(envelope) => self.tell(*envelope).await,
                // Whoever waited may have given up.
                Item::Mark(mark) => _ = mark.send(()),
            }
        }
    }

    async fn tell(&mut self, envelope: Envelope) {
        let (begun, mut pause) = (Instant::now(), FIRST_PAUSE);
        let topic = envelope.topic.clone();
        let request = ForwardRequest { envelope: Some(envelope) };
        loop {
            match self.attempt(&request).await {
                Ok(()) => return,
                Err(status) if is_final(&status) || begun.elapsed() > PATIENCE => {
                    return error!(topic, error = %status, "an event is lost");
                }
                Err(status) => warn!(topic, error = %status, "forward event"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&mut self, request: &ForwardRequest) -> Result<(), Status> {
        if self.daemon.ttrpc_address.is_empty() {
            return self.run_binary(request).await;
        }
        let namespace = request.envelope.as_ref().map_or("", |envelope| &envelope.namespace);
        let options = CallOptions::new().timeout(ATTEMPT).metadata(NAMESPACE_KEY, namespace);
        let client = self.connected().await?;
        let told = client.call(api::service::EVENTS, "Forward", request, &options).await;
        if told.is_err() {
            self.connection = None;
        }
        told
    }

    async fn connected(&mut self) -> Result<Client, Status> {
        match &self.connection {
            Some(client) if !client.is_closed() => Ok(client.clone()),
            _ => {
                let client = Client::connect(&self.daemon.ttrpc_address);
                let client = timeout(ATTEMPT, client).await.map_err(unavailable)?;
                Ok(self.connection.insert(client.map_err(unavailable)?).clone())
            }
        }
    }

    /// Compat: daemons without a ttrpc socket are told by their `publish` command.
    async fn run_binary(&self, request: &ForwardRequest) -> Result<(), Status> {
        let envelope = request.envelope.clone().unwrap_or_default();
        let event = envelope.event.unwrap_or_default().encode_to_vec();
        let publish = async {
            let (stdin, mut input) = std::io::pipe()?;
            // An event is far smaller than what a pipe takes without a reader.
            std::io::Write::write_all(&mut input, &event)?;
            drop(input);
            let mut child = sys::Command::new(&self.daemon.publish_binary)
                .args(["--address", &self.daemon.address, "publish"])
                .args(["--topic", &envelope.topic, "--namespace", &envelope.namespace])
                .stdin(stdin)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            finished(&mut child).await
        };
        match timeout(ATTEMPT, publish).await.map_err(unavailable)?.map_err(unavailable)? {
            exit if exit.success() => Ok(()),
            exit => Err(unavailable(format!("{}: {exit}", self.daemon.publish_binary))),
        }
    }
}

fn unavailable(error: impl fmt::Display) -> Status {
    Status::new(Code::Unavailable, format!("{error}"))
}

/// Whether the daemon understood and refused: asking again changes nothing.
fn is_final(status: &Status) -> bool {
    let refusals =
        [Code::InvalidArgument, Code::Unimplemented, Code::PermissionDenied, Code::NotFound];
    refusals.contains(&status.code)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::containerd::events::TaskOom;
    use tokio::{net::UnixListener, sync::Mutex};
    use ttrpc::{Context, Server};

    use super::*;

    type Seen = Arc<Mutex<Vec<String>>>;

    /// A daemon that keeps the ids of what it is told.
    fn listen(path: &std::path::Path, seen: &Seen) -> tokio::task::JoinHandle<()> {
        let seen = Arc::clone(seen);
        let forward = move |context: Context, request: ForwardRequest| {
            let seen = Arc::clone(&seen);
            async move {
                assert_eq!(context.metadata.get(NAMESPACE_KEY), Some("tests"));
                let event = request.envelope.unwrap().event.unwrap();
                let oom = api::unpack::<TaskOom>(&event).unwrap().unwrap();
                seen.lock().await.push(oom.container_id);
                Ok(())
            }
        };
        let server = Server::new().method(api::service::EVENTS, "Forward", forward);
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move { server.serve(listener, std::future::pending()).await.unwrap() })
    }

    #[tokio::test]
    async fn a_daemon_without_a_socket_is_told_by_its_program() {
        let dir = tempfile::tempdir().unwrap();
        let (program, told) = (dir.path().join("publish"), dir.path().join("told"));
        let script = format!("#!/bin/sh\n(echo \"$@\"; cat) > {}\n", told.display());
        sys::program::install(&program, script.as_bytes()).unwrap();
        let daemon = Daemon {
            address: "/run/c.sock".into(),
            publish_binary: program.display().to_string(),
            ..Default::default()
        };
        let publisher = Publisher::start("tests", daemon);
        let event = TaskOom { container_id: "a".into() };
        publisher.publish(&event);
        publisher.flush(Duration::from_secs(10)).await;
        let want = "--address /run/c.sock publish --topic /tasks/oom --namespace tests\n";
        let want = [want.as_bytes(), &api::pack(&event).encode_to_vec()].concat();
        assert_eq!(fs_err::read(&told).unwrap(), want);
    }

    #[tokio::test]
    async fn events_survive_a_daemon_that_is_away_and_keep_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ttrpc");
        let daemon = Daemon { ttrpc_address: path.display().to_string(), ..Default::default() };
        let publisher = Publisher::start("tests", daemon);
        let publish = |id: &str| publisher.publish(&TaskOom { container_id: id.into() });
        let seen = Seen::default();

        publish("a");
        publisher.flush(Duration::from_millis(20)).await;
        let first = listen(&path, &seen);
        publisher.flush(Duration::from_secs(10)).await;
        publish("b");
        publisher.flush(Duration::from_secs(10)).await;

        first.abort();
        drop(first.await);
        fs_err::remove_file(&path).unwrap();
        publish("c");
        publish("d");
        let _second = listen(&path, &seen);
        publisher.flush(Duration::from_secs(10)).await;
        assert_eq!(*seen.lock().await, ["a", "b", "c", "d"]);
    }
}
