// SPDX-License-Identifier: Apache-2.0
//! Messages, a server to speak to, and frames made by hand.

use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use ttrpc::{CallOptions, Client, Code, Context, Incoming, Outgoing, Server, Status};

pub(super) const SVC: &str = "test.Service";
pub(super) const PLAIN: CallOptions = CallOptions::new();
/// Longer than anything takes that does not hang.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const REQUEST: u8 = 1;
pub(super) const RESPONSE: u8 = 2;
pub(super) const DATA: u8 = 3;
pub(super) const CLOSED: u8 = 1;
pub(super) const OPEN: u8 = 2;
pub(super) const NO_DATA: u8 = 4;

#[derive(Clone, PartialEq, Message)]
pub(super) struct Text {
    #[prost(string, tag = "1")]
    pub(super) text: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(string, tag = "2")]
    pub(super) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(super) payload: Bytes,
    #[prost(int64, tag = "4")]
    pub(super) timeout_nano: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireStatus {
    #[prost(int32, tag = "1")]
    pub(super) code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct WireResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) status: Option<WireStatus>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) payload: Bytes,
}

pub(super) fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

pub(super) async fn say(client: &Client, method: &str, what: &str) -> Result<String, Status> {
    say_with(client, method, what, &PLAIN).await
}

pub(super) async fn say_with(
    client: &Client,
    method: &str,
    what: &str,
    options: &CallOptions,
) -> Result<String, Status> {
    let answer: Text = client.call(SVC, method, &text(what), options).await?;
    Ok(answer.text)
}

/// A server with a method of each kind.
pub(super) fn server() -> Server {
    Server::new()
        .method(SVC, "Echo", |_, message: Text| async { Ok(message) })
        .method(SVC, "Later", |_, message: Text| async {
            tokio::task::yield_now().await;
            Ok(message)
        })
        .method(SVC, "Fail", |_, message: Text| async {
            Err::<Text, _>(Status::new(Code::NotFound, message.text))
        })
        .method(SVC, "Never", |_, _: Text| pending::<Result<Text, Status>>())
        .method(SVC, "Long", |_, size: Text| async move {
            Ok(text("x".repeat(size.text.parse().expect("the test sends a number"))))
        })
        .client_stream(SVC, "Join", join)
        .server_stream(SVC, "Split", split)
        .stream(SVC, "Chat", chat)
}

async fn join(_: Context, mut words: Incoming<Text>) -> Result<Text, Status> {
    let mut all = Vec::new();
    while let Some(word) = words.recv().await? {
        all.push(word.text);
    }
    Ok(text(all.join(" ")))
}

async fn split(_: Context, all: Text, mut words: Outgoing<Text>) -> Result<(), Status> {
    for word in all.text.split_whitespace() {
        words.send(&text(word)).await?;
    }
    Ok(())
}

/// Echoes words until "stop", which it returns on, or "fail", which it fails on.
async fn chat(
    _: Context,
    mut words: Incoming<Text>,
    mut echo: Outgoing<Text>,
) -> Result<(), Status> {
    while let Some(word) = words.recv().await? {
        match word.text.as_str() {
            "stop" => return Ok(()),
            "fail" => return Err(Status::new(Code::Aborted, "as you wish")),
            _ => echo.send(&word).await?,
        }
    }
    echo.send(&text("bye")).await
}

/// Adds a method that never answers, and tells when it starts ("begun") and is dropped ("dropped").
pub(super) fn with_witness(server: Server, witness: UnboundedSender<&'static str>) -> Server {
    struct OnDrop(UnboundedSender<&'static str>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.send("dropped").ok();
        }
    }
    server.method(SVC, "Watch", move |_, _: Text| {
        let on_drop = OnDrop(witness.clone());
        async move {
            on_drop.0.send("begun").ok();
            pending::<Result<Text, Status>>().await
        }
    })
}

/// Serves one end of a pipe, and returns a client on the other.
pub(super) fn connected(server: &Server) -> (Client, JoinHandle<io::Result<()>>) {
    let (raw, serving) = raw_client(server);
    (Client::new(raw), serving)
}

/// Serves one end of a pipe, and returns the other.
pub(super) fn raw_client(server: &Server) -> (DuplexStream, JoinHandle<io::Result<()>>) {
    let (near, far) = duplex(64 << 10);
    let server = server.clone();
    (near, tokio::spawn(async move { server.serve_connection(far, None).await }))
}

/// A client on one end of a pipe, and the other end.
pub(super) fn raw_server() -> (Client, DuplexStream) {
    let (near, far) = duplex(64 << 10);
    (Client::new(near), far)
}

pub(super) fn frame(stream: u32, kind: u8, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = (data.len() as u32).to_be_bytes().to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend([kind, flags]);
    frame.extend(data);
    frame
}

pub(super) fn request(method: &str, payload: &Text, timeout_nano: i64) -> Vec<u8> {
    let (service, method) = (SVC.to_owned(), method.to_owned());
    let payload = payload.encode_to_vec().into();
    WireRequest { service, method, payload, timeout_nano }.encode_to_vec()
}

pub(super) async fn read_frame(io: &mut DuplexStream) -> io::Result<(u32, u8, u8, Bytes)> {
    let length = io.read_u32().await? as usize;
    let (stream, kind, flags) = (io.read_u32().await?, io.read_u8().await?, io.read_u8().await?);
    let mut data = vec![0; length];
    io.read_exact(&mut data).await?;
    Ok((stream, kind, flags, data.into()))
}

/// Reads the final answer of a stream: its id, and a text or a code and a text.
pub(super) async fn read_answer(io: &mut DuplexStream) -> (u32, Result<Text, (Code, String)>) {
    let (stream, kind, _, data) = read_frame(io).await.unwrap();
    assert_eq!(kind, RESPONSE);
    let response = WireResponse::decode(data).unwrap();
    let answer = match response.status {
        Some(status) if status.code != 0 => Err((Code::from(status.code), status.message)),
        _ => Ok(Text::decode(response.payload).unwrap()),
    };
    (stream, answer)
}

pub(super) async fn write(io: &mut DuplexStream, bytes: &[u8]) {
    io.write_all(bytes).await.unwrap();
}

/// Fails the test instead of letting it hang.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it ends soon")
}
