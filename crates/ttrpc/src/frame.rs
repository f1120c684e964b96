// SPDX-License-Identifier: Apache-2.0
//! Frames: the ten bytes before every message, and the messages as they are sent.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::{RpcStatus, request, response};

/// The longest data that a frame may carry: 4 MiB.
pub const MAX_MESSAGE: usize = 4 << 20;

/// The length of a [`Header`] on the wire.
pub(crate) const HEADER: usize = 10;

/// No more data comes from whoever set it.
pub(crate) const REMOTE_CLOSED: u8 = 0x1;
/// More data comes from whoever set it.
pub(crate) const REMOTE_OPEN: u8 = 0x2;
/// There is no message in this frame, which is not the same as an empty message.
pub(crate) const NO_DATA: u8 = 0x4;

/// What a frame is for. Go ignores types that it does not know, for the sake of later versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
    Data,
    Other(u8),
}

impl From<u8> for Kind {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Data,
            other => Self::Other(other),
        }
    }
}

impl From<Kind> for u8 {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Data => 3,
            Kind::Other(other) => other,
        }
    }
}

/// The ten bytes before every message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) stream: u32,
    pub(crate) kind: Kind,
    pub(crate) flags: u8,
}

impl Header {
    /// Reads the header at the start of `bytes`, if there are enough.
    pub(crate) fn peek(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER {
            return None;
        }
        Some(Self {
            length: bytes.get_u32(),
            stream: bytes.get_u32(),
            kind: bytes.get_u8().into(),
            flags: bytes.get_u8(),
        })
    }
}

/// What opens a call, but for its payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) service: &'a str,
    pub(crate) method: &'a str,
    pub(crate) timeout: Option<Duration>,
    pub(crate) metadata: &'a Metadata,
    /// Zero for a unary call.
    pub(crate) flags: u8,
}

/// A frame to be sent: its header and what was encoded, then bytes that were not copied.
///
/// The stream is named last, since ids go up in the order in which frames are queued.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) head: BytesMut,
    pub(crate) tail: Bytes,
}

impl Frame {
    /// A request whose payload is encoded in place.
    pub(crate) fn request<M: Message>(open: &Opening<'_>, payload: &M) -> Result<Self, Status> {
        let mut head = open_request(open, payload.encoded_len())?;
        put_payload(&mut head, request::PAYLOAD, payload);
        Self::finish(head, Bytes::new())
    }

    /// A request whose payload is encoded already.
    pub(crate) fn raw_request(open: &Opening<'_>, payload: Bytes) -> Result<Self, Status> {
        let mut head = open_request(open, 0)?;
        if !payload.is_empty() {
            put_length(&mut head, request::PAYLOAD, payload.len());
        }
        Self::finish(head, payload)
    }

    /// The last frame of a call that went well.
    pub(crate) fn response<M: Message>(payload: &M) -> Result<Self, Status> {
        let mut head = start(Kind::Response, 0, payload.encoded_len())?;
        put_payload(&mut head, response::PAYLOAD, payload);
        Self::finish(head, Bytes::new())
    }

    /// The same with a payload that is encoded already.
    pub(crate) fn raw_response(payload: Bytes) -> Result<Self, Status> {
        let mut head = start(Kind::Response, 0, 0)?;
        if !payload.is_empty() {
            put_length(&mut head, response::PAYLOAD, payload.len());
        }
        Self::finish(head, payload)
    }

    /// The last frame of a call that failed.
    pub(crate) fn failure(status: Status) -> Self {
        let mut status = RpcStatus::from(status);
        if status.encoded_len() > MAX_MESSAGE / 2 {
            // The failure has to arrive: better without its details and half its text.
            status.details.clear();
            status.message = status.message.chars().take(MAX_MESSAGE / 8).collect();
        }
        let mut head = unchecked(Kind::Response, 0, status.encoded_len());
        put_message(&mut head, response::STATUS, &status);
        Self::seal(head, Bytes::new())
    }

    /// A message of a stream.
    pub(crate) fn data<M: Message>(message: &M) -> Result<Self, Status> {
        let mut head = start(Kind::Data, 0, message.encoded_len())?;
        encode(&mut head, message);
        Self::finish(head, Bytes::new())
    }

    /// The end of a stream.
    pub(crate) fn end() -> Self {
        Self::seal(unchecked(Kind::Data, REMOTE_CLOSED | NO_DATA, 0), Bytes::new())
    }

    /// Says which stream the frame belongs to.
    pub(crate) fn on(mut self, stream: u32) -> Self {
        self.head[4..8].copy_from_slice(&stream.to_be_bytes());
        self
    }

    fn finish(head: BytesMut, tail: Bytes) -> Result<Self, Status> {
        let length = head.len() - HEADER + tail.len();
        if length > MAX_MESSAGE {
            return Err(Status::oversized(length));
        }
        Ok(Self::seal(head, tail))
    }

    fn seal(mut head: BytesMut, tail: Bytes) -> Self {
        let length = (head.len() - HEADER + tail.len()) as u32;
        head[..4].copy_from_slice(&length.to_be_bytes());
        Self { head, tail }
    }
}

/// Begins a frame, unless its payload alone is too long to be worth encoding.
fn start(kind: Kind, flags: u8, payload: usize) -> Result<BytesMut, Status> {
    if payload > MAX_MESSAGE {
        return Err(Status::oversized(payload));
    }
    Ok(unchecked(kind, flags, payload))
}

fn unchecked(kind: Kind, flags: u8, payload: usize) -> BytesMut {
    const FIELD: usize = 6; // a key and a length that fits four bytes
    let mut head = BytesMut::with_capacity(HEADER + FIELD + payload);
    head.put_u64(0); // length and stream are filled in later
    head.put_u8(kind.into());
    head.put_u8(flags);
    head
}

