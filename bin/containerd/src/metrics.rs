// SPDX-License-Identifier: Apache-2.0
//! `/v1/metrics` for Prometheus, on a TCP address of its own (containerd
//! `plugins/server/metrics`).
use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use runtime::Shims;
use services::metrics::{self, Calls, Page};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use types::{Context, Result};

/// How many scrapers are listened to at a time.
const SCRAPERS: usize = 8;
/// How long a scraper may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// What there is to tell.
pub(crate) struct Source {
    pub(crate) shims: Arc<Shims>,
    /// Whether tasks are told of.
    pub(crate) tasks: bool,
    /// What was asked over gRPC.
    pub(crate) calls: Arc<Calls>,
}

/// Listens at `address`; nowhere when it is empty.
pub(crate) async fn listen(address: &str) -> Result<Option<TcpListener>> {
    if address.is_empty() {
        return Ok(None);
    }
    let listener = TcpListener::bind(address).await;
    listener.map(Some).context(|| format!("failed to get listener for metrics endpoint {address}"))
}

/// Serves until `end`.
pub(crate) async fn serve(listener: TcpListener, source: Arc<Source>, end: CancellationToken) {
    let room = Arc::new(Semaphore::new(SCRAPERS));
    let serving = async {
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a scraper");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let source = source.clone();
            tokio::spawn(async move {
                converse(stream, source).await;
                drop(place);
            });
        }
    };
    end.run_until_cancelled(serving).await;
}

/// One answer per connection, so that a scraper that stays takes nobody's place.
async fn converse(stream: TcpStream, source: Arc<Source>) {
    let service = service_fn(move |request| {
        let source = source.clone();
        async move { Ok::<_, Infallible>(answer(&request, &source).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(PATIENCE).keep_alive(false);
    let conversation = server.serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(PATIENCE * 2, conversation).await {
        Ok(Err(error)) => tracing::debug!(%error, "a scraper broke off"),
        Err(_) => tracing::debug!("a scraper took too long"),
        Ok(Ok(())) => {}
    }
}

async fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    let (status, text) = match request.uri().path() {
        "/v1/metrics" => (StatusCode::OK, page(source).await.text()),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static(metrics::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

async fn page(source: &Source) -> Page {
    let mut page = Page::default();
    page.build(crate::VERSION, crate::revision());
    metrics::process(&mut page);
    source.calls.tell(&mut page);
    if source.tasks {
        source.shims.usage().await.iter().for_each(|usage| page.task(usage));
    }
    page
}
