// SPDX-License-Identifier: Apache-2.0
use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderMap;
use types::Result;

use crate::{Directories, reference::split_port};

/// Where a registry is: the hosts that serve the name in a reference, in the order to try them.
///
/// A mirror comes before what it mirrors. It is asked anew for each operation, so that a change of
/// configuration needs no restart. [`standard`] is the function for machines without configuration.
pub type Hosts = Arc<dyn Fn(&str) -> Result<Vec<Host>> + Send + Sync>;

/// One host that serves a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// Its name, with the port if it is not the scheme's own.
    pub host: String,
    /// The root of the protocol there, usually `/v2`.
    pub path: String,
    /// What it is trusted to do.
    pub capabilities: Capabilities,
    /// Headers for each request to it. They never go to another host.
    pub headers: HeaderMap,
    /// Who it is trusted to be.
    pub tls: Tls,
    /// How long connecting may take, when not as [`crate::Timeouts::connect`] says.
    pub connect_timeout: Option<Duration>,
    /// The unix socket that it listens on, when it is not found by its name.
    pub socket: Option<PathBuf>,
}

impl Host {
    /// A host called `host` that may do everything.
    pub fn new(scheme: Scheme, host: impl Into<String>) -> Self {
        Self {
            scheme,
            host: host.into(),
            path: "/v2".to_owned(),
            capabilities: Capabilities::ALL,
            headers: HeaderMap::new(),
            tls: Tls::default(),
            connect_timeout: None,
            socket: None,
        }
    }

    /// Whether this host serves `name` on behalf of another, and must be told whose content is meant
    /// (containerd `core/remotes/docker/registry.go`).
    pub(crate) fn is_proxy_of(&self, name: &str) -> bool {
        name != self.host && (name, self.host.as_str()) != ("docker.io", "registry-1.docker.io")
    }
}

/// How a host is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In plain text.
    Http,
    /// Over TLS.
    Https,
    /// Over TLS if it can, in plain text if it answers no TLS. It is found out once, before anything
    /// is said to it. Only for hosts where that is no danger, such as loopback.
    Either,
}

/// What a host is trusted to do: a public mirror may serve what is named by digest, but not say what
/// a tag means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It may serve content named by digest.
    pub pull: bool,
    /// It may say which digest a tag means.
    pub resolve: bool,
    /// It may be pushed to.
    pub push: bool,
    /// It may list what refers to a digest.
    pub referrers: bool,
}

impl Capabilities {
    /// Everything.
    pub const ALL: Self = Self { pull: true, resolve: true, push: true, referrers: true };
}

/// Who a host is trusted to be, beyond the authorities that the system trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Trusts whoever answers.
    pub skip_verify: bool,
    /// Further authorities, in PEM.
    pub authorities: Vec<Bytes>,
    /// Who we are, to hosts that ask. Of several, the one that an authority named by the host signed.
    pub identities: Vec<Identity>,
}

/// A client certificate.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The certificate and its chain, in PEM.
    pub certificate: Bytes,
    /// The private key, in PEM.
    pub key: Bytes,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// The hosts of machines without configuration: the registry is where its name says, `docker.io` at
/// `registry-1.docker.io`, and loopback may speak plain text or TLS that nobody signed
/// (containerd `core/remotes/docker/config/hosts.go`).
pub fn standard(plain_http: bool, tls: Tls) -> Hosts {
    let default_scheme = plain_http.then_some(Scheme::Http);
    Directories { default_scheme, tls, ..Directories::default() }.hosts()
}

/// How a loopback host is spoken to: by the port, if that says it.
pub(crate) fn loopback_scheme(name: &str) -> Scheme {
    match split_port(name).1 {
        None | Some("443") => Scheme::Https,
        Some(_) => Scheme::Http,
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let name = split_port(host).0.trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn where_is(name: &str) -> (Scheme, String, bool) {
        let mut hosts = standard(false, Tls::default())(name).unwrap();
        let host = hosts.remove(0);
        (host.scheme, host.host, host.tls.skip_verify)
    }

    #[test]
    fn a_registry_is_where_its_name_says_over_tls() {
        assert_eq!(where_is("quay.io"), (Scheme::Https, "quay.io".into(), false));
        let hub = (Scheme::Https, "registry-1.docker.io".into(), false);
        assert_eq!(where_is("docker.io"), hub);
    }

    #[test]
    fn loopback_may_speak_plain_text() {
        for name in ["localhost:5000", "127.0.0.1:5000", "127.8.9.1:5000", "[::1]:5000"] {
            assert_eq!(where_is(name), (Scheme::Either, name.into(), true), "{name}");
        }
        assert_eq!(where_is("localhost").0, Scheme::Https);
        assert_eq!(where_is("localhost:80").0, Scheme::Http);
        assert_eq!(where_is("localhost.example:5000").0, Scheme::Https);
    }

    #[test]
    fn plain_text_everywhere_spares_only_the_hub() {
        let hosts = standard(true, Tls::default());
        assert_eq!(hosts("r.example").unwrap()[0].scheme, Scheme::Http);
        assert_eq!(hosts("docker.io").unwrap()[0].scheme, Scheme::Https);
    }

    #[test]
    fn only_another_host_is_a_proxy() {
        let hub = Host::new(Scheme::Https, "registry-1.docker.io");
        assert!(!hub.is_proxy_of("docker.io"));
        assert!(Host::new(Scheme::Https, "mirror.example").is_proxy_of("docker.io"));
        assert!(!Host::new(Scheme::Https, "quay.io").is_proxy_of("quay.io"));
    }
}
