// SPDX-License-Identifier: Apache-2.0
//! A registry that answers as a test tells it to, faults included. It speaks HTTP/1.1 in plain text,
//! and what plain servers say to those who greet them in TLS.
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// How many requests with this method and path came before.
    pub(crate) before: usize,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What to answer.
#[derive(Clone, Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    stall: bool,
    drip: Option<(usize, Duration)>,
}

impl Reply {
    pub(crate) fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Hangs up after `sent` bytes of the body.
    pub(crate) fn cut(mut self, sent: usize) -> Self {
        self.cut = Some(sent);
        self
    }

    /// Says nothing more after `sent` bytes of the body, and does not hang up.
    pub(crate) fn stall(mut self, sent: usize) -> Self {
        (self.cut, self.stall) = (Some(sent), true);
        self
    }
}

impl Reply {
    /// Sends the body in pieces of `size` bytes, with a pause before each.
    pub(crate) fn drip(mut self, size: usize, pause: Duration) -> Self {
        self.drip = Some((size, pause));
        self
    }
}

type Handler = dyn Fn(&Seen) -> Reply + Send + Sync;

/// The registry. It ends with its owner.
pub(crate) struct Fake {
    /// `127.0.0.1:port`.
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub(crate) async fn new(handler: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::<Mutex<Vec<Seen>>>::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let shared = Arc::clone(&log);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream.set_nodelay(true));
                let (log, handler) = (Arc::clone(&shared), Arc::clone(&handler));
                tokio::spawn(async move {
                    // A client that hangs up is no failure of the test.
                    drop(serve(stream, &log, &*handler).await);
                });
            }
        });
        Self { host, log, task }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Seen::line).collect()
    }
}

async fn serve(mut stream: TcpStream, log: &Mutex<Vec<Seen>>, handler: &Handler) -> io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(seen) = read(&mut stream, &mut buffer, log).await? {
        let reply = handler(&seen);
        let sent = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
        stream.write_all(head(&reply).as_bytes()).await?;
        if seen.method != "HEAD" {
            let (size, pause) = reply.drip.unwrap_or((usize::MAX, Duration::ZERO));
            for piece in reply.body[..sent].chunks(size) {
                tokio::time::sleep(pause).await;
                stream.write_all(piece).await?;
            }
        }
        if reply.stall {
            std::future::pending::<()>().await;
        }
        if reply.cut.is_some() {
            break;
        }
    }
    Ok(())
}

fn head(reply: &Reply) -> String {
    let mut lines = vec![format!("HTTP/1.1 {} Whatever", reply.status)];
    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
        lines.push(format!("content-length: {}", reply.body.len()));
    }
    lines.extend(reply.headers.iter().map(|(name, value)| format!("{name}: {value}")));
    lines.join("\r\n") + "\r\n\r\n"
}

async fn read(
    stream: &mut TcpStream,
    buffer: &mut Vec<u8>,
    log: &Mutex<Vec<Seen>>,
) -> io::Result<Option<Seen>> {
    let end = loop {
        if buffer.first() == Some(&0x16) {
            // A TLS handshake.
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
            return Ok(None);
        }
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let mut seen = parse(std::str::from_utf8(&buffer[..end]).unwrap());
    let length = seen.header("content-length").parse().unwrap_or(0);
    while buffer.len() < end + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    seen.body = buffer[end..end + length].to_vec();
    buffer.drain(..end + length);
    let mut log = log.lock().unwrap();
    seen.before = log.iter().filter(|earlier| earlier.line() == seen.line()).count();
    log.push(seen.clone());
    Ok(Some(seen))
}

fn parse(head: &str) -> Seen {
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ').map(str::to_owned);
    let (method, path) = (first.next().unwrap(), first.next().unwrap());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    Seen { method, path, headers, body: Vec::new(), before: 0 }
}
