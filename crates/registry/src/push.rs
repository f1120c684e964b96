// SPDX-License-Identifier: Apache-2.0
mod chunks;
mod place;
mod stream;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use content::{Expected, Ingest, Push, Status};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use types::{Descriptor, Digest, Error, Kind, Labels, Result, media_types};

use self::{
    chunks::{Chunks, Sent},
    stream::{Broken, Stream},
};
use crate::{
    Host, Shared, referrers, refusal,
    refusal::Failure,
    request::{Ask, Repository, Target},
    resolve::{CONTENT_DIGEST, MAX_MANIFEST},
    source,
    transport::{Answer, Body, encode, join},
};

/// Before the reason why credentials did not do.
const DENIED: &str = "push access denied, repository does not exist or may require authorization: ";
/// A blob up to this size is held until it is complete, and can then be sent again if need be.
const SMALL: u64 = 256 << 10;
/// The least that chunks may have (OCI distribution spec, "Pushing a blob in chunks").
const CHUNK_MIN: &str = "oci-chunk-min-length";

pub(crate) fn pusher(repository: Repository) -> Result<Arc<dyn Push>> {
    // Only the first host is pushed to: a push to another one would be a push to elsewhere.
    let host = repository.hosts_for("push", |may| may.push)?.remove(0);
    Ok(Arc::new(Pusher { repository: Arc::new(repository), host }))
}

#[derive(Clone)]
pub(crate) struct Pusher {
    pub(crate) repository: Arc<Repository>,
    host: Host,
}

/// Where something may be put.
struct Granted {
    target: Target,
    /// The least that chunks may have.
    least: u64,
}

#[async_trait]
impl Push for Pusher {
    async fn push(&self, descriptor: &Descriptor) -> Result<Box<dyn Ingest>> {
        let known = Error::already_exists(format!("content {} on remote", descriptor.digest));
        if self.has(descriptor).await? {
            return Err(known);
        }
        let Some(granted) = self.target(descriptor).await? else { return Err(known) };
        let phase = self.phase(descriptor, granted);
        Ok(Box::new(Upload {
            pusher: self.clone(),
            descriptor: descriptor.clone(),
            status: status(descriptor),
            phase,
        }))
    }
}

fn status(descriptor: &Descriptor) -> Status {
    let now = SystemTime::now();
    Status {
        reference: format!("upload-{}", descriptor.digest),
        offset: 0,
        total: descriptor.size,
        expected: Some(descriptor.digest.clone()),
        started_at: now,
        updated_at: now,
    }
}

fn is_manifest(descriptor: &Descriptor) -> bool {
    let kind = descriptor.media_type.as_str();
    media_types::is_manifest(kind) || media_types::is_index(kind)
}

impl Pusher {
    /// How something is sent: at once if it is small, else in one stream that can go on, or in chunks
    /// if registries are to have it so.
    fn phase(&self, descriptor: &Descriptor, granted: Granted) -> Phase {
        let Granted { target, least } = granted;
        let wanted = self.shared().options.transfers.upload_chunk;
        let chunk = wanted.max(least);
        let limit = if is_manifest(descriptor) { MAX_MANIFEST } else { SMALL.max(wanted) };
        let digest = &descriptor.digest;
        if descriptor.size <= limit {
            let target =
                if is_manifest(descriptor) { target } else { with_digest(&target, digest) };
            return Phase::Holding { target, held: BytesMut::new() };
        }
        if wanted == 0 {
            return Phase::Ready { target: with_digest(&target, digest) };
        }
        if self.shared().options.transfers.upload_stream {
            return Phase::Streamed(Stream::new(target, descriptor.size));
        }
        Phase::Chunked(Chunks::new(target, chunk as usize))
    }

    /// How something large is sent where streams are not taken.
    fn chunked(&self, granted: Granted) -> Phase {
        let size = self.shared().options.transfers.upload_chunk.max(granted.least);
        Phase::Chunked(Chunks::new(granted.target, size as usize))
    }

