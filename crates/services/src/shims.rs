// SPDX-License-Identifier: Apache-2.0
//! Shims that speak gRPC in place of ttrpc: the same services, by encoded messages.
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use ::runtime::{Call, Channel as Contract, Connector};
use async_trait::async_trait;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
    sync::watch,
};
use tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use types::{Error, Kind, Result};

use crate::call::{NAMESPACE, error};

/// Reaches shims over gRPC on a unix socket.
pub fn grpc() -> Arc<dyn Connector> {
    Arc::new(Grpcs)
}

struct Grpcs;

#[async_trait]
impl Connector for Grpcs {
    async fn connect(&self, address: &str) -> Result<Arc<dyn Contract>> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        let refused = |e| Error::caused(Kind::Unavailable, format!("connect to {address}"), e);
        let stream = UnixStream::connect(path).await.map_err(refused)?;
        let (alive, closed) = watch::channel(());
        let stream = Mutex::new(Some(TokioIo::new(Guarded { stream, _alive: alive })));
        // A shim that went away is another shim: there is one connection and never a second.
        let once = tower::service_fn(move |_| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            std::future::ready(stream.ok_or_else(|| io::Error::other("the shim is gone")))
        });
        let failed = |e| Error::caused(Kind::Unavailable, format!("connect to {address}"), e);
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(once).await.map_err(failed)?;
        Ok(Arc::new(Connection { channel, closed }))
    }
}

/// A connection that is told of when it ends: the transport drops it then.
struct Guarded {
    stream: UnixStream,
    _alive: watch::Sender<()>,
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

struct Connection {
    channel: Channel,
    closed: watch::Receiver<()>,
}

impl Connection {
    async fn exchange(&self, call: Call<'_>) -> Result<Bytes, Status> {
        let mut request = Request::new(call.payload);
        let namespace = MetadataValue::try_from(call.namespace)
            .map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
        request.metadata_mut().insert(NAMESPACE, namespace);
        if let Some(patience) = call.patience {
            request.set_timeout(patience);
        }
        let path = format!("/{}/{}", call.service, call.method);
        let path = http::uri::PathAndQuery::try_from(path)
            .map_err(|invalid| Status::internal(invalid.to_string()))?;
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.map_err(|gone| Status::unavailable(gone.to_string()))?;
        Ok(client.unary(request, path, Encoded).await?.into_inner())
    }
}

#[async_trait]
impl Contract for Connection {
    async fn call(&self, call: Call<'_>) -> Result<Bytes> {
        let patience = call.patience;
        let late = || Error::said(Kind::DeadlineExceeded, "context deadline exceeded");
        let answer = match patience {
            None => self.exchange(call).await,
            Some(patience) => tokio::time::timeout(patience, self.exchange(call))
                .await
                .map_err(|_elapsed| late())?,
        };
        answer.map_err(|status| if self.is_closed() { gone() } else { error(status) })
    }

    async fn closed(&self) {
        // Nothing is ever sent: it ends with an error when the connection does.
        drop(self.closed.clone().changed().await);
    }

    fn is_closed(&self) -> bool {
        self.closed.has_changed().is_err()
    }
}

fn gone() -> Error {
    Error::said(Kind::Unavailable, "the connection to the shim has ended")
}

/// Messages that are, and stay, encoded.
#[derive(Clone, Copy, Debug, Default)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buffer, message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}
