// SPDX-License-Identifier: Apache-2.0
//! The calling side.

mod calls;
mod connection;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

pub(crate) use self::calls::{Place, Registration};

use self::calls::{Calls, Slot};
use crate::frame::{Frame, Opening, REMOTE_CLOSED, REMOTE_OPEN};
use crate::metadata::Metadata;
use crate::outbox::{Outbox, QUEUE};
use crate::status::Status;
use crate::stream::{Incoming, Outgoing, events};
use crate::wire::{Response, decode};

/// What may be said about one call.
///
/// ```
/// use std::time::Duration;
/// use ttrpc::CallOptions;
///
/// let options = CallOptions::new()
///     .timeout(Duration::from_secs(10))
///     .metadata("containerd-namespace-ttrpc", "default");
/// assert_eq!(options.metadata.get("containerd-namespace-ttrpc"), Some("default"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long the call may take, on this side and (if it looks) on the server's.
    pub timeout: Option<Duration>,
    /// What travels beside the request.
    pub metadata: Metadata,
}

impl CallOptions {
    /// Makes options for a call without deadline and metadata.
    pub const fn new() -> Self {
        Self { timeout: None, metadata: Metadata::new() }
    }

    /// Limits the time the call may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Adds a value to the metadata.
    pub fn metadata(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.append(key, value);
        self
    }

    fn open<'a>(&'a self, service: &'a str, method: &'a str, flags: u8) -> Opening<'a> {
        Opening { service, method, timeout: self.timeout, metadata: &self.metadata, flags }
    }
}

/// A connection to a server, shared by any number of concurrent calls.
///
/// Clones are cheap and share the connection, which ends when the last of them and of their streams
/// is dropped, or when the peer ends it. There is no reconnecting: a peer that went away and came
/// back is another peer.
#[derive(Clone, Debug)]
pub struct Client {
    link: Arc<Link>,
}

/// What ends the connection when it is dropped.
#[derive(Debug)]
struct Link {
    outbox: Outbox,
    calls: Arc<Calls>,
    _in_use: oneshot::Sender<()>,
}

impl Client {
    /// Connects to a unix socket.
    ///
    /// The address is a path, `unix://` and a path (as shims print it), or the name of an abstract
    /// socket after `@` or a zero byte.
    pub async fn connect(address: &str) -> io::Result<Self> {
        let stream = UnixStream::connect(socket_path(address)).await;
        let stream = stream.map_err(|error| {
            io::Error::new(error.kind(), format!("connect to {address}: {error}"))
        })?;
        Ok(Self::new(stream))
    }

    /// Starts speaking on a connection that is open already.
    ///
    /// It must be called in a tokio runtime, since it starts the task that reads and writes.
    pub fn new<S>(io: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (outbox, frames) = mpsc::channel(QUEUE);
        let (in_use, unused) = oneshot::channel();
        let calls = Arc::new(Calls::default());
        tokio::spawn(connection::run(io, Arc::clone(&calls), frames, unused));
        Self { link: Arc::new(Link { outbox, calls, _in_use: in_use }) }
    }

