// SPDX-License-Identifier: Apache-2.0
//! A content store behind a socket.
use std::{io, path::Path, sync::Arc};

use ::content::{Expected, Info, Ingest, Reader, Status, Store};
use api::containerd::services::content::v1 as pb;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use pb::{WriteAction, content_client::ContentClient};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use types::{Digest, Error, FieldMask, Filters, Kind, Labels, Result, Scope};

use super::files::Files;
use crate::call::{Limits, Peer, error, limited};
use crate::convert::{FromWire, present};
use crate::lists;

/// How much goes into one message of a write.
const WRITE_CHUNK: usize = 1 << 20;

/// The store that `peer` serves.
pub fn connect(peer: Peer) -> Arc<dyn Store> {
    Arc::new(Remote { client: client(peer), files: None })
}

/// The store that `peer` serves on behalf of `scope`, on this host at the socket `address`: where the
/// daemon hands out blobs as files, they are read without it.
pub fn connect_beside(peer: Peer, address: &Path, scope: &Scope) -> Arc<dyn Store> {
    Arc::new(Remote { client: client(peer), files: Some(Files::beside(address, scope)) })
}

fn client(peer: Peer) -> ContentClient<Peer> {
    limited!(ContentClient::new(peer), Limits::default())
}

#[derive(Clone)]
struct Remote {
    client: ContentClient<Peer>,
    files: Option<Files>,
}

impl Remote {
    /// Generated clients want `&mut self`; a clone is two reference counts.
    fn client(&self) -> ContentClient<Peer> {
        self.client.clone()
    }
}

#[async_trait]
impl Store for Remote {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let request = pb::InfoRequest { digest: digest.to_string() };
        let reply = self.client().info(request).await.map_err(error)?.into_inner();
        Info::from_wire(present(reply.info, "info")?)
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        let request = super::update_request(info, mask);
        let reply = self.client().update(request).await.map_err(error)?.into_inner();
        Info::from_wire(present(reply.info, "info")?)
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        let request = pb::ListContentRequest { filters: filters.texts() };
        let mut client = self.client();
        lists::received(async move { client.list(request).await }, |message| message.info)
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let request = pb::DeleteContentRequest { digest: digest.to_string() };
        self.client().delete(request).await.map_err(error)?;
        Ok(())
    }

    async fn reader(&self, digest: &Digest) -> Result<Box<dyn Reader>> {
        if let Some(files) = &self.files
            && let Some(reader) = files.open(digest).await
        {
            return Ok(reader);
        }
        let size = self.info(digest).await?.size;
        Ok(Box::new(Remotely { client: self.client(), digest: digest.clone(), size }))
    }

    async fn status(&self, reference: &str) -> Result<Status> {
        let request = pb::StatusRequest { r#ref: reference.to_owned() };
        let reply = self.client().status(request).await.map_err(error)?.into_inner();
        Status::from_wire(present(reply.status, "status")?)
    }

    async fn statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        let request = pb::ListStatusesRequest { filters: filters.texts() };
        let reply = self.client().list_statuses(request).await.map_err(error)?.into_inner();
        Vec::from_wire(reply.statuses)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let request = pb::AbortRequest { r#ref: reference.to_owned() };
        self.client().abort(request).await.map_err(error)?;
        Ok(())
    }

    async fn writer(&self, reference: &str, expected: Expected) -> Result<Box<dyn Ingest>> {
        Ok(Box::new(Writing::open(self.client(), reference, expected).await?))
    }
}

/// A blob that is read message by message.
struct Remotely {
    client: ContentClient<Peer>,
    digest: Digest,
    size: u64,
}

impl Remotely {
    async fn read(&self, offset: u64, size: u64) -> Result<Streaming<pb::ReadContentResponse>> {
        let request = pb::ReadContentRequest {
            digest: self.digest.to_string(),
            offset: offset as i64,
            size: size as i64,
        };
        Ok(self.client.clone().read(request).await.map_err(error)?.into_inner())
    }
}

#[async_trait]
impl Reader for Remotely {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes> {
        let len = (len as u64).min(self.size.saturating_sub(offset));
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut messages = self.read(offset, len).await?;
        let mut first = Bytes::new();
        let mut rest = Vec::new();
        while let Some(message) = messages.message().await.map_err(error)? {
            if first.is_empty() && rest.is_empty() {
                first = message.data;
            } else {
                rest.extend_from_slice(&message.data);
            }
        }
        Ok(if rest.is_empty() { first } else { [first.as_ref(), &rest].concat().into() })
    }

