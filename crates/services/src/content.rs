// SPDX-License-Identifier: Apache-2.0
//! The content service (`containerd.services.content.v1`).
mod client;
mod files;
mod write;

use std::{pin::Pin, sync::Arc};

use ::content::{Info, Reader, Status, Store};
use api::containerd::services::content::v1 as pb;
use futures_util::{Stream, stream};
use pb::content_server::{Content, ContentServer};
use tonic::{Request, Response, Streaming};
use types::{Context, Digest, Error, FieldMask, Kind, Result, Scope};

pub use client::{connect, connect_beside};
pub use files::{files_address, serve_files};

use crate::call::{Limits, Reply, Scoped, detached, limited, status};
use crate::convert::{FromWire, ToWire, digest, filters, mask, present, time};
use crate::lists;

/// How much of a blob goes into one message.
const READ_CHUNK: usize = 1 << 20;

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

/// Serves the store that `find` finds for a scope.
pub fn serve<F>(find: F, limits: Limits) -> ContentServer<Scoped<F>>
where
    F: Fn(&Scope) -> Result<Arc<dyn Store>> + Send + Sync + 'static,
{
    limited!(ContentServer::new(Scoped::new(find)), limits)
}

#[tonic::async_trait]
impl<F> Content for Scoped<F>
where
    F: Fn(&Scope) -> Result<Arc<dyn Store>> + Send + Sync + 'static,
{
    type ListStream = Messages<pb::ListContentResponse>;
    type ReadStream = Messages<pb::ReadContentResponse>;
    type WriteStream = Messages<pb::WriteContentResponse>;

    async fn info(&self, request: Request<pb::InfoRequest>) -> Reply<pb::InfoResponse> {
        let (store, request) = self.open(request)?;
        let digest = info_digest(&request.digest).map_err(status)?;
        let info = store.info(&digest).await.map_err(status)?;
        Ok(Response::new(pb::InfoResponse { info: Some(info.to_wire()) }))
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Reply<pb::UpdateResponse> {
        let (store, request) = self.open(request)?;
        let info = present(request.info, "info").and_then(Info::from_wire).map_err(status)?;
        let mask = mask(request.update_mask);
        let info = detached(async move { store.update(info, &mask).await }).await?;
        Ok(Response::new(pb::UpdateResponse { info: Some(info.to_wire()) }))
    }

    async fn list(&self, request: Request<pb::ListContentRequest>) -> Reply<Self::ListStream> {
        let (store, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let message = |info: Vec<Info>| pb::ListContentResponse { info: info.to_wire() };
        Ok(Response::new(lists::sent(store, move |it| it.walk(filters), message)))
    }

    async fn delete(&self, request: Request<pb::DeleteContentRequest>) -> Reply<()> {
        let (store, request) = self.open(request)?;
        let digest = delete_digest(&request.digest).map_err(status)?;
        detached(async move { store.delete(&digest).await }).await.map(Response::new)
    }

    async fn read(&self, request: Request<pb::ReadContentRequest>) -> Reply<Self::ReadStream> {
        let (store, request) = self.open(request)?;
        let digest = request.digest.parse().map_err(status)?;
        if let Some(len) = at_once(&request) {
            let message = piece(&*store, &digest, offset(&request), len).await.map_err(status)?;
            return Ok(Response::new(Box::pin(stream::iter(message.map(Ok)))));
        }
        let reader = store.reader(&digest).await.map_err(status)?;
        let range = range(&request, reader.size()).map_err(status)?;
        Ok(Response::new(Box::pin(chunks(reader, range))))
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Reply<pb::StatusResponse> {
        let (store, request) = self.open(request)?;
        let context = || format!("could not get status for ref {:?}", request.r#ref);
        let found = store.status(&request.r#ref).await.context(context).map_err(status)?;
        Ok(Response::new(pb::StatusResponse { status: Some(found.to_wire()) }))
    }

    async fn list_statuses(
        &self,
        request: Request<pb::ListStatusesRequest>,
    ) -> Reply<pb::ListStatusesResponse> {
        let (store, request) = self.open(request)?;
        let filters = filters(&request.filters).map_err(status)?;
        let statuses = store.statuses(&filters).await.map_err(status)?;
        Ok(Response::new(pb::ListStatusesResponse { statuses: statuses.to_wire() }))
    }

    async fn write(
        &self,
        request: Request<Streaming<pb::WriteContentRequest>>,
    ) -> Reply<Self::WriteStream> {
        let (store, requests) = self.open(request)?;
        Ok(Response::new(Box::pin(write::session(store, requests))))
    }

    async fn abort(&self, request: Request<pb::AbortRequest>) -> Reply<()> {
        let (store, request) = self.open(request)?;
        detached(async move { store.abort(&request.r#ref).await }).await.map(Response::new)
    }
}

/// Compat: `Info` has words of its own for a digest that is none (containerd
/// `plugins/services/content/contentserver/contentserver.go`).
fn info_digest(text: &str) -> Result<Digest> {
    let refused =
        |_: Error| Error::said(Kind::InvalidArgument, format!("{text:?} failed validation"));
    text.parse().map_err(refused)
}

/// Compat: and `Delete` has those of the digest library.
fn delete_digest(text: &str) -> Result<Digest> {
    let refused = |_: Error| Error::said(Kind::InvalidArgument, "invalid checksum digest format");
    text.parse().map_err(refused)
}

/// How much a read asks for, if that goes into one message.
fn at_once(request: &pb::ReadContentRequest) -> Option<usize> {
    usize::try_from(request.size).ok().filter(|size| (1..=READ_CHUNK).contains(size))
}

/// Where a read begins.
fn offset(request: &pb::ReadContentRequest) -> u64 {
    u64::try_from(request.offset).unwrap_or(0)
}

/// One message of a blob. Go's clients ask for each piece anew, down to the 32 KiB of `io.Copy`
/// (containerd `core/content/proxy/content_reader.go`).
async fn piece(
    store: &dyn Store,
    digest: &Digest,
    offset: u64,
    len: usize,
) -> Result<Option<pb::ReadContentResponse>> {
    let piece = store.piece(digest, offset, len).await?;
    if offset > piece.size {
        return Err(past(piece.size));
    }
    let is_end = piece.data.is_empty();
    Ok((!is_end).then_some(pb::ReadContentResponse { offset: offset as i64, data: piece.data }))
}

fn past(length: u64) -> Error {
    Error::said(Kind::OutOfRange, format!("read past object length {length} bytes"))
}

/// The bytes that a read asks for. A size of zero, or one past the end, is up to the end.
fn range(request: &pb::ReadContentRequest, length: u64) -> Result<std::ops::Range<u64>> {
    let start = offset(request);
    if start > length {
        return Err(past(length));
    }
    let end = match u64::try_from(request.size) {
        Ok(size @ 1..) => start.saturating_add(size).min(length),
        _ => length,
    };
    Ok(start..end)
}

fn chunks(
    reader: Box<dyn Reader>,
    range: std::ops::Range<u64>,
) -> impl Stream<Item = Result<pb::ReadContentResponse, tonic::Status>> {
    stream::try_unfold((reader, range), |(reader, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let len = READ_CHUNK.min((range.end - range.start) as usize);
        let data = reader.read_at(range.start, len).await.map_err(status)?;
        if data.is_empty() {
            return Err(tonic::Status::data_loss("blob is shorter than it was"));
        }
        let rest = range.start + data.len() as u64..range.end;
        let message = pb::ReadContentResponse { offset: range.start as i64, data };
        Ok(Some((message, (reader, rest))))
    })
}

impl ToWire for Info {
    type Wire = pb::Info;

    fn to_wire(self) -> pb::Info {
        pb::Info {
            digest: self.digest.to_string(),
            size: self.size as i64,
            created_at: self.created_at.to_wire(),
            updated_at: self.updated_at.to_wire(),
            labels: self.labels,
        }
    }
}

impl FromWire<pb::Info> for Info {
    fn from_wire(wire: pb::Info) -> Result<Self> {
        Ok(Self {
            digest: wire.digest.parse()?,
            size: wire.size as u64,
            created_at: time(wire.created_at),
            updated_at: time(wire.updated_at),
            labels: wire.labels,
        })
    }
}

impl ToWire for Status {
    type Wire = pb::Status;

    fn to_wire(self) -> pb::Status {
        pb::Status {
            started_at: self.started_at.to_wire(),
            updated_at: self.updated_at.to_wire(),
            r#ref: self.reference,
            offset: self.offset as i64,
            total: self.total as i64,
            expected: self.expected.map(|digest| digest.to_string()).unwrap_or_default(),
        }
    }
}

impl FromWire<pb::Status> for Status {
    fn from_wire(wire: pb::Status) -> Result<Self> {
        Ok(Self {
            reference: wire.r#ref,
            offset: wire.offset as u64,
            total: wire.total as u64,
            expected: digest(&wire.expected)?,
            started_at: time(wire.started_at),
            updated_at: time(wire.updated_at),
        })
    }
}

/// An update that a client asks for.
fn update_request(info: Info, mask: &FieldMask) -> pb::UpdateRequest {
    pb::UpdateRequest { info: Some(info.to_wire()), update_mask: mask.clone().to_wire() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(offset: i64, size: i64, want: std::ops::Range<u64>) {
        let request = pb::ReadContentRequest { digest: String::new(), offset, size };
        assert_eq!(range(&request, 10).unwrap(), want);
    }

    #[test]
    fn a_read_is_cut_at_the_end_of_the_blob() {
        check(0, 0, 0..10);
        check(4, 0, 4..10);
        check(4, 3, 4..7);
        check(4, 30, 4..10);
        check(10, 1, 10..10);
        check(-1, -1, 0..10);
    }

    #[test]
    fn a_read_past_the_end_is_out_of_range() {
        let request = pb::ReadContentRequest { digest: String::new(), offset: 11, size: 0 };
        let error = range(&request, 10).unwrap_err();
        assert_eq!(error.kind(), Kind::OutOfRange);
        assert_eq!(error.to_string(), "read past object length 10 bytes");
    }
}
