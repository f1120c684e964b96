// SPDX-License-Identifier: Apache-2.0
//! How a call fails: a code, a text, and details that are carried but not read.

use std::fmt;

use bytes::Bytes;

use crate::frame::MAX_MESSAGE;

/// The kinds of failure, with gRPC's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// No failure.
    Ok = 0,
    /// The caller gave the call up.
    Canceled = 1,
    /// A failure of no known kind.
    Unknown = 2,
    /// The request makes no sense, whatever the state.
    InvalidArgument = 3,
    /// The time for the call was over before it ended.
    DeadlineExceeded = 4,
    /// The thing named does not exist.
    NotFound = 5,
    /// The thing to be made exists.
    AlreadyExists = 6,
    /// The caller may not do that.
    PermissionDenied = 7,
    /// A limit was reached.
    ResourceExhausted = 8,
    /// The state does not allow it.
    FailedPrecondition = 9,
    /// It collided with another call.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// There is no such service or method.
    Unimplemented = 12,
    /// Something is broken.
    Internal = 13,
    /// The peer is not there; another try may succeed.
    Unavailable = 14,
    /// Data is lost for good.
    DataLoss = 15,
    /// The caller is not known.
    Unauthenticated = 16,
}

impl From<i32> for Code {
    /// Reads a number from the wire; one that gRPC does not define is [`Code::Unknown`].
    fn from(number: i32) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Canceled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

/// A detail of a status: any message, with the URL of its type. It is carried, never interpreted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Detail {
    /// Names the type of `value`, as in `google.protobuf.Any`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Why a call failed.
///
/// It travels as `google.rpc.Status`. Statuses that this side made because the connection ended
/// are told from those a peer sent: see [`is_closed`](Self::is_closed).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The kind of failure.
    pub code: Code,
    /// The text, without the code.
    pub message: String,
    /// What else the peer said.
    pub details: Vec<Detail>,
    closed: bool,
}

impl Status {
    /// Makes a status without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), closed: false }
    }

    /// Replaces the details.
    pub fn with_details(mut self, details: Vec<Detail>) -> Self {
        self.details = details;
        self
    }

    /// Reports whether the connection ended before the call did.
    ///
    /// True only for a status made on this side: a peer that forwards the text `ttrpc: closed` of
    /// a connection of its own is not itself gone, and must not be taken for dead.
    ///
    /// ```
    /// use ttrpc::{Code, Status};
    ///
    /// assert!(!Status::new(Code::Unavailable, "ttrpc: closed").is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Makes the answer to a method that a [`Service`](crate::Service) does not have.
    pub fn unknown_method(method: &str) -> Self {
        Self::new(Code::Unimplemented, format!("method {method}"))
    }

    /// Makes the answer to a service that no one registered.
    pub(crate) fn unknown_service(service: &str) -> Self {
        Self::new(Code::Unimplemented, format!("service {service}"))
    }

    /// Go's `ttrpc.ErrClosed`, and in addition whatever else than an orderly end was the reason.
    pub(crate) fn closed(reason: Option<&std::io::Error>) -> Self {
        let message = match reason {
            None => "ttrpc: closed".to_owned(),
            Some(error) => format!("ttrpc: closed: {error}"),
        };
        Self { closed: true, ..Self::new(Code::Unavailable, message) }
    }

    /// The text of Go's `context.DeadlineExceeded`, which clients match on.
    pub(crate) fn deadline() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// Go's `ttrpc.OversizedMessageError` (`errors.go`).
    pub(crate) fn oversized(length: usize) -> Self {
        let text = format!("message length {length} exceed maximum message size of {MAX_MESSAGE}");
        Self::new(Code::ResourceExhausted, text)
    }

    /// Go's `ttrpc.ErrStreamClosed`.
    pub(crate) fn stream_closed() -> Self {
        Self::new(Code::FailedPrecondition, "ttrpc: stream closed")
    }

    /// Go's `ttrpc.ErrStreamFull`.
    pub(crate) fn stream_full() -> Self {
        Self::new(Code::ResourceExhausted, "ttrpc: stream buffer full")
    }

    /// Go's `ttrpc.ErrProtocol`: the peer answered with what does not belong there.
    pub(crate) fn protocol(what: &str) -> Self {
        Self::new(Code::Internal, format!("{what}: protocol error"))
    }
}

impl fmt::Display for Status {
    /// Writes what grpc-go writes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc error: code = {:?} desc = {}", self.code, self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_numbers() {
        for number in 0..=16 {
            assert_eq!(Code::from(number) as i32, number);
        }
        assert_eq!(Code::from(17), Code::Unknown);
        assert_eq!(Code::from(-1), Code::Unknown);
    }

    #[test]
    fn a_status_reads_as_in_go() {
        let status = Status::new(Code::NotFound, "container a: not found");
        assert_eq!(status.to_string(), "rpc error: code = NotFound desc = container a: not found");
    }
}
