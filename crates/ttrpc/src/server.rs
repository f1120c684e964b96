// SPDX-License-Identifier: Apache-2.0
//! The serving side.

mod connection;
mod routes;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tracing::{debug, warn};

use self::routes::Routes;
use crate::metadata::Metadata;
use crate::status::Status;
use crate::stream::{Incoming, Outgoing};

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The process at the other end of a unix socket, as of when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process id, if it can be seen from here.
    pub pid: Option<i32>,
}

impl Peer {
    /// Asks the kernel who is at the other end (`SO_PEERCRED`).
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), pid: credentials.pid() })
    }

    fn is_same_user(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
            && self.gid == rustix::process::getegid().as_raw()
    }
}

/// What a handler may know beside the request.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// What the client sent beside the request.
    pub metadata: Metadata,
    /// When the handler is dropped, if the client set a timeout.
    pub deadline: Option<Instant>,
    /// Who is calling, if that is known.
    pub peer: Option<Peer>,
}

/// A whole service, which finds its methods itself.
///
/// For a service with many methods, this is one `match`, where [`Server::method`] would be a line
/// for each.
///
/// ```
/// use bytes::Bytes;
/// use ttrpc::{Context, Server, Service, Status};
///
/// struct Echo;
///
/// #[async_trait::async_trait]
/// impl Service for Echo {
///     async fn call(&self, _: Context, method: &str, payload: Bytes) -> Result<Bytes, Status> {
///         match method {
///             "Echo" => Ok(payload),
///             other => Err(Status::unknown_method(other)),
///         }
///     }
/// }
///
/// let server = Server::new().service("example.Echo", std::sync::Arc::new(Echo));
/// ```
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers a unary call with an encoded message.
    ///
    /// The future is dropped when the client is gone or its deadline has passed: work that must not
    /// be left half done belongs on a task of its own.
    async fn call(&self, ctx: Context, method: &str, payload: Bytes) -> Result<Bytes, Status>;
}

/// Services, and the connections that they are offered on. A clone offers the same services.
///
/// Handlers run concurrently. Each is polled once by the reader of its connection, and moves to a
/// task of its own if it is not done by then: like any future, it must not block. When the
/// client disconnects or its deadline passes, the handler's future is dropped.
#[derive(Clone, Debug, Default)]
pub struct Server {
    routes: Arc<Routes>,
    same_user: bool,
}

impl Server {
    /// Makes a server without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses connections from other users and groups, as Go's `UnixSocketRequireSameUser` does.
    ///
    /// Abstract sockets have no permissions, so this is what protects them.
    pub fn require_same_user(mut self) -> Self {
        self.same_user = true;
        self
    }

    /// Registers a unary method, in place of one that has this name.
    pub fn method<Q, R, F, Fut>(self, service: &str, method: &str, handler: F) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
        F: Fn(Context, Q) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Status>> + Send + 'static,
    {
        self.route(service, method, routes::unary(handler))
    }

    /// Registers a method that takes a stream and gives one answer.
    pub fn client_stream<Q, R, F, Fut>(self, service: &str, method: &str, handler: F) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
        F: Fn(Context, Incoming<Q>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Status>> + Send + 'static,
    {
        self.route(service, method, routes::client_stream(handler))
    }

    /// Registers a method that answers one request with a stream, which ends when it returns.
    pub fn server_stream<Q, R, F, Fut>(self, service: &str, method: &str, handler: F) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
        F: Fn(Context, Q, Outgoing<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.route(service, method, routes::server_stream(handler))
    }

    /// Registers a method that streams both ways, which ends when it returns.
    ///
    /// ```
    /// use ttrpc::{Context, Incoming, Outgoing, Server, Status};
    ///
    /// # #[derive(Clone, PartialEq, prost::Message)] struct Part {}
    /// async fn echo(
    ///     _: Context,
    ///     mut parts: Incoming<Part>,
    ///     mut reply: Outgoing<Part>,
    /// ) -> Result<(), Status> {
    ///     while let Some(part) = parts.recv().await? {
    ///         reply.send(&part).await?;
    ///     }
    ///     Ok(())
    /// }
    ///
    /// let server = Server::new().stream("example.Parts", "Echo", echo);
    /// ```
    pub fn stream<Q, R, F, Fut>(self, service: &str, method: &str, handler: F) -> Self
    where
        Q: Message + Default + 'static,
        R: Message + 'static,
        F: Fn(Context, Incoming<Q>, Outgoing<R>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Status>> + Send + 'static,
    {
        self.route(service, method, routes::bidirectional(handler))
    }

    /// Registers a whole service. Methods registered by name under the same service go first.
    pub fn service(mut self, name: &str, service: Arc<dyn Service>) -> Self {
        Arc::make_mut(&mut self.routes).add_service(name, service);
        self
    }

    fn route(mut self, service: &str, method: &str, route: routes::Route) -> Self {
        Arc::make_mut(&mut self.routes).add(service, method, route);
        self
    }

    /// Serves all who connect, until `shutdown`; then it finishes the calls that run and returns.
    ///
    /// While it finishes, it accepts no connections, closes those without calls, and refuses new
    /// calls on the others as unavailable. It waits for a call as long as the call takes: whoever
    /// has less time drops the future, which drops everything.
    ///
    /// # Errors
    ///
    /// The listener failed. Running out of file descriptors or memory is not such a failure.
    pub async fn serve(
        &self,
        listener: UnixListener,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let mut shutdown = std::pin::pin!(shutdown);
        let (stop, stopping) = watch::channel(false);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(ended) = connections.join_next() => note(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(&mut connections, stream, &stopping),
                    Err(error) if is_shortage(&error) => {
                        warn!(%error, "ttrpc server cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                },
            }
        }
        drop(listener);
        stop.send_replace(true);
        while let Some(ended) = connections.join_next().await {
            note(ended);
        }
        Ok(())
    }

    fn admit(
        &self,
        connections: &mut JoinSet<()>,
        stream: UnixStream,
        stopping: &watch::Receiver<bool>,
    ) {
        let peer = match Peer::of(&stream) {
            Ok(peer) if self.same_user && !peer.is_same_user() => {
                return warn!(?peer, "ttrpc server refuses a connection of another user");
            }
            Ok(peer) => peer,
            Err(error) => return warn!(%error, "ttrpc server refuses an unknown peer"),
        };
        let (server, mut stopping) = (self.clone(), stopping.clone());
        connections.spawn(async move {
            let stop = async move { drop(stopping.wait_for(|stop| *stop).await) };
            if let Err(error) = connection::serve(stream, server.routes, Some(peer), stop).await {
                debug!(%error, ?peer, "ttrpc server connection failed");
            }
        });
    }

    /// Serves one connection until the client ends it.
    ///
    /// Nothing is checked about the peer: see [`Peer::of`]. When the future is dropped, the
    /// connection is closed and its handlers are dropped.
    ///
    /// # Errors
    ///
    /// The connection failed, or ended inside a message.
    pub async fn serve_connection<S>(&self, io: S, peer: Option<Peer>) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Send,
    {
        connection::serve(io, Arc::clone(&self.routes), peer, std::future::pending()).await
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "ttrpc server lost a connection");
    }
}

/// Tells what will pass from what makes a listener useless.
fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let shortages =
        [Errno::CONNABORTED, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::INTR];
    shortages.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}
