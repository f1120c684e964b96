// SPDX-License-Identifier: Apache-2.0
//! A blob that is uploaded in chunks, so that an upload whose connection breaks goes on where the
//! registry says that it is (OCI distribution spec, "Pushing a blob in chunks").
//!
//! ```text
//!  POST --> location --PATCH 0-n--> location --PATCH n+1-m--> location --PUT digest--> there
//!                          `-- broke: GET location --> how far --> PATCH from there
//! ```
use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, StatusCode, header};
use tokio::time::sleep;
use types::{Digest, Error, Kind, Result};

use super::{DENIED, Pusher, bare_location, value, with_digest};
use crate::{
    refusal::{self, Failure},
    request::{Ask, Target},
    retry,
    transport::{Answer, join},
};

/// An upload in chunks.
pub(super) struct Chunks {
    location: Target,
    /// How much the registry has.
    sent: u64,
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
        Self { location, sent: 0, held: BytesMut::new(), size }
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
            let (first, length) = (self.sent, self.held.len() as u64);
            let mut ask = pusher.ask(Method::PATCH, self.location.clone());
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
            tracing::debug!(sent = self.sent, %error, "asking how far an upload is");
            sleep(retry::spread(wait)).await;
            if !self.ask_how_far(pusher).await? {
                return Err(error);
            }
        }
        Ok(Sent::Taken)
    }

    /// Ends the upload.
    pub(super) async fn finish(self, pusher: &Pusher, digest: &Digest) -> Result<Answer> {
        let ask = pusher.ask(Method::PUT, with_digest(&self.location, digest));
        let sent = pusher.shared().send(&ask).await;
        sent.map_err(|failure| failure.or_denied(DENIED))
    }

    /// Asks the registry how much it has. Returns false when that is nothing to go on from.
    async fn ask_how_far(&mut self, pusher: &Pusher) -> Result<bool> {
        let ask = pusher.ask(Method::GET, self.location.clone());
        match pusher.shared().send(&ask).await {
            Ok(answer) if answer.status.is_success() => self.take(&answer).map(|()| true),
            Ok(_) => Ok(false),
            // It may be back by the next time.
            Err(failure) => {
                let error = failure.or_denied(DENIED);
                Ok(matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded))
            }
        }
    }

    /// Takes over what an answer says: where to go on, and how much has arrived.
    fn take(&mut self, answer: &Answer) -> Result<()> {
        if let Some(location) = answer.header(header::LOCATION).filter(|it| !it.is_empty()) {
            self.location = bare_location(&join(&answer.uri, location)?);
        }
        let last = answer.header(header::RANGE).and_then(last);
        let all = self.sent + self.held.len() as u64;
        let has = match last {
            // `0-0` is one byte, or none: registries say so of an upload that has not begun.
            Some(0) => self.sent,
            Some(last) => last + 1,
            None if answer.method == Method::PATCH => all,
            None => self.sent,
        };
        if !(self.sent..=all).contains(&has) {
            let what = format!("{}: the registry has {has} bytes, of {all} sent", answer.url());
            return Err(Error::said(Kind::DataLoss, what));
        }
        self.held.advance((has - self.sent) as usize);
        self.sent = has;
        Ok(())
    }
}

/// The last byte of `0-1023`, perhaps with `bytes=` before it.
fn last(range: &str) -> Option<u64> {
    let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
    last.trim().parse().ok()
}

/// Whether a registry refuses a first chunk in a way that another kind of upload may not be refused.
fn is_unknown(status: StatusCode) -> bool {
    matches!(status.as_u16(), 400 | 404 | 405 | 411 | 413 | 415 | 416 | 501)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_and_without_their_unit() {
        assert_eq!(last("0-1023"), Some(1023));
        assert_eq!(last("bytes=0-9"), Some(9));
        assert_eq!(last("0"), None);
    }
}
