// SPDX-License-Identifier: Apache-2.0
//! From the names in a request to a handler, and from any handler to one shape.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;

use super::{BoxFuture, Context, Service};
use crate::frame::Frame;
use crate::outbox::Outbox;
use crate::status::Status;
use crate::stream::{Event, Incoming, Outgoing};
use crate::wire::decode;

/// What a handler is called with.
pub(super) struct Call {
    pub(super) id: u32,
    pub(super) method: String,
    pub(super) payload: Bytes,
    pub(super) outbox: Outbox,
    /// What follows the request, for methods that take a stream.
    pub(super) events: Option<mpsc::Receiver<Event>>,
}

/// A handler of any kind: it returns the last frame of the stream.
type Handler = Arc<dyn Fn(Context, Call) -> BoxFuture<Result<Frame, Status>> + Send + Sync>;

/// A handler, and whether it takes a stream.
#[derive(Clone)]
pub(super) struct Route {
    pub(super) handler: Handler,
    pub(super) takes_stream: bool,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("takes_stream", &self.takes_stream).finish_non_exhaustive()
    }
}

/// All services of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes(HashMap<String, Methods>);

#[derive(Clone, Debug, Default)]
struct Methods {
    named: HashMap<String, Route>,
    rest: Option<Route>,
}

impl Routes {
    pub(super) fn add(&mut self, service: &str, method: &str, route: Route) {
        let methods = self.0.entry(service.to_owned()).or_default();
        methods.named.insert(method.to_owned(), route);
    }

    pub(super) fn add_service(&mut self, name: &str, service: Arc<dyn Service>) {
        self.0.entry(name.to_owned()).or_default().rest = Some(whole(service));
    }

    /// Finds the handler of a method, or the answer that Go gives without one (`services.go`).
    pub(super) fn find(&self, service: &str, method: &str) -> Result<&Route, Status> {
        let methods = self.0.get(service).ok_or_else(|| Status::unknown_service(service))?;
        let route = methods.named.get(method).or(methods.rest.as_ref());
        route.ok_or_else(|| Status::unknown_method(method))
    }
}

fn whole(service: Arc<dyn Service>) -> Route {
    let handler = move |ctx, call: Call| -> BoxFuture<_> {
        let service = Arc::clone(&service);
        Box::pin(async move {
            Frame::raw_response(service.call(ctx, &call.method, call.payload).await?)
        })
    };
    Route { handler: Arc::new(handler), takes_stream: false }
}

pub(super) fn unary<Q, R, F, Fut>(handler: F) -> Route
where
    Q: Message + Default + 'static,
    R: Message + 'static,
    F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Status>> + Send + 'static,
{
    let handler = move |ctx, call: Call| -> BoxFuture<_> {
        match decode(call.payload) {
            Ok(request) => {
                let answer = handler(ctx, request);
                Box::pin(async move { Frame::response(&answer.await?) })
            }
            Err(status) => Box::pin(async { Err(status) }),
        }
    };
    Route { handler: Arc::new(handler), takes_stream: false }
}

pub(super) fn client_stream<Q, R, F, Fut>(handler: F) -> Route
where
    Q: Message + Default + 'static,
    R: Message + 'static,
    F: Fn(Context, Incoming<Q>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, Status>> + Send + 'static,
{
    let handler = move |ctx, call: Call| -> BoxFuture<_> {
        let answer = handler(ctx, incoming(call.events));
        Box::pin(async move { Frame::response(&answer.await?) })
    };
    Route { handler: Arc::new(handler), takes_stream: true }
}

pub(super) fn server_stream<Q, R, F, Fut>(handler: F) -> Route
where
    Q: Message + Default + 'static,
    R: Message + 'static,
    F: Fn(Context, Q, Outgoing<R>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Status>> + Send + 'static,
{
    let handler = move |ctx, call: Call| -> BoxFuture<_> {
        match decode(call.payload) {
            Ok(request) => {
                let end = handler(ctx, request, Outgoing::new(call.outbox, call.id, None));
                Box::pin(async move { end.await.map(|()| Frame::end()) })
            }
            Err(status) => Box::pin(async { Err(status) }),
        }
    };
    Route { handler: Arc::new(handler), takes_stream: false }
}

pub(super) fn bidirectional<Q, R, F, Fut>(handler: F) -> Route
where
    Q: Message + Default + 'static,
    R: Message + 'static,
    F: Fn(Context, Incoming<Q>, Outgoing<R>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), Status>> + Send + 'static,
{
    let handler = move |ctx, call: Call| -> BoxFuture<_> {
        let outgoing = Outgoing::new(call.outbox, call.id, None);
        let end = handler(ctx, incoming(call.events), outgoing);
        Box::pin(async move { end.await.map(|()| Frame::end()) })
    };
    Route { handler: Arc::new(handler), takes_stream: true }
}

fn incoming<T: Message + Default>(events: Option<mpsc::Receiver<Event>>) -> Incoming<T> {
    let events = events.expect("a route that takes a stream is called with one");
    Incoming::new(events, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use async_trait::async_trait;

    struct Nothing;

    #[async_trait]
    impl Service for Nothing {
        async fn call(&self, _: Context, _: &str, payload: Bytes) -> Result<Bytes, Status> {
            Ok(payload)
        }
    }

    #[test]
    fn a_named_method_goes_before_the_rest_of_the_service() {
        let mut routes = Routes::default();
        let named = client_stream(|_, _: Incoming<()>| async { Ok(()) });
        routes.add("a", "M", named);
        let missing = |service, method| routes.find(service, method).unwrap_err();
        assert_eq!(missing("a", "N"), Status::new(Code::Unimplemented, "method N"));
        assert_eq!(missing("b", "M"), Status::new(Code::Unimplemented, "service b"));

        routes.add_service("a", Arc::new(Nothing));
        assert!(routes.find("a", "M").unwrap().takes_stream);
        assert!(!routes.find("a", "N").unwrap().takes_stream);
    }
}
