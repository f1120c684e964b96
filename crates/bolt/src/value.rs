// SPDX-License-Identifier: Apache-2.0
//! How Go's containerd writes values (`core/metadata/boltutil/helpers.go`,
//! `core/snapshots/storage/bolt.go`).
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use types::{Any, Labels, Result};

use crate::{Bucket, Item, damaged};

/// From the first day of the year 1, where Go counts from, to 1970.
const YEARS: i64 = 62_135_596_800;

/// A text.
pub fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|error| damaged(format!("a text is none: {error}")))
}

/// A number as `binary.PutUvarint` writes it; none is 0, as for Go.
pub fn unsigned(bytes: Option<&[u8]>) -> Result<u64> {
    match bytes {
        None | Some([]) => Ok(0),
        Some(bytes) => varint(&mut &*bytes).ok_or_else(|| damaged("a number does not end")),
    }
}

/// A number as `binary.PutVarint` writes it: the sign is in the lowest bit.
pub fn signed(bytes: Option<&[u8]>) -> Result<i64> {
    let number = unsigned(bytes)?;
    Ok((number >> 1) as i64 ^ -((number & 1) as i64))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A time as Go's `Time.MarshalBinary` writes it: version, seconds, nanoseconds, zone.
pub fn time(bytes: &[u8]) -> Result<SystemTime> {
    let read = || {
        let (version, rest) = bytes.split_first()?;
        let (seconds, rest) = rest.split_first_chunk::<8>()?;
        let (nanoseconds, zone) = rest.split_first_chunk::<4>()?;
        let is_known = matches!((version, zone.len()), (1, 2) | (2, 3));
        let seconds = i64::from_be_bytes(*seconds).checked_sub(YEARS)?;
        let nanoseconds = Duration::from_nanos(u32::from_be_bytes(*nanoseconds).into());
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let start =
            if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        start?.checked_add(nanoseconds).filter(|_| is_known)
    };
    read().ok_or_else(|| damaged("a time cannot be read"))
}

/// The time under `key`, or `default` where there is none.
pub fn time_of(bucket: &Bucket<'_>, key: &str, default: SystemTime) -> Result<SystemTime> {
    bucket.value(key)?.map_or(Ok(default), time)
}

/// The text under `key`; empty where there is none.
pub fn text_of<'a>(bucket: &Bucket<'a>, key: &str) -> Result<&'a str> {
    bucket.value(key)?.map_or(Ok(""), text)
}

/// The map under `key`: labels or annotations.
pub fn map_of(bucket: &Bucket<'_>, key: &str) -> Result<Labels> {
    let mut map = Labels::new();
    if let Some(bucket) = bucket.bucket(key)? {
        for (key, item) in bucket.items()? {
            if let Item::Value(value) = item {
                map.insert(text(key)?.to_owned(), text(value)?.to_owned());
            }
        }
    }
    Ok(map)
}

/// A `google.protobuf.Any`: the type's name is field 1, the value field 2.
pub fn any(mut bytes: &[u8]) -> Result<Any> {
    let mut read = || {
        let (mut name, mut value) = ("", &[][..]);
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            if tag & 7 != 2 {
                return None;
            }
            let len = usize::try_from(varint(&mut bytes)?).ok()?;
            let field = bytes.get(..len)?;
            bytes = &bytes[len..];
            match tag >> 3 {
                1 => name = std::str::from_utf8(field).ok()?,
                2 => value = field,
                _ => {}
            }
        }
        Some(Any::new(name, value.to_vec()))
    };
    read().ok_or_else(|| damaged("a typed value cannot be read"))
}
