// SPDX-License-Identifier: Apache-2.0
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use types::{Descriptor, Digest, Error, Kind, Result, media_types};

use crate::{
    Host,
    refusal::{self, Failure},
    request::{Ask, Repository},
    transport::Answer,
};

/// The longest manifest that is accepted (containerd `core/remotes/docker/resolver.go`).
pub(crate) const MAX_MANIFEST: u64 = 4 * 1048 * 1048;
/// What the registry says the digest is.
pub(crate) const CONTENT_DIGEST: &str = "docker-content-digest";
/// What may be answered, best first (containerd `core/remotes/docker/resolver.go`).
const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
/// Before the reason why credentials did not do.
const DENIED: &str = "pull access denied, repository does not exist or may require authorization: ";

/// How far a host got before it failed. The error of the host that got furthest is the one to show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Connecting,
    Missing,
    Refused,
    TooLong,
}

/// Resolves what `repository`'s reference names: each place it may be at, on each host.
pub(crate) async fn resolve(repository: &Repository) -> Result<Descriptor> {
    let reference = &repository.reference;
    if reference.object().is_empty() {
        let what = format!("{:?}: object required", reference.to_string());
        return Err(Error::said(Kind::InvalidArgument, what));
    }
    let digest = reference.digest()?;
    let hosts =
        repository.hosts_for("resolve", |may| may.pull && (may.resolve || digest.is_some()))?;
    let detour = repository.shared.options.timeouts.detour;
    let hosts = repository.shared.health.order(hosts, detour, |host| host);
    let (object, kinds) = match &digest {
        Some(digest) => (digest.as_str(), &["manifests", "blobs"][..]),
        None => (reference.object(), &["manifests"][..]),
    };
    let mut worst: Option<(Stage, Error)> = None;
    for kind in kinds {
        for (at, host) in hosts.iter().enumerate() {
            let query = Query { repository, host, kind, object, last: at + 1 == hosts.len() };
            match query.answer(digest.as_ref()).await {
                Ok(descriptor) => return Ok(descriptor),
                Err((stage, error)) => {
                    tracing::info!(host = host.host, %error, "not resolved here");
                    if worst.as_ref().is_none_or(|(before, _)| *before < stage) {
                        worst = Some((stage, error));
                    }
                }
            }
        }
    }
    Err(worst.map_or_else(|| Error::not_found(reference.to_string()), |(_, error)| error))
}

/// One place on one host where something may be.
struct Query<'a> {
    repository: &'a Repository,
    host: &'a Host,
    kind: &'a str,
    object: &'a str,
    last: bool,
}

impl Query<'_> {
    async fn answer(&self, digest: Option<&Digest>) -> Result<Descriptor, (Stage, Error)> {
        let head = self.ask(Method::HEAD).await?;
        let said = said_digest(&head).map_err(|error| (Stage::Refused, error))?;
        if let (Some(digest), Some(said)) = (digest, &said) {
            check(digest, said).map_err(|error| (Stage::Refused, error))?;
        }
        let size = head.header(header::CONTENT_LENGTH).and_then(|size| size.parse().ok());
        let (digest, size, media_type) = match (digest.cloned().or(said), size) {
            (Some(digest), Some(size)) => (digest, size, media_type(&head)),
            (digest, _) => self.read(digest).await?,
        };
        if size > MAX_MANIFEST {
            return Err(self.too_long(size));
        }
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// Reads the thing itself, because the registry does not say enough of it.
    async fn read(&self, digest: Option<Digest>) -> Result<(Digest, u64, String), (Stage, Error)> {
        let mut answer = self.ask(Method::GET).await?;
        let media_type = media_type(&answer);
        if media_type == media_types::DOCKER_SCHEMA1 {
            return Err((Stage::Refused, schema1()));
        }
        let limit = MAX_MANIFEST as usize;
        let (body, complete) =
            answer.whole(limit).await.map_err(|error| (Stage::Connecting, error))?;
        if !complete {
            return Err(self.too_long(MAX_MANIFEST + 1));
        }
        let found = Digest::of(&body);
        let digest = digest.unwrap_or_else(|| found.clone());
        check(&digest, &found).map_err(|error| (Stage::Refused, error))?;
        Ok((digest, body.len() as u64, media_type))
    }

    async fn ask(&self, method: Method) -> Result<Answer, (Stage, Error)> {
        let accept = (header::ACCEPT, HeaderValue::from_static(ACCEPT));
        let ask = Ask {
            host: self.host,
            method,
            target: self.repository.mirrored(self.host, &[self.kind, self.object]),
            headers: HeaderMap::from_iter([accept]),
            scopes: vec![self.repository.scope("pull")],
            body: Bytes::new(),
            last: self.last,
        };
        let sent = self.repository.shared.send(&ask).await;
        let answer = sent.map_err(|error: Failure| (Stage::Connecting, error.or_denied(DENIED)))?;
        match answer.status {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => {
                Err((Stage::Missing, Error::not_found(self.repository.reference.to_string())))
            }
            _ => Err((Stage::Refused, refusal::unexpected(answer).await)),
        }
    }

    fn too_long(&self, size: u64) -> (Stage, Error) {
        let name = &self.repository.reference;
        (Stage::TooLong, Error::not_found(format!("rejecting {size} byte manifest for {name}")))
    }
}

fn said_digest(answer: &Answer) -> Result<Option<Digest>> {
    let Some(said) = answer.header(CONTENT_DIGEST).filter(|said| !said.is_empty()) else {
        return Ok(None);
    };
    let what = || format!("{said:?} in header not a valid digest");
    said.parse().map(Some).map_err(|error: Error| error.context(what()).with_kind(Kind::Unknown))
}

/// A host that serves something else under a digest is not worth fetching from.
fn check(wanted: &Digest, said: &Digest) -> Result<()> {
    if wanted.algorithm() != said.algorithm() || wanted == said {
        return Ok(());
    }
    let what = format!("got digest {said}, expected {wanted}");
    Err(Error::said(Kind::FailedPrecondition, what))
}

/// The media type of a manifest. A registry that says plain text means the oldest kind
/// (containerd `core/remotes/docker/resolver.go`, `getManifestMediaType`).
fn media_type(answer: &Answer) -> String {
    let said = answer.header(header::CONTENT_TYPE).unwrap_or_default();
    match said.split(';').next().unwrap_or_default().trim() {
        "text/plain" => media_types::DOCKER_SCHEMA1.to_owned(),
        other => other.to_owned(),
    }
}

fn schema1() -> Error {
    Error::said(
        Kind::Unimplemented,
        format!(
            "not implemented: media type {:?} is no longer supported since containerd v2.0, \
             please rebuild the image as {:?} or {:?}",
            media_types::DOCKER_SCHEMA1,
            media_types::DOCKER_MANIFEST,
            media_types::MANIFEST
        ),
    )
}
