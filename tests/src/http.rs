// SPDX-License-Identifier: Apache-2.0
//! As much HTTP/1.1 as a registry and its client need, over plain sockets.
//!
//! One request per connection: whoever needs more than that is not what is tested here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Context, Outcome, ensure};

const LIMIT: Duration = Duration::from_secs(30);

/// Header lines, names in lower case.
#[derive(Debug, Clone, Default)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(crate) fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn read(reader: &mut impl BufRead) -> Outcome<Self> {
        let mut headers = Vec::new();
        loop {
            let line = line(reader)?;
            if line.is_empty() {
                return Ok(Self(headers));
            }
            let (name, value) = line.split_once(':').context(format!("header {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

/// What a server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

/// Asks a server one thing.
pub(crate) fn ask(
    server: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Outcome<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let more = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\
         Content-Length: {}\r\n{}\r\n",
        body.len(),
        more.collect::<Vec<_>>().concat()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    answer(&mut BufReader::new(stream)).context(format!("{method} http://{server}{target}"))
}

fn answer(reader: &mut impl BufRead) -> Outcome<Answer> {
    let first = line(reader)?;
    let status = first.split(' ').nth(1).context(format!("status line {first:?}"))?.parse()?;
    let headers = Headers::read(reader)?;
    let mut body = Vec::new();
    if headers.first("transfer-encoding") == Some("chunked") {
        while let Some(chunk) = chunk(reader)? {
            body.extend_from_slice(&chunk);
        }
    } else {
        // The connection is closed after the answer, so its end is the body's.
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer { status, headers, body })
}

fn chunk(reader: &mut impl BufRead) -> Outcome<Option<Vec<u8>>> {
    let size = usize::from_str_radix(line(reader)?.trim(), 16)?;
    let mut bytes = vec![0; size];
    reader.read_exact(&mut bytes)?;
    line(reader)?;
    Ok(if size == 0 { None } else { Some(bytes) })
}

/// What a client wants.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Reads the one request of a connection.
    pub(crate) fn read(stream: &TcpStream) -> Outcome<Self> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut reader = BufReader::new(stream);
        let first = line(&mut reader)?;
        let mut words = first.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().context(format!("request line {first:?}"))?;
        let path = target.split('?').next().unwrap_or(target).to_owned();
        let headers = Headers::read(&mut reader)?;
        let size = headers.first("content-length").map_or(Ok(0), str::parse)?;
        let mut body = vec![0; size];
        reader.read_exact(&mut body)?;
        Ok(Self { method, path, headers, body })
    }
}

fn line(reader: &mut impl BufRead) -> Outcome<String> {
    let mut text = String::new();
    let count = reader.by_ref().take(64 * 1024).read_line(&mut text)?;
    ensure!(count > 0, "the connection was closed");
    Ok(text.trim_end().to_owned())
}

/// The head of an answer; a body of `length` bytes is to follow.
pub(crate) fn head(status: u16, length: usize, headers: &[(&str, String)]) -> String {
    let first = format!(
        "HTTP/1.1 {status} {}\r\nContent-Length: {length}\r\nConnection: close\r\n",
        reason(status)
    );
    let extra = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
    std::iter::once(first).chain(extra).chain(["\r\n".to_owned()]).collect::<Vec<_>>().concat()
}

/// The head of an answer whose body lasts for as long as the connection.
pub(crate) fn endless_head() -> String {
    "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        307 => "Temporary Redirect",
        206 => "Partial Content",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together() -> Outcome {
        let wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        let answer = answer(&mut wire.as_slice())?;
        assert_eq!((answer.status, answer.body.as_slice()), (200, b"abcde".as_slice()));
        Ok(())
    }
}
