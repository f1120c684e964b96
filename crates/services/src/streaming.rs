// SPDX-License-Identifier: Apache-2.0
//! The streaming service (`containerd.services.streaming.v1`): streams that other calls refer to.
//!
//! A client opens a stream under a name of its choice, waits for an empty answer, and then names the
//! stream in another call, such as a transfer that reports its progress there.
//!
//! ```text
//! client --Stream: StreamInit{id}--> Streams --take(namespace, id)--> the call that names it
//! ```
pub(crate) mod window;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use api::containerd::services::streaming::v1 as pb;
use futures_util::StreamExt;
use pb::{
    StreamInit,
    streaming_client::StreamingClient,
    streaming_server::{Streaming as Contract, StreamingServer},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use types::{Error, Result};

use crate::call::{Limits, Peer, Reply, error, limited, open, status};
use crate::convert::{ToWire, any};

/// How many messages wait on a stream, each way.
const DEPTH: usize = 32;
/// How long a client has for what is on its way.
const SETTLING: Duration = Duration::from_millis(10);
/// How long a client has to notice that a stream has ended.
const FAREWELL: Duration = Duration::from_secs(1);

type Wire = prost_types::Any;

/// One end of a stream.
#[derive(Debug)]
pub struct Stream {
    incoming: mpsc::Receiver<Wire>,
    outgoing: Outgoing,
}

#[derive(Debug)]
enum Outgoing {
    Answers(mpsc::Sender<Result<Wire, Status>>),
    Requests(mpsc::Sender<Wire>),
}

impl Stream {
    /// Sends a message; `Unavailable` when the other end is gone.
    pub async fn send(&self, message: types::Any) -> Result<()> {
        let message = message.to_wire();
        let is_sent = match &self.outgoing {
            Outgoing::Answers(answers) => answers.send(Ok(message)).await.is_ok(),
            Outgoing::Requests(requests) => requests.send(message).await.is_ok(),
        };
        is_sent.then_some(()).ok_or_else(|| Error::unavailable("stream closed"))
    }

    /// Lets everything that was sent arrive, before the call that named the stream is answered.
    ///
    /// Compat: Go's clients stop listening when that call is answered, and lose what they have not
    /// read until then: the last word of a progress, or the end of an archive. Go's daemon ends a lease
    /// in between, which takes about as long (containerd `core/transfer/local/export.go`).
    pub async fn settle(&self) {
        match &self.outgoing {
            Outgoing::Answers(answers) => drained(answers).await,
            Outgoing::Requests(requests) => drained(requests).await,
        }
        tokio::time::sleep(SETTLING).await;
    }

    /// Ends the stream, and waits for the other end to have taken all of it, for a while.
    ///
    /// Compat: a client that sees the end of a stream closes its own side, whoever wrote it (gRPC for Go
    /// with `RST_STREAM`, `internal/transport/http2_client.go`), and so says that it has read what came
    /// before. How busy its machine is does not matter then, as it would if only time were given.
    pub async fn finish(self) {
        let Self { mut incoming, outgoing } = self;
        drop(outgoing);
        let ended = async { while incoming.recv().await.is_some() {} };
        drop(tokio::time::timeout(FAREWELL, ended).await);
        tokio::time::sleep(SETTLING).await;
    }

    /// Waits for a message; none when the other end has finished.
    pub async fn receive(&mut self) -> Option<types::Any> {
        self.incoming.recv().await.map(any)
    }
}

/// Waits until a queue is empty, or nobody takes from it any more.
async fn drained<T>(queue: &mpsc::Sender<T>) {
    // Room for all is room in an empty queue; a failure says that it is closed.
    drop(queue.reserve_many(queue.max_capacity()).await);
}

/// The streams that clients have opened and that no call has taken yet.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    waiting: Arc<Mutex<HashMap<(String, String), Stream>>>,
}

impl Streams {
    /// Takes the stream `id` of a namespace; `NotFound` when there is none.
    pub fn take(&self, namespace: &str, id: &str) -> Result<Stream> {
        let key = (namespace.to_owned(), id.to_owned());
        self.lock().remove(&key).ok_or_else(|| Error::not_found(format!("stream {id:?}")))
    }

