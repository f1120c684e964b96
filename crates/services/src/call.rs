// SPDX-License-Identifier: Apache-2.0
//! What is around every call: the scope in its headers, its size, its errors.
use std::future::Future;

use tonic::{
    Code, Request, Response, Status,
    metadata::{MetadataMap, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use types::{Error, Kind, Result, Scope};

/// The header that carries the namespace (containerd `pkg/namespaces/grpc.go`).
pub(crate) const NAMESPACE: &str = "containerd-namespace";
/// The header that carries the lease (containerd `core/leases/grpc.go`).
const LEASE: &str = "containerd-lease";

/// What a handler answers.
pub(crate) type Reply<T> = Result<Response<T>, Status>;

/// How large a message may be, each way, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest message accepted.
    pub receive: usize,
    /// The largest message sent.
    pub send: usize,
}

/// 16 MiB each way (containerd `defaults/defaults.go`).
impl Default for Limits {
    fn default() -> Self {
        Self { receive: 16 << 20, send: 16 << 20 }
    }
}

/// Sets the limits of a generated server or client.
macro_rules! limited {
    ($it:expr, $limits:expr) => {
        $it.max_decoding_message_size($limits.receive).max_encoding_message_size($limits.send)
    };
}
pub(crate) use limited;

/// Takes a request apart: on whose behalf, and what.
pub(crate) fn open<T>(request: Request<T>) -> Result<(Scope, T), Status> {
    let scope = scope(request.metadata()).map_err(status)?;
    Ok((scope, request.into_inner()))
}

/// Serves each call with what is found for its scope.
#[derive(Debug)]
pub struct Scoped<F> {
    find: F,
}

impl<F> Scoped<F> {
    pub(crate) fn new(find: F) -> Self {
        Self { find }
    }

    /// Takes a request apart: whom it is for, and what it asks.
    pub(crate) fn open<P, T>(&self, request: Request<T>) -> Result<(P, T), Status>
    where
        F: Fn(&Scope) -> Result<P>,
    {
        let (scope, request) = open(request)?;
        Ok(((self.find)(&scope).map_err(status)?, request))
    }
}

/// The scope that the headers name. A request without a namespace is refused, as Go does in every
/// namespaced service.
pub(crate) fn scope(headers: &MetadataMap) -> Result<Scope> {
    let namespace = header(headers, NAMESPACE).unwrap_or_default();
    if namespace.is_empty() {
        return Err(Error::failed_precondition("namespace is required"));
    }
    Ok(Scope::new(namespace)?.with_lease(header(headers, LEASE).unwrap_or_default()))
}

fn header<'a>(headers: &'a MetadataMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Runs what changes state on a task of its own: a client that hangs up cannot stop it half way.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T, Status> {
    match tokio::spawn(work).await {
        Ok(outcome) => outcome.map_err(status),
        Err(ended) => Err(Status::internal(format!("the request's task ended: {ended}"))),
    }
}

/// An error on its way out.
#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err")]
pub fn status(error: Error) -> Status {
    Status::new(Code::from_i32(error.kind().code()), error.to_string())
}

/// An error that came in, in the peer's own words. That the connection broke is `Unavailable`, as in
/// Go, where the library here does not say.
#[expect(clippy::needless_pass_by_value, reason = "so that it can stand in map_err")]
pub fn error(status: Status) -> Error {
    let is_broken = status.code() == Code::Unknown && std::error::Error::source(&status).is_some();
    let kind = Kind::from_code(i32::from(status.code()));
    Error::said(if is_broken { Kind::Unavailable } else { kind }, status.message().to_owned())
}

/// A connection on which every call carries a scope.
pub type Peer = InterceptedService<Channel, Headers>;

/// Puts a scope into the headers of every call.
#[derive(Clone, Debug)]
pub struct Headers {
    namespace: MetadataValue<tonic::metadata::Ascii>,
    lease: Option<MetadataValue<tonic::metadata::Ascii>>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let headers = request.metadata_mut();
        headers.insert(NAMESPACE, self.namespace.clone());
        if let Some(lease) = &self.lease {
            headers.insert(LEASE, lease.clone());
        }
        Ok(request)
    }
}

/// A connection on which every call is made on behalf of `scope`.
pub fn peer(channel: Channel, scope: &Scope) -> Result<Peer> {
    let value = |text: &str| {
        MetadataValue::try_from(text)
            .map_err(|e| Error::caused(Kind::InvalidArgument, format!("header value {text:?}"), e))
    };
    let lease = scope.lease().map(value).transpose()?;
    let headers = Headers { namespace: value(scope.namespace())?, lease };
    Ok(InterceptedService::new(channel, headers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_without_a_namespace_is_refused() {
        let refused = open(Request::new(())).unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(refused.message(), "namespace is required: failed precondition");
    }

    #[test]
    fn the_scope_is_in_the_headers() {
        let mut request = Request::new(());
        request.metadata_mut().insert(NAMESPACE, MetadataValue::from_static("moby"));
        request.metadata_mut().insert(LEASE, MetadataValue::from_static("l1"));
        let (scope, ()) = open(request).unwrap();
        assert_eq!((scope.namespace(), scope.lease()), ("moby", Some("l1")));
    }

    #[test]
    fn an_error_comes_back_as_it_went_out() {
        let sent = Error::not_found("image x").context("pull");
        let received = error(status(sent));
        assert_eq!(received.kind(), Kind::NotFound);
        assert_eq!(received.to_string(), "pull: image x: not found");
    }
}
