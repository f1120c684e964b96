// SPDX-License-Identifier: Apache-2.0
use std::{fmt, net::IpAddr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Uri};
use percent_encoding::percent_decode_str;
use types::{Error, Kind, Result};

use super::socks::Login;
use crate::{host::is_loopback, reference::split_port};

/// The proxies through which hosts are reached.
///
/// Loopback is never proxied (Go `golang.org/x/net/http/httpproxy`, which these rules are from).
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    except: Vec<Exception>,
}

/// A proxy, spoken to in plain text or over TLS.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    /// Where it is: `https://proxy:3128` if it is spoken to over TLS, else `http://proxy:3128`,
    /// whatever it speaks.
    pub(crate) uri: Uri,
    /// Who we are to it, if it speaks HTTP.
    pub(crate) authorization: Option<HeaderValue>,
    /// What it is told, if it speaks SOCKS.
    pub(crate) socks: Option<Login>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

/// Hosts that are reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    Everything,
    /// A network: `10.0.0.0/8`.
    Network(IpAddr, u8),
    /// A name, and what is below it; only with this port, if one is given.
    Name {
        name: String,
        only_below: bool,
        port: Option<String>,
    },
}

impl Proxies {
    /// The proxies that variables name: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`, also in lower case.
    ///
    /// Errors: `InvalidArgument` when one is no address of an HTTP, HTTPS or SOCKS5 proxy.
    pub fn new(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let either = |name: &str| {
            let found = |name: &str| variable(name).filter(|value| !value.is_empty());
            found(name).or_else(|| found(&name.to_lowercase()))
        };
        let proxy = |name: &str| {
            let parsed = either(name).map(|text| parse(name, &text));
            parsed.transpose()
        };
        let except = either("NO_PROXY").unwrap_or_default();
        Ok(Self {
            http: proxy("HTTP_PROXY")?,
            https: proxy("HTTPS_PROXY")?,
            except: except.split(',').filter_map(|text| exception(text.trim())).collect(),
        })
    }

    /// The proxy for a URL; none to go there directly.
    pub(crate) fn find(&self, uri: &Uri) -> Option<&Proxy> {
        let proxy = match uri.scheme_str() {
            Some("https") => self.https.as_ref(),
            _ => self.http.as_ref(),
        };
        let authority = uri.authority()?.as_str();
        let is_direct = || is_loopback(authority) || self.excepts(uri);
        proxy.filter(|_| !is_direct())
    }

    fn excepts(&self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
        let standard = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let own_port = uri.port_u16().unwrap_or(standard).to_string();
        let address = host.parse::<IpAddr>().ok();
        self.except.iter().any(|exception| match exception {
            Exception::Everything => true,
            Exception::Network(network, bits) => {
                address.is_some_and(|address| is_within(address, *network, *bits))
            }
            Exception::Name { name, only_below, port } => {
                let below = host.strip_suffix(name).is_some_and(|front| front.ends_with('.'));
                let same = host == *name && !only_below;
                (below || same) && port.as_ref().is_none_or(|port| *port == own_port)
            }
        })
    }
}

fn parse(name: &str, text: &str) -> Result<Proxy> {
    let bad = |why: &str| Error::said(Kind::InvalidArgument, format!("{name}: {why}"));
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: Uri = full.parse().map_err(|error| bad(&format!("{error}")))?;
    // Compat: Go has the proxy look up names with either of the last two.
    let is_socks = match uri.scheme_str() {
        Some("http" | "https") => false,
        Some("socks5" | "socks5h") => true,
        _ => return Err(bad("only proxies that speak HTTP, HTTPS or SOCKS5 are known")),
    };
    let authority = uri.authority().ok_or_else(|| bad("no host"))?.as_str();
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if is_socks {
        let port = if split_port(host).1.is_some() { "" } else { ":1080" };
        let uri =
            format!("http://{host}{port}").parse().map_err(|error| bad(&format!("{error}")))?;
        let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let user = user.map(|user| user.split_once(':').unwrap_or((user, "")));
        let user = user.map(|(user, password)| (plain(user), plain(password)));
        return Ok(Proxy { uri, authorization: None, socks: Some(Login(user)) });
    }
    let authorization = user.map(|user| {
        let plain: Vec<u8> = percent_decode_str(user).collect();
        let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(plain)))
            .expect("base64 has only characters that headers may have");
        value.set_sensitive(true);
        value
    });
    let scheme = uri.scheme_str().unwrap_or("http");
    let uri = format!("{scheme}://{host}").parse().map_err(|error| bad(&format!("{error}")))?;
    Ok(Proxy { uri, authorization, socks: None })
}

