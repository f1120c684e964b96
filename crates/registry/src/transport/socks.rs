// SPDX-License-Identifier: Apache-2.0
//! Through a SOCKS 5 proxy (RFC 1928), with a password or without (RFC 1929). It looks names up itself.
use std::net::IpAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use types::{Error, Kind, Result};

const VERSION: u8 = 5;
const NO_PASSWORD: u8 = 0;
const PASSWORD: u8 = 2;

/// Who we are to it: a user and a password, if that is wanted.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Login(pub(super) Option<(Vec<u8>, Vec<u8>)>);

impl Login {
    /// Has a proxy connect us to a host.
    ///
    /// # Cancel safety
    ///
    /// Not: the connection is of no more use.
    pub(super) async fn connect(
        &self,
        stream: &mut TcpStream,
        host: &str,
        port: u16,
    ) -> Result<()> {
        let methods: &[u8] = match self.0 {
            Some(_) => &[VERSION, 2, NO_PASSWORD, PASSWORD],
            None => &[VERSION, 1, NO_PASSWORD],
        };
        stream.write_all(methods).await?;
        match (answer(stream).await?, &self.0) {
            ([VERSION, NO_PASSWORD], _) => {}
            ([VERSION, PASSWORD], Some((user, password))) => {
                log_in(stream, user, password).await?;
            }
            _ => return Err(refused("no acceptable authentication methods")),
        }
        stream.write_all(&request(host, port)?).await?;
        let [version, reply] = answer(stream).await?;
        if version != VERSION || reply != 0 {
            return Err(refused(reason(reply)));
        }
        // Where it connects from is of no interest, but has to be read.
        let [_reserved, kind] = answer(stream).await?;
        let length = match kind {
            1 => 4,
            4 => 16,
            3 => usize::from(stream.read_u8().await?),
            _ => return Err(refused("unknown address type")),
        };
        let mut bound = vec![0; length + 2];
        stream.read_exact(&mut bound).await?;
        Ok(())
    }
}

async fn answer(stream: &mut TcpStream) -> Result<[u8; 2]> {
    let mut both = [0; 2];
    stream.read_exact(&mut both).await?;
    Ok(both)
}

async fn log_in(stream: &mut TcpStream, user: &[u8], password: &[u8]) -> Result<()> {
    let long = |_| Error::invalid("a user or password that is too long for SOCKS");
    let mut message = vec![1, u8::try_from(user.len()).map_err(long)?];
    message.extend_from_slice(user);
    message.push(u8::try_from(password.len()).map_err(long)?);
    message.extend_from_slice(password);
    stream.write_all(&message).await?;
    match answer(stream).await? {
        [_, 0] => Ok(()),
        _ => Err(refused("username/password authentication failed")),
    }
}

fn request(host: &str, port: u16) -> Result<Vec<u8>> {
    let bare = host.trim_matches(['[', ']']);
    let mut request = vec![VERSION, 1, 0];
    match bare.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
        Err(_no_address) => {
            let length = u8::try_from(bare.len());
            let long = |_| Error::invalid(format!("{bare} is too long for SOCKS"));
            request.extend([3, length.map_err(long)?]);
            request.extend_from_slice(bare.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    Ok(request)
}

/// The words of Go's `golang.org/x/net/internal/socks`.
fn reason(reply: u8) -> &'static str {
    match reply {
        1 => "general SOCKS server failure",
        2 => "connection not allowed by ruleset",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "command not supported",
        8 => "address type not supported",
        _ => "unknown code",
    }
}

fn refused(why: &str) -> Error {
    Error::said(Kind::Unavailable, why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_named_or_numbered() {
        assert_eq!(request("a.b", 443).unwrap(), [5, 1, 0, 3, 3, b'a', b'.', b'b', 1, 187]);
        assert_eq!(request("10.0.0.1", 80).unwrap(), [5, 1, 0, 1, 10, 0, 0, 1, 0, 80]);
        assert_eq!(request("[::1]", 80).unwrap()[..4], [5, 1, 0, 4]);
        assert!(request(&"a".repeat(300), 80).is_err());
    }
}
