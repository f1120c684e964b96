// SPDX-License-Identifier: Apache-2.0
//! One connection of a server: a reader, a writer, and the handlers that run.
//!
//! ```text
//! frame -> Request -> find route -> poll once --done--> [outbox] -> writer
//!       |                             `-- pending --> own task ----^
//!       `-> Data ---> events of the stream -> handler
//! ```

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::routes::{Call, Routes};
use super::{BoxFuture, Context, Peer};
use crate::frame::{Frame, Header, Kind, REMOTE_CLOSED, REMOTE_OPEN};
use crate::metadata::Metadata;
use crate::outbox::{Outbox, QUEUE, write_frames};
use crate::reader::{Reader, Received};
use crate::status::{Code, Status};
use crate::stream::{Event, Events, deliver_data, events};
use crate::wire::{Request, decode};

/// How long a peer has for reading the last answers of a connection that is shut down.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a connection until it ends or, after `stop`, until no call runs.
///
/// All handlers that still run at the end are dropped.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Send>(
    io: S,
    routes: Arc<Routes>,
    peer: Option<Peer>,
    stop: impl Future<Output = ()>,
) -> io::Result<()> {
    let (input, output) = tokio::io::split(io);
    let (outbox, mut frames) = mpsc::channel(QUEUE);
    let connection = Connection {
        routes,
        peer,
        outbox,
        last: 0,
        streams: HashMap::new(),
        calls: JoinSet::new(),
        stopping: false,
    };
    let mut writing = pin!(write_frames(output, &mut frames));
    let end = tokio::select! {
        end = connection.run(Reader::new(input), stop) => filter_end(end)?,
        end = &mut writing => return filter_end(end).map(drop),
    };
    match end {
        End::Peer => Ok(()),
        End::Stopped => timeout(LINGER, writing).await.unwrap_or(Ok(())),
    }
}

/// A client that is killed resets the connection, which is an end like any other.
fn filter_end<T: Default>(end: io::Result<T>) -> io::Result<T> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match end {
        Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Ok(T::default()),
        end => end,
    }
}

/// Who ended the connection in good order.
#[derive(Debug, Default)]
enum End {
    #[default]
    Peer,
    Stopped,
}

struct Connection {
    routes: Arc<Routes>,
    peer: Option<Peer>,
    outbox: Outbox,
    /// The id of the last stream that was opened.
    last: u32,
    /// Where the data of streams goes whose handlers take some, until these return.
    streams: HashMap<u32, Events>,
    /// The handlers that did not answer at once; each returns the id of its stream.
    calls: JoinSet<u32>,
    stopping: bool,
}

impl Connection {
    async fn run<R: AsyncRead + Unpin>(
        mut self,
        mut reader: Reader<R>,
        stop: impl Future<Output = ()>,
    ) -> io::Result<End> {
        let mut stop = pin!(stop);
        while !(self.stopping && self.calls.is_empty()) {
            tokio::select! {
                received = reader.next() => match received? {
                    Some(Received::Message(header, body)) => self.message(header, body).await,
                    Some(Received::Oversized(header)) => {
                        let status = Status::oversized(header.length as usize);
                        self.refuse(header.stream, status).await;
                    }
                    None => return Ok(End::Peer),
                },
                Some(ended) = self.calls.join_next() => match ended {
                    Ok(stream) => drop(self.streams.remove(&stream)),
                    // It panicked, which is no state to go on from.
                    Err(error) => return Err(io::Error::other(error)),
                },
                () = &mut stop, if !self.stopping => self.stopping = true,
            }
        }
        Ok(End::Stopped)
    }

    /// Handles a message as Go does (`server.go`), which tells the client about each mistake on the
    /// stream where it was made, and goes on.
    async fn message(&mut self, header: Header, body: Bytes) {
        let done = match header.kind {
            _ if header.stream.is_multiple_of(2) => {
                Err("StreamID must be odd for client initiated streams".to_owned())
            }
            Kind::Request => self.request(header, body).await,
            Kind::Data => self.data(header, body).await,
            Kind::Response | Kind::Other(_) => return debug!(?header, "ttrpc frame is ignored"),
        };
        if let Err(text) = done {
            self.refuse(header.stream, Status::new(Code::InvalidArgument, text)).await;
        }
    }

