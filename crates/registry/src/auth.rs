// SPDX-License-Identifier: Apache-2.0
//! Getting in: challenges, credentials, tokens.
//!
//! ```text
//!            401 + WWW-Authenticate                    token server
//!  request ------------------------> challenged() .......... ^ |
//!     ^                                   |                  | v
//!     `----- Authorization ----- authorize(scopes) --> tokens per scope
//! ```
//!
//! What a host asked for is remembered per scheme, name and port, so that credentials and tokens can
//! only ever be sent to whom they are for.
mod challenge;
mod docker;
mod token;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Uri};
use tokio::sync::OnceCell;
use types::{Error, Kind, Result};

pub use self::docker::DockerConfig;
use self::{
    challenge::{Challenge, Scheme},
    token::{Issuer, Token},
};
use crate::{
    Heard, Host, Listener,
    host::is_loopback,
    refusal::Failure,
    transport::{Answer, Transport, join, locked, origin},
};

/// Who a person or a machine is, to a registry.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The name; empty when the secret is an identity token.
    pub username: String,
    /// The password, or an identity token to be exchanged for others.
    pub secret: String,
    /// A whole `Authorization` header that is used as it is, instead of the others.
    pub header: String,
    /// Where it is from, for people.
    pub source: String,
}

impl Credential {
    /// A name and a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        let (username, secret) = (username.into(), password.into());
        Self { username, secret, header: String::new(), source: String::new() }
    }

    /// A long-lived token, also called refresh or offline token.
    pub fn identity_token(token: impl Into<String>) -> Self {
        Self::new("", token)
    }

    /// A header that is ready: `Bearer ...`.
    pub fn header(header: impl Into<String>) -> Self {
        Self { header: header.into(), ..Self::new("", "") }
    }

    /// The same credential, saying where it is from.
    pub fn from_source(self, source: impl Into<String>) -> Self {
        Self { source: source.into(), ..self }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { username, source, .. } = self;
        let mut shown = f.debug_struct("Credential");
        shown.field("username", username).field("source", source).finish_non_exhaustive()
    }
}

/// Knows who we are to which host. Asked only when a host wants to know.
///
/// Functions from a host to a credential are [`Credentials`] too.
#[async_trait]
pub trait Credentials: Send + Sync + 'static {
    /// The credential for `host`, a name with the port if it has one; `None` to go in as nobody.
    async fn credential(&self, host: &str) -> Result<Option<Credential>>;
}

#[async_trait]
impl<F> Credentials for F
where
    F: Fn(&str) -> Option<Credential> + Send + Sync + 'static,
{
    async fn credential(&self, host: &str) -> Result<Option<Credential>> {
        Ok(self(host))
    }
}

/// What each host asked for, and the answers that it took.
pub(crate) struct Authorizer {
    credentials: Arc<dyn Credentials>,
    /// For token servers.
    agent: HeaderMap,
    listener: Option<Listener>,
    known: Mutex<HashMap<String, Arc<Known>>>,
}

enum Known {
    /// A header that needs no exchange: a name and password, or one that was given as it is.
    Ready(HeaderValue),
    Bearer(Box<Bearer>),
}

struct Bearer {
    issuer: Issuer,
    /// The scope named in the challenge.
    scope: Vec<String>,
    /// By scope. Whoever wants a token that another is fetching waits for it.
    tokens: Mutex<HashMap<String, Arc<OnceCell<Token>>>>,
}

impl Authorizer {
    pub(crate) fn new(
        credentials: Arc<dyn Credentials>,
        agent: HeaderMap,
        listener: Option<Listener>,
    ) -> Self {
        Self { credentials, agent, listener, known: Mutex::default() }
    }

    /// The `Authorization` for a request to `uri`, if its host is known to want one.
    pub(crate) async fn authorize(
        &self,
        transport: &Transport,
        host: &Host,
        uri: &Uri,
        scopes: &[String],
    ) -> Result<Option<HeaderValue>> {
        let known = locked(&self.known).get(&key(uri)).cloned();
        let Some(known) = known else { return Ok(None) };
        match &*known {
            Known::Ready(header) => Ok(Some(header.clone())),
            Known::Bearer(bearer) => {
                let Bearer { issuer, scope, tokens } = &**bearer;
                let scopes = merge(scopes, scope);
                let cell = cell(tokens, &scopes.join(" "));
                let token = cell.get_or_try_init(async || {
                    issuer.issue(transport, host, &self.agent, &scopes).await
                });
                let token = token.await.map_err(|error| error.context("failed to authorize"))?;
                Ok(Some(token.header.clone()))
            }
        }
    }

    /// Learns from a 401 what its host asks for. `again` says that the request had been authorized
    /// anew before and was refused all the same; `sent` is the `Authorization` that was refused.
    ///
    /// Returns whether it is worth trying once more; without, the answer stands.
    /// (containerd `core/remotes/docker/authorizer.go`, `AddResponses`)
    pub(crate) async fn challenged(
        &self,
        answer: &Answer,
        sent: Option<&HeaderValue>,
        again: bool,
    ) -> Result<bool, Failure> {
        if answer.strayed {
            return Ok(false);
        }
        let Some(challenge) = challenge::parse(&answer.headers).into_iter().next() else {
            return Ok(false);
        };
        if !self.forget(&key(&answer.uri), sent) && !again {
            return Ok(true);
        }
        if again {
            return match challenge.parameters.get("error").filter(|error| !error.is_empty()) {
                Some(error) => Err(Failure::Denied(format!(
                    "server message: {}: authorization failed",
                    brief(error)
                ))),
                None => Ok(false),
            };
        }
        let host = origin(&answer.uri).1;
        let credential = self.credentials.credential(host).await?;
        if let Some(listener) = &self.listener {
            listener(&Heard::Credential { host, credential: credential.as_ref() });
        }
        let known = Arc::new(learn(challenge, &answer.uri, credential)?);
        locked(&self.known).insert(key(&answer.uri), known);
        Ok(true)
    }
}

