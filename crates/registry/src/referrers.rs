// SPDX-License-Identifier: Apache-2.0
//! What refers to an image: listed by the registry, or by clients under a tag that is made of the
//! image's digest (OCI distribution spec, "Listing Referrers" and "Referrers Tag Schema").
use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use types::{Descriptor, Digest, Error, Kind, Labels, Result, media_types};

use crate::{
    Host,
    push::{Pusher, value},
    refusal,
    request::{Ask, Repository, Target},
    resolve::MAX_MANIFEST,
    transport::{Answer, encode, join},
};

/// With this a registry says that it will list a manifest among the referrers of its subject.
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// How many pages of a list are read.
const MAX_PAGES: usize = 100;
/// How often an index is written again that somebody else wrote over.
const ATTEMPTS: usize = 3;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Lists the referrers of `subject`: at the first host that knows, without repetitions.
pub(crate) async fn list(
    repository: &Repository,
    subject: &Digest,
    artifact_type: Option<&str>,
) -> Result<Vec<Descriptor>> {
    let hosts = repository.hosts_for("referrers", |may| may.referrers || may.resolve)?;
    let detour = repository.shared.options.timeouts.detour;
    let hosts = repository.shared.health.order(hosts, detour, |host| host);
    let mut first = None;
    for (at, host) in hosts.iter().enumerate() {
        let query = Query { repository, host, last: at + 1 == hosts.len() };
        match query.all(subject, artifact_type).await {
            Ok(Some(mut found)) => {
                let mut seen = HashSet::new();
                let is_wanted = |it: &Descriptor| {
                    artifact_type.is_none() || it.artifact_type.as_deref() == artifact_type
                };
                found.retain(|it| is_wanted(it) && seen.insert(it.digest.clone()));
                return Ok(found);
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(host = host.host, %error, "referrers not listed here");
                first.get_or_insert(error);
            }
        }
    }
    first.map_or_else(|| Ok(Vec::new()), Err)
}

/// Questions to one host.
struct Query<'a> {
    repository: &'a Repository,
    host: &'a Host,
    last: bool,
}

impl Query<'_> {
    /// Everything that the host knows; `None` when it knows nothing of the kind.
    async fn all(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>> {
        if self.host.capabilities.referrers {
            let mut target = self.target(&["referrers", subject.as_str()]);
            if let (Target::Path(path), Some(kind)) = (&mut target, artifact_type) {
                let sign = if path.contains('?') { '&' } else { '?' };
                *path = format!("{path}{sign}artifactType={}", encode(kind));
            }
            if let Some(found) = self.pages(target).await? {
                return Ok(Some(found));
            }
        }
        self.pages(self.target(&["manifests", &tag(subject)])).await
    }

    async fn pages(&self, target: Target) -> Result<Option<Vec<Descriptor>>> {
        let (mut found, mut next) = (Vec::new(), Some(target));
        for _ in 0..MAX_PAGES {
            let Some(target) = next.take() else { break };
            let mut answer = self.ask(target).await?;
            match answer.status {
                status if status.is_success() && is_index(&answer) => {}
                // What knows no referrers says so in many ways, some of them with a web page.
                status if status.is_success() => return Ok(None),
                StatusCode::NOT_FOUND
                | StatusCode::METHOD_NOT_ALLOWED
                | StatusCode::BAD_REQUEST => {
                    return Ok(None);
                }
                _ => return Err(refusal::unexpected(answer).await),
            }
            found.extend(read(&mut answer).await?.manifests);
            next = following(&answer)?;
        }
        Ok(Some(found))
    }

    fn target(&self, parts: &[&str]) -> Target {
        self.repository.mirrored(self.host, parts)
    }

    async fn ask(&self, target: Target) -> Result<Answer> {
        let accept = HeaderValue::from_static(media_types::INDEX);
        let ask = Ask {
            host: self.host,
            method: Method::GET,
            target,
            headers: HeaderMap::from_iter([(header::ACCEPT, accept)]),
            scopes: vec![self.repository.scope("pull")],
            body: Bytes::new(),
            last: self.last,
        };
        Ok(self.repository.shared.send(&ask).await?)
    }
}

