// SPDX-License-Identifier: Apache-2.0
use rusqlite::ErrorCode;
use types::{Error, Kind};

/// Why a transaction did not happen: the database failed, or what was asked may not be.
#[derive(Debug)]
pub(super) enum Fault {
    Database(rusqlite::Error),
    Refused(Error),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(error) => error,
            Fault::Database(error) => {
                let kind = kind(error.sqlite_error_code());
                Self::caused(kind, "snapshot metadata", error)
            }
        }
    }
}

fn kind(code: Option<ErrorCode>) -> Kind {
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Kind::Unavailable,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Kind::DataLoss,
        Some(ErrorCode::DiskFull) => Kind::ResourceExhausted,
        _ => Kind::Unknown,
    }
}
