// SPDX-License-Identifier: Apache-2.0
//! Which service is served by which part.
use std::{
    future::Future,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use futures_util::{FutureExt, future::BoxFuture};
use records::Auditor;

use services::{
    Limits, containers, content, diff, events, health, images,
    introspection::{self, Identity, Plugin},
    leases,
    metrics::Calls,
    mounts, namespaces, sandboxers, sandboxes, snapshots, store,
    streaming::{self, Streams},
    tasks, transfer,
    version::{self, Version},
};
use tokio::net::{TcpListener, UnixListener};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    service::Routes,
    transport::{Server, ServerTlsConfig},
};
use tower::layer::layer_fn;
use types::{Error, Kind, Result, Scope};

use crate::counted::Counted;
use crate::daemon::{Parts, snapshotter};

/// Everything that is served over gRPC.
#[derive(Clone)]
pub(crate) struct Rim {
    routes: Routes,
    /// Who counts the calls, if anybody does.
    calls: Option<Arc<Calls>>,
}

/// Puts `parts` on the wire.
pub(crate) fn grpc(
    parts: &Parts,
    identity: Identity,
    plugins: Arc<[Plugin]>,
    auditor: Arc<dyn Auditor>,
    limits: Limits,
) -> Rim {
    let db = parts.db.clone();
    let scoped = move |scope: &Scope| db.scope(scope.clone());
    let streams = Streams::default();
    let mut routes = Routes::builder();
    routes
        .add_service(version::serve(Version {
            version: crate::VERSION.to_owned(),
            revision: crate::revision().to_owned(),
        }))
        .add_service(health::serve())
        .add_service(introspection::serve(identity, plugins, inspect(parts), limits))
        .add_service(namespaces::serve(parts.db.namespaces(), limits))
        .add_service(events::serve(parts.exchange.clone(), limits))
        .add_service(store::serve(auditor, limits))
        .add_service(streaming::serve(streams.clone(), limits))
        .add_service(transfer::serve(
            {
                let parts = parts.clone();
                move |scope: &Scope| Ok(parts.client(scope))
            },
            streams,
            parts.registries.clone(),
            parts.trust.clone(),
            limits,
        ))
        .add_service(containers::serve(
            {
                let (trust, db) = (parts.trust.clone(), parts.db.clone());
                move |scope: &Scope| Ok(trust.containers(&db, scope))
            },
            limits,
        ))
        .add_service(images::serve(
            {
                let (trust, db) = (parts.trust.clone(), parts.db.clone());
                move |scope: &Scope| Ok(trust.images(&db, scope))
            },
            limits,
        ))
        .add_service(leases::serve(with(&scoped, |it| Ok(it.leases())), limits))
        .add_service(sandboxes::serve(with(&scoped, |it| Ok(it.sandboxes())), limits))
        .add_service(sandboxers::serve(
            {
                let sandboxers = parts.sandboxers.clone();
                move |scope: &Scope, name: &str| sandboxers.controller(scope, name)
            },
            limits,
        ))
        .add_service(content::serve(with(&scoped, |it| Ok(it.content())), limits))
        .add_service(diff::serve(
            {
                let parts = parts.clone();
                with(&scoped, move |it| Ok(parts.differ(it)))
            },
            limits,
        ))
        .add_service(snapshots::serve(
            {
                let scoped = scoped.clone();
                move |scope: &Scope, name: &str| snapshotter(&scoped(scope), name)
            },
            limits,
        ))
        .add_service(mounts::serve(with(&scoped, managed), limits))
        .add_service(tasks::serve(
            {
                let parts = parts.clone();
                move |scope: &Scope| Ok(parts.tasks(scope, &scoped(scope)))
            },
            limits,
        ));
    Rim { routes: routes.routes(), calls: None }
}

/// The mounts of a scope, unless the config says that there is no manager.
fn managed(scoped: &metadata::Scoped) -> Result<Arc<dyn mount::Manager>> {
    scoped.mounts().ok_or_else(|| Error::unimplemented("mount manager"))
}

fn inspect(parts: &Parts) -> Arc<introspection::Inspect> {
    let shims = parts.shims.clone();
    Arc::new(move |runtime, options| {
        let shims = shims.clone();
        async move { shims.info(&runtime, options.as_ref()).await }.boxed()
    })
}

/// Finds a part of what a scope may see.
fn with<T>(
    scoped: &(impl Fn(&Scope) -> metadata::Scoped + Clone + Send + Sync + 'static),
    part: impl Fn(&metadata::Scoped) -> Result<T> + Send + Sync + 'static,
) -> impl Fn(&Scope) -> Result<T> + Send + Sync + 'static {
    let scoped = scoped.clone();
    move |scope| part(&scoped(scope))
}

/// What shims speak to.
pub(crate) fn ttrpc(parts: &Parts) -> ttrpc::Server {
    events::serve_shims(ttrpc::Server::new(), parts.exchange.clone())
}

impl Rim {
    /// Has `calls` count what is asked.
    pub(crate) fn counted_by(self, calls: Arc<Calls>) -> Self {
        Self { calls: Some(calls), ..self }
    }

    /// Serves on `listener` until `end`, and answers what is under way then.
    pub(crate) async fn serve(
        self,
        listener: UnixListener,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let calls = self.calls.clone();
        let counted = layer_fn(move |inner| Counted::new(inner, calls.clone()));
        let mut server = Server::builder().layer(counted).layer(layer_fn(Named));
        let served = server.add_routes(self.routes()).serve_with_incoming_shutdown(incoming, end);
        served.await.map_err(broken)
    }

    /// The same over TCP, encrypted if there is anything to encrypt with.
    pub(crate) async fn serve_tcp(
        self,
        (listener, tls): (TcpListener, Option<ServerTlsConfig>),
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Result<()> {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let mut server = Server::builder();
        if let Some(tls) = tls {
            server = server.tls_config(tls).map_err(broken)?;
        }
        let calls = self.calls.clone();
        let counted = layer_fn(move |inner| Counted::new(inner, calls.clone()));
        let mut server = server.layer(counted).layer(layer_fn(Named));
        let served = server.add_routes(self.routes()).serve_with_incoming_shutdown(incoming, end);
        served.await.map_err(broken)
    }

    fn routes(self) -> Routes {
        Routes::from(self.routes.into_axum_router().fallback(unknown))
    }
}

fn broken(error: tonic::transport::Error) -> Error {
    Error::caused(Kind::Internal, "", error)
}

/// Names the method in the answer to one that a service does not have.
#[derive(Clone, Debug)]
struct Named<S>(S);

impl<S> Service<http::Request<Body>> for Named<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let uri = request.uri().clone();
        let answer = self.0.call(request);
        async move { answer.await.map(|answer| named(&uri, answer)) }.boxed()
    }
}

/// Compat: the text of Go's gRPC server, where generated code of ours says nothing.
fn named(uri: &http::Uri, answer: http::Response<Body>) -> http::Response<Body> {
    let headers = answer.headers();
    let is_unimplemented = headers.get("grpc-status").is_some_and(|code| code == "12");
    if !is_unimplemented || headers.contains_key("grpc-message") {
        return answer;
    }
    let mut parts = uri.path().split('/').skip(1);
    let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let text = format!("unknown method {method} for service {service}");
    Status::unimplemented(text).into_http()
}

/// Compat: the text of Go's gRPC server, by which clients tell that a service is not there.
async fn unknown(uri: http::Uri) -> http::Response<Body> {
    let service = uri.path().split('/').nth(1).unwrap_or_default();
    Status::unimplemented(format!("unknown service {service}")).into_http()
}
