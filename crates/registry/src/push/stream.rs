// SPDX-License-Identifier: Apache-2.0
//! A blob that is uploaded in one stream, which goes on where the registry says that it broke.
//!
//! ```text
//!  POST --> location --PATCH all of it--> location --PUT digest--> there
//!                          `-- broke: GET location --> how far --> PATCH the rest
//! ```
//!
//! This is how Docker uploads, and so what every registry knows. However large a blob is, it waits for
//! the registry as often as a small one does. Nothing of it is held: where the stream broke, whoever
//! writes is told how far the registry is, and reads again from there.
use std::time::Duration;

use bytes::Bytes;
use http::{Method, header};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use types::{Digest, Error, Kind, Result};

use super::{
    Pusher, Reply,
    place::{Place, is_unknown},
    value,
};
use crate::{
    refusal,
    request::Target,
    retry,
    transport::{Answer, Body},
};

/// An upload in one stream.
pub(super) struct Stream {
    place: Place,
    total: u64,
    /// What is under way, if anything is.
    under_way: Option<(mpsc::Sender<Bytes>, Reply)>,
    /// How often it broke since the registry was last further than before.
    failures: u32,
}

/// What becomes of a stream that broke.
pub(super) enum Broken {
    /// It goes on from that byte.
    At(u64, Error),
    /// The registry does not take it like this, and has nothing.
    Refused(Error),
    /// It is over.
    Over(Error),
}

impl Stream {
    /// An upload of `total` bytes to `location`.
    pub(super) fn new(location: Target, total: u64) -> Self {
        Self { place: Place::new(location), total, under_way: None, failures: 0 }
    }

    /// Sends the next piece.
    pub(super) async fn write(
        &mut self,
        pusher: &Pusher,
        digest: &Digest,
        data: Bytes,
    ) -> Result<(), Broken> {
        if self.under_way.is_none() {
            self.under_way = Some(self.begin(pusher).map_err(Broken::Over)?);
        }
        let Some((pieces, _)) = &self.under_way else { return Ok(()) };
        let idle = pusher.shared().transport.timeouts().idle;
        match timeout(idle, pieces.send(data)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(self.broke(pusher, digest, idle).await),
        }
    }

    /// Waits until the registry has it all.
    pub(super) async fn close(&mut self, pusher: &Pusher, digest: &Digest) -> Result<(), Broken> {
        let Some((pieces, reply)) = self.under_way.take() else { return Ok(()) };
        drop(pieces);
        let limit = pusher.shared().transport.timeouts().commit;
        let answer = reply.within(limit, digest).await;
        let error = match self.judge(answer).await? {
            None if self.place.sent == self.total => return Ok(()),
            None => Error::unavailable(format!("upload of {digest}: not all has arrived")),
            Some(error) => error,
        };
        Err(self.again(pusher, error).await)
    }

    /// Ends the upload.
    pub(super) async fn finish(self, pusher: &Pusher, digest: &Digest) -> Result<Answer> {
        self.place.finish(pusher, digest).await
    }

    fn begin(&self, pusher: &Pusher) -> Result<(mpsc::Sender<Bytes>, Reply)> {
        let (pieces, from) = mpsc::channel(1);
        let (first, last) = (self.place.sent, self.total.saturating_sub(1));
        let (pusher, target) = (pusher.clone(), self.place.location.clone());
        let kind = value("application/octet-stream".to_owned())?;
        let range = value(format!("{first}-{last}"))?;
        let body = Body::Pieces { from, left: self.total - first };
        let reply = tokio::spawn(async move {
            let mut ask = pusher.ask(Method::PATCH, target);
            ask.headers.insert(header::CONTENT_TYPE, kind);
            ask.headers.insert(header::CONTENT_RANGE, range);
            pusher.shared().send_pieces(&ask, body).await
        });
        Ok((pieces, Reply(reply)))
    }

    /// Why the other side takes no more, and where it goes on.
    async fn broke(&mut self, pusher: &Pusher, digest: &Digest, idle: Duration) -> Broken {
        let Some((pieces, reply)) = self.under_way.take() else {
            return Broken::Over(Error::internal("a stream that was not begun"));
        };
        let error = if pieces.is_closed() {
            match self.judge(reply.within(idle, digest).await).await {
                Ok(Some(error)) => error,
                // It was content with less than all.
                Ok(None) => Error::unavailable(format!("upload of {digest}: ended early")),
                Err(broken) => return broken,
            }
        } else {
            drop((pieces, reply));
            Error::deadline(format!("upload of {digest}: no byte taken within {idle:?}"))
        };
        self.again(pusher, error).await
    }

    /// What an answer means: nothing if it is content, an error if it may be tried again.
    async fn judge(&mut self, answer: Result<Answer>) -> Result<Option<Error>, Broken> {
        let error = match answer {
            Ok(answer) if answer.status.is_success() => {
                return self.place.take(&answer, self.total).map(|()| None).map_err(Broken::Over);
            }
            Ok(answer) if self.place.sent == 0 && is_unknown(answer.status) => {
                return Err(Broken::Refused(refusal::unexpected(answer).await));
            }
            Ok(answer) => refusal::unexpected(answer).await,
            Err(error) => error,
        };
        match error.kind() {
            Kind::PermissionDenied | Kind::Unauthenticated => Err(Broken::Over(error)),
            _ => Ok(Some(error)),
        }
    }

    /// Asks how far the registry is, after a while.
    async fn again(&mut self, pusher: &Pusher, error: Error) -> Broken {
        self.failures += 1;
        let wait = pusher.shared().options.retry.wait(self.failures, None);
        let Some(wait) = wait else { return Broken::Over(error) };
        let before = self.place.sent;
        tracing::debug!(sent = before, %error, "asking how far an upload is");
        sleep(retry::spread(wait)).await;
        match self.place.ask(pusher, self.total).await {
            Ok(true) => {
                if self.place.sent > before {
                    self.failures = 0;
                }
                Broken::At(self.place.sent, error)
            }
            // Who hangs up on a stream from its beginning may take a smaller request.
            Ok(false) if before == 0 => Broken::Refused(error),
            Ok(false) => Broken::Over(error),
            Err(worse) => Broken::Over(worse),
        }
    }
}
