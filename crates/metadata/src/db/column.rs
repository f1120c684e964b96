// SPDX-License-Identifier: Apache-2.0
//! How values stand in columns: labels as a JSON object, times as nanoseconds since the Unix epoch,
//! digests as text. All of it can be read with `sqlite3`.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use types::Labels;

/// Labels or annotations.
pub(crate) struct Json(pub(crate) Labels);

/// A time.
pub(crate) struct Time(pub(crate) SystemTime);

/// A digest.
pub(crate) struct Digest(pub(crate) types::Digest);

/// Labels on their way into a column.
pub(crate) fn json(labels: &Labels) -> String {
    serde_json::to_string(labels).expect("a map of strings is JSON")
}

impl FromSql for Json {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "{}" => Ok(Self(Labels::new())),
            text => serde_json::from_str(text).map(Self).map_err(FromSqlError::other),
        }
    }
}

impl ToSql for Time {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let nanoseconds = match self.0.duration_since(UNIX_EPOCH) {
            Ok(after) => after.as_nanos() as i64,
            Err(before) => -(before.duration().as_nanos() as i64),
        };
        Ok(nanoseconds.into())
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let nanoseconds = value.as_i64()?;
        let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
        let time = if nanoseconds < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance };
        Ok(Self(time))
    }
}

impl FromSql for Digest {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map(Self).map_err(FromSqlError::other)
    }
}
