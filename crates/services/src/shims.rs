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
    Code, Request, Status,
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
        answer.map_err(|status| match status.code() {
            _ if self.is_closed() => gone(),
            // The transport looks at the deadline too, and calls it so.
            Code::Cancelled if patience.is_some() => late(),
            _ => error(status),
        })
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

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, path::Path, time::Duration};

    use futures_util::future::BoxFuture;
    use tokio::{net::UnixListener, task::JoinHandle};
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{
        Response,
        body::Body,
        codegen::Service,
        server::{Grpc as Serving, NamedService, UnaryService},
        transport::Server,
    };

    use super::*;

    /// A service whose one method answers with the namespace and what it was given, and whose other
    /// methods take for ever.
    #[derive(Clone)]
    struct Echo;

    impl NamedService for Echo {
        const NAME: &'static str = "x.Echo";
    }

    impl Service<http::Request<Body>> for Echo {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            Box::pin(async move {
                if request.uri().path() != "/x.Echo/Say" {
                    std::future::pending::<()>().await;
                }
                Ok(Serving::new(Encoded).unary(Echo, request).await)
            })
        }
    }

    impl UnaryService<Bytes> for Echo {
        type Response = Bytes;
        type Future = BoxFuture<'static, Result<Response<Bytes>, Status>>;

        fn call(&mut self, request: Request<Bytes>) -> Self::Future {
            Box::pin(async move {
                let namespace = request.metadata().get(NAMESPACE).cloned();
                let namespace = namespace.ok_or_else(|| Status::failed_precondition("whose?"))?;
                let said = [namespace.as_bytes(), b" ", request.get_ref()].concat();
                Ok(Response::new(said.into()))
            })
        }
    }

    fn serve(path: &Path) -> JoinHandle<()> {
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        tokio::spawn(async move {
            Server::builder().add_service(Echo).serve_with_incoming(incoming).await.unwrap();
        })
    }

    fn call(method: &str, patience: Duration) -> Call<'_> {
        let payload = Bytes::from_static(b"hello");
        Call { service: "x.Echo", method, namespace: "ns", payload, patience: Some(patience) }
    }

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_shim_is_called_on_behalf_of_a_namespace_until_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let server = serve(&path);
        let channel = grpc().connect(&format!("unix://{}", path.display())).await.unwrap();
        assert_eq!(channel.call(call("Say", LONG)).await.unwrap(), b"ns hello"[..]);
        let late = channel.call(call("Hang", Duration::from_millis(50))).await.unwrap_err();
        assert_eq!(late.kind(), Kind::DeadlineExceeded);
        assert!(!channel.is_closed());
        // What the server accepted lives on in tasks of its own; only its process' end ends those.
        server.abort();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_end_of_a_shim_is_seen_by_all_who_wait() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let accepting = tokio::spawn(async move { listener.accept().await.unwrap().0 });
        let channel = grpc().connect(path.to_str().unwrap()).await.unwrap();
        let waiting = channel.clone();
        let asked = tokio::spawn(async move { waiting.call(call("Say", LONG)).await });
        drop(accepting.await.unwrap());
        tokio::time::timeout(LONG, channel.closed()).await.unwrap();
        assert_eq!(asked.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
        let again = channel.call(call("Say", LONG)).await.unwrap_err();
        assert_eq!(again.kind(), Kind::Unavailable);
        assert!(channel.is_closed());
    }

    #[tokio::test]
    async fn a_socket_where_nobody_listens_is_unavailable() {
        let refused = grpc().connect("/nowhere.sock").await.err().unwrap();
        assert_eq!(refused.kind(), Kind::Unavailable);
    }
}
