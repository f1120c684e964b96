// SPDX-License-Identifier: Apache-2.0
//! One request and its answer: connections, redirects, deadlines. It knows nothing of registries.
mod body;
mod dial;
mod proxy;
mod socks;
mod tls;
mod url;

use std::{
    collections::HashMap,
    error, io, iter,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use types::{Context as _, Error, Kind, Result};

pub(crate) use self::body::Body;
pub use self::proxy::Proxies;
pub(crate) use self::url::{encode, join, origin, shown};
use crate::{Heard, Host, Listener, Scheme, Timeouts, Tls, heard};

/// As net/http in Go, which containerd uses.
const MAX_REDIRECTS: usize = 10;

/// How many kinds of trust have connections kept: certificates that change make new ones.
const MAX_CLIENTS: usize = 64;
/// For how long a host that may be spoken to either way is believed to speak as it did.
const BELIEVED: Duration = Duration::from_mins(5);

type Client = legacy::Client<dial::Dial, Body>;

/// The connections, kept for reuse per kind of trust and of way.
pub(crate) struct Transport {
    timeouts: Timeouts,
    proxies: Arc<Proxies>,
    clients: Mutex<HashMap<Way, Client>>,
    /// Which of the hosts that may be spoken to either way speak plain text, and since when.
    plain: Mutex<HashMap<String, (bool, Instant)>>,
}

/// What connections have in common that may be used for the same host.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Way {
    tls: Tls,
    limit: Duration,
    socket: Option<PathBuf>,
}

/// A request, with what may follow a redirect to another host apart from what may not.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// Headers that any host may see.
    pub(crate) open: HeaderMap,
    /// Headers for the host in `uri` alone, such as credentials.
    pub(crate) private: HeaderMap,
    pub(crate) body: Bytes,
    /// Who hears of it.
    pub(crate) listener: Option<Listener>,
}

impl Transport {
    pub(crate) fn new(timeouts: Timeouts, proxies: Proxies) -> Self {
        let (clients, plain) = Default::default();
        Self { timeouts, proxies: Arc::new(proxies), clients, plain }
    }

    pub(crate) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The scheme and authority under which `host` is reached: `https://registry-1.docker.io`.
    pub(crate) async fn base(&self, host: &Host) -> Result<String> {
        let plain = match host.scheme {
            Scheme::Http => true,
            Scheme::Https => false,
            Scheme::Either => self.speaks_plain_text(host).await?,
        };
        Ok(format!("{}://{}", if plain { "http" } else { "https" }, host.host))
    }

    /// Finds out by a request that says nothing. A host that does not answer is asked again.
    async fn speaks_plain_text(&self, host: &Host) -> Result<bool> {
        match locked(&self.plain).get(&host.host) {
            Some((known, since)) if since.elapsed() < BELIEVED => return Ok(*known),
            _ => {}
        }
        let probe = Request::get(format!("https://{}{}/", host.host, host.path))
            .body(Body::Whole(Bytes::new()))
            .map_err(|error| Error::caused(Kind::InvalidArgument, host.host.clone(), error))?;
        let limit = self.timeouts.reply;
        let plain = match timeout(limit, self.client(host)?.request(probe)).await {
            Ok(Ok(_)) => false,
            Ok(Err(error)) if is_no_tls(&error) => true,
            _ => return Ok(false),
        };
        locked(&self.plain).insert(host.host.clone(), (plain, Instant::now()));
        Ok(plain)
    }

