// SPDX-License-Identifier: Apache-2.0
mod parts;

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
    Host, Scheme, Shared, Timeouts, Transfers,
    limits::Slot,
    refusal,
    request::{Ask, Repository, Target},
    retry,
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
            end: descriptor.size,
            current: None,
            since: 0,
            fruitless: 0,
            slot: None,
        };
        if download.is_complete() {
            return Ok(stream::empty().boxed());
        }
        let Shared { limits, options, .. } = &*self.repository.shared;
        if !is_manifest(descriptor) {
            download.slot = Some(limits.slot().await?);
        }
        let Transfers { part, .. } = options.transfers;
        let is_large = part > SMALLEST_PART && descriptor.size - offset > part;
        let in_parts = download.slot.is_some() && is_large;
        if in_parts {
            download.end = offset + part;
        }
        let source = download.open().await?;
        let is_partial = source.is_partial;
        download.current = Some(source);
        if in_parts && is_partial {
            return Ok(parts::stream(download));
        }
        download.end = descriptor.size;
        Ok(stream::try_unfold(download, Download::step).boxed())
    }
}

/// Parts up to this size are none (containerd `core/transfer/transfer.go`, where the same setting
/// begins to count above it).
const SMALLEST_PART: u64 = 512;

/// A place that may have what is wanted.
#[derive(Clone)]
struct Place {
    host: Host,
    target: Target,
}

/// Where to look for `descriptor`, in order: the places that it names itself, then each host
/// (containerd `core/remotes/docker/fetcher.go`).
fn places(repository: &Repository, hosts: &[Host], descriptor: &Descriptor) -> Vec<Place> {
    let kind = if is_manifest(descriptor) { "manifests" } else { "blobs" };
    let foreign = descriptor.urls.iter().filter_map(|url| foreign(url));
    let own = hosts.iter().map(|host| {
        let target = repository.mirrored(host, &[kind, descriptor.digest.as_str()]);
        Place { host: host.clone(), target }
    });
    foreign.chain(own).collect()
}

fn is_manifest(descriptor: &Descriptor) -> bool {
    media_types::is_manifest(&descriptor.media_type)
        || media_types::is_index(&descriptor.media_type)
        || descriptor.media_type == media_types::DOCKER_SCHEMA1
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
    /// Where it ends, before the end of all if it is for a part only; 0 when that is not known.
    end: u64,
    current: Option<Source>,
    /// How much the current connection has given.
    since: u64,
    /// How many times in a row a connection broke before it had given anything new.
    fruitless: u32,
    /// Its place among the downloads that may be under way.
    slot: Option<Slot>,
}

/// An answer under way, of which the first `skip` bytes are known already.
struct Source {
    answer: Answer,
    host: String,
    skip: u64,
    /// Whether it is the range that was asked for, and not all.
    is_partial: bool,
}

impl Download {
    fn is_complete(&self) -> bool {
        self.end > 0 && self.offset >= self.end
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
                Ok(Some(piece)) => {
                    let piece = self.take(piece)?;
                    self.repository.shared.limits.received(piece.len()).await;
                    return Ok(Some(piece));
                }
                Ok(None) if self.end == 0 => return Ok(None),
                Ok(None) => self.lost(self.cut_short()).await?,
                Err(error) => self.lost(error).await?,
            }
        }
        Ok(None)
    }

    fn take(&mut self, mut piece: Bytes) -> Result<Bytes> {
        let size = self.descriptor.size;
        if self.end > 0 && self.offset + piece.len() as u64 > self.end {
            if self.end == size {
                let what =
                    format!("{}: more than the {size} bytes announced", self.descriptor.digest);
                return Err(Error::failed_precondition(what));
            }
            // A server that does not care where a range ends.
            piece.truncate((self.end - self.offset) as usize);
        }
        self.offset += piece.len() as u64;
        self.since += piece.len() as u64;
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
        let shared = Arc::clone(&self.repository.shared);
        let source = self.current.take();
        if std::mem::take(&mut self.since) >= self.progress(&error) {
            self.fruitless = 0;
        }
        if self.fruitless > 0 {
            self.places.rotate_left(1);
        }
        if let Some(source) = source.filter(|_| error.kind() == Kind::DeadlineExceeded) {
            shared.health.failed(&source.host);
        }
        self.fruitless += 1;
        let wait = shared.options.retry.wait(self.fruitless, None);
        let Some(wait) = wait else { return Err(error) };
        tracing::debug!(digest = %self.descriptor.digest, offset = self.offset, %error, "resuming");
        sleep(retry::spread(wait)).await;
        Ok(())
    }

    /// How many bytes of a connection are progress: any, unless it was too slow to wait for. A
    /// trickle would otherwise be begun again for ever.
    fn progress(&self, error: &Error) -> u64 {
        let Timeouts { slowest, idle, .. } = self.repository.shared.options.timeouts;
        match error.kind() {
            Kind::DeadlineExceeded => (slowest * idle.as_millis() as u64 / 1000).max(1),
            _ => 1,
        }
    }

    /// Opens what is left at the first place that has it. The first place's error is the one shown.
    async fn open(&mut self) -> Result<Source> {
        let shared = Arc::clone(&self.repository.shared);
        let detour = shared.options.timeouts.detour;
        let places = shared.health.order(self.places.clone(), detour, |place| &mut place.host);
        let mut first = None;
        for (at, place) in places.iter().enumerate() {
            match self.open_at(place, at + 1 == places.len()).await {
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
            headers: headers(&self.descriptor.media_type, self.range())?,
            scopes: vec![self.repository.scope("pull")],
            body: Bytes::new(),
            last,
        };
        let answer = self.repository.shared.send(&ask).await?;
        accept(answer, place.host.host.clone(), &self.descriptor, self.offset).await
    }

    /// The range to ask for; none for all.
    fn range(&self) -> Option<String> {
        let Self { offset, end, .. } = self;
        if *end < self.descriptor.size {
            return Some(format!("bytes={offset}-{}", end.saturating_sub(1)));
        }
        (*offset > 0).then(|| format!("bytes={offset}-"))
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
fn headers(media_type: &str, range: Option<String>) -> Result<HeaderMap> {
    let accept =
        if media_type.is_empty() { "*/*".to_owned() } else { format!("{media_type}, */*") };
    let accept = HeaderValue::try_from(accept)
        .map_err(|error| Error::caused(Kind::InvalidArgument, "media type", error))?;
    let mut headers = HeaderMap::from_iter([
        (header::ACCEPT, accept),
        (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
    ]);
    if let Some(range) = range {
        let range = HeaderValue::try_from(range).expect("numbers are text that headers may have");
        headers.insert(header::RANGE, range);
    }
    Ok(headers)
}

/// Whether an answer is what was asked for, and how much of it is known already: all up to `offset`,
/// when the server does not care for ranges.
async fn accept(
    answer: Answer,
    host: String,
    descriptor: &Descriptor,
    offset: u64,
) -> Result<Source> {
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
    let size = descriptor.size;
    let length = said(header::CONTENT_LENGTH).parse::<u64>().ok();
    // Less may be a slip of somebody in between, and is asked for again.
    if let Some(length) = length.filter(|&length| !partial && size > 0 && length > size) {
        let what = format!("{}: {length} bytes, where {size} were announced", answer.url());
        return Err(Error::failed_precondition(what));
    }
    Ok(Source { answer, host, skip: if partial { 0 } else { offset }, is_partial: partial })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_thing_is_asked_for_as_it_is() {
        let headers = headers("a/b", Some("bytes=7-".into())).unwrap();
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