    /// Whether the registry has it already, and under the tag if it is to have one.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let (kind, object) = self.place(descriptor);
        let mut ask = self.ask(Method::HEAD, self.path(&[kind, &object]));
        let accept = format!("{}, */*", descriptor.media_type);
        ask.headers.insert(header::ACCEPT, value(accept)?);
        let answer = match self.shared().send(&ask).await {
            Ok(answer) => answer,
            // Who may not read may still be allowed to write.
            Err(Failure::Denied(_)) => return Ok(false),
            Err(failure) => return Err(failure.into()),
        };
        let by_digest = object == descriptor.digest.as_str();
        let same = || answer.header(CONTENT_DIGEST) == Some(descriptor.digest.as_str());
        match answer.status {
            StatusCode::OK => Ok(by_digest || same()),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(refusal::unexpected(answer).await),
        }
    }

    /// Where it belongs: a manifest under its tag, unless the reference's digest is that of another
    /// (containerd `core/remotes/docker/pusher.go`, `getManifestPath`).
    fn place(&self, descriptor: &Descriptor) -> (&'static str, String) {
        let digest = descriptor.digest.as_str();
        if !is_manifest(descriptor) {
            return ("blobs", digest.to_owned());
        }
        let reference = &self.repository.reference;
        let another = reference.object().split_once('@').is_some_and(|(_, said)| said != digest);
        let tag = reference.tag().filter(|_| !another);
        ("manifests", tag.unwrap_or(digest).to_owned())
    }

    /// Where to put it; `None` when the registry took it from another repository.
    async fn target(&self, descriptor: &Descriptor) -> Result<Option<Granted>> {
        if is_manifest(descriptor) {
            let (kind, object) = self.place(descriptor);
            return Ok(Some(Granted { target: self.path(&[kind, &object]), least: 0 }));
        }
        let answer = if let Some(mounted) = self.mount(descriptor).await? {
            mounted
        } else {
            let ask = self.ask(Method::POST, self.path(&["blobs", "uploads/"]));
            let sent = self.shared().send(&ask).await;
            sent.map_err(|failure| failure.or_denied(DENIED))?
        };
        match answer.status {
            StatusCode::CREATED => Ok(None),
            StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                granted(&answer).map(Some)
            }
            _ => Err(refusal::unexpected(answer).await),
        }
    }

    /// Asks the registry to take the blob from a repository that has it. It may be one that we may
    /// not read: then nothing is said of it, and the blob is uploaded.
    async fn mount(&self, descriptor: &Descriptor) -> Result<Option<Answer>> {
        let reference = &self.repository.reference;
        let Some(from) = source::mount_candidate(reference, &descriptor.annotations) else {
            return Ok(None);
        };
        let path = self.repository.path(&self.host, &["blobs", "uploads/"]);
        let (mount, name) = (encode(descriptor.digest.as_str()), encode(&from));
        let target = Target::Path(format!("{path}?mount={mount}&from={name}"));
        let mut ask = self.ask(Method::POST, target);
        ask.scopes.push(format!("repository:{from}:pull"));
        match self.shared().send(&ask).await {
            Ok(answer) if answer.status == StatusCode::UNAUTHORIZED => Ok(None),
            Ok(answer) => Ok(Some(answer)),
            Err(Failure::Denied(_)) => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    pub(crate) fn path(&self, parts: &[&str]) -> Target {
        Target::Path(self.repository.path(&self.host, parts))
    }

    pub(crate) fn ask(&self, method: Method, target: Target) -> Ask<'_> {
        Ask {
            host: &self.host,
            method,
            target,
            headers: HeaderMap::new(),
            scopes: vec![self.repository.scope("pull,push")],
            body: Bytes::new(),
            last: true,
        }
    }

    fn put(&self, descriptor: &Descriptor, target: &Target) -> Result<Ask<'_>> {
        let blob = "application/octet-stream";
        let kind = if is_manifest(descriptor) { descriptor.media_type.as_str() } else { blob };
        let mut ask = self.ask(Method::PUT, target.clone());
        ask.headers.insert(header::CONTENT_TYPE, value(kind.to_owned())?);
        Ok(ask)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.repository.shared
    }
}