impl Authorizer {
    /// Forgets what was refused. Returns false when something else is known by now, because another
    /// request was refused at the same time and has learned already.
    fn forget(&self, key: &str, refused: Option<&HeaderValue>) -> bool {
        let mut known = locked(&self.known);
        match known.get(key) {
            Some(better) if refused.is_none_or(|refused| !better.gave(refused)) => false,
            _ => {
                known.remove(key);
                true
            }
        }
    }
}

impl Known {
    fn gave(&self, header: &HeaderValue) -> bool {
        match self {
            Self::Ready(own) => own == header,
            Self::Bearer(bearer) => {
                let tokens = locked(&bearer.tokens);
                tokens.values().filter_map(|cell| cell.get()).any(|it| it.header == header)
            }
        }
    }
}

fn learn(
    challenge: Challenge,
    uri: &Uri,
    credential: Option<Credential>,
) -> Result<Known, Failure> {
    let Challenge { scheme, mut parameters } = challenge;
    if let Some(given) = credential.as_ref().filter(|credential| !credential.header.is_empty()) {
        return Ok(Known::Ready(ready(&given.header)?));
    }
    let credential = credential.filter(|credential| !credential.secret.is_empty());
    if scheme == Scheme::Basic {
        let named = credential.filter(|credential| !credential.username.is_empty());
        let named = named.ok_or_else(|| {
            Failure::Denied("authorization failed: no basic auth credentials".to_owned())
        })?;
        return Ok(Known::Ready(basic(&named)));
    }
    let realm = parameters
        .get("realm")
        .ok_or_else(|| Error::said(Kind::Unknown, "no realm specified for token auth challenge"))?;
    let realm =
        join(uri, realm).map_err(|error| error.context("invalid token auth challenge realm"))?;
    if credential.is_some() && is_exposed(uri, &realm) {
        let what = format!("refusing to send credentials in plain text to {}", key(&realm));
        return Err(Error::said(Kind::FailedPrecondition, what).into());
    }
    let scope = parameters.get("scope").map(|scope| scope.split(' ').map(str::to_owned).collect());
    let service = parameters.remove("service").unwrap_or_default();
    let issuer = Issuer { realm, service, credential };
    let bearer = Bearer { issuer, scope: scope.unwrap_or_default(), tokens: Mutex::default() };
    Ok(Known::Bearer(Box::new(bearer)))
}

fn ready(header: &str) -> Result<HeaderValue> {
    let mut header = HeaderValue::try_from(header)
        .map_err(|error| Error::caused(Kind::InvalidArgument, "authorization header", error))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Whether a host that is spoken to over TLS sends us to a place where everybody can listen.
fn is_exposed(host: &Uri, realm: &Uri) -> bool {
    let is_plain = |uri: &Uri| uri.scheme_str() == Some("http");
    !is_plain(host) && is_plain(realm) && !is_loopback(origin(realm).1)
}

/// Credentials and tokens are kept apart by scheme, name and port.
fn key(uri: &Uri) -> String {
    let (scheme, authority) = origin(uri);
    format!("{scheme}://{authority}")
}

/// Servers may say anything: what they say is cut short (as in containerd, 64 bytes).
fn brief(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Scopes sorted and without repetition, so that the same wishes share a token.
fn merge(wanted: &[String], asked: &[String]) -> Vec<String> {
    let mut scopes: Vec<_> =
        wanted.iter().chain(asked).filter(|it| !it.is_empty()).cloned().collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

/// The place of the token for `scope`: a new one if the token in it has grown old.
fn cell(
    tokens: &Mutex<HashMap<String, Arc<OnceCell<Token>>>>,
    scope: &str,
) -> Arc<OnceCell<Token>> {
    let mut tokens = locked(tokens);
    if tokens.get(scope).and_then(|cell| cell.get()).is_some_and(|token| !token.is_fresh()) {
        tokens.remove(scope);
    }
    Arc::clone(tokens.entry(scope.to_owned()).or_default())
}

/// `Basic` authentication (RFC 7617).
fn basic(credential: &Credential) -> HeaderValue {
    let pair = STANDARD.encode(format!("{}:{}", credential.username, credential.secret));
    let mut header = HeaderValue::try_from(format!("Basic {pair}"))
        .expect("base64 has only characters that headers may have");
    header.set_sensitive(true);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_is_what_the_rfc_shows() {
        let header = basic(&Credential::new("Aladdin", "open sesame"));
        assert_eq!(header, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn secrets_do_not_show() {
        assert!(!format!("{:?}", Credential::new("u", "hidden")).contains("hidden"));
    }

    #[test]
    fn the_same_scopes_in_any_order_are_one() {
        let scopes = |texts: &[&str]| texts.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let want = scopes(&["a", "b"]);
        assert_eq!(merge(&scopes(&["b", "a"]), &scopes(&["a", ""])), want);
    }
}
