// SPDX-License-Identifier: Apache-2.0
//! Requests to one repository: where they go, with whose permission, and again if need be.
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::time::sleep;
use types::{Error, Kind, Result};

use crate::{
    Host, Reference, Shared, refusal,
    refusal::Failure,
    retry,
    transport::{Answer, Body, Lost, Message, encode, origin},
};

/// A repository and the hosts that serve it.
pub(crate) struct Repository {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reference: Reference,
    pub(crate) hosts: Vec<Host>,
}

/// What is asked of a host.
pub(crate) struct Ask<'a> {
    pub(crate) host: &'a Host,
    pub(crate) method: Method,
    pub(crate) target: Target,
    /// Headers that any host may see.
    pub(crate) headers: HeaderMap,
    /// The permissions it takes: `repository:a/b:pull`.
    pub(crate) scopes: Vec<String>,
    pub(crate) body: Bytes,
    /// Whether there is no other host to ask.
    pub(crate) last: bool,
}

/// Which place on a host.
#[derive(Clone)]
pub(crate) enum Target {
    /// A path and query of the host.
    Path(String),
    /// A URL that the host gave out. What is private to the host goes there only if it is there.
    Url(String),
    /// A URL that an image names. Nothing private goes there.
    Foreign(String),
}

/// A request as it will be sent.
struct Sealed {
    message: Message,
    /// The `Authorization` in it.
    authorization: Option<HeaderValue>,
    /// Whether it goes to the host itself, which may then ask who we are.
    home: bool,
}

impl Repository {
    /// The path of `parts` in this repository on `host`, saying whose it is if `host` stands in for
    /// another.
    pub(crate) fn path(&self, host: &Host, parts: &[&str]) -> String {
        let mut path = String::new();
        let root = host.path.split('/').filter(|part| !part.is_empty());
        let own = self.reference.repository().split('/').filter(|part| !part.is_empty());
        for part in root.chain(own).chain(parts.iter().copied()) {
            path.push('/');
            path.push_str(part);
        }
        path
    }

    /// The same path with the name of the registry as a query, for a host that stands in for it.
    pub(crate) fn mirrored(&self, host: &Host, parts: &[&str]) -> Target {
        let path = self.path(host, parts);
        let name = self.reference.host();
        if host.is_proxy_of(name) {
            return Target::Path(format!("{path}?ns={}", encode(name)));
        }
        Target::Path(path)
    }

    pub(crate) fn scope(&self, actions: &str) -> String {
        format!("repository:{}:{actions}", self.reference.repository())
    }
}

impl Shared {
    /// Asks until there is an answer that will not change: gets permission when asked for it, waits
    /// for what may pass, and asks with GET where HEAD is refused
    /// (containerd `core/remotes/docker/resolver.go`, `retryRequest`).
    pub(crate) async fn send(&self, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let mut method = ask.method.clone();
        let mut failures = 0;
        let mut authorized = false;
        loop {
            let sealed = self.seal(ask, &method).await?;
            let attempt = self.transport.exchange(ask.host, &sealed.message).await;
            self.judge(ask, attempt.as_ref().err());
            let asked = match &attempt {
                Ok(answer) if answer.status == StatusCode::UNAUTHORIZED && sealed.home => {
                    let refused = sealed.authorization.as_ref();
                    if !self.auth.challenged(answer, refused, authorized).await? {
                        return Ok(attempt?);
                    }
                    authorized = true;
                    continue;
                }
                Ok(answer) if heads_are_refused(answer) => {
                    method = Method::GET;
                    continue;
                }
                Ok(answer) if retry::may_pass(answer.status, ask.last) => {
                    refusal::retry_after(answer)
                }
                Err(lost) if lost.cut && ask.last && is_harmless(&method) => None,
                _ => return Ok(attempt?),
            };
            failures += 1;
            let Some(wait) = self.options.retry.wait(failures, asked) else { return Ok(attempt?) };
            tracing::debug!(path = sealed.message.uri.path(), ?wait, failures, "trying again");
            drop(attempt);
            sleep(retry::spread(wait)).await;
        }
    }

    /// Learns whether a host can be reached. One that an image names is nobody's mirror.
    fn judge(&self, ask: &Ask<'_>, lost: Option<&Lost>) {
        match lost {
            _ if matches!(ask.target, Target::Foreign(_)) => {}
            None => self.health.well(&ask.host.host),
            Some(lost) if !lost.cut => self.health.failed(&ask.host.host),
            Some(_) => {}
        }
    }

    /// Sends a body that comes in pieces, which can only be done once.
    pub(crate) async fn send_pieces(&self, ask: &Ask<'_>, body: Body) -> Result<Answer, Failure> {
        let sealed = self.seal(ask, &ask.method).await?;
        Ok(self.transport.upload(ask.host, &sealed.message, body).await?)
    }

    async fn seal(&self, ask: &Ask<'_>, method: &Method) -> Result<Sealed> {
        let base = self.transport.base(ask.host).await?;
        let uri = parse(match &ask.target {
            Target::Path(path) => format!("{base}{path}"),
            Target::Url(url) | Target::Foreign(url) => url.clone(),
        })?;
        let foreign = matches!(ask.target, Target::Foreign(_));
        let home = !foreign && origin(&uri) == origin(&parse(base)?);
        let mut open = ask.headers.clone();
        open.insert(header::USER_AGENT, self.options.user_agent.clone());
        let mut private = HeaderMap::new();
        let mut authorization = None;
        if home {
            private.extend(self.options.headers.clone());
            private.extend(ask.host.headers.clone());
            authorization =
                self.auth.authorize(&self.transport, ask.host, &uri, &ask.scopes).await?;
            private.extend(authorization.iter().map(|it| (header::AUTHORIZATION, it.clone())));
        }
        let listener = self.options.listener.clone();
        let message = Message {
            method: method.clone(),
            uri,
            open,
            private,
            body: ask.body.clone(),
            listener,
        };
        Ok(Sealed { message, authorization, home })
    }
}

fn parse(url: String) -> Result<Uri> {
    url.parse().map_err(|error| Error::caused(Kind::InvalidArgument, url, error))
}

/// Some registries have no HEAD for manifests.
fn heads_are_refused(answer: &Answer) -> bool {
    answer.status == StatusCode::METHOD_NOT_ALLOWED
        && answer.method == Method::HEAD
        && answer.uri.path().contains("/manifests/")
}

/// Whether asking twice does no more than asking once.
fn is_harmless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}
