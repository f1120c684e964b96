// SPDX-License-Identifier: Apache-2.0
//! The question "do you answer?", put to a daemon's socket without a gRPC library.
//!
//! It is one call of `grpc.health.v1.Health/Check` in HTTP/2 (RFC 9113) with header fields as
//! literals (RFC 7541, 6.2.2): the preface, an empty SETTINGS, HEADERS, and DATA with a gRPC
//! message of no bytes. A DATA frame in return is an answer; an error has none.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::Outcome;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Whether the daemon at `socket` answers a health check.
pub fn answers(socket: &Path) -> bool {
    check(socket).unwrap_or(false)
}

fn check(socket: &Path) -> Outcome<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(&question())?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        match (head[3], head[8]) {
            (DATA, 1) => return Ok(true),
            (HEADERS, 1) if head[4] & END_STREAM != 0 => return Ok(false),
            _ => {}
        }
    }
}

fn question() -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &block));
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    bytes
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![high, middle, low, kind, flags, 0, 0, 0, stream];
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_does_not_answer() {
        assert!(!answers(Path::new("/nowhere/at/all.sock")));
    }
}
