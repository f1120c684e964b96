// SPDX-License-Identifier: Apache-2.0
//! How far a registry is with an upload that goes on.
use http::{Method, StatusCode, header};
use types::{Error, Kind, Result};

use super::{DENIED, Pusher, bare_location, with_digest};
use crate::{
    request::Target,
    transport::{Answer, join},
};

/// Where an upload goes on.
pub(super) struct Place {
    pub(super) location: Target,
    /// How much the registry has.
    pub(super) sent: u64,
}

impl Place {
    pub(super) fn new(location: Target) -> Self {
        Self { location, sent: 0 }
    }

    /// Asks the registry how much it has of `all` that was sent. Returns false when that is nothing to
    /// go on from.
    pub(super) async fn ask(&mut self, pusher: &Pusher, all: u64) -> Result<bool> {
        let ask = pusher.ask(Method::GET, self.location.clone());
        match pusher.shared().send(&ask).await {
            Ok(answer) if answer.status.is_success() => self.take(&answer, all).map(|()| true),
            Ok(_) => Ok(false),
            // It may be back by the next time.
            Err(failure) => {
                let error = failure.or_denied(DENIED);
                Ok(matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded))
            }
        }
    }

    /// Takes over what an answer says: where to go on, and how much has arrived of `all`.
    pub(super) fn take(&mut self, answer: &Answer, all: u64) -> Result<()> {
        if let Some(location) = answer.header(header::LOCATION).filter(|it| !it.is_empty()) {
            self.location = bare_location(&join(&answer.uri, location)?);
        }
        let last = answer.header(header::RANGE).and_then(last);
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
        self.sent = has;
        Ok(())
    }

    /// Ends the upload.
    pub(super) async fn finish(self, pusher: &Pusher, digest: &types::Digest) -> Result<Answer> {
        let ask = pusher.ask(Method::PUT, with_digest(&self.location, digest));
        let sent = pusher.shared().send(&ask).await;
        sent.map_err(|failure| failure.or_denied(DENIED))
    }
}

/// The last byte of `0-1023`, perhaps with `bytes=` before it.
fn last(range: &str) -> Option<u64> {
    let (_, last) = range.trim_start_matches("bytes=").split_once('-')?;
    last.trim().parse().ok()
}

/// Whether a registry refuses the beginning of an upload in a way that another kind of upload may not
/// be refused.
pub(super) fn is_unknown(status: StatusCode) -> bool {
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