fn open_request(open: &Opening<'_>, payload: usize) -> Result<BytesMut, Status> {
    let entries = open.metadata.entries();
    let beside: usize = entries.iter().map(|e| e.key.len() + e.value.len() + 8).sum();
    let beside = beside + open.service.len() + open.method.len() + 32;
    let mut head = start(Kind::Request, open.flags, payload.saturating_add(beside))?;
    put_str(&mut head, request::SERVICE, open.service);
    put_str(&mut head, request::METHOD, open.method);
    if let Some(timeout) = open.timeout {
        put_key(&mut head, request::TIMEOUT_NANO, VARINT);
        prost::encoding::encode_varint(timeout_nano(timeout), &mut head);
    }
    for entry in entries {
        put_message(&mut head, request::METADATA, entry);
    }
    Ok(head)
}

/// Zero on the wire means no deadline, so that no time at all becomes the least there is.
fn timeout_nano(timeout: Duration) -> u64 {
    timeout.as_nanos().clamp(1, i64::MAX as u128) as u64
}

const VARINT: u32 = 0;
const DELIMITED: u32 = 2;

fn put_key(buf: &mut BytesMut, field: u32, wire_type: u32) {
    prost::encoding::encode_varint(u64::from(field << 3 | wire_type), buf);
}

fn put_length(buf: &mut BytesMut, field: u32, length: usize) {
    put_key(buf, field, DELIMITED);
    prost::encoding::encode_varint(length as u64, buf);
}

fn put_str(buf: &mut BytesMut, field: u32, text: &str) {
    put_length(buf, field, text.len());
    buf.put_slice(text.as_bytes());
}

/// Appends a payload, or nothing for an empty one: Go's server takes an empty payload that is there
/// for a first message of the stream (`services.go`), and one that is not there for none.
fn put_payload<M: Message>(buf: &mut BytesMut, field: u32, payload: &M) {
    if payload.encoded_len() > 0 {
        put_message(buf, field, payload);
    }
}

fn put_message<M: Message>(buf: &mut BytesMut, field: u32, message: &M) {
    put_length(buf, field, message.encoded_len());
    encode(buf, message);
}

fn encode<M: Message>(buf: &mut BytesMut, message: &M) {
    message.encode(buf).expect("a BytesMut grows as it is written to");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Code, Detail};
    use crate::wire::{KeyValue, Request, Response, decode};

    const OPENING: Opening<'static> = Opening {
        service: "svc",
        method: "Do",
        timeout: Some(Duration::from_secs(1)),
        metadata: &Metadata::new(),
        flags: REMOTE_OPEN,
    };

    fn bytes(frame: Frame) -> (Header, Bytes) {
        let mut all = frame.head;
        all.extend_from_slice(&frame.tail);
        let all = all.freeze();
        let header = Header::peek(&all).expect("a frame begins with a header");
        assert_eq!(header.length as usize, all.len() - HEADER);
        (header, all.slice(HEADER..))
    }

    #[test]
    fn a_request_is_what_the_definition_says() {
        let metadata: Metadata = [("a", "1"), ("a", "2")].into_iter().collect();
        let payload = KeyValue { key: "k".into(), value: "v".into() };
        let opening = Opening { metadata: &metadata, ..OPENING };
        let (header, body) = bytes(Frame::request(&opening, &payload).unwrap().on(7));
        assert_eq!((header.stream, header.kind, header.flags), (7, Kind::Request, REMOTE_OPEN));
        let want = Request {
            service: "svc".into(),
            method: "Do".into(),
            payload: payload.encode_to_vec().into(),
            timeout_nano: 1_000_000_000,
            metadata: metadata.entries().to_vec(),
        };
        assert_eq!(decode::<Request>(body), Ok(want.clone()));
        let raw = Frame::raw_request(&opening, want.payload.clone()).unwrap();
        assert_eq!(decode::<Request>(bytes(raw).1), Ok(want));
    }

    #[test]
    fn a_payload_is_not_copied() {
        let payload = Bytes::from(vec![7; 4096]);
        let frame = Frame::raw_response(payload.clone()).unwrap();
        assert_eq!(frame.tail.as_ptr(), payload.as_ptr());
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        let room = MAX_MESSAGE - 5; // one byte of key, four of length
        assert!(Frame::raw_response(vec![0; room].into()).is_ok());
        let refused = Frame::raw_response(vec![0; room + 1].into()).unwrap_err();
        assert_eq!(refused, Status::oversized(MAX_MESSAGE + 1));
        assert_eq!(
            refused.message,
            "message length 4194305 exceed maximum message size of 4194304"
        );
    }

    #[test]
    fn no_time_is_not_sent_as_no_deadline() {
        for (timeout, nanos) in [(Duration::ZERO, 1), (Duration::MAX, i64::MAX)] {
            let opening = Opening { timeout: Some(timeout), ..OPENING };
            let frame = Frame::raw_request(&opening, Bytes::new()).unwrap();
            assert_eq!(decode::<Request>(bytes(frame).1).unwrap().timeout_nano, nanos);
        }
    }

    #[test]
    fn a_failure_fits_however_much_it_says() {
        let detail = Detail { type_url: "t".into(), value: vec![0; MAX_MESSAGE].into() };
        let text = "\u{1F980}".repeat(MAX_MESSAGE);
        let status = Status::new(Code::Aborted, text).with_details(vec![detail]);
        let (header, body) = bytes(Frame::failure(status));
        assert!(header.length as usize <= MAX_MESSAGE);
        let failure = decode::<Response>(body).unwrap().into_result().unwrap_err();
        assert_eq!((failure.code, failure.details.len()), (Code::Aborted, 0));
    }
}
