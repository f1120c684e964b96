// SPDX-License-Identifier: Apache-2.0
//! How a shim is called, whatever protocol it speaks.
//!
//! A [`Channel`] carries encoded messages to methods with names. The one for ttrpc is here; others,
//! such as gRPC's, come from the rim as a [`Connector`], because their libraries stop there.
use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use ttrpc::{CallOptions, Client};
use types::{Error, Kind, Result};

/// The metadata that carries the namespace (containerd `pkg/namespaces/ttrpc.go`).
const NAMESPACE: &str = "containerd-namespace-ttrpc";

/// A call of a method, with an encoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<'a> {
    /// The full name of the service: `containerd.task.v3.Task`.
    pub service: &'a str,
    /// The name of the method: `State`.
    pub method: &'a str,
    /// The namespace on whose behalf it is made.
    pub namespace: &'a str,
    /// The request, encoded.
    pub payload: Bytes,
    /// How long it may take. None is for ever.
    pub patience: Option<Duration>,
}

/// A connection to a shim. It never comes back: a shim that went away is another shim.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// Calls a method and returns its encoded answer.
    ///
    /// Errors: what the shim says, by its own kind and in its own words; `DeadlineExceeded` when it
    /// takes too long; `Unavailable` when the connection has ended.
    async fn call(&self, call: Call<'_>) -> Result<Bytes>;

    /// Waits until the connection has ended.
    async fn closed(&self);

    /// Whether it has ended.
    fn is_closed(&self) -> bool;
}

/// Connects to shims that speak another protocol than ttrpc.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects to a socket: a path, with or without `unix://` before it.
    ///
    /// Errors: `Unavailable` when nobody listens.
    async fn connect(&self, address: &str) -> Result<Arc<dyn Channel>>;
}

/// Connects by ttrpc.
pub(crate) async fn ttrpc(address: &str) -> Result<Arc<dyn Channel>> {
    let connected = Client::connect(address).await;
    let client = connected.map_err(|e| Error::caused(Kind::Unavailable, "", e))?;
    Ok(Arc::new(Ttrpc(client)))
}

struct Ttrpc(Client);

#[async_trait]
impl Channel for Ttrpc {
    async fn call(&self, call: Call<'_>) -> Result<Bytes> {
        let mut options = CallOptions::new().metadata(NAMESPACE, call.namespace);
        options.timeout = call.patience;
        let answer = self.0.call_raw(call.service, call.method, call.payload, &options).await;
        answer.map_err(error)
    }

    async fn closed(&self) {
        self.0.closed().await;
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// What a shim says, in its own words.
fn error(status: ttrpc::Status) -> Error {
    let kind =
        if status.is_closed() { Kind::Unavailable } else { Kind::from_code(status.code as i32) };
    // Compat: containerd 2.x adds nothing to the words of what has no better code; 1.x ended them
    // with `: unknown`, and its clients still do so for themselves (containerd `errdefs/grpc.go`).
    Error::said(kind, status.message)
}

#[cfg(test)]
mod tests {
    use ttrpc::Code;

    use super::*;

    #[test]
    fn a_shim_is_told_in_its_own_words() {
        let said = |words: &str| error(ttrpc::Status::new(Code::Unknown, words)).to_string();
        let started = "cannot start a running process";
        assert_eq!(said(started), started);
        let missing = error(ttrpc::Status::new(Code::NotFound, "process does not exist a"));
        assert_eq!(missing.to_string(), "process does not exist a");
    }
}