fn is_index(answer: &Answer) -> bool {
    let kind = answer.header(header::CONTENT_TYPE).unwrap_or_default();
    media_types::is_index(kind.split(';').next().unwrap_or_default().trim())
}

async fn read(answer: &mut Answer) -> Result<Index> {
    let (body, complete) = answer.whole(MAX_MANIFEST as usize).await?;
    if !complete {
        let what = format!("{}: an index longer than {MAX_MANIFEST} bytes", answer.url());
        return Err(Error::said(Kind::ResourceExhausted, what));
    }
    serde_json::from_slice(&body)
        .map_err(|error| Error::caused(Kind::Unknown, "failed to decode referrers index", error))
}

/// The next page: `Link: </v2/...>; rel="next"` (RFC 8288).
fn following(answer: &Answer) -> Result<Option<Target>> {
    let Some(link) = answer.header(header::LINK) else { return Ok(None) };
    let next =
        link.split(',').find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"));
    let url = next.and_then(|link| link.trim().strip_prefix('<')?.split_once('>')).map(|it| it.0);
    url.map(|url| Ok(Target::Url(join(&answer.uri, url)?.to_string()))).transpose()
}

/// The tag under which clients list the referrers of `subject`: `sha256-<hex>`.
fn tag(subject: &Digest) -> String {
    subject.as_str().replacen(':', "-", 1)
}

/// What of a manifest concerns those who look for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referrer {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Config>,
    #[serde(default)]
    annotations: Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

/// Lists a manifest that was pushed under the tag of its subject, if it has one: the registry did
/// not say that it does so itself.
pub(crate) async fn list_by_tag(
    pusher: &Pusher,
    descriptor: &Descriptor,
    manifest: &[u8],
) -> Result<()> {
    let Ok(referrer) = serde_json::from_slice::<Referrer>(manifest) else { return Ok(()) };
    let Some(subject) = &referrer.subject else { return Ok(()) };
    let mut entry =
        Descriptor::new(&*descriptor.media_type, descriptor.digest.clone(), descriptor.size);
    entry.artifact_type = referrer.artifact_type.or(referrer.config.map(|it| it.media_type));
    entry.annotations = referrer.annotations;
    let place = pusher.path(&["manifests", &tag(&subject.digest)]);
    for _ in 0..ATTEMPTS {
        let mut index = current(pusher, &place).await?;
        if index.manifests.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        index.manifests.push(entry.clone());
        write(pusher, &place, &index).await?;
    }
    let what = format!("{}: others keep writing over it", tag(&subject.digest));
    Err(Error::said(Kind::Aborted, what))
}

async fn current(pusher: &Pusher, place: &Target) -> Result<Index> {
    let mut ask = pusher.ask(Method::GET, place.clone());
    ask.headers.insert(header::ACCEPT, HeaderValue::from_static(media_types::INDEX));
    let mut answer = pusher.shared().send(&ask).await?;
    match answer.status {
        status if status.is_success() => read(&mut answer).await,
        StatusCode::NOT_FOUND => Ok(Index {
            schema_version: 2,
            media_type: media_types::INDEX.to_owned(),
            manifests: Vec::new(),
        }),
        _ => Err(refusal::unexpected(answer).await),
    }
}

async fn write(pusher: &Pusher, place: &Target, index: &Index) -> Result<()> {
    let mut ask = pusher.ask(Method::PUT, place.clone());
    ask.headers.insert(header::CONTENT_TYPE, value(index.media_type.clone())?);
    ask.body = serde_json::to_vec(index)
        .map_err(|error| Error::caused(Kind::Internal, "referrers index", error))?
        .into();
    let answer = pusher.shared().send(&ask).await?;
    if answer.status.is_success() { Ok(()) } else { Err(refusal::unexpected(answer).await) }
}
