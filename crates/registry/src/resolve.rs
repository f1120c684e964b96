// SPDX-License-Identifier: Apache-2.0
use std::{future::poll_fn, task::Poll, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::time::timeout;
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

/// How many hosts are asked at once, at most, for what one name stands for.
const AT_ONCE: usize = 3;

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
    let mut worst = None;
    for (round, kind) in kinds.iter().enumerate() {
        let query = |(at, host)| Query {
            repository,
            host,
            kind,
            object,
            digest: digest.as_ref(),
            place: round * hosts.len() + at,
            last: at + 1 == hosts.len(),
        };
        let queries: Vec<_> = hosts.iter().enumerate().map(query).collect();
        let patience = repository.shared.options.timeouts.hedge;
        if let Some(found) = first(&queries, patience, &mut worst).await {
            return Ok(found);
        }
    }
    Err(worst.map_or_else(|| Error::not_found(reference.to_string()), |worst| worst.error))
}

/// What one host said: what the name stands for, or how far it got.
type Answered = Result<Descriptor, (Stage, Error)>;
/// A host that is being asked.
type Asked<'a> = BoxFuture<'a, Answered>;

/// What to tell if no host knows.
struct Worst {
    stage: Stage,
    /// Which query told it. The earlier one is told of where two got equally far.
    place: usize,
    error: Error,
}

/// Asks hosts in their order: the next one as soon as one has failed, and one more whenever nobody has
/// answered for `patience`, so that a slow mirror holds nothing up. The first good answer counts, and
/// of two that are there at once that of the host that comes first.
async fn first(
    queries: &[Query<'_>],
    patience: Duration,
    worst: &mut Option<Worst>,
) -> Option<Descriptor> {
    let mut waiting = queries.iter().enumerate();
    let mut asked: Vec<(usize, Asked<'_>)> = Vec::new();
    asked.extend(waiting.next().map(|(at, query)| (at, query.answer().boxed())));
    while !asked.is_empty() {
        let may_ask_more = asked.len() < AT_ONCE && waiting.len() > 0;
        let answer = poll_fn(|cx| answered(&mut asked, cx));
        let answer =
            if may_ask_more { timeout(patience, answer).await.ok() } else { Some(answer.await) };
        match answer {
            Some((_, Ok(found))) => return Some(found),
            Some((at, Err((stage, error)))) => {
                tracing::info!(host = queries[at].host.host, %error, "not resolved here");
                let place = queries[at].place;
                let goes_before =
                    |it: &Worst| it.stage < stage || it.stage == stage && place < it.place;
                if worst.as_ref().is_none_or(goes_before) {
                    *worst = Some(Worst { stage, place, error });
                }
            }
            None => {
                let slow: Vec<_> = asked.iter().map(|(at, _)| &*queries[*at].host.host).collect();
                tracing::info!(?slow, "no answer yet: another host is asked as well");
            }
        }
        asked.extend(waiting.next().map(|(at, query)| (at, query.answer().boxed())));
    }
    None
}

/// Takes an answer out of those that are waited for, in the order in which they were asked for.
fn answered(
    asked: &mut Vec<(usize, Asked<'_>)>,
    cx: &mut std::task::Context<'_>,
) -> Poll<(usize, Answered)> {
    for place in 0..asked.len() {
        if let Poll::Ready(answer) = asked[place].1.poll_unpin(cx) {
            return Poll::Ready((asked.remove(place).0, answer));
        }
    }
    Poll::Pending
}

/// One place on one host where something may be.
struct Query<'a> {
    repository: &'a Repository,
    host: &'a Host,
    kind: &'a str,
    object: &'a str,
    digest: Option<&'a Digest>,
    /// Its place among all that may be asked.
    place: usize,
    last: bool,
}

impl Query<'_> {
    async fn answer(&self) -> Result<Descriptor, (Stage, Error)> {
        let digest = self.digest;
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