    fn into_sync(self: Box<Self>) -> Box<dyn io::Read + Send> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            if let Err(failed) = self.forward(&sender).await {
                // Nobody reads on if nobody takes it.
                drop(sender.send(Err(failed)).await);
            }
        });
        Box::new(Received { receiver, chunk: Bytes::new() })
    }
}

impl Remotely {
    async fn forward(&self, sender: &mpsc::Sender<Result<Bytes>>) -> Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        let mut messages = self.read(0, 0).await?;
        while let Some(message) = messages.message().await.map_err(error)? {
            if sender.send(Ok(message.data)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What arrives, for a thread that reads.
struct Received {
    receiver: mpsc::Receiver<Result<Bytes>>,
    chunk: Bytes,
}

impl io::Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.chunk = chunk.map_err(io::Error::other)?,
                None => return Ok(0),
            }
        }
        let len = buffer.len().min(self.chunk.len());
        buffer[..len].copy_from_slice(&self.chunk.split_to(len));
        Ok(len)
    }
}

/// An ingest at the other end of a stream: each message sent is answered by one.
struct Writing {
    requests: mpsc::Sender<pb::WriteContentRequest>,
    answers: Streaming<pb::WriteContentResponse>,
    status: Status,
    digest: Option<Digest>,
    /// Whether the ingest was committed, or failed to be.
    is_closed: bool,
}

impl Writing {
    async fn open(
        mut client: ContentClient<Peer>,
        reference: &str,
        expected: Expected,
    ) -> Result<Self> {
        let (requests, stream) = mpsc::channel(2);
        let first = pb::WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference.to_owned(),
            total: expected.size.unwrap_or(0) as i64,
            expected: expected.digest.as_ref().map(Digest::to_string).unwrap_or_default(),
            ..Default::default()
        };
        requests.send(first).await.map_err(|_unsent| closed())?;
        let answers = client.write(ReceiverStream::new(stream)).await.map_err(error)?.into_inner();
        let status = Status {
            reference: reference.to_owned(),
            offset: 0,
            total: expected.size.unwrap_or(0),
            expected: expected.digest,
            started_at: std::time::UNIX_EPOCH,
            updated_at: std::time::UNIX_EPOCH,
        };
        let mut writing = Self { requests, answers, status, digest: None, is_closed: false };
        writing.receive().await?;
        Ok(writing)
    }

    async fn receive(&mut self) -> Result<()> {
        let answer = self.answers.message().await.map_err(error)?.ok_or_else(closed)?;
        self.status.offset = answer.offset as u64;
        self.status.started_at = crate::convert::time(answer.started_at);
        self.status.updated_at = crate::convert::time(answer.updated_at);
        self.digest = crate::convert::digest(&answer.digest)?;
        Ok(())
    }

    async fn exchange(&mut self, request: pb::WriteContentRequest) -> Result<()> {
        if self.is_closed {
            let message = format!("writer of ref {:?} is closed", self.status.reference);
            return Err(Error::failed_precondition(message));
        }
        if self.requests.send(request).await.is_err() {
            // The stream has ended: what it ended with is the reason.
            return self.receive().await.and(Err(closed()));
        }
        self.receive().await
    }
}

fn closed() -> Error {
    Error::said(Kind::Unavailable, "the write stream was closed")
}

#[async_trait]
impl Ingest for Writing {
    fn status(&self) -> Status {
        self.status.clone()
    }

    fn digest(&self) -> Option<Digest> {
        self.digest.clone()
    }

    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(WRITE_CHUNK));
            let request = pb::WriteContentRequest {
                action: WriteAction::Write.into(),
                offset: self.status.offset as i64,
                data: chunk,
                ..Default::default()
            };
            self.exchange(request).await?;
        }
        Ok(())
    }

    /// The wire can only go back to the start: writing at offset 0 truncates.
    async fn truncate(&mut self, size: u64) -> Result<()> {
        match size {
            _ if size == self.status.offset => Ok(()),
            0 => {
                let action = WriteAction::Write.into();
                self.exchange(pb::WriteContentRequest { action, ..Default::default() }).await
            }
            _ => Err(Error::unimplemented("truncate: unsupported size")),
        }
    }

    async fn commit(&mut self, expected: Expected, labels: Labels) -> Result<Digest> {
        let request = pb::WriteContentRequest {
            action: WriteAction::Commit.into(),
            total: expected.size.unwrap_or(0) as i64,
            offset: self.status.offset as i64,
            expected: expected.digest.map(|digest| digest.to_string()).unwrap_or_default(),
            labels,
            ..Default::default()
        };
        let committed = self.exchange(request).await;
        self.is_closed = true;
        committed?;
        self.digest.clone().ok_or_else(|| Error::internal("commit was answered without a digest"))
    }
}
