// SPDX-License-Identifier: Apache-2.0
//! The two directions of a stream, the same on both sides.

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{Instant, timeout, timeout_at};

use crate::client::{Place, Registration};
use crate::frame::{Frame, NO_DATA, REMOTE_CLOSED};
use crate::outbox::Outbox;
use crate::status::Status;
use crate::wire::{Response, decode};

/// How many messages wait for their reader, before the whole connection waits with them.
const BUFFER: usize = 64;

/// How long a connection waits for the reader of one stream (Go's `streamFullTimeout`).
///
/// The protocol has no flow control, so a reader that is only slow is best waited for. One that
/// has stopped must not hold the other calls of the connection: its stream is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the reader of a connection passes to a stream.
#[derive(Debug)]
pub(crate) enum Event {
    /// A message.
    Message(Bytes),
    /// The peer has no more messages.
    End,
    /// The final answer: an encoded `Response`.
    Response(Bytes),
    /// The connection says that the stream failed.
    Failed(Status),
}

/// Where the reader of a connection puts what arrives for a stream.
pub(crate) type Events = mpsc::Sender<Event>;

/// Makes the pipe between the reader of a connection and a stream.
pub(crate) fn events() -> (Events, mpsc::Receiver<Event>) {
    mpsc::channel(BUFFER)
}

/// Hands an event to a stream. Returns false when the stream has to be given up.
///
/// Events for a stream that nobody listens to any more go nowhere.
pub(crate) async fn deliver(events: &Events, event: Event) -> bool {
    match events.try_send(event) {
        Ok(()) | Err(TrySendError::Closed(_)) => true,
        Err(TrySendError::Full(event)) => timeout(PATIENCE, events.send(event)).await.is_ok(),
    }
}

/// Hands a data frame to a stream: a message, the end, or both. Returns false as [`deliver`] does.
pub(crate) async fn deliver_data(events: &Events, flags: u8, data: Bytes) -> bool {
    if flags & NO_DATA == 0 && !deliver(events, Event::Message(data)).await {
        return false;
    }
    flags & REMOTE_CLOSED == 0 || deliver(events, Event::End).await
}

/// The messages that come in on a stream.
///
/// On the client, dropping it gives the stream up: what still arrives is ignored, and the
/// [`Outgoing`] half fails. The protocol has no way to tell that to the server.
#[derive(Debug)]
pub struct Incoming<T> {
    events: mpsc::Receiver<Event>,
    deadline: Option<Instant>,
    registration: Option<Registration>,
    ended: bool,
    message: PhantomData<fn() -> T>,
}

impl<T: Message + Default> Incoming<T> {
    pub(crate) fn new(
        events: mpsc::Receiver<Event>,
        deadline: Option<Instant>,
        registration: Option<Registration>,
    ) -> Self {
        Self { events, deadline, registration, ended: false, message: PhantomData }
    }

    /// Waits for the next message; `None` is the end of the stream.
    ///
    /// # Errors
    ///
    /// What the server's handler failed with, the deadline, or the end of the connection. After an
    /// error the stream has ended.
    ///
    /// # Cancel safety
    ///
    /// No message is lost when it is dropped.
    pub async fn recv(&mut self) -> Result<Option<T>, Status> {
        if self.ended {
            return Ok(None);
        }
        let message = match self.next().await {
            Ok(Event::Message(message)) => return self.parse(message).map(Some),
            Ok(Event::End) => Ok(None),
            Ok(Event::Response(response)) => final_message(response),
            Ok(Event::Failed(status)) | Err(status) => Err(status),
        };
        self.ended = true;
        message
    }

    /// Waits for the one answer of a server that does not stream.
    pub(crate) async fn response(mut self) -> Result<T, Status> {
        match self.next().await? {
            Event::Response(response) => decode(decode::<Response>(response)?.into_result()?),
            Event::Failed(status) => Err(status),
            Event::Message(_) | Event::End => {
                Err(Status::protocol("received data from non-streaming server"))
            }
        }
    }

    fn parse(&mut self, message: Bytes) -> Result<T, Status> {
        let message = decode(message);
        self.ended = message.is_err();
        message
    }

    async fn next(&mut self) -> Result<Event, Status> {
        let event = match self.deadline {
            None => self.events.recv().await,
            Some(at) => match timeout_at(at, self.events.recv()).await {
                Ok(event) => event,
                Err(_elapsed) => return Err(Status::deadline()),
            },
        };
        event.ok_or_else(|| self.torn())
    }

    /// Says why events ended without an end.
    fn torn(&self) -> Status {
        let place = self.registration.as_ref().map(Registration::place);
        place.and_then(Place::closed).unwrap_or_else(Status::stream_full)
    }
}

/// Reads the answer that may end a stream: a failure, the last message, or nothing.
fn final_message<T: Message + Default>(response: Bytes) -> Result<Option<T>, Status> {
    let payload = decode::<Response>(response)?.into_result()?;
    if payload.is_empty() { Ok(None) } else { decode(payload).map(Some) }
}

/// The messages that go out on a stream.
#[derive(Debug)]
pub struct Outgoing<T> {
    outbox: Outbox,
    id: u32,
    place: Option<Place>,
    closed: bool,
    message: PhantomData<fn(T)>,
}

impl<T: Message> Outgoing<T> {
    pub(crate) fn new(outbox: Outbox, id: u32, place: Option<Place>) -> Self {
        Self { outbox, id, place, closed: false, message: PhantomData }
    }

    /// Queues a message, waiting while the queue of the connection is full.
    ///
    /// # Errors
    ///
    /// The message is above the limit, the stream is closed or has ended, or the connection has.
    ///
    /// # Cancel safety
    ///
    /// When it is dropped, the message is either queued or not.
    pub async fn send(&mut self, message: &T) -> Result<(), Status> {
        self.check()?;
        self.put(Frame::data(message)?).await
    }

    /// Says that no more messages follow.
    ///
    /// On the server this sends nothing: what ends the stream there is the handler's return.
    pub async fn close(&mut self) -> Result<(), Status> {
        self.check()?;
        self.closed = true;
        match self.place {
            Some(_) => self.put(Frame::end()).await,
            None => Ok(()),
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn check(&self) -> Result<(), Status> {
        if self.closed {
            return Err(Status::stream_closed());
        }
        self.place.as_ref().map_or(Ok(()), Place::check)
    }

    async fn put(&self, frame: Frame) -> Result<(), Status> {
        self.outbox.send(frame.on(self.id)).await.map_err(|_closed| {
            let reason = self.place.as_ref().and_then(Place::closed);
            reason.unwrap_or_else(|| Status::closed(None))
        })
    }
}
