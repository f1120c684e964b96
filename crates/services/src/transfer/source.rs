// SPDX-License-Identifier: Apache-2.0
//! The registry of a transfer, as the client describes it.
use std::{path::PathBuf, sync::Arc};

use ::registry::{
    Behalf, Credential, Credentials, Directories, Listener, Reference, Registry, Scheme,
};
use api::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, HttpDebug, OciRegistry, RegistryResolver,
};
use async_trait::async_trait;
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Semaphore, mpsc, oneshot};
use types::{Descriptor, Error, Kind, Result, Scope};

use super::{Resolved, logs, unpacks::Unpacks};
use crate::streaming::{Stream, Streams};

/// How registries are reached on behalf of clients: what all transfers share, and what holds where a
/// client says nothing.
#[derive(Clone)]
pub struct Registries {
    /// Connections, limits, and what is known of dead mirrors.
    pub shared: Registry,
    /// The folders that say where registries are.
    pub directories: Vec<PathBuf>,
    /// Who the daemon is, to registries that clients have no credentials for.
    pub credentials: Arc<dyn Credentials>,
    /// How many blobs of one image are fetched at once; 0 for the default of 3.
    pub downloads: usize,
    /// How many blobs of one image are sent at once; 0 for the default of 3.
    pub uploads: usize,
    /// How many blobs all pushes together send at once; `None` is no limit.
    pub upload_turns: Option<Arc<Semaphore>>,
    /// Where images may be unpacked to, and how many layers at once.
    pub unpacks: Unpacks,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries").field("directories", &self.directories).finish_non_exhaustive()
    }
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            shared: Registry::new(::registry::Options::default()),
            directories: Vec::new(),
            credentials: Arc::new(|_: &str| None),
            downloads: 0,
            uploads: 0,
            upload_turns: None,
            unpacks: Unpacks::default(),
        }
    }
}

/// A repository in a registry, and a name in it.
pub(super) struct Source {
    registry: Registry,
    reference: Reference,
    name: String,
    downloads: usize,
    uploads: usize,
    upload_turns: Option<Arc<Semaphore>>,
}

impl Source {
    pub(super) fn new(
        wire: &OciRegistry,
        scope: &Scope,
        streams: &Streams,
        registries: &Registries,
    ) -> Result<Self> {
        let reference: Reference = wire.reference.parse()?;
        let resolver = wire.resolver.clone().unwrap_or_default();
        let credentials = match resolver.auth_stream.as_str() {
            "" => Arc::clone(&registries.credentials),
            id => {
                Arc::new(Asked::new(streams.take(scope.namespace(), id)?, wire.reference.clone()))
            }
        };
        let behalf = Behalf {
            hosts: directories(&resolver, registries)?.hosts(),
            credentials,
            headers: headers(&resolver.headers)?,
            listener: listener(&resolver, scope, streams)?,
        };
        let registry = registries.shared.on_behalf(behalf);
        let Registries { downloads, uploads, .. } = *registries;
        let upload_turns = registries.upload_turns.clone();
        let name = wire.reference.clone();
        Ok(Self { registry, reference, name, downloads, uploads, upload_turns })
    }

    /// The whole reference.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// How many blobs are fetched at once.
    pub(super) fn downloads(&self) -> usize {
        self.downloads
    }

    /// How many blobs are sent at once.
    pub(super) fn uploads(&self) -> usize {
        self.uploads
    }

    /// The turns that it shares with other pushes.
    pub(super) fn upload_turns(&self) -> Option<Arc<Semaphore>> {
        self.upload_turns.clone()
    }

    /// What it was found to mean, to be stored as `name`.
    pub(super) fn resolved<'a>(&'a self, target: &'a Descriptor, name: &'a str) -> Resolved<'a> {
        let Self { registry, reference, name: source, .. } = self;
        Resolved { source, name, target, registry, reference }
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

/// The client's folder, or else the daemon's own.
fn directories(resolver: &RegistryResolver, registries: &Registries) -> Result<Directories> {
    let roots = match resolver.host_dir.as_str() {
        "" => registries.directories.clone(),
        given => Directories::split(given),
    };
    let default_scheme = match resolver.default_scheme.as_str() {
        "" => None,
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        other => return Err(Error::invalid(format!("unsupported scheme {other:?}"))),
    };
    Ok(Directories { roots, default_scheme, ..Directories::default() })
}

/// Whoever asked to hear of requests does so on their stream, or in the daemon's log.
fn listener(
    resolver: &RegistryResolver,
    scope: &Scope,
    streams: &Streams,
) -> Result<Option<Listener>> {
    if resolver.http_debug() == HttpDebug::Disabled {
        return Ok(None);
    }
    Ok(Some(match resolver.logs_stream.as_str() {
        "" => Arc::new(|heard| {
            let text = heard.dump();
            if !text.is_empty() {
                tracing::info!("{}", text.trim_end());
            }
        }),
        id => logs::onto(streams.take(scope.namespace(), id)?),
    }))
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
        AuthType::Header => Ok(Some(Credential::header(answer.secret))),
    }
}