pub(crate) fn value(text: String) -> Result<HeaderValue> {
    HeaderValue::try_from(&text).map_err(|error| Error::caused(Kind::InvalidArgument, text, error))
}

/// Where an upload goes that was granted.
fn granted(answer: &Answer) -> Result<Granted> {
    let location = answer.header(header::LOCATION).unwrap_or_default();
    if location.is_empty() {
        let what = format!("{}: no location for the upload in the answer", answer.url());
        return Err(Error::said(Kind::Unknown, what));
    }
    let target = bare_location(&join(&answer.uri, location)?);
    let least = answer.header(CHUNK_MIN).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Granted { target, least })
}

fn bare_location(uri: &Uri) -> Target {
    Target::Url(uri.to_string())
}

/// The same place, saying what an upload will have to be.
fn with_digest(target: &Target, digest: &Digest) -> Target {
    let (Target::Url(uri) | Target::Path(uri) | Target::Foreign(uri)) = target;
    let sign = if uri.contains('?') { '&' } else { '?' };
    let whole = format!("{uri}{sign}digest={}", encode(digest.as_str()));
    match target {
        Target::Path(_) => Target::Path(whole),
        Target::Url(_) => Target::Url(whole),
        Target::Foreign(_) => Target::Foreign(whole),
    }
}

/// An upload under way.
///
/// ```text
///  small: Holding --commit--> sent, and sent again if need be --> Over
///  large: Streamed --commit--> Over
///            |  `-- broke: writes go on where the registry is
///            `-- the registry takes no streams
///                     v
///         Chunked --commit--> Over
///            `-- the registry knows no chunks
///                     v
///         Ready --write--> Sending --commit--> Over
///                             `-- broke --> Over --truncate(0)--> Streamed
/// ```
struct Upload {
    pusher: Pusher,
    descriptor: Descriptor,
    status: Status,
    phase: Phase,
}

enum Phase {
    Holding { target: Target, held: BytesMut },
    Streamed(Stream),
    Chunked(Chunks),
    Ready { target: Target },
    Sending { pieces: mpsc::Sender<Bytes>, reply: Reply },
    Over,
}

/// The task that carries a body to a registry. It ends with its owner.
struct Reply(JoinHandle<Result<Answer, Failure>>);

impl Drop for Reply {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reply {
    /// What the registry says, unless it takes longer than `limit`.
    async fn within(mut self, limit: Duration, digest: &Digest) -> Result<Answer> {
        let what = || format!("upload of {digest}");
        match timeout(limit, &mut self.0).await {
            Err(_elapsed) => Err(Error::deadline(format!("{}: no reply within {limit:?}", what()))),
            Ok(Err(join)) => Err(Error::caused(Kind::Internal, what(), join)),
            Ok(Ok(sent)) => sent.map_err(|failure| failure.or_denied(DENIED)),
        }
    }
}

#[async_trait]
impl Ingest for Upload {
    fn status(&self) -> Status {
        self.status.clone()
    }

    fn digest(&self) -> Option<Digest> {
        None
    }

    /// # Cancel safety
    ///
    /// Not: a write that is dropped may have been sent.
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let (length, total) = (data.len() as u64, self.status.total);
        if length == 0 {
            return Ok(());
        }
        if length > total - self.status.offset {
            return Err(self.wrong_size(self.status.offset + length, total));
        }
        self.put(data).await?;
        self.status.offset += length;
        self.status.updated_at = SystemTime::now();
        Ok(())
    }

