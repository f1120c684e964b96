// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf as _, Bytes};
use content::Fetch;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::time::sleep;
use types::{Descriptor, Error, Kind, Result, media_types};

use crate::{
    Host, Scheme, refusal,
    request::{Ask, Repository, Target},
    transport::Answer,
};

pub(crate) fn fetcher(repository: Repository) -> Result<Arc<dyn Fetch>> {
    let hosts = repository.hosts_for("pull", |may| may.pull)?;
    Ok(Arc::new(Fetcher { repository: Arc::new(repository), hosts }))
}

struct Fetcher {
    repository: Arc<Repository>,
    hosts: Vec<Host>,
}

#[async_trait]
impl Fetch for Fetcher {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let mut download = Download {
            places: places(&self.repository, &self.hosts, descriptor),
            repository: Arc::clone(&self.repository),
            descriptor: descriptor.clone(),
            offset,
            current: None,
            fruitless: 0,
        };
        if download.is_complete() {
            return Ok(stream::empty().boxed());
        }
        download.current = Some(download.open().await?);
        Ok(stream::try_unfold(download, Download::step).boxed())
    }
}

/// A place that may have what is wanted.
struct Place {
    host: Host,
    target: Target,
}

/// Where to look for `descriptor`, in order: the places that it names itself, then each host
/// (containerd `core/remotes/docker/fetcher.go`).
fn places(repository: &Repository, hosts: &[Host], descriptor: &Descriptor) -> Vec<Place> {
    let manifest = media_types::is_manifest(&descriptor.media_type)
        || media_types::is_index(&descriptor.media_type)
        || descriptor.media_type == media_types::DOCKER_SCHEMA1;
    let kind = if manifest { "manifests" } else { "blobs" };
    let foreign = descriptor.urls.iter().filter_map(|url| foreign(url));
    let own = hosts.iter().map(|host| {
        let target = repository.mirrored(host, &[kind, descriptor.digest.as_str()]);
        Place { host: host.clone(), target }
    });
    foreign.chain(own).collect()
}

fn foreign(url: &str) -> Option<Place> {
    let uri: Uri = url.parse().ok()?;
    let scheme = match uri.scheme_str() {
        Some("https") => Scheme::Https,
        Some("http") => Scheme::Http,
        _ => return None,
    };
    let host = Host::new(scheme, uri.authority()?.as_str());
    Some(Place { host, target: Target::Foreign(url.to_owned()) })
}

/// A transfer that goes on where it was when its connection breaks.
struct Download {
    repository: Arc<Repository>,
    descriptor: Descriptor,
    places: Vec<Place>,
    /// How far it is.
    offset: u64,
    current: Option<Source>,
    /// How many times in a row a connection broke before it had given anything new.
    fruitless: u32,
}

/// An answer under way, of which the first `skip` bytes are known already.
struct Source {
    answer: Answer,
    skip: u64,
}

impl Download {
    fn is_complete(&self) -> bool {
        self.descriptor.size > 0 && self.offset >= self.descriptor.size
    }

    async fn step(mut self) -> Result<Option<(Bytes, Self)>> {
        Ok(self.piece().await?.map(|piece| (piece, self)))
    }

