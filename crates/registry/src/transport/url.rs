// SPDX-License-Identifier: Apache-2.0
use http::Uri;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use types::{Error, Kind, Result};

/// What may stand for itself in the value of a query (RFC 3986, unreserved).
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `text` as the value of a query.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

/// The scheme and authority, which is whom credentials are for.
pub(crate) fn origin(uri: &Uri) -> (&str, &str) {
    let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
    (uri.scheme_str().unwrap_or_default(), authority)
}

/// Where `location` leads from `base` (RFC 3986, section 5).
pub(crate) fn join(base: &Uri, location: &str) -> Result<Uri> {
    let (scheme, authority) = origin(base);
    let whole = match location.find("://") {
        Some(at) if !location[..at].contains(['/', '?']) => location.to_owned(),
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ => {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{location}")
        }
    };
    let bad = |why: String| {
        Error::said(Kind::Unknown, format!("unable to parse location {location}: {why}"))
    };
    let whole = whole.split('#').next().unwrap_or_default();
    let uri: Uri = whole.parse().map_err(|error| bad(format!("{error}")))?;
    match origin(&uri) {
        ("http" | "https", authority) if !authority.is_empty() => Ok(uri),
        _ => Err(bad("unsupported protocol scheme".to_owned())),
    }
}

/// A URL as a person may see it: the query of one that a registry made up may be a password, such
/// as a signed link to an object store.
pub(crate) fn shown(uri: &Uri, secret: bool) -> String {
    let (scheme, authority) = origin(uri);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match uri.query() {
        None => format!("{scheme}://{authority}{}", uri.path()),
        Some(_) if secret => format!("{scheme}://{authority}{}?...", uri.path()),
        Some(query) => format!("{scheme}://{authority}{}?{query}", uri.path()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_joined_as_browsers_do() {
        let base: Uri = "https://r.io:5000/v2/a/uploads/?x=1".parse().unwrap();
        for (location, want) in [
            ("http://other/x?y=z", "http://other/x?y=z"),
            ("//other/x", "https://other/x"),
            ("/v2/b", "https://r.io:5000/v2/b"),
            ("c?state=http://x", "https://r.io:5000/v2/a/uploads/c?state=http://x"),
            ("/d#top", "https://r.io:5000/d"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), want);
        }
        assert!(join(&base, "file:///etc/passwd").is_err());
        assert!(join(&base, "/a b").is_err());
    }

    #[test]
    fn secrets_in_queries_are_not_shown() {
        let uri: Uri = "https://s3/x?signature=s".parse().unwrap();
        assert_eq!(shown(&uri, true), "https://s3/x?...");
        assert_eq!(shown(&uri, false), "https://s3/x?signature=s");
    }
}
