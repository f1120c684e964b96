// SPDX-License-Identifier: Apache-2.0
use std::{
    error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio::{net::TcpStream, time::timeout};
use tower_service::Service;
use types::{Error, Result};

use super::tls;
use crate::Tls;

type BoxError = Box<dyn error::Error + Send + Sync>;

/// Connects, within a limit that covers looking up the name, TCP and TLS. A proxy would go here.
#[derive(Clone)]
pub(crate) struct Dial {
    inner: HttpsConnector<HttpConnector>,
    limit: Duration,
}

impl Dial {
    pub(crate) fn new(tls: &Tls, limit: Duration) -> Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // containerd `core/remotes/docker/registry.go`, DefaultHTTPTransport.
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let builder = HttpsConnectorBuilder::new().with_tls_config(tls::config(tls)?);
        let inner = builder.https_or_http().enable_http1().enable_http2().wrap_connector(tcp);
        Ok(Self { inner, limit })
    }
}

impl Service<Uri> for Dial {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

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
