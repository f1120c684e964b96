// SPDX-License-Identifier: Apache-2.0
//! A blob that is uploaded in chunks, so that an upload whose connection breaks goes on where the
//! registry says that it is (OCI distribution spec, "Pushing a blob in chunks").
//!
//! ```text
//!  POST --> location --PATCH 0-n--> location --PATCH n+1-m--> location --PUT digest--> there
//!                          `-- broke: GET location --> how far --> PATCH from there
//! ```
use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, header};
use tokio::time::sleep;
use types::{Digest, Result};

use super::{
    DENIED, Pusher,
    place::{Place, is_unknown},
    value,
};
use crate::{
    refusal::{self, Failure},
    request::{Ask, Target},
    retry,
    transport::Answer,
};

/// An upload in chunks.
pub(super) struct Chunks {
    place: Place,
    /// What it does not have yet.
    held: BytesMut,
    size: usize,
}

/// What became of a chunk.
pub(super) enum Sent {
    /// The registry has it.
    Taken,
    /// The registry knows no chunks: everything held is still to be sent.
    Refused,
}

impl Chunks {
    /// An upload to `location` in chunks of `size` bytes.
    pub(super) fn new(location: Target, size: usize) -> Self {
        Self { place: Place::new(location), held: BytesMut::new(), size }
    }

    /// Adds what is to be sent. Returns whether that makes a chunk.
    pub(super) fn hold(&mut self, data: &[u8]) -> bool {
        self.held.extend_from_slice(data);
        self.held.len() >= self.size
    }

    /// What has not been sent.
    pub(super) fn into_held(self) -> Bytes {
        self.held.freeze()
    }

    /// Sends what is held. Of a first chunk that is refused nothing is lost.
    pub(super) async fn send(&mut self, pusher: &Pusher) -> Result<Sent> {
        let mut failures = 0;
        while !self.held.is_empty() {
            let (first, length) = (self.place.sent, self.held.len() as u64);
            let mut ask = pusher.ask(Method::PATCH, self.place.location.clone());
            let blob = "application/octet-stream".to_owned();
            ask.headers.insert(header::CONTENT_TYPE, value(blob)?);
            let range = format!("{first}-{}", first + length - 1);
            ask.headers.insert(header::CONTENT_RANGE, value(range)?);
            // The bytes are shared with the request, and taken back from it afterwards.
            let body = self.held.split().freeze();
            let answer = pusher.shared().send(&Ask { body: body.clone(), ..ask }).await;
            self.held = body.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&*shared));
            let error = match answer {
                Ok(answer) if answer.status.is_success() => {
                    self.take(&answer)?;
                    failures = 0;
                    continue;
                }
                Ok(answer) if first == 0 && is_unknown(answer.status) => return Ok(Sent::Refused),
                Ok(answer) => refusal::unexpected(answer).await,
                Err(Failure::Other(error)) => error,
                Err(denied) => return Err(denied.or_denied(DENIED)),
            };
            failures += 1;
            let wait = pusher.shared().options.retry.wait(failures, None);
            let Some(wait) = wait else { return Err(error) };
            tracing::debug!(sent = self.place.sent, %error, "asking how far an upload is");
            sleep(retry::spread(wait)).await;
            if !self.ask_how_far(pusher).await? {
                return Err(error);
            }
        }
        Ok(Sent::Taken)
    }

    /// Ends the upload.
    pub(super) async fn finish(self, pusher: &Pusher, digest: &Digest) -> Result<Answer> {
        self.place.finish(pusher, digest).await
    }

    /// Asks the registry how much it has. Returns false when that is nothing to go on from.
    async fn ask_how_far(&mut self, pusher: &Pusher) -> Result<bool> {
        let before = self.place.sent;
        let is_known = self.place.ask(pusher, before + self.held.len() as u64).await?;
        self.held.advance((self.place.sent - before) as usize);
        Ok(is_known)
    }

    fn take(&mut self, answer: &Answer) -> Result<()> {
        let before = self.place.sent;
        self.place.take(answer, before + self.held.len() as u64)?;
        self.held.advance((self.place.sent - before) as usize);
        Ok(())
    }
}