    fn add(&self, key: (String, String), stream: Stream) -> Result<()> {
        match self.lock().entry(key) {
            Entry::Occupied(taken) => {
                Err(Error::already_exists(format!("stream {:?}", taken.key().1)))
            }
            Entry::Vacant(place) => {
                place.insert(stream);
                Ok(())
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Stream>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two ends of a stream without a wire between them.
#[cfg(test)]
pub(crate) fn pair() -> (Stream, Stream) {
    let (there, incoming) = mpsc::channel(DEPTH);
    let (here, answers) = mpsc::channel(DEPTH);
    (
        Stream { incoming, outgoing: Outgoing::Requests(here) },
        Stream { incoming: answers, outgoing: Outgoing::Requests(there) },
    )
}

/// Serves `streams`.
pub fn serve(streams: Streams, limits: Limits) -> StreamingServer<Server> {
    limited!(StreamingServer::new(Server { streams }), limits)
}

/// Opens the stream `id` at `peer`.
pub async fn connect(peer: Peer, id: &str) -> Result<Stream> {
    let (requests, stream) = mpsc::channel(DEPTH);
    let init = api::pack(&StreamInit { id: id.to_owned() });
    requests.send(init).await.map_err(|_unsent| Error::unavailable("stream closed"))?;
    let mut client = limited!(StreamingClient::new(peer), Limits::default());
    let answers = client.stream(ReceiverStream::new(stream)).await.map_err(error)?;
    let mut answers = answers.into_inner();
    answers.message().await.map_err(error)?;
    let (sender, incoming) = mpsc::channel(DEPTH);
    tokio::spawn(async move {
        while let Ok(Some(message)) = answers.message().await {
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    Ok(Stream { incoming, outgoing: Outgoing::Requests(requests) })
}

/// Takes in streams.
#[derive(Debug)]
pub struct Server {
    streams: Streams,
}

#[tonic::async_trait]
impl Contract for Server {
    type StreamStream = futures_util::stream::BoxStream<'static, Result<Wire, Status>>;

    async fn stream(&self, request: Request<Streaming<Wire>>) -> Reply<Self::StreamStream> {
        let (scope, mut messages) = open(request)?;
        let id = init(messages.message().await?)?;
        let key = (scope.namespace().to_owned(), id);
        let (sender, incoming) = mpsc::channel(DEPTH);
        let (answers, outgoing) = mpsc::channel(DEPTH);
        // The empty answer says that the stream may now be named.
        let ready = Ok(Wire { type_url: "google.protobuf.Empty".into(), value: Vec::new() });
        answers.try_send(ready).map_err(|_full| Status::internal("a new queue is full"))?;
        let stream = Stream { incoming, outgoing: Outgoing::Answers(answers) };
        self.streams.add(key.clone(), stream).map_err(status)?;
        tokio::spawn(receive(messages, sender, self.streams.clone(), key));
        Ok(Response::new(ReceiverStream::new(outgoing).boxed()))
    }
}

fn init(first: Option<Wire>) -> Result<String, Status> {
    let first = first.ok_or_else(|| Status::invalid_argument("a stream starts with its name"))?;
    match api::unpack::<StreamInit>(&first) {
        Some(Ok(init)) => Ok(init.id),
        Some(Err(error)) => Err(Status::invalid_argument(format!("stream init: {error}"))),
        None => Err(Status::invalid_argument(format!("not a stream init: {}", first.type_url))),
    }
}

/// Passes messages on until the client is done, and forgets the stream if no call ever took it.
async fn receive(
    mut messages: Streaming<Wire>,
    sender: mpsc::Sender<Wire>,
    streams: Streams,
    key: (String, String),
) {
    while let Ok(Some(message)) = messages.message().await {
        if sender.send(message).await.is_err() {
            return;
        }
    }
    drop(sender);
    streams.lock().remove(&key);
}
