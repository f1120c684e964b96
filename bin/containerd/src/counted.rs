// SPDX-License-Identifier: Apache-2.0
//! Counts what is asked over gRPC, for the metrics.
use std::{
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use services::metrics::{Call, Calls, Messages};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
};

/// A server whose calls are counted, if anybody wants to know.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    calls: Option<Arc<Calls>>,
}

impl<S> Counted<S> {
    pub(crate) fn new(inner: S, calls: Option<Arc<Calls>>) -> Self {
        Self { inner, calls }
    }
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let begun = self.calls.as_ref().and_then(|calls| calls.begin(request.uri().path()));
        let Some(call) = begun.map(Arc::new) else { return self.inner.call(request).boxed() };
        let asked = call.clone();
        let answer = self.inner.call(request.map(|body| question(body, asked)));
        // A client that hangs up drops this, and the call with it.
        async move { answer.await.map(|answer| counted(answer, call)) }.boxed()
    }
}

fn question(body: Body, call: Arc<Call>) -> Body {
    let mut messages = Messages::default();
    Body::new(body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref() {
            call.received(messages.end_in(data));
        }
        frame
    }))
}

/// A call ends with its status: before all messages where there are none, and after them otherwise.
fn counted(answer: http::Response<Body>, call: Arc<Call>) -> http::Response<Body> {
    if let Some(status) = Status::from_header_map(answer.headers()) {
        call.end(status.code());
        return answer;
    }
    let mut messages = Messages::default();
    answer.map(|body| {
        Body::new(body.map_frame(move |frame| {
            if let Some(data) = frame.data_ref() {
                call.sent(messages.end_in(data));
            }
            if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map) {
                call.end(status.code());
            }
            frame
        }))
    })
}
