// SPDX-License-Identifier: Apache-2.0
//! The messages of the protocol itself (ttrpc `request.proto`, `google/rpc/status.proto`).

use bytes::Bytes;
use prost::Message;

use crate::status::{Code, Detail, Status};

/// Fields of `Request`, which is written by hand so that its payload is encoded in place.
pub(crate) mod request {
    pub(crate) const SERVICE: u32 = 1;
    pub(crate) const METHOD: u32 = 2;
    pub(crate) const PAYLOAD: u32 = 3;
    pub(crate) const TIMEOUT_NANO: u32 = 4;
    pub(crate) const METADATA: u32 = 5;
}

/// Fields of `Response`, written by hand for the same reason.
pub(crate) mod response {
    pub(crate) const STATUS: u32 = 1;
    pub(crate) const PAYLOAD: u32 = 2;
}

/// What opens a stream, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) payload: Bytes,
    #[prost(int64, tag = "4")]
    pub(crate) timeout_nano: i64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) metadata: Vec<KeyValue>,
}

/// What ends a stream, as it is read.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<RpcStatus>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
}

/// One entry of the metadata: a key with several values is several entries.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RpcStatus {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
    #[prost(message, repeated, tag = "3")]
    pub(crate) details: Vec<Detail>,
}

impl Response {
    /// Returns the payload of a call that went well, or the status it failed with.
    ///
    /// Go sends no status at all for success (`services.go`), so none means OK.
    pub(crate) fn into_result(self) -> Result<Bytes, Status> {
        match self.status {
            Some(status) if status.code != Code::Ok as i32 => Err(status.into()),
            _ => Ok(self.payload),
        }
    }
}

impl From<RpcStatus> for Status {
    fn from(wire: RpcStatus) -> Self {
        Self::new(Code::from(wire.code), wire.message).with_details(wire.details)
    }
}

impl From<Status> for RpcStatus {
    fn from(status: Status) -> Self {
        Self { code: status.code as i32, message: status.message, details: status.details }
    }
}

/// Decodes a message, with the error that Go's `protoUnmarshal` gives.
pub(crate) fn decode<M: Message + Default>(payload: Bytes) -> Result<M, Status> {
    M::decode(payload).map_err(|error| {
        Status::new(Code::Internal, format!("ttrpc: error unmarshalling payload: {error}"))
    })
}
