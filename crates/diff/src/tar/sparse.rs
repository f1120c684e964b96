// SPDX-License-Identifier: Apache-2.0
//! Sparse files: where in the file the data of an entry belongs.
//!
//! GNU tar has written the map in four ways over the years: in the header itself (type `S`), in PAX
//! records that repeat (0.0), in one PAX record (0.1), and in text before the data (1.0).
use std::io::BufRead;

use types::Result;

use super::{Archive, BLOCK, Entry, block, block::Header, invalid_header, pax, pax::Records};

/// The most regions a map may have: 16 MiB of memory.
const MAX_REGIONS: usize = 1 << 20;

/// A stretch of a file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Where a map is to be found.
pub(super) enum Map {
    /// There are no holes.
    None,
    /// All of it is in the extension headers.
    Known(Vec<Region>),
    /// It stands before the data, in decimal lines.
    BeforeData,
}

/// Finds the map among PAX records and lets them rename and resize the entry.
///
/// A version that nobody has defined is taken for an ordinary file (Go `archive/tar/reader.go`).
pub(super) fn from_records(records: &Records, entry: &mut Entry) -> Result<Map> {
    let version = (records.value("GNU.sparse.major"), records.value("GNU.sparse.minor"));
    let listed = records.value("GNU.sparse.map");
    let before_data = match version {
        (Some(b"1"), Some(b"0")) => true,
        (Some(b"0"), Some(b"0" | b"1")) => false,
        (None, None) if listed.is_some() || !records.sparse_map.is_empty() => false,
        _ => return Ok(Map::None),
    };
    if let Some(name) = records.value("GNU.sparse.name") {
        entry.name = name.to_vec();
    }
    let size = records.value("GNU.sparse.size").or(records.value("GNU.sparse.realsize"));
    if let Some(size) = size {
        entry.size = pax::unsigned(size).ok_or_else(invalid_header)?;
    }
    if before_data {
        return Ok(Map::BeforeData);
    }
    let numbers = match listed {
        Some(text) => listed_numbers(text)?,
        None => records.sparse_map.clone(),
    };
    regions(&numbers).map(Map::Known)
}

fn listed_numbers(text: &[u8]) -> Result<Vec<u64>> {
    text.split(|&byte| byte == b',')
        .map(|number| pax::unsigned(number).ok_or_else(invalid_header))
        .collect()
}

fn regions(numbers: &[u64]) -> Result<Vec<Region>> {
    let pairs = numbers.chunks_exact(2);
    if !pairs.remainder().is_empty() || pairs.len() > MAX_REGIONS {
        return Err(invalid_header());
    }
    Ok(pairs.map(|pair| Region { offset: pair[0], length: pair[1] }).collect())
}

/// Checks that a map describes a file of `size` bytes of which `stored` are in the archive: regions
/// in order, apart from each other, inside the file, and exactly as long together as what is stored.
pub(super) fn check(map: &[Region], size: u64, stored: u64) -> Result<()> {
    let (mut end, mut total) = (0_u64, 0_u64);
    for region in map {
        if region.offset < end {
            return Err(invalid_header());
        }
        end = region.offset.checked_add(region.length).ok_or_else(invalid_header)?;
        total += region.length;
    }
    if end > size || total != stored || i64::try_from(size).is_err() {
        return Err(invalid_header());
    }
    Ok(())
}

impl<R: BufRead> Archive<R> {
    /// Reads the map of GNU's own format: four regions in the header, then blocks of 21 more.
    pub(super) fn old_map(&mut self, header: &Header, entry: &mut Entry) -> Result<Vec<Region>> {
        if !header.is_gnu() {
            return Err(invalid_header());
        }
        let bytes = header.bytes();
        entry.size = block::number(&bytes[483..495])
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(invalid_header)?;
        let mut map = Vec::new();
        push_regions(&mut map, &bytes[386..482])?;
        let mut extended = bytes[482] != 0;
        while extended {
            let block = self.block()?.ok_or_else(super::unexpected_eof)?;
            push_regions(&mut map, &block[..504])?;
            extended = block[504] != 0;
        }
        Ok(map)
    }

    /// Reads the map of version 1.0 from the start of the data: how many regions, then offset and
    /// length of each, one number a line, padded to a block.
    pub(super) fn map_before_data(&mut self) -> Result<Vec<Region>> {
        let mut lines = Lines::default();
        let count = self.map_number(&mut lines)? as usize;
        if count > MAX_REGIONS {
            return Err(invalid_header());
        }
        let mut map = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let offset = self.map_number(&mut lines)?;
            map.push(Region { offset, length: self.map_number(&mut lines)? });
        }
        Ok(map)
    }

    fn map_number(&mut self, lines: &mut Lines) -> Result<u64> {
        loop {
            if let Some(line) = lines.next()? {
                return pax::unsigned(line).ok_or_else(invalid_header);
            }
            lines.refill(&self.stored_block()?);
        }
    }
}

fn push_regions(map: &mut Vec<Region>, fields: &[u8]) -> Result<()> {
    for field in fields.chunks_exact(24) {
        if field[0] == 0 || field[12] == 0 {
            break;
        }
        let number = |field| block::number(field).and_then(|number| u64::try_from(number).ok());
        let region = number(&field[..12]).zip(number(&field[12..]));
        let (offset, length) = region.ok_or_else(invalid_header)?;
        map.push(Region { offset, length });
    }
    // An archive can chain empty blocks for ever, but not for free: each one is a block of input.
    if map.len() > MAX_REGIONS { Err(invalid_header()) } else { Ok(()) }
}

/// Lines out of blocks.
#[derive(Default)]
struct Lines {
    buffer: Vec<u8>,
    start: usize,
}

impl Lines {
    fn next(&mut self) -> Result<Option<&[u8]>> {
        let rest = &self.buffer[self.start..];
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            // No number has this many digits.
            return if rest.len() > 32 { Err(invalid_header()) } else { Ok(None) };
        };
        let start = self.start;
        self.start += end + 1;
        Ok(Some(&self.buffer[start..start + end]))
    }

    fn refill(&mut self, block: &[u8; BLOCK]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(block);
    }
}
