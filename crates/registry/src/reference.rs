// SPDX-License-Identifier: Apache-2.0
use std::{fmt, str::FromStr};

use types::{Digest, Error, Kind, Result};

/// The name of something in a registry: `host[:port]/path[:tag][@digest]`.
///
/// It is never completed: `busybox` alone has no host and is refused, as containerd refuses it
/// (`pkg/reference/reference.go`). What comes after the path is the *object*, kept as it was
/// written, because a digest in it may be partial and then names nothing here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    host: String,
    repository: String,
    object: String,
}

impl Reference {
    /// The host, with its port: `localhost:5000`. It names a registry, and need not be where the
    /// registry is: see [`crate::Hosts`].
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository in that registry: `library/busybox`. Empty when the reference has no path.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// What is named in the repository: `latest`, `@sha256:...`, `latest@sha256:...` or nothing.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The tag, the part of the object before any `@`.
    pub fn tag(&self) -> Option<&str> {
        let tag = self.object.split('@').next().unwrap_or_default();
        (!tag.is_empty()).then_some(tag)
    }

    /// The digest, the part of the object after `@`.
    ///
    /// Errors: `InvalidArgument` when it is no complete digest.
    pub fn digest(&self) -> Result<Option<Digest>> {
        self.object.split_once('@').map(|(_, digest)| digest.parse()).transpose()
    }

    /// The host and the repository, without the object.
    pub fn locator(&self) -> String {
        match self.repository.as_str() {
            "" => self.host.clone(),
            repository => format!("{}/{repository}", self.host),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The texts are those of containerd's `pkg/reference/reference.go`.
        let bad = |why: &str| Error::said(Kind::InvalidArgument, format!("{text:?}: {why}"));
        let (host, rest) = text.split_once('/').unwrap_or((text, ""));
        if host.is_empty() {
            return Err(bad("hostname required"));
        }
        let at = rest.find([':', '@']).unwrap_or(rest.len());
        let (path, object) = rest.split_at(at);
        let object = object.strip_prefix(':').unwrap_or(object);
        let parts: Vec<_> =
            path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let sound = is_host(host) && parts.iter().all(|part| is_segment(part)) && is_object(object);
        if !sound {
            return Err(bad("invalid reference"));
        }
        Ok(Self { host: host.to_owned(), repository: parts.join("/"), object: object.to_owned() })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.tag().is_some() { ":" } else { "" };
        write!(f, "{}{colon}{}", self.locator(), self.object)
    }
}

/// Whether this is a host name or an address, perhaps with a port; an IPv6 address is in brackets.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = split_port(text);
    let named = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        }
    };
    named && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// A host's name and its port, if it has one.
pub(crate) fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// The characters that mean nothing else in a URL, so that a name cannot become another path, a
/// query or an escape. `..` would climb onto another registry.
fn is_segment(text: &str) -> bool {
    text != ".." && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-~+".contains(&b))
}

fn is_object(text: &str) -> bool {
    text != ":" && text.split('@').count() <= 2 && text.split(['@', ':']).all(is_segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String, String) {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), text);
        (reference.host, reference.repository, reference.object)
    }

    #[test]
    fn a_reference_is_a_host_a_path_and_an_object() {
        for (text, host, repository, object) in [
            ("docker.io/library/busybox:latest", "docker.io", "library/busybox", "latest"),
            ("localhost:5000/a/b", "localhost:5000", "a/b", ""),
            ("[::1]:5000/a:1", "[::1]:5000", "a", "1"),
            ("r.io/a@sha256:abc", "r.io", "a", "@sha256:abc"),
            ("r.io/a:t@sha256:abc", "r.io", "a", "t@sha256:abc"),
            ("localhost:5000", "localhost:5000", "", ""),
        ] {
            assert_eq!(parts(text), (host.into(), repository.into(), object.into()), "{text}");
        }
    }

    #[test]
    fn paths_are_cleaned_but_cannot_climb() {
        let clean: Reference = "r.io//a/./b/:1".parse().unwrap();
        assert_eq!(clean.to_string(), "r.io/a/b:1");
        assert!("r.io/../evil.io/a:1".parse::<Reference>().is_err());
    }

    #[test]
    fn what_is_no_reference_is_named_in_the_refusal() {
        for (text, why) in [
            ("", "hostname required"),
            ("/a:1", "hostname required"),
            ("busybox:latest", "invalid reference"),
            ("https://r.io/a:1", "invalid reference"),
            ("r.io/a?x=1", "invalid reference"),
            ("r.io/a%2f:1", "invalid reference"),
            ("r.io/a b:1", "invalid reference"),
            ("user@r.io/a:1", "invalid reference"),
            ("r.io/a:1/../2", "invalid reference"),
            ("r.io/a:..", "invalid reference"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.to_string(), format!("{text:?}: {why}"));
            assert_eq!(error.kind(), Kind::InvalidArgument);
        }
    }

    #[test]
    fn a_partial_digest_is_kept_but_names_nothing() {
        let partial: Reference = "r.io/a@sha256:abc".parse().unwrap();
        assert!(partial.digest().is_err());
        assert_eq!(partial.tag(), None);
        let whole: Reference = format!("r.io/a:t@{}", Digest::of("x")).parse().unwrap();
        assert_eq!(whole.digest().unwrap(), Some(Digest::of("x")));
        assert_eq!(whole.tag(), Some("t"));
    }
}