fn exception(text: &str) -> Option<Exception> {
    let text = text.to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Exception::Everything);
    }
    let network = text.split_once('/').and_then(|(address, bits)| {
        Some(Exception::Network(address.parse().ok()?, bits.parse().ok()?))
    });
    let address = || text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
    let single = || address().map(|it| Exception::Network(it, if it.is_ipv4() { 32 } else { 128 }));
    network.or_else(single).or_else(|| {
        let (host, port) = split_port(&text);
        let host = host.trim_matches(['[', ']']);
        let below = host.strip_prefix('*').unwrap_or(host).strip_prefix('.');
        let name = below.unwrap_or(host).to_owned();
        let port = port.map(str::to_owned);
        Some(Exception::Name { name, only_below: below.is_some(), port })
    })
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let prefix = |wide: u128, width: u8| match width.checked_sub(bits) {
        Some(rest) => wide.checked_shr(u32::from(rest)).unwrap_or(0),
        None => wide,
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            prefix(u128::from(a.to_bits()), 32) == prefix(u128::from(b.to_bits()), 32)
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => prefix(a.to_bits(), 128) == prefix(b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(pairs: &[(&str, &str)]) -> Result<Proxies> {
        let value = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|it| it.1.into());
        Proxies::new(value)
    }

    #[test]
    fn the_scheme_chooses_the_proxy_and_loopback_needs_none() {
        let both =
            proxies(&[("HTTP_PROXY", "plain:1"), ("https_proxy", "https://u:p%40@tls:2")]).unwrap();
        let find = |uri: &str| both.find(&uri.parse().unwrap()).map(|it| it.uri.to_string());
        assert_eq!(find("http://r.io/").as_deref(), Some("http://plain:1/"));
        assert_eq!(find("https://r.io/").as_deref(), Some("https://tls:2/"));
        assert_eq!(find("http://127.0.0.1:5000/"), None);
        assert_eq!(find("https://localhost/"), None);
        let proxy = both.find(&"https://r.io".parse().unwrap()).unwrap();
        assert_eq!(proxy.authorization.as_ref().unwrap(), "Basic dTpwQA==");
        assert!(!format!("{both:?}").contains("dTpw"));
    }

    #[test]
    fn exceptions_are_names_networks_and_ports() {
        for (except, direct, proxied) in [
            ("r.io", "http://a.r.io", "http://ar.io"),
            ("r.io", "http://r.io:9", "http://r.io.example"),
            (".r.io", "http://a.r.io", "http://r.io"),
            ("*.r.io", "http://a.r.io", "http://r.io"),
            ("r.io:80", "http://r.io", "http://r.io:81"),
            ("10.0.0.0/8", "http://10.9.9.9", "http://11.0.0.1"),
            ("10.1.2.3", "http://10.1.2.3:5000", "http://10.1.2.4"),
            ("fd00::/8, x", "http://[fd00::1]:5000", "http://[fe00::1]"),
        ] {
            let found = proxies(&[("HTTP_PROXY", "p:1"), ("NO_PROXY", except)]).unwrap();
            let is_proxied = |uri: &str| found.find(&uri.parse().unwrap()).is_some();
            assert!(!is_proxied(direct), "{except}: {direct}");
            assert!(is_proxied(proxied), "{except}: {proxied}");
        }
        let all = proxies(&[("HTTP_PROXY", "p:1"), ("NO_PROXY", "*")]).unwrap();
        assert!(all.find(&"http://r.io".parse().unwrap()).is_none());
    }

    #[test]
    fn what_is_no_proxy_is_named_without_its_password() {
        let error = proxies(&[("HTTPS_PROXY", "ftp://u:secret@p:1")]).unwrap_err().to_string();
        assert_eq!(error, "HTTPS_PROXY: only proxies that speak HTTP, HTTPS or SOCKS5 are known");
    }
}