    /// Calls a unary method.
    ///
    /// # Errors
    ///
    /// The status that the handler failed with, or one of this side: `DeadlineExceeded`;
    /// `ResourceExhausted` for a message above [`MAX_MESSAGE`](crate::MAX_MESSAGE); one that
    /// [is closed](Status::is_closed) when the connection ended first.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped the answer is ignored. The server is not told: give the call a timeout.
    pub async fn call<Q, R>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        options: &CallOptions,
    ) -> Result<R, Status>
    where
        Q: Message,
        R: Message + Default,
    {
        let frame = Frame::request(&options.open(service, method, 0), request)?;
        decode(self.exchange(frame, options.timeout).await?)
    }

    /// Calls a unary method with messages that are, and stay, encoded. The payload is not copied.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_raw(
        &self,
        service: &str,
        method: &str,
        payload: Bytes,
        options: &CallOptions,
    ) -> Result<Bytes, Status> {
        let frame = Frame::raw_request(&options.open(service, method, 0), payload)?;
        self.exchange(frame, options.timeout).await
    }

    /// Opens a stream on which this side sends; the server answers with messages or with one.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call), but what the handler fails with is seen when receiving. The
    /// deadline holds for the whole stream.
    ///
    /// ```no_run
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Part {}
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Sum {}
    /// # async fn example(client: ttrpc::Client) -> Result<(), ttrpc::Status> {
    /// let options = ttrpc::CallOptions::new();
    /// let mut stream = client.stream::<Part, Sum>("example.Sums", "Add", &options).await?;
    /// stream.send(&Part {}).await?;
    /// let sum = stream.finish().await?;
    /// # Ok(()) }
    /// ```
    pub async fn stream<Q, R>(
        &self,
        service: &str,
        method: &str,
        options: &CallOptions,
    ) -> Result<Stream<Q, R>, Status>
    where
        Q: Message,
        R: Message + Default,
    {
        let opening = options.open(service, method, REMOTE_OPEN);
        let frame = Frame::raw_request(&opening, Bytes::new())?;
        let incoming = self.open_stream(frame, options.timeout);
        let (place, incoming) = incoming.await?;
        let outbox = self.link.outbox.clone();
        Ok(Stream { outgoing: Outgoing::new(outbox, place.id(), Some(place)), incoming })
    }

    /// Calls a method that answers one request with a stream.
    ///
    /// # Errors
    ///
    /// As for [`stream`](Self::stream).
    pub async fn server_stream<Q, R>(
        &self,
        service: &str,
        method: &str,
        request: &Q,
        options: &CallOptions,
    ) -> Result<Incoming<R>, Status>
    where
        Q: Message,
        R: Message + Default,
    {
        let frame = Frame::request(&options.open(service, method, REMOTE_CLOSED), request)?;
        Ok(self.open_stream(frame, options.timeout).await?.1)
    }

    /// Waits until the connection has ended, whoever ended it. By then every call has failed.
    pub async fn closed(&self) {
        self.link.outbox.closed().await;
    }

    /// Reports whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.link.outbox.is_closed()
    }

    /// Sends a request and waits for its payload, for as long as it may take.
    async fn exchange(&self, frame: Frame, limit: Option<Duration>) -> Result<Bytes, Status> {
        within(limit, async {
            let (slot, answer) = oneshot::channel();
            let _registration = self.open(frame, Slot::Unary(slot)).await?;
            let Ok(answer) = answer.await else {
                return Err(self.link.calls.reason());
            };
            decode::<Response>(answer?)?.into_result()
        })
        .await
    }

    async fn open_stream<R: Message + Default>(
        &self,
        frame: Frame,
        limit: Option<Duration>,
    ) -> Result<(Place, Incoming<R>), Status> {
        // A deadline too far away to be represented is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let (sender, receiver) = events();
        let registration = within(limit, self.open(frame, Slot::Stream(sender))).await?;
        let place = registration.place().clone();
        Ok((place, Incoming::new(receiver, deadline, Some(registration))))
    }

    /// Gives a request its id and queues it, when the queue has room.
    async fn open(&self, frame: Frame, slot: Slot) -> Result<Registration, Status> {
        let Ok(room) = self.link.outbox.reserve().await else {
            return Err(self.link.calls.reason());
        };
        let id = self.link.calls.open(slot, |id| room.send(frame.on(id)))?;
        Ok(Registration::new(self.clone(), id))
    }
}

/// Both directions of a stream that this side opened.
#[derive(Debug)]
pub struct Stream<Q, R> {
    outgoing: Outgoing<Q>,
    incoming: Incoming<R>,
}

impl<Q: Message, R: Message + Default> Stream<Q, R> {
    /// Sends a message: see [`Outgoing::send`].
    pub async fn send(&mut self, message: &Q) -> Result<(), Status> {
        self.outgoing.send(message).await
    }

    /// Says that no more messages follow. What the server sends is still received.
    pub async fn close_send(&mut self) -> Result<(), Status> {
        self.outgoing.close().await
    }

    /// Waits for the next message: see [`Incoming::recv`].
    pub async fn recv(&mut self) -> Result<Option<R>, Status> {
        self.incoming.recv().await
    }

    /// Ends the sending, and waits for the one answer of a server that does not stream.
    pub async fn finish(mut self) -> Result<R, Status> {
        if !self.outgoing.is_closed() {
            // If the server ended the stream first, its answer says more than this failure.
            self.outgoing.close().await.ok();
        }
        self.incoming.response().await
    }

    /// Takes the directions apart, so that each can have a task of its own.
    pub fn split(self) -> (Outgoing<Q>, Incoming<R>) {
        (self.outgoing, self.incoming)
    }
}

async fn within<T>(
    limit: Option<Duration>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match limit {
        None => call.await,
        Some(limit) => timeout(limit, call).await.unwrap_or_else(|_| Err(Status::deadline())),
    }
}

/// Turns an address into what tokio connects to: a path, or a zero byte and an abstract name.
fn socket_path(address: &str) -> PathBuf {
    match address.strip_prefix('@') {
        Some(name) => format!("\0{name}").into(),
        None => address.strip_prefix("unix://").unwrap_or(address).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        for (address, path) in [
            ("/run/s", "/run/s"),
            ("unix:///run/s", "/run/s"),
            ("@name", "\0name"),
            ("\0name", "\0name"),
        ] {
            assert_eq!(socket_path(address), PathBuf::from(path));
        }
    }
}