    /// Sends a request and follows redirects, leaving what is private behind when they lead away.
    pub(crate) async fn exchange(&self, host: &Host, message: &Message) -> Result<Answer, Lost> {
        let mut uri = message.uri.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.once(host, message, uri).await?;
            match answer.redirect() {
                None => return Ok(answer),
                Some(location) => uri = join(&answer.uri, location)?,
            }
        }
        let what = format!("{}: stopped after {MAX_REDIRECTS} redirects", message.uri);
        Err(Error::said(Kind::Unknown, what).into())
    }

    async fn once(&self, host: &Host, message: &Message, uri: Uri) -> Result<Answer, Lost> {
        let limit = host.connect_timeout.unwrap_or(self.timeouts.connect) + self.timeouts.reply;
        let request = self.request(message, &uri, Body::Whole(message.body.clone()));
        let begun = Instant::now();
        let reply = timeout(limit, self.client(host)?.request(request)).await;
        let reply = match reply {
            Ok(reply) => reply.map_err(|error| Lost::from_client(&message.method, &uri, &error)),
            Err(_elapsed) => {
                let late = Error::deadline(format!("no reply within {limit:?}"));
                Err(failed(&message.method, &uri, &late).into())
            }
        };
        self.heard(message, uri, reply, begun)
    }

    /// Sends a request whose body comes in pieces. Whoever sends the pieces watches the clock.
    pub(crate) async fn upload(
        &self,
        host: &Host,
        message: &Message,
        body: Body,
    ) -> Result<Answer, Lost> {
        let (uri, begun) = (message.uri.clone(), Instant::now());
        let request = self.request(message, &uri, body);
        let reply = self.client(host)?.request(request).await;
        let reply = reply.map_err(|error| Lost::from_client(&message.method, &uri, &error));
        self.heard(message, uri, reply, begun)
    }

    /// Makes an answer of a reply, and tells of either.
    fn heard(
        &self,
        message: &Message,
        uri: Uri,
        reply: Result<Response<Incoming>, Lost>,
        begun: Instant,
    ) -> Result<Answer, Lost> {
        let method = &message.method;
        let tell = |heard: Heard<'_>| message.tell(&heard);
        let reply = reply.inspect_err(|lost| {
            tell(Heard::Silence { method, uri: &uri, error: &lost.error });
        })?;
        let (status, headers, after) = (reply.status(), reply.headers(), begun.elapsed());
        tell(Heard::Answer { method, uri: &uri, status, headers, after });
        let host = origin(&uri).1;
        for text in heard::warnings(headers) {
            tracing::warn!(host, text, "a registry warns");
            tell(Heard::Warning { host, text: &text });
        }
        Ok(self.answer(message, uri, reply))
    }

    fn answer(&self, message: &Message, uri: Uri, reply: Response<Incoming>) -> Answer {
        let (parts, body) = reply.into_parts();
        Answer {
            method: message.method.clone(),
            strayed: origin(&uri) != origin(&message.uri),
            uri,
            status: parts.status,
            headers: parts.headers,
            body,
            pace: Pace {
                idle: self.timeouts.idle,
                slowest: self.timeouts.slowest,
                waited: Duration::ZERO,
                got: 0,
            },
        }
    }

    fn request(&self, message: &Message, uri: &Uri, body: Body) -> Request<Body> {
        let mut request = request(message, uri, body);
        let is_plain = uri.scheme_str() == Some("http");
        if let Some(proxy) = self.proxies.find(uri).filter(|_| is_plain) {
            let proof =
                proxy.authorization.iter().map(|it| (header::PROXY_AUTHORIZATION, it.clone()));
            request.headers_mut().extend(proof);
        }
        let (method, headers) = (request.method(), request.headers());
        message.tell(&Heard::Request { method, uri, headers });
        request
    }

    fn client(&self, host: &Host) -> Result<Client> {
        let limit = host.connect_timeout.unwrap_or(self.timeouts.connect);
        let way = Way { tls: host.tls.clone(), limit, socket: host.socket.clone() };
        if let Some(client) = locked(&self.clients).get(&way) {
            return Ok(client.clone());
        }
        let dial = dial::Dial::new(&way.tls, limit, way.socket.clone(), Arc::clone(&self.proxies))
            .context(|| host.host.clone())?;
        // containerd `core/remotes/docker/registry.go`, DefaultHTTPTransport.
        let client = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(10)
            .http2_adaptive_window(true)
            .build(dial);
        let mut clients = locked(&self.clients);
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        Ok(clients.entry(way).or_insert(client).clone())
    }
}

impl Message {
    fn tell(&self, heard: &Heard<'_>) {
        if let Some(listener) = &self.listener {
            listener(heard);
        }
    }
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn request(message: &Message, uri: &Uri, body: Body) -> Request<Body> {
    let length = hyper::body::Body::size_hint(&body).exact().unwrap_or_default();
    let mut request = Request::new(body);
    *request.method_mut() = message.method.clone();
    *request.uri_mut() = uri.clone();
    request.headers_mut().extend(message.open.clone());
    if origin(uri) == origin(&message.uri) {
        request.headers_mut().extend(message.private.clone());
    }
    if matches!(message.method, Method::POST | Method::PUT | Method::PATCH) {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    request
}

/// Why a request got no answer.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) error: Error,
    /// Whether there was a connection, so that the request may have arrived.
    pub(crate) cut: bool,
}

impl Lost {
    fn from_client(method: &Method, uri: &Uri, error: &legacy::Error) -> Self {
        Self { error: failed(method, uri, error), cut: !error.is_connect() }
    }
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        Self { error, cut: false }
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        lost.error
    }
}

/// What came back. The body is still on its way.
pub(crate) struct Answer {
    pub(crate) method: Method,
    /// Where it came from, after redirects.
    pub(crate) uri: Uri,
    /// Whether that is another place than was asked.
    pub(crate) strayed: bool,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    pace: Pace,
}

/// How fast a body has to come. Only the time that we wait for it counts: whoever takes it may take
/// their time.
struct Pace {
    idle: Duration,
    /// Bytes a second, over each `idle` of waiting.
    slowest: u64,
    waited: Duration,
    got: u64,
}

impl Pace {
    /// Counts a wait that gave `bytes`. Returns false when it has become too slow.
    fn keeps(&mut self, waited: Duration, bytes: usize) -> bool {
        self.waited += waited;
        self.got += bytes as u64;
        if self.waited < self.idle {
            return true;
        }
        let least = u128::from(self.slowest) * self.waited.as_millis() / 1000;
        let keeps = u128::from(self.got) >= least;
        (self.waited, self.got) = (Duration::ZERO, 0);
        keeps
    }
}

