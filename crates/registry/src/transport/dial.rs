// SPDX-License-Identifier: Apache-2.0
use std::{
    error, io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tower_service::Service;
use types::{Error, Kind, Result};

use super::{
    proxy::{Proxies, Proxy},
    tls,
};
use crate::Tls;

type BoxError = Box<dyn error::Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// The longest answer of a proxy that is read before it lets us through.
const MAX_GREETING: usize = 16 << 10;

/// Connects, within a limit that covers looking up the name, TCP, the proxy and TLS.
#[derive(Clone)]
pub(crate) struct Dial {
    inner: HttpsConnector<Route>,
    limit: Duration,
}

impl Dial {
    pub(crate) fn new(
        tls: &Tls,
        limit: Duration,
        socket: Option<PathBuf>,
        proxies: Arc<Proxies>,
    ) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // containerd `core/remotes/docker/registry.go`, DefaultHTTPTransport.
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        // Compat: Go believes in a proxy as it does in the host (net/http, `Transport.dialConn`). What
        // shows the host who we are is not shown to a proxy.
        let towards = Tls { identities: Vec::new(), ..tls.clone() };
        let sealed = HttpsConnectorBuilder::new().with_tls_config(tls::config(&towards)?);
        let sealed = sealed.https_or_http().enable_http1().wrap_connector(tcp.clone());
        let route = Route { tcp, sealed, socket, proxies };
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls::config(tls)?);
        let inner = builder.https_or_http().enable_http1().enable_http2().wrap_connector(route);
        Ok(Self { inner, limit })
    }
}

impl Service<Uri> for Dial {
    type Response = MaybeHttpsStream<Line>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let (limit, connecting) = (self.limit, self.inner.call(uri));
        Box::pin(async move {
            match timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_elapsed) => {
                    let what = format!("dial {host}: no connection within {limit:?}");
                    Err(Error::deadline(what).into())
                }
            }
        })
    }
}

/// The way to a host: directly, by a socket of this machine, or through a proxy.
#[derive(Clone)]
pub(crate) struct Route {
    tcp: HttpConnector,
    /// To proxies that are spoken to over TLS.
    sealed: HttpsConnector<HttpConnector>,
    socket: Option<PathBuf>,
    proxies: Arc<Proxies>,
}

impl Service<Uri> for Route {
    type Response = Line;
    type Error = BoxError;
    type Future = Connecting<Line>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if let Some(path) = self.socket.clone() {
            return Box::pin(async move {
                let what = |error: io::Error| format!("dial unix {}: {error}", path.display());
                let stream = UnixStream::connect(&path).await;
                let stream = stream.map_err(|error| Error::said(Kind::Unavailable, what(error)))?;
                Ok(Line::Local(TokioIo::new(stream)))
            });
        }
        let Some(proxy) = self.proxies.find(&uri).cloned() else {
            let connecting = self.tcp.call(uri);
            return Box::pin(async move { Ok(Line::Direct(connecting.await?)) });
        };
        let is_encrypted = uri.scheme_str() == Some("https");
        if proxy.uri.scheme_str() == Some("https") {
            let connecting = self.sealed.call(proxy.uri.clone());
            return Box::pin(async move {
                let reached = connecting.await;
                let stream = reached.map_err(|error| refused(&super::explain(&*error).1))?;
                let mut stream = TokioIo::new(stream);
                if is_encrypted {
                    tunnel(&mut stream, &uri, &proxy).await?;
                }
                Ok(Line::Sealed(Box::new(stream.into_inner()), !is_encrypted))
            });
        }
        let connecting = self.tcp.call(proxy.uri.clone());
        Box::pin(async move {
            let reached = connecting.await;
            let stream = reached.map_err(|error| refused(&super::explain(&error).1))?;
            if let Some(login) = &proxy.socks {
                let mut stream = stream.into_inner();
                let port = uri.port_u16().unwrap_or(if is_encrypted { 443 } else { 80 });
                let host = uri.host().unwrap_or_default();
                let let_through = login.connect(&mut stream, host, port).await;
                let_through.map_err(|error| refused(&error.to_string()))?;
                return Ok(Line::Direct(TokioIo::new(stream)));
            }
            if !is_encrypted {
                return Ok(Line::Forwarded(stream));
            }
            let mut stream = stream.into_inner();
            tunnel(&mut stream, &uri, &proxy).await?;
            Ok(Line::Direct(TokioIo::new(stream)))
        })
    }
}

/// The words of Go's net/http.
fn refused(why: &str) -> Error {
    Error::said(Kind::Unavailable, format!("proxyconnect tcp: {why}"))
}

/// Has a proxy connect us to a host (RFC 9110, section 9.3.6).
async fn tunnel<S>(stream: &mut S, uri: &Uri, proxy: &Proxy) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let host = uri.host().unwrap_or_default();
    let target = format!("{host}:{}", uri.port_u16().unwrap_or(443));
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(authorization.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    stream.flush().await?;
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"\r\n\r\n") {
        if greeting.len() > MAX_GREETING {
            return Err(refused("the proxy says too much"));
        }
        if stream.read_buf(&mut greeting).await? == 0 {
            return Err(refused("unexpected EOF"));
        }
    }
    let line = String::from_utf8_lossy(&greeting);
    let status = line.lines().next().unwrap_or_default().split_once(' ').map_or("", |it| it.1);
    if status.starts_with("200") { Ok(()) } else { Err(refused(status.trim())) }
}

/// A connection.
pub(crate) enum Line {
    /// To the host itself, or as if it were.
    Direct(TokioIo<TcpStream>),
    /// To a proxy that is told each time where to go.
    Forwarded(TokioIo<TcpStream>),
    /// To a proxy over TLS: one that is told each time where to go, or a tunnel.
    Sealed(Box<MaybeHttpsStream<TokioIo<TcpStream>>>, bool),
    /// To a host on this machine.
    Local(TokioIo<UnixStream>),
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Self::Forwarded(_) | Self::Sealed(_, true)))
    }
}

/// Passes a call on to whatever stream a line is.
macro_rules! stream {
    ($line:expr, $stream:ident => $call:expr) => {
        match $line.get_mut() {
            Line::Direct(inner) | Line::Forwarded(inner) => {
                let $stream = Pin::new(inner);
                $call
            }
            Line::Sealed(inner, _) => {
                let $stream = Pin::new(&mut **inner);
                $call
            }
            Line::Local(inner) => {
                let $stream = Pin::new(inner);
                $call
            }
        }
    };
}

impl Read for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        stream!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl Write for Line {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        stream!(self, stream => stream.poll_write(cx, data))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        stream!(self, stream => stream.poll_shutdown(cx))
    }
}
