// SPDX-License-Identifier: Apache-2.0
//! PAX extended headers: `<length> <key>=<value>\n`, again and again (POSIX pax, "pax Header Block").
use std::collections::BTreeMap;

use super::{Entry, Time};

/// The prefix of a record that holds an extended attribute.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records that precede one entry. An empty value takes back what the header said before.
#[derive(Default)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Extended attributes, in order.
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The sparse map of version 0.0, whose records repeat: offset, length, offset, length.
    pub(super) sparse_map: Vec<u64>,
}

impl Records {
    /// Reads records to the end of `data`, or nothing if they make no sense.
    pub(super) fn parse(mut data: &[u8]) -> Option<Self> {
        let mut records = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data)?;
            records.insert(key, value)?;
            data = rest;
        }
        Some(records)
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        if let Some(name) = key.strip_prefix(XATTR) {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return (!name.is_empty()).then_some(());
        }
        match key {
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let want = usize::from(key == b"GNU.sparse.numbytes");
                (self.sparse_map.len() % 2 == want).then_some(())?;
                self.sparse_map.push(unsigned(value)?);
            }
            b"path" | b"linkpath" | b"GNU.sparse.name" if value.contains(&0) => return None,
            _ => drop(self.values.insert(key.to_vec(), value.to_vec())),
        }
        Some(())
    }

    /// The value of `key`, unless it is missing or empty.
    pub(super) fn value(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// Replaces what the header said with what the records say. `None` where a record is malformed.
    pub(super) fn merge(&mut self, entry: &mut Entry) -> Option<()> {
        if let Some(path) = self.value("path") {
            entry.name = path.to_vec();
        }
        if let Some(link) = self.value("linkpath") {
            entry.link = link.to_vec();
        }
        if let Some(uid) = self.value("uid") {
            entry.uid = signed(uid)?;
        }
        if let Some(gid) = self.value("gid") {
            entry.gid = signed(gid)?;
        }
        if let Some(size) = self.value("size") {
            entry.size = unsigned(size)?;
        }
        if let Some(time) = self.value("mtime") {
            entry.modified = parse_time(time)?;
        }
        if let Some(time) = self.value("atime") {
            entry.accessed = Some(parse_time(time)?);
        }
        entry.xattrs = std::mem::take(&mut self.xattrs);
        Some(())
    }
}

/// Splits the first record off: its key, its value, and what follows.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(unsigned(&data[..space])?).ok()?;
    let body = data.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&byte| byte == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, &data[length..]))
}

/// Formats a record. Its length counts the digits of the length itself.
pub(super) fn format_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + digits(rest);
    if rest + digits(length) != length {
        length = rest + digits(length);
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

pub(super) fn unsigned(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn signed(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok()
}

/// Seconds with a fraction of any length: `-1.5` is half a second before the second -1.
fn parse_time(text: &[u8]) -> Option<Time> {
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = parts.next()?;
    let fraction = parts.next().unwrap_or_default();
    let seconds = signed(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, i| {
        nanos * 10 + fraction.get(i).map_or(0, |digit| u32::from(digit - b'0'))
    });
    if whole.starts_with(b"-") && nanos > 0 {
        return Some(Time { seconds: seconds.checked_sub(1)?, nanos: 1_000_000_000 - nanos });
    }
    Some(Time { seconds, nanos })
}

/// The inverse of reading a time. Trailing zeros are left out, as in Go's `archive/tar`.
pub(super) fn format_time(time: Time) -> String {
    let (sign, seconds, nanos) = match (time.seconds < 0, time.nanos) {
        (true, nanos @ 1..) => ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - nanos),
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (false, nanos) => ("", time.seconds.unsigned_abs(), nanos),
    };
    let text = format!("{sign}{seconds}.{nanos:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 5, 85, 86, 87, 88, 89, 984, 985, 986, 987, 9980] {
            let value = vec![b'v'; length];
            let text = format_record(b"path", &value);
            let records = Records::parse(&text).unwrap();
            assert_eq!(records.value("path").unwrap_or_default(), value, "{length}");
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        let bad = ["5 a=", "x a=b\n", "6 ab\n", "99 a=b\n", "6 =ab\n", "0 a=b\n", "2 a=b\n", "1"];
        for text in bad {
            assert!(Records::parse(text.as_bytes()).is_none(), "{text:?}");
        }
    }

    #[test]
    fn an_empty_value_takes_nothing_away() {
        let mut entry = Entry { name: b"kept".to_vec(), ..Entry::default() };
        Records::parse(b"8 path=\n").unwrap().merge(&mut entry).unwrap();
        assert_eq!(entry.name, b"kept");
    }

    #[test]
    fn times_survive_both_ways() {
        let cases =
            [("0", 0, 0), ("1.5", 1, 500_000_000), ("-1", -1, 0), ("-1.5", -2, 500_000_000)];
        for (text, seconds, nanos) in cases {
            let time = parse_time(text.as_bytes()).unwrap();
            assert_eq!(time, Time { seconds, nanos }, "{text}");
            assert_eq!(format_time(time), text);
        }
        assert_eq!(parse_time(b"1.1234567899").unwrap().nanos, 123_456_789);
        assert_eq!(parse_time(b"-0.5").unwrap(), Time { seconds: -1, nanos: 500_000_000 });
        assert!(parse_time(b"1.x").is_none() && parse_time(b".5").is_none());
    }
}
