// SPDX-License-Identifier: Apache-2.0
//! One header block: where its fields are and how numbers stand in them.
//!
//! ```text
//!   0 name    100 mode 108 uid 116 gid 124 size 136 mtime 148 checksum 156 type 157 linkname
//! 257 magic   265 uname 297 gname 329 devmajor 337 devminor 345 prefix (ustar) 508 trailer (star)
//! GNU:        386 sparse (4 x 24)  482 is extended  483 real size
//! ```
use std::ops::Range;

use super::{BLOCK, Entry, Kind, Time};

pub(super) const NAME: Range<usize> = 0..100;
pub(super) const MODE: Range<usize> = 100..108;
pub(super) const UID: Range<usize> = 108..116;
pub(super) const GID: Range<usize> = 116..124;
pub(super) const SIZE: Range<usize> = 124..136;
pub(super) const MTIME: Range<usize> = 136..148;
pub(super) const CHECKSUM: Range<usize> = 148..156;
pub(super) const FLAG: usize = 156;
pub(super) const LINK: Range<usize> = 157..257;
pub(super) const MAGIC: Range<usize> = 257..265;
pub(super) const MAJOR: Range<usize> = 329..337;
pub(super) const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TRAILER: Range<usize> = 508..512;

pub(super) const USTAR_MAGIC: &[u8; 8] = b"ustar\x0000";
const GNU_MAGIC: &[u8; 8] = b"ustar  \0";

/// A header block whose checksum is right.
pub(super) struct Header {
    bytes: [u8; BLOCK],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl Header {
    /// Takes a block for a header if its checksum says so, summed over unsigned or signed bytes:
    /// both are in use.
    pub(super) fn parse(bytes: &[u8; BLOCK]) -> Option<Self> {
        let stored = octal(&bytes[CHECKSUM])?;
        let (unsigned, signed) = checksums(bytes);
        (stored == unsigned || stored == signed).then_some(Self { bytes: *bytes })
    }

    pub(super) fn flag(&self) -> u8 {
        self.bytes[FLAG]
    }

    pub(super) fn bytes(&self) -> &[u8; BLOCK] {
        &self.bytes
    }

    pub(super) fn is_gnu(&self) -> bool {
        self.format() == Format::Gnu
    }

    /// How many bytes follow the header, before padding.
    pub(super) fn size(&self) -> Option<u64> {
        number(&self.bytes[SIZE]).and_then(|size| u64::try_from(size).ok())
    }

    /// What the header says by itself, before any extension. `None` where a number is no number.
    pub(super) fn entry(&self) -> Option<Entry> {
        let device = match self.format() {
            Format::V7 => (0, 0),
            _ => (number(&self.bytes[MAJOR])?, number(&self.bytes[MINOR])?),
        };
        Some(Entry {
            name: self.name(),
            kind: kind(self.flag()),
            link: text(&self.bytes[LINK]).to_vec(),
            mode: number(&self.bytes[MODE])? as u32 & 0o7777,
            uid: number(&self.bytes[UID])?,
            gid: number(&self.bytes[GID])?,
            size: self.size()?,
            modified: Time { seconds: number(&self.bytes[MTIME])?, nanos: 0 },
            accessed: None,
            device,
            xattrs: Vec::new(),
        })
    }

    fn name(&self) -> Vec<u8> {
        let name = text(&self.bytes[NAME]);
        let prefix = match self.format() {
            Format::Ustar => text(&self.bytes[PREFIX]),
            Format::Star => text(&self.bytes[STAR_PREFIX]),
            Format::V7 | Format::Gnu => &[],
        };
        match prefix {
            [] => name.to_vec(),
            prefix => [prefix, b"/", name].concat(),
        }
    }

    fn format(&self) -> Format {
        let magic = &self.bytes[MAGIC];
        if magic == GNU_MAGIC {
            Format::Gnu
        } else if !magic.starts_with(b"ustar\0") {
            Format::V7
        } else if &self.bytes[STAR_TRAILER] == b"tar\0" {
            Format::Star
        } else {
            Format::Ustar
        }
    }
}

fn kind(flag: u8) -> Kind {
    match flag {
        // `7` is a contiguous file, which POSIX says to take for a file; `S` is a sparse one.
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::Link,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => Kind::Other(other),
    }
}

/// The sums of a header's bytes, unsigned and signed, its checksum field taken for spaces.
pub(super) fn checksums(bytes: &[u8; BLOCK]) -> (i64, i64) {
    let (mut unsigned, mut signed) = (0, 0);
    for (i, &byte) in bytes.iter().enumerate() {
        let byte = if CHECKSUM.contains(&i) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte as i8);
    }
    (unsigned, signed)
}

/// A field that ends at its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number in octal digits, or in GNU's base 256: the first bit set, then two's complement.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(&first) if first & 0x80 != 0 => base256(field, first),
        _ => octal(field),
    }
}

fn base256(field: &[u8], first: u8) -> Option<i64> {
    let invert = if first & 0x40 != 0 { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (i, &byte) in field.iter().enumerate() {
        let byte = if i == 0 { (byte ^ invert) & 0x7f } else { byte ^ invert };
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if invert == 0 { value } else { !value })
}

/// Octal digits, padded with spaces and NULs on either side; none at all is zero.
pub(super) fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|byte| !b" \0".contains(byte)).unwrap_or(field.len());
    let digits = text(&field[start..]).trim_ascii_end();
    digits.iter().try_fold(0_i64, |value, &digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let cases: [(&[u8], Option<i64>); 10] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"00000644", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"0000648\0", None),
            (b"\x80\0\0\0\0\0\x01\x00", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
        ];
        for (field, want) in cases {
            assert_eq!(number(field), want, "{field:?}");
        }
    }
}