    async fn request(&mut self, header: Header, body: Bytes) -> Result<(), String> {
        if header.stream <= self.last {
            return Err("StreamID cannot be re-used and must increment".to_owned());
        }
        self.last = header.stream;
        let request = decode::<Request>(body)
            .map_err(|status| format!("unmarshal request error: {}", status.message))?;
        match self.open(header, request) {
            Ok(call) => self.start(header.stream, call).await,
            Err(status) => self.refuse(header.stream, status).await,
        }
        Ok(())
    }

    /// Finds the handler, and puts all of the call into one future: handling and answering.
    fn open(&mut self, header: Header, request: Request) -> Result<BoxFuture<u32>, Status> {
        if self.stopping {
            // Go's `ErrServerClosed`, which there ends the connection.
            return Err(Status::new(Code::Unavailable, "ttrpc: server closed"));
        }
        let id = header.stream;
        let route = self.routes.find(&request.service, &request.method)?;
        let events = route.takes_stream.then(|| {
            let (sender, receiver) = events();
            feed(&sender, header.flags, &request.payload);
            if header.flags & REMOTE_OPEN != 0 {
                self.streams.insert(id, sender);
            }
            receiver
        });
        let deadline = deadline(request.timeout_nano);
        let metadata = Metadata::from_wire(request.metadata);
        let ctx = Context { metadata, deadline, peer: self.peer };
        let outbox = self.outbox.clone();
        let (method, payload) = (request.method, request.payload);
        let handled =
            (route.handler)(ctx, Call { id, method, payload, outbox: outbox.clone(), events });
        Ok(Box::pin(async move {
            let answer = until(deadline, handled).await.unwrap_or_else(Frame::failure);
            // Without a writer the connection has ended, and there is nobody to tell.
            outbox.send(answer.on(id)).await.ok();
            id
        }))
    }

    /// Polls a call once, which is enough for many, and gives it a task if it is not done by then.
    async fn start(&mut self, id: u32, mut call: BoxFuture<u32>) {
        if poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await.is_ready() {
            self.streams.remove(&id);
        } else {
            self.calls.spawn(call);
        }
    }

    async fn data(&mut self, header: Header, body: Bytes) -> Result<(), String> {
        let Some(events) = self.streams.get(&header.stream) else {
            return Err("StreamID is no longer active".to_owned());
        };
        let kept = deliver_data(events, header.flags, body).await;
        if !kept || header.flags & REMOTE_CLOSED != 0 {
            self.streams.remove(&header.stream);
        }
        Ok(())
    }

    async fn refuse(&self, id: u32, status: Status) {
        debug!(id, %status, "ttrpc server refuses a frame");
        // Without a writer the connection has ended, and there is nobody to tell.
        self.outbox.send(Frame::failure(status).on(id)).await.ok();
    }
}

/// Passes on what the request itself says about the stream: its first message and its end.
///
/// A payload that is not there is no message, unless it is all there will be: an empty message has
/// an empty payload.
fn feed(events: &Events, flags: u8, payload: &Bytes) {
    let open = flags & REMOTE_OPEN != 0;
    let first = (!payload.is_empty() || !open).then(|| Event::Message(payload.clone()));
    let end = (!open).then_some(Event::End);
    for event in first.into_iter().chain(end) {
        events.try_send(event).expect("a new stream has room for two events");
    }
}

/// Go reads a negative timeout as a deadline that has passed, and zero as none.
fn deadline(timeout_nano: i64) -> Option<Instant> {
    if timeout_nano == 0 {
        return None;
    }
    Instant::now().checked_add(Duration::from_nanos(timeout_nano.max(0) as u64))
}

async fn until(
    deadline: Option<Instant>,
    handled: BoxFuture<Result<Frame, Status>>,
) -> Result<Frame, Status> {
    match deadline {
        None => handled.await,
        Some(at) => timeout_at(at, handled).await.unwrap_or_else(|_| Err(Status::deadline())),
    }
}