impl Answer {
    /// Where it came from, as a person may see it.
    pub(crate) fn url(&self) -> String {
        shown(&self.uri, self.strayed)
    }

    /// A header, if it is there and is text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn redirect(&self) -> Option<&str> {
        let moved = matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        let asking = matches!(self.method, Method::GET | Method::HEAD);
        if moved && asking { self.header(header::LOCATION) } else { None }
    }

    /// The next piece of the body, as it left the socket; `None` at its end.
    ///
    /// Errors: `Unavailable` when it was cut, `DeadlineExceeded` when it dried up, or became a
    /// trickle.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>> {
        loop {
            let begun = Instant::now();
            let Ok(frame) = timeout(self.pace.idle, self.body.frame()).await else {
                let what = format!("{}: no byte within {:?}", self.url(), self.pace.idle);
                return Err(Error::deadline(what));
            };
            let got = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            if !self.pace.keeps(begun.elapsed(), got.map_or(0, Bytes::len)) {
                let least = self.pace.slowest;
                let what = format!("{}: less than {least} bytes a second", self.url());
                return Err(Error::deadline(what));
            }
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(failed(&self.method, &self.uri, &error)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    /// The body up to `limit` bytes, and whether that was all of it.
    pub(crate) async fn whole(&mut self, limit: usize) -> Result<(Bytes, bool)> {
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            let room = limit - whole.len();
            whole.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                return Ok((whole.freeze(), false));
            }
        }
        Ok((whole.freeze(), true))
    }
}

/// The error of a request that got no answer, in the words of Go's net/http:
/// `failed to do request: Head "https://...": ...`.
fn failed(method: &Method, uri: &Uri, error: &(dyn error::Error + 'static)) -> Error {
    let verb = match method.as_str() {
        "GET" => "Get",
        "HEAD" => "Head",
        "POST" => "Post",
        "PUT" => "Put",
        other => other,
    };
    let (kind, why) = explain(error);
    let why = unreached(uri, error).unwrap_or(why);
    let url = shown(uri, true);
    Error::said(kind, format!("failed to do request: {verb} \"{url}\": {why}"))
}

/// The kind and the text of what a connection died of: each link of the chain, none twice.
fn explain(error: &(dyn error::Error + 'static)) -> (Kind, String) {
    let mut links: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = words(error);
        if links.last().is_none_or(|last| !last.ends_with(&text)) {
            links.push(text);
        }
        if let Some(ours) = error.downcast_ref::<Error>() {
            return (ours.kind(), links.join(": "));
        }
        next = error.source();
    }
    (Kind::Unavailable, links.join(": "))
}

/// What Go says of a connection that did not come about: `dial tcp 10.0.0.1:443: connect: connection
/// refused`.
///
/// Compat: programs go by the end of it, such as nerdctl when it tries a registry without TLS
/// (nerdctl `pkg/errutil/errors_check.go`).
fn unreached(uri: &Uri, error: &(dyn error::Error + 'static)) -> Option<String> {
    let links = || iter::successors(Some(error), |link| link.source());
    let is = |words: &str| links().any(|link| link.to_string() == words);
    let host = uri.host()?;
    // These are hyper-util's words: it keeps the type of this error to itself.
    if is("dns error") {
        return Some(format!("dial tcp: lookup {host}: no such host"));
    }
    let cause = links().filter(|_| is("tcp connect error")).find_map(|link| {
        link.downcast_ref::<io::Error>().filter(|io| io.raw_os_error().is_some())
    })?;
    let default = if uri.scheme_str() == Some("http") { 80 } else { 443 };
    let port = uri.port_u16().unwrap_or(default);
    let text = cause.to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    Some(format!("dial tcp {host}:{port}: connect: {text}"))
}

/// Compat: a body that ends too early is an `unexpected EOF` in Go, which callers look for, and so
/// they do for a server that answers TLS without it.
fn words(error: &(dyn error::Error + 'static)) -> String {
    let ended = |io: &io::Error| io.kind() == io::ErrorKind::UnexpectedEof;
    if error.downcast_ref().is_some_and(ended) {
        return "unexpected EOF".to_owned();
    }
    let plain = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    let speaks_plainly = |io: &io::Error| {
        let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        inner == Some(&plain)
    };
    if error.downcast_ref().is_some_and(speaks_plainly) || error.downcast_ref() == Some(&plain) {
        return "http: server gave HTTP response to HTTPS client".to_owned();
    }
    error.to_string()
}

/// Whether a connection failed because the other side answered no TLS: Go goes by what the first
/// bytes look like too (containerd `core/remotes/docker/resolver.go`, `isTLSError`).
fn is_no_tls(error: &(dyn error::Error + 'static)) -> bool {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return matches!(error, rustls::Error::InvalidMessage(_));
    }
    // An I/O error hides what it holds from `source`.
    if let Some(inner) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return is_no_tls(inner);
    }
    error.source().is_some_and(is_no_tls)
}