    /// Only back to the start: a registry forgets nothing that it was sent.
    async fn truncate(&mut self, size: u64) -> Result<()> {
        if size == self.status.offset && !matches!(self.phase, Phase::Over) {
            return Ok(());
        }
        if size > 0 {
            return Err(Error::unimplemented(format!("cannot truncate remote upload to {size}")));
        }
        self.phase = Phase::Over;
        let granted = self.pusher.target(&self.descriptor).await?;
        let granted = granted.ok_or_else(|| self.known())?;
        self.phase = self.pusher.phase(&self.descriptor, granted);
        self.status.offset = 0;
        Ok(())
    }

    async fn commit(&mut self, expected: Expected, _labels: Labels) -> Result<Digest> {
        let digest = self.descriptor.digest.clone();
        for want in [Some(self.status.total), expected.size].into_iter().flatten() {
            if self.status.offset != want {
                return Err(self.wrong_size(self.status.offset, want));
            }
        }
        if let Some(want) = expected.digest.filter(|want| *want != digest) {
            return Err(mismatch(&digest, &want));
        }
        self.last_piece().await?;
        let commit = self.pusher.shared().transport.timeouts().commit;
        let mut manifest = Bytes::new();
        let answer = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Holding { target, held } => {
                let held = held.freeze();
                if is_manifest(&self.descriptor) {
                    manifest = held.clone();
                }
                self.send(&target, held).await?
            }
            Phase::Streamed(stream) => stream.finish(&self.pusher, &digest).await?,
            Phase::Chunked(chunks) => chunks.finish(&self.pusher, &digest).await?,
            Phase::Ready { target } => self.send(&target, Bytes::new()).await?,
            Phase::Sending { pieces, reply } => {
                drop(pieces);
                reply.within(commit, &digest).await?
            }
            Phase::Over => return Err(self.over()),
        };
        let is_listed = answer.headers.contains_key(referrers::SUBJECT);
        accepted(answer, &digest).await?;
        if !is_listed {
            referrers::list_by_tag(&self.pusher, &self.descriptor, &manifest).await?;
        }
        Ok(digest)
    }
}

impl Upload {
    /// Holds or sends the next piece.
    async fn put(&mut self, data: Bytes) -> Result<()> {
        if let Phase::Streamed(stream) = &mut self.phase {
            let sent = stream.write(&self.pusher, &self.descriptor.digest, data).await;
            return match sent {
                Ok(()) => Ok(()),
                Err(broken) => Err(self.go_on(broken).await),
            };
        }
        if let Phase::Chunked(chunks) = &mut self.phase {
            if !chunks.hold(&data) {
                return Ok(());
            }
            return match chunks.send(&self.pusher).await? {
                Sent::Taken => Ok(()),
                Sent::Refused => self.without_chunks().await,
            };
        }
        self.begin();
        match &mut self.phase {
            Phase::Holding { held, .. } => held.extend_from_slice(&data),
            Phase::Sending { pieces, .. } => {
                let idle = self.pusher.shared().transport.timeouts().idle;
                let sent = timeout(idle, pieces.send(data)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return Err(self.broke(idle).await);
                }
            }
            _ => return Err(self.over()),
        }
        Ok(())
    }

    /// Puts an upload that broke where it can be gone on with, and says so by `Aborted`.
    async fn go_on(&mut self, broken: Broken) -> Error {
        let (offset, error) = match broken {
            Broken::At(offset, error) => (offset, error),
            Broken::Refused(error) => match self.pusher.target(&self.descriptor).await {
                Ok(Some(granted)) => {
                    self.phase = self.pusher.chunked(granted);
                    (0, error)
                }
                Ok(None) => return self.known(),
                Err(worse) => return self.end(worse),
            },
            Broken::Over(error) => return self.end(error),
        };
        self.status.offset = offset;
        let digest = &self.descriptor.digest;
        Error::caused(Kind::Aborted, format!("upload of {digest} goes on at {offset}"), error)
    }

