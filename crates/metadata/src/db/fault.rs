// SPDX-License-Identifier: Apache-2.0
use types::{Error, Kind};

/// What a transaction may end with: an answer for the caller, or trouble with the database.
#[derive(Debug)]
pub(crate) enum Fault {
    /// What the caller is told.
    Said(Error),
    /// SQLite failed.
    Sql(rusqlite::Error),
}

/// The outcome of a step in a transaction.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Said(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Said(error) => error,
            Fault::Sql(error) => sql(error),
        }
    }
}

/// An error of SQLite. A caller can do something about two of them.
pub(crate) fn sql(error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode::{DatabaseCorrupt, DiskFull, NotADatabase};
    let kind = match error.sqlite_error_code() {
        Some(DiskFull) => Kind::ResourceExhausted,
        Some(DatabaseCorrupt | NotADatabase) => Kind::DataLoss,
        _ => Kind::Unknown,
    };
    Error::caused(kind, "metadata database", error)
}