    /// The next piece, from whatever connection gives it.
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while !self.is_complete() {
            let source = if let Some(source) = &mut self.current {
                source
            } else {
                let source = self.open().await?;
                self.current.insert(source)
            };
            match source.piece().await {
                Ok(Some(piece)) => return self.take(piece).map(Some),
                Ok(None) if self.descriptor.size == 0 => return Ok(None),
                Ok(None) => self.lost(self.cut_short()).await?,
                Err(error) => self.lost(error).await?,
            }
        }
        Ok(None)
    }

    fn take(&mut self, piece: Bytes) -> Result<Bytes> {
        self.offset += piece.len() as u64;
        self.fruitless = 0;
        let size = self.descriptor.size;
        if size > 0 && self.offset > size {
            let what = format!("{}: more than the {size} bytes announced", self.descriptor.digest);
            return Err(Error::failed_precondition(what));
        }
        Ok(piece)
    }

    fn cut_short(&self) -> Error {
        let Descriptor { digest, size, .. } = &self.descriptor;
        Error::said(
            Kind::Unavailable,
            format!("{digest}: unexpected EOF after {} of {size} bytes", self.offset),
        )
    }

    /// Waits before the next try, which begins with another place if this one gave nothing.
    async fn lost(&mut self, error: Error) -> Result<()> {
        self.current = None;
        if self.fruitless > 0 {
            self.places.rotate_left(1);
        }
        self.fruitless += 1;
        let retry = &self.repository.shared.options.retry;
        let Some(wait) = retry.wait(self.fruitless, None) else { return Err(error) };
        tracing::debug!(digest = %self.descriptor.digest, offset = self.offset, %error, "resuming");
        sleep(wait).await;
        Ok(())
    }

    /// Opens what is left at the first place that has it. The first place's error is the one shown.
    async fn open(&self) -> Result<Source> {
        let mut first = None;
        for (at, place) in self.places.iter().enumerate() {
            match self.open_at(place, at + 1 == self.places.len()).await {
                Ok(source) => return Ok(source),
                Err(error) => {
                    tracing::debug!(host = place.host.host, %error, "not fetched here");
                    first.get_or_insert(error);
                }
            }
        }
        let Descriptor { digest, media_type, .. } = &self.descriptor;
        let missing = || {
            let what =
                format!("could not fetch content descriptor {digest} ({media_type}) from remote");
            Error::not_found(what)
        };
        Err(first.filter(|error| !error.is_not_found()).unwrap_or_else(missing))
    }

    async fn open_at(&self, place: &Place, last: bool) -> Result<Source> {
        let ask = Ask {
            host: &place.host,
            method: Method::GET,
            target: place.target.clone(),
            headers: headers(&self.descriptor.media_type, self.offset)?,
            scopes: vec![self.repository.scope("pull")],
            body: Bytes::new(),
            last,
        };
        accept(self.repository.shared.send(&ask).await?, self.offset).await
    }
}

impl Source {
    async fn piece(&mut self) -> Result<Option<Bytes>> {
        while let Some(mut piece) = self.answer.piece().await? {
            let known = self.skip.min(piece.len() as u64);
            self.skip -= known;
            piece.advance(known as usize);
            if !piece.is_empty() {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

/// The headers of a request for the rest of something. Encodings are refused, because an offset into
/// an encoded body means nothing.
fn headers(media_type: &str, offset: u64) -> Result<HeaderMap> {
    let accept =
        if media_type.is_empty() { "*/*".to_owned() } else { format!("{media_type}, */*") };
    let accept = HeaderValue::try_from(accept)
        .map_err(|error| Error::caused(Kind::InvalidArgument, "media type", error))?;
    let mut headers = HeaderMap::from_iter([
        (header::ACCEPT, accept),
        (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ]);
    if offset > 0 {
        let range = HeaderValue::try_from(format!("bytes={offset}-"))
            .expect("a number is text that headers may have");
        headers.insert(header::RANGE, range);
    }
    Ok(headers)
}

/// Whether an answer is what was asked for, and how much of it is known already: all up to `offset`,
/// when the server does not care for ranges.
async fn accept(answer: Answer, offset: u64) -> Result<Source> {
    if answer.status == StatusCode::NOT_FOUND {
        return Err(Error::not_found(format!("content at {} not found", answer.url())));
    }
    if !answer.status.is_success() {
        return Err(refusal::unexpected(answer).await);
    }
    let said = |name| answer.header(name).unwrap_or_default();
    let (encoding, range) = (said(header::CONTENT_ENCODING), said(header::CONTENT_RANGE));
    if !matches!(encoding, "" | "identity") {
        let what = format!("{}: unsupported Content-Encoding algorithm: {encoding}", answer.url());
        return Err(Error::said(Kind::Unknown, what));
    }
    let partial = answer.status == StatusCode::PARTIAL_CONTENT;
    if partial && !range.starts_with(&format!("bytes {offset}-")) {
        let what = format!("{}: unhandled content range in response: {range}", answer.url());
        return Err(Error::said(Kind::Unknown, what));
    }
    Ok(Source { answer, skip: if partial { 0 } else { offset } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_thing_is_asked_for_as_it_is() {
        let headers = headers("a/b", 7).unwrap();
        assert_eq!(headers[header::ACCEPT], "a/b, */*");
        assert_eq!(headers[header::RANGE], "bytes=7-");
        assert_eq!(headers[header::ACCEPT_ENCODING], "identity");
    }

    #[test]
    fn only_web_addresses_are_foreign_places() {
        assert!(foreign("https://cdn.example:8443/x?y=1").is_some());
        assert!(foreign("file:///etc/shadow").is_none());
        assert!(foreign("ftp://cdn.example/x").is_none());
    }
}
