// SPDX-License-Identifier: Apache-2.0
//! What registries say when they say no, as errors.
use std::time::{Duration, SystemTime};

use http::header;
use serde::Deserialize;
use types::{Error, Kind};

use crate::transport::{Answer, Lost};

/// How much of a refusal is read (containerd `core/remotes/errors/errors.go`).
const MAX_BODY: usize = 64_000;
/// How many of the errors in it are shown, and how much of each.
const MAX_ERRORS: usize = 8;
const MAX_MESSAGE: usize = 512;

/// Why a request came to nothing, as far as callers in here tell apart.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Credentials were refused, or lacking: containerd's `ErrInvalidAuthorization`.
    Denied(String),
    /// Anything else.
    Other(Error),
}

impl Failure {
    /// The error, with `denied` before it if that is what it was.
    pub(crate) fn or_denied(self, denied: &str) -> Error {
        match self {
            // Compat: Go's has no code of its own either, and clients go by the text.
            Self::Denied(why) => Error::said(Kind::Unknown, format!("{denied}{why}")),
            Self::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Lost> for Failure {
    fn from(lost: Lost) -> Self {
        Self::Other(lost.error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.or_denied("")
    }
}

/// The error of an answer whose status nobody hoped for:
/// `unexpected status from GET request to https://...: 500 Internal Server Error`, and what the
/// registry says of it (containerd `core/remotes/docker/errcode.go`).
pub(crate) async fn unexpected(mut answer: Answer) -> Error {
    let mut text = format!(
        "unexpected status from {} request to {}: {}",
        answer.method,
        answer.url(),
        answer.status
    );
    if let Some(wait) = retry_after(&answer) {
        let until = jiff::Timestamp::try_from(SystemTime::now() + wait);
        let until = until.map(|until| format!("{until:.0}")).unwrap_or_default();
        text = format!("{text} (Retry-After: {until})");
    }
    // The status is what went wrong: a body that cannot be read adds nothing to it.
    let (body, _) = answer.whole(MAX_BODY).await.unwrap_or_default();
    for message in messages(&body) {
        text.push('\n');
        text.push_str(&message);
    }
    // Compat: the code is Unknown, as that of Go's ErrUnexpectedStatus.
    Error::said(Kind::Unknown, text)
}

/// How long the registry asks to be left alone (RFC 9110, section 10.2.3).
pub(crate) fn retry_after(answer: &Answer) -> Option<Duration> {
    parse_retry_after(answer.header(header::RETRY_AFTER)?, SystemTime::now())
}

fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    let until = SystemTime::from(date.timestamp());
    Some(until.duration_since(now).unwrap_or_default())
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    errors: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The errors in a refusal (OCI distribution spec, "Error Codes"), as `code: message`.
fn messages(body: &[u8]) -> Vec<String> {
    let Ok(refusal) = serde_json::from_slice::<Refusal>(body) else { return Vec::new() };
    let line = |item: Item| {
        let code = item.code.to_lowercase().replace('_', " ");
        let text = if item.message.is_empty() { code } else { format!("{code}: {}", item.message) };
        text.chars().take(MAX_MESSAGE).collect()
    };
    refusal.errors.into_iter().take(MAX_ERRORS).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_own_words_are_kept_but_bounded() {
        let body = br#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"},{"code":"DENIED"}]}"#;
        assert_eq!(messages(body), ["name unknown: no such repository", "denied"]);
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "m".repeat(9999));
        assert_eq!(messages(long.as_bytes())[0].len(), MAX_MESSAGE);
        assert!(messages(b"<html>").is_empty());
    }

    #[test]
    fn patience_is_asked_for_in_seconds_or_until_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_445_412_470);
        let wait = |text| parse_retry_after(text, now);
        assert_eq!(wait("120"), Some(Duration::from_mins(2)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(wait("Wed, 21 Oct 2015 07:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("soon"), None);
    }
}
