// SPDX-License-Identifier: Apache-2.0
//! What passes between us and registries, for those who want to hear of it.
use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::{Credential, transport::shown};

/// Who hears of what passes. It is called from within requests, and must not wait.
pub type Listener = Arc<dyn Fn(&Heard<'_>) + Send + Sync>;

/// Something that passed.
#[derive(Debug)]
#[non_exhaustive]
pub enum Heard<'a> {
    /// A request is about to be sent.
    Request {
        /// Its method.
        method: &'a Method,
        /// Where it goes.
        uri: &'a Uri,
        /// Its headers. What is marked as sensitive is not to be shown.
        headers: &'a HeaderMap,
    },
    /// An answer has begun to arrive.
    Answer {
        /// The method of the request.
        method: &'a Method,
        /// Where it came from.
        uri: &'a Uri,
        /// What it says.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
        /// How long it took.
        after: Duration,
    },
    /// A request got no answer.
    Silence {
        /// The method of the request.
        method: &'a Method,
        /// Where it went.
        uri: &'a Uri,
        /// Why.
        error: &'a types::Error,
    },
    /// A host wanted to know who we are, and this is what we know: nothing, or a credential.
    Credential {
        /// The host.
        host: &'a str,
        /// Who we are to it.
        credential: Option<&'a Credential>,
    },
    /// A registry warns of something (OCI distribution spec, "Warnings").
    Warning {
        /// The host.
        host: &'a str,
        /// What it says, for people.
        text: &'a str,
    },
}

impl Heard<'_> {
    /// The request or answer as lines of text, as HTTP/1.1 would write them, with `>` or `<` before
    /// each, and without its secrets; empty for anything else.
    pub fn dump(&self) -> String {
        let (sign, first, headers) = match self {
            Self::Request { method, uri, headers } => {
                ('>', format!("{method} {}", shown(uri, false)), Some(*headers))
            }
            Self::Answer { uri, status, headers, .. } => {
                ('<', format!("{status} from {}", shown(uri, false)), Some(*headers))
            }
            Self::Silence { error, .. } => ('<', error.to_string(), None),
            Self::Credential { .. } | Self::Warning { .. } => return String::new(),
        };
        let mut text = format!("{sign} {first}\n");
        for line in headers.into_iter().flat_map(lines) {
            text.extend([&*sign.to_string(), " ", &line, "\n"]);
        }
        text
    }
}

fn lines(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    headers.iter().map(|(name, value)| {
        let is_secret = value.is_sensitive()
            || [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::SET_COOKIE]
                .contains(name);
        let value =
            if is_secret { "[redacted]".into() } else { String::from_utf8_lossy(value.as_bytes()) };
        format!("{name}: {value}")
    })
}

/// Tells of the warnings in an answer, of which only those with code 299 are for us
/// (RFC 7234, section 5.5.7).
pub(crate) fn warnings(headers: &HeaderMap) -> impl Iterator<Item = String> + '_ {
    headers.get_all(header::WARNING).into_iter().filter_map(|value| {
        let quoted = value.to_str().ok()?.strip_prefix("299 - \"")?;
        let text = quoted.rsplit_once('"')?.0.replace("\\\"", "\"");
        (text.len() <= MAX_WARNING).then_some(text)
    })
}

/// The longest warning that a registry may give (OCI distribution spec).
const MAX_WARNING: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_in_the_dump() {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, "Bearer hidden".parse().unwrap());
        headers.insert(header::ACCEPT, "*/*".parse().unwrap());
        let uri = "https://r.io/v2/".parse().unwrap();
        let dump = Heard::Request { method: &Method::GET, uri: &uri, headers: &headers }.dump();
        assert_eq!(dump, "> GET https://r.io/v2/\n> authorization: [redacted]\n> accept: */*\n");
    }

    #[test]
    fn warnings_are_for_people_and_of_code_299() {
        let values = ["299 - \"moves \\\"soon\\\"\"", "110 - \"stale\"", "299 - \"open"];
        let headers = values.map(|value| (header::WARNING, value.parse().unwrap()));
        let headers = HeaderMap::from_iter(headers);
        assert_eq!(warnings(&headers).collect::<Vec<_>>(), ["moves \"soon\""]);
    }
}
