// SPDX-License-Identifier: Apache-2.0
//! The task that reads and writes a client's connection.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::debug;

use super::calls::{Calls, Slot};
use crate::frame::{Frame, Header, Kind, REMOTE_CLOSED};
use crate::outbox::write_frames;
use crate::reader::{Reader, Received};
use crate::status::Status;
use crate::stream::{Event, deliver, deliver_data};

/// How long a peer that does not read holds up the end of a connection that nobody uses.
const LINGER: Duration = Duration::from_secs(1);

/// Reads and writes until the peer or all users are gone; then it fails the calls that are left.
pub(super) async fn run<S: AsyncRead + AsyncWrite>(
    io: S,
    calls: Arc<Calls>,
    mut frames: mpsc::Receiver<Frame>,
    unused: oneshot::Receiver<()>,
) {
    let (input, output) = tokio::io::split(io);
    let mut reading = pin!(read(Reader::new(input), &calls));
    let end = tokio::select! {
        end = &mut reading => end,
        end = write_frames(output, &mut frames) => match end {
            Ok(()) => Ok(()),
            // Answers may have arrived from a peer that has left since.
            Err(error) => timeout(LINGER, reading).await.unwrap_or(Err(error)),
        },
        () = linger(unused) => Ok(()),
    };
    // Calls fail before `frames` is dropped, which is when `Client::closed` returns.
    calls.close(&reason(end));
}

async fn linger(unused: oneshot::Receiver<()>) {
    // It is never sent to: it ends with its sender.
    unused.await.ok();
    tokio::time::sleep(LINGER).await;
}

/// Says why the connection ended. A peer that is killed resets it, which is an end like any other
/// (Go's `filterCloseErr`).
fn reason(end: io::Result<()>) -> Status {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match end {
        Ok(()) => Status::closed(None),
        Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Status::closed(None),
        Err(error) => {
            debug!(%error, "ttrpc client connection failed");
            Status::closed(Some(&error))
        }
    }
}

async fn read<R: AsyncRead + Unpin>(mut reader: Reader<R>, calls: &Calls) -> io::Result<()> {
    while let Some(received) = reader.next().await? {
        match received {
            Received::Message(header, body) => dispatch(calls, header, body).await,
            Received::Oversized(header) => {
                fail(calls, header.stream, Status::oversized(header.length as usize)).await;
            }
        }
    }
    Ok(())
}

async fn dispatch(calls: &Calls, header: Header, body: Bytes) {
    match header.kind {
        Kind::Response => finish(calls, header.stream, body).await,
        Kind::Data => stream_data(calls, header, body).await,
        // Servers open no streams, and types to come are for versions to come.
        Kind::Request | Kind::Other(_) => debug!(?header, "ttrpc client ignores a frame"),
    }
}

async fn finish(calls: &Calls, id: u32, response: Bytes) {
    match calls.take(id) {
        // In both cases the caller may have left in the meantime, and does not care.
        Some(Slot::Unary(answer)) => drop(answer.send(Ok(response))),
        Some(Slot::Stream(events)) => drop(deliver(&events, Event::Response(response)).await),
        None => debug!(id, "ttrpc response for a call that was given up"),
    }
}

async fn stream_data(calls: &Calls, header: Header, body: Bytes) {
    match calls.take_unary(header.stream) {
        Some(Slot::Unary(answer)) => {
            drop(answer.send(Err(Status::protocol("unexpected \"data\" message received"))));
        }
        Some(Slot::Stream(events)) => {
            let kept = deliver_data(&events, header.flags, body).await;
            if !kept || header.flags & REMOTE_CLOSED != 0 {
                calls.take(header.stream);
            }
        }
        None => debug!(?header, "ttrpc data for a stream that was given up"),
    }
}

async fn fail(calls: &Calls, id: u32, status: Status) {
    match calls.take(id) {
        Some(Slot::Unary(answer)) => drop(answer.send(Err(status))),
        Some(Slot::Stream(events)) => drop(deliver(&events, Event::Failed(status)).await),
        None => debug!(id, %status, "ttrpc failure of a call that was given up"),
    }
}
