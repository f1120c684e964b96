// SPDX-License-Identifier: Apache-2.0
use std::{borrow::Cow, error, fmt, io};

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a caller may branch on it. The kinds are the gRPC codes, and their texts those
/// of containerd's errdefs, which clients match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Kind {
    /// The caller gave up.
    Cancelled = 1,
    /// Nothing better is known.
    Unknown = 2,
    /// The request can never work.
    InvalidArgument = 3,
    /// A deadline passed.
    DeadlineExceeded = 4,
    /// The thing does not exist.
    NotFound = 5,
    /// The thing exists already.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit was reached.
    ResourceExhausted = 8,
    /// The thing is not in a state for this.
    FailedPrecondition = 9,
    /// A concurrent change won.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// Not offered here.
    Unimplemented = 12,
    /// An invariant broke.
    Internal = 13,
    /// Not now: trying again may work.
    Unavailable = 14,
    /// Data was lost or is corrupt.
    DataLoss = 15,
    /// The caller did not say who it is.
    Unauthenticated = 16,
}

impl Kind {
    const ALL: [Kind; 16] = [
        Kind::Cancelled,
        Kind::Unknown,
        Kind::InvalidArgument,
        Kind::DeadlineExceeded,
        Kind::NotFound,
        Kind::AlreadyExists,
        Kind::PermissionDenied,
        Kind::ResourceExhausted,
        Kind::FailedPrecondition,
        Kind::Aborted,
        Kind::OutOfRange,
        Kind::Unimplemented,
        Kind::Internal,
        Kind::Unavailable,
        Kind::DataLoss,
        Kind::Unauthenticated,
    ];

    /// The number of the gRPC code.
    pub fn code(self) -> i32 {
        self as i32
    }

    /// The kind of a gRPC code. Numbers that gRPC does not define are [`Kind::Unknown`].
    pub fn from_code(code: i32) -> Self {
        Self::ALL.into_iter().find(|kind| kind.code() == code).unwrap_or(Self::Unknown)
    }

    /// The text of containerd's errdefs for this kind (github.com/containerd/errdefs, `errors.go`).
    pub fn text(self) -> &'static str {
        match self {
            Self::Cancelled => "context canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid argument",
            Self::DeadlineExceeded => "context deadline exceeded",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::PermissionDenied => "permission denied",
            Self::ResourceExhausted => "resource exhausted",
            Self::FailedPrecondition => "failed precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out of range",
            Self::Unimplemented => "not implemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// An error: its kind, what was being done, and why it failed.
///
/// `Display` prints the whole chain as Go does, outermost first, and ends with the kind's text when
/// there is no deeper cause: `commit a: snapshot b: not found`.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    /// The kind itself is the cause; its text ends the chain.
    Kind,
    /// The message says it all, such as one that came over the wire.
    Said,
    /// Something deeper failed.
    Source(Box<dyn error::Error + Send + Sync>),
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(Kind::$kind, message)
        }
    )*};
}

impl Error {
    /// An error of `kind` about the thing that `message` names.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), cause: Cause::Kind }
    }

    constructors! {
        /// The thing named does not exist.
        not_found => NotFound;
        /// The thing named exists already.
        already_exists => AlreadyExists;
        /// The request can never work, for the reason given.
        invalid => InvalidArgument;
        /// The thing is not in a state for this.
        failed_precondition => FailedPrecondition;
        /// Not now: trying again may work.
        unavailable => Unavailable;
        /// An invariant broke.
        internal => Internal;
        /// Not offered here.
        unimplemented => Unimplemented;
        /// A deadline passed.
        deadline => DeadlineExceeded;
        /// The caller gave up.
        cancelled => Cancelled;
    }

    /// An error whose text is complete as it stands, such as one that a peer sent.
    pub fn said(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), cause: Cause::Said }
    }

    /// An error of `kind` caused by `source`, whatever `source` says of itself.
    pub fn caused(
        kind: Kind,
        message: impl Into<Cow<'static, str>>,
        source: impl Into<Box<dyn error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, message: message.into(), cause: Cause::Source(source.into()) }
    }

    /// Says what was being done when this happened. The kind stays.
    pub fn context(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: self.kind, message: message.into(), cause: Cause::Source(Box::new(self)) }
    }

    /// The same error as another kind: the one place where a caller decides that, say, a missing
    /// parent is a failed precondition.
    pub fn with_kind(mut self, kind: Kind) -> Self {
        if let Cause::Kind = self.cause {
            self = Self::said(kind, self.to_string());
        }
        self.kind = kind;
        self
    }

    /// What a caller may branch on.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the thing does not exist.
    pub fn is_not_found(&self) -> bool {
        self.kind == Kind::NotFound
    }

    /// Whether the thing exists already.
    pub fn is_already_exists(&self) -> bool {
        self.kind == Kind::AlreadyExists
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.cause, self.message.is_empty()) {
            (Cause::Said, _) => f.write_str(&self.message),
            (Cause::Kind, true) => f.write_str(self.kind.text()),
            (Cause::Kind, false) => write!(f, "{}: {}", self.message, self.kind.text()),
            (Cause::Source(source), true) => source.fmt(f),
            (Cause::Source(source), false) => write!(f, "{}: {source}", self.message),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match &self.cause {
            Cause::Source(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}

/// An errno never chooses a code by accident: an I/O error is [`Kind::Unknown`], as in Go, unless
/// the caller says otherwise with [`Error::caused`] or [`Error::with_kind`].
impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        Self::caused(Kind::Unknown, "", source)
    }
}

/// Adds what was being done to an error of any sort.
pub trait Context<T> {
    /// Wraps the error with `message`; it is only built when there is an error.
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<Cow<'static, str>>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_reads_as_go_prints_it() {
        let error = Error::not_found("snapshot b").context("commit a");
        assert_eq!(error.to_string(), "commit a: snapshot b: not found");
        assert_eq!(error.kind(), Kind::NotFound);
    }

    #[test]
    fn what_a_peer_said_is_not_decorated() {
        let error = Error::said(Kind::Unknown, "OCI runtime create failed").context("task x");
        assert_eq!(error.to_string(), "task x: OCI runtime create failed");
    }

    #[test]
    fn an_errno_does_not_choose_a_kind() {
        let error = Error::from(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.kind(), Kind::Unknown);
    }

    #[test]
    fn another_kind_keeps_the_text() {
        let error = Error::not_found("parent p").with_kind(Kind::FailedPrecondition);
        assert_eq!(error.to_string(), "parent p: not found");
        assert_eq!(error.kind(), Kind::FailedPrecondition);
    }

    #[test]
    fn codes_survive_a_round_trip() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_code(kind.code()), kind);
        }
        assert_eq!(Kind::from_code(99), Kind::Unknown);
    }
}
