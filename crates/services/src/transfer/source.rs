// SPDX-License-Identifier: Apache-2.0
//! The registry of a transfer, as the client describes it.
use std::sync::Arc;

use ::registry::{Credential, Credentials, Options, Reference, Registry, Tls, standard};
use api::containerd::types::transfer::{AuthRequest, AuthResponse, AuthType, OciRegistry};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{mpsc, oneshot};
use types::{Descriptor, Error, Kind, Result, Scope};

use crate::streaming::{Stream, Streams};

/// A repository in a registry, and a name in it.
pub(super) struct Source {
    registry: Registry,
    reference: Reference,
    name: String,
}

impl Source {
    pub(super) fn new(wire: &OciRegistry, scope: &Scope, streams: &Streams) -> Result<Self> {
        let reference: Reference = wire.reference.parse()?;
        let resolver = wire.resolver.clone().unwrap_or_default();
        let is_plain = resolver.default_scheme == "http";
        let mut options = Options {
            hosts: standard(is_plain, Tls::default()),
            headers: headers(&resolver.headers)?,
            ..Options::default()
        };
        if !resolver.auth_stream.is_empty() {
            let stream = streams.take(scope.namespace(), &resolver.auth_stream)?;
            options.credentials = Arc::new(Asked::new(stream, wire.reference.clone()));
        }
        Ok(Self { registry: Registry::new(options), reference, name: wire.reference.clone() })
    }

    /// The whole reference.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) async fn resolve(&self) -> Result<Descriptor> {
        self.registry.resolve(&self.reference).await
    }

    pub(super) fn fetcher(&self) -> Result<Arc<dyn content::Fetch>> {
        self.registry.fetcher(&self.reference)
    }

    pub(super) fn pusher(&self) -> Result<Arc<dyn content::Push>> {
        self.registry.pusher(&self.reference)
    }
}

fn headers(wire: &types::Labels) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in wire {
        let bad = |e: &dyn std::fmt::Display| Error::invalid(format!("header {name:?}: {e}"));
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(&e))?;
        headers.append(key, HeaderValue::from_str(value).map_err(|e| bad(&e))?);
    }
    Ok(headers)
}

/// Credentials that the client is asked for when a registry wants them. One task owns the stream:
/// questions are asked one after the other.
struct Asked {
    questions: mpsc::Sender<(String, oneshot::Sender<Result<Option<Credential>>>)>,
}

impl Asked {
    fn new(mut stream: Stream, reference: String) -> Self {
        let (questions, mut asked) = mpsc::channel::<(String, oneshot::Sender<_>)>(1);
        tokio::spawn(async move {
            while let Some((host, answer)) = asked.recv().await {
                // Whoever asked may have given up.
                drop(answer.send(ask(&mut stream, host, reference.clone()).await));
            }
        });
        Self { questions }
    }
}

#[async_trait]
impl Credentials for Asked {
    async fn credential(&self, host: &str) -> Result<Option<Credential>> {
        let gone = || Error::unavailable("the client's credentials stream is closed");
        let (answer, answered) = oneshot::channel();
        self.questions.send((host.to_owned(), answer)).await.map_err(|_unsent| gone())?;
        answered.await.map_err(|_unanswered| gone())?
    }
}

async fn ask(stream: &mut Stream, host: String, reference: String) -> Result<Option<Credential>> {
    let question = api::pack(&AuthRequest { host, reference, wwwauthenticate: Vec::new() });
    stream.send(crate::convert::any(question)).await?;
    let answer = stream.receive().await;
    let answer =
        answer.ok_or_else(|| Error::unavailable("the client did not answer for credentials"))?;
    let wire = prost_types::Any { type_url: answer.type_url, value: answer.value.to_vec() };
    let Some(Ok(answer)) = api::unpack::<AuthResponse>(&wire) else {
        return Err(Error::said(Kind::InvalidArgument, "malformed answer for credentials"));
    };
    match answer.auth_type() {
        AuthType::Credentials => Ok(Some(Credential::new(answer.username, answer.secret))),
        AuthType::Refresh if answer.secret.is_empty() => Ok(None),
        AuthType::Refresh => Ok(Some(Credential::identity_token(answer.secret))),
        AuthType::None => Ok(None),
        AuthType::Header => Err(Error::unimplemented("credentials as a ready header")),
    }
}
