// SPDX-License-Identifier: Apache-2.0
//! The ttrpc protocol: small calls between processes of one host, over one unix socket.
//!
//! ttrpc is what containerd and its shims speak: gRPC's services and status codes, without HTTP/2.
//! Messages are prost's. This crate knows no service of containerd: it carries any message to any
//! named method and brings the answer, or a [`Status`], back.
//!
//! Two things always hold. A call ends: by its answer, by its deadline, or with a status that
//! [`is_closed`](Status::is_closed) recognises as soon as the peer is gone. And no bytes from a
//! peer make this crate panic, wait for ever, or hold more than one message (4 MiB) of memory.
//!
//! ```text
//!   length    stream id   type  flags   data (length bytes, at most 4 MiB)
//! +---------+-----------+------+------+------------------------------------
//! |  u32 BE |   u32 BE  |  u8  |  u8  |  Request, Response or a stream's message
//! +---------+-----------+------+------+------------------------------------
//!
//!             client                                server
//!   call -> Frame -> [queue] -> writer ====> reader -> handler -> [queue] -> writer
//!   call <- slot of the stream id <- reader <==================================='
//! ```
//!
//! A connection is one task, which reads and writes; a handler is given a task of its own only when
//! it does not answer at once. All of it works on a `current_thread` runtime with I/O and time
//! enabled, and all futures are `Send`.
//!
//! ```
//! use ttrpc::{CallOptions, Client, Code, Context, Server, Status};
//!
//! #[derive(Clone, PartialEq, prost::Message)]
//! struct Greeting {
//!     #[prost(string, tag = "1")]
//!     text: String,
//! }
//!
//! async fn greet(ctx: Context, name: Greeting) -> Result<Greeting, Status> {
//!     let namespace = ctx.metadata.get("containerd-namespace-ttrpc").unwrap_or("default");
//!     Ok(Greeting { text: format!("hello {} in {namespace}", name.text) })
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let (near, far) = tokio::net::UnixStream::pair().unwrap();
//! let server = Server::new().method("example.Greeter", "Greet", greet);
//! tokio::spawn(async move { server.serve_connection(far, None).await });
//!
//! let client = Client::new(near);
//! let options = CallOptions::new().metadata("containerd-namespace-ttrpc", "k8s.io");
//! let name = Greeting { text: "you".into() };
//! let reply: Greeting = client.call("example.Greeter", "Greet", &name, &options).await.unwrap();
//! assert_eq!(reply.text, "hello you in k8s.io");
//!
//! let failed = client.call::<_, Greeting>("example.Greeter", "Leave", &name, &options).await;
//! assert_eq!(failed.unwrap_err(), Status::new(Code::Unimplemented, "method Leave"));
//! # });
//! ```

mod client;
mod frame;
mod metadata;
mod outbox;
mod reader;
mod server;
mod status;
mod stream;
mod wire;

pub use client::{CallOptions, Client, Stream};
pub use frame::MAX_MESSAGE;
pub use metadata::Metadata;
pub use server::{Context, Peer, Server, Service};
pub use status::{Code, Detail, Status};
pub use stream::{Incoming, Outgoing};