    fn end(&mut self, error: Error) -> Error {
        self.phase = Phase::Over;
        error
    }

    fn known(&self) -> Error {
        Error::already_exists(format!("content {} on remote", self.descriptor.digest))
    }

    /// Sends what of the last chunk is still held, and waits until a stream has arrived.
    async fn last_piece(&mut self) -> Result<()> {
        if let Phase::Streamed(stream) = &mut self.phase {
            let closed = stream.close(&self.pusher, &self.descriptor.digest).await;
            return match closed {
                Ok(()) => Ok(()),
                Err(broken) => Err(self.go_on(broken).await),
            };
        }
        let Phase::Chunked(chunks) = &mut self.phase else { return Ok(()) };
        match chunks.send(&self.pusher).await? {
            Sent::Taken => Ok(()),
            Sent::Refused => self.without_chunks().await,
        }
    }

    /// Begins anew with an upload in one piece, because the registry knows no other.
    async fn without_chunks(&mut self) -> Result<()> {
        let Phase::Chunked(chunks) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return Err(self.over());
        };
        let granted = self.pusher.target(&self.descriptor).await?;
        let granted = granted.ok_or_else(|| self.known())?;
        let target = with_digest(&granted.target, &self.descriptor.digest);
        self.phase = Phase::Ready { target };
        Box::pin(self.put(chunks.into_held())).await
    }

    /// Begins to send, if what is to come is too much to hold.
    fn begin(&mut self) {
        let Phase::Ready { target } = &self.phase else { return };
        let (pieces, from) = mpsc::channel(1);
        let (pusher, descriptor) = (self.pusher.clone(), self.descriptor.clone());
        let target = target.clone();
        let reply = tokio::spawn(async move {
            let body = Body::Pieces { from, left: descriptor.size };
            pusher.shared().send_pieces(&pusher.put(&descriptor, &target)?, body).await
        });
        self.phase = Phase::Sending { pieces, reply: Reply(reply) };
    }

    /// Why the other side takes no more.
    async fn broke(&mut self, idle: Duration) -> Error {
        let digest = &self.descriptor.digest;
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        let Phase::Sending { pieces, reply } = phase else { return self.over() };
        if !pieces.is_closed() {
            return Error::deadline(format!("upload of {digest}: no byte taken within {idle:?}"));
        }
        match reply.within(idle, digest).await {
            Err(error) => error,
            Ok(answer) => refusal::unexpected(answer).await,
        }
    }

    async fn send(&self, target: &Target, body: Bytes) -> Result<Answer> {
        let ask = Ask { body, ..self.pusher.put(&self.descriptor, target)? };
        let sent = self.pusher.shared().send(&ask).await;
        sent.map_err(|failure| failure.or_denied(DENIED))
    }

    fn wrong_size(&self, size: u64, expected: u64) -> Error {
        let what = format!(
            "upload of {}: unexpected size {size}, expected {expected}",
            self.descriptor.digest
        );
        Error::failed_precondition(what)
    }

    fn over(&self) -> Error {
        Error::failed_precondition(format!("upload of {} is over", self.descriptor.digest))
    }
}

/// Checks that the registry has taken what it was given. Registries answer with several statuses
/// (containerd `core/remotes/docker/pusher.go`), and not all with a digest.
async fn accepted(answer: Answer, digest: &Digest) -> Result<()> {
    if !matches!(answer.status.as_u16(), 200 | 201 | 202 | 204) {
        return Err(refusal::unexpected(answer).await);
    }
    match answer.header(CONTENT_DIGEST).map(str::parse::<Digest>) {
        Some(Ok(said)) if said != *digest && said.algorithm() == digest.algorithm() => {
            Err(mismatch(&said, digest))
        }
        _ => Ok(()),
    }
}

fn mismatch(got: &Digest, expected: &Digest) -> Error {
    Error::failed_precondition(format!("got digest {got}, expected {expected}"))
}
