// SPDX-License-Identifier: Apache-2.0
use std::io::{BufRead, ErrorKind};

use types::{Error, Result};

use super::{
    BLOCK, Entry, Kind, MAX_EXTENSION, block,
    block::Header,
    invalid_header,
    pax::Records,
    sparse::{self, Map, Region},
    unexpected_eof,
};

/// How much may follow an archive.
const MAX_TRAILER: u64 = 64 << 20;

/// An archive being read, entry by entry.
pub struct Archive<R> {
    source: R,
    /// Handed out by the last [`Archive::fragment`] and to be consumed before going on.
    lent: usize,
    /// What is left of the entry's data in the archive.
    stored: u64,
    /// What follows the data up to the next block.
    padding: u64,
    /// Where the data belongs; the first region is the one being read.
    map: std::vec::IntoIter<Region>,
    region: Region,
}

/// Some data of a file, and where in the file it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment<'a> {
    /// Where it belongs.
    pub offset: u64,
    /// The data.
    pub data: &'a [u8],
}

/// What extension headers said of the entry that follows them.
#[derive(Default)]
struct Extensions {
    records: Records,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Archive<R> {
    /// Reads an archive from its start.
    pub fn new(source: R) -> Self {
        let region = Region { offset: 0, length: 0 };
        Self { source, lent: 0, stored: 0, padding: 0, map: Vec::new().into_iter(), region }
    }

    /// Goes on to the next entry, skipping what was not read of this one. `None` at the end, which
    /// is two blocks of zeros or the end of the source.
    ///
    /// Errors: `InvalidArgument` for what is no archive, or ends too early.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let Some(header) = self.header()? else { return Ok(None) };
            match header.flag() {
                b'x' => {
                    let data = self.extension(&header)?;
                    extensions.records = Records::parse(&data).ok_or_else(invalid_header)?;
                }
                b'L' => extensions.long_name = Some(self.long_text(&header)?),
                b'K' => extensions.long_link = Some(self.long_text(&header)?),
                // Compat: defaults for all entries that follow are ignored, as Go ignores them.
                b'g' => drop(self.extension(&header)?),
                _ => return self.entry(&header, extensions).map(Some),
            }
        }
    }

    /// More data of the current entry, or `None` when there is no more.
    pub fn fragment(&mut self) -> Result<Option<Fragment<'_>>> {
        self.consume_lent();
        while self.region.length == 0 {
            let Some(region) = self.map.next() else { return Ok(None) };
            self.region = region;
        }
        let available = self.source.fill_buf().map_err(from_io)?;
        if available.is_empty() {
            return Err(unexpected_eof());
        }
        let length = available.len().min(usize::try_from(self.region.length).unwrap_or(usize::MAX));
        let offset = self.region.offset;
        self.region.offset += length as u64;
        self.region.length -= length as u64;
        self.lent = length;
        Ok(Some(Fragment { offset, data: &available[..length] }))
    }

    /// All data of the current entry, without holes, if it is at most `limit` bytes.
    ///
    /// Errors: `InvalidArgument` when it is longer.
    pub fn content(&mut self, limit: u64) -> Result<Vec<u8>> {
        if self.stored > limit {
            return Err(Error::invalid(format!("file of {} bytes in archive", self.stored)));
        }
        let mut content = Vec::with_capacity(self.stored as usize);
        while let Some(fragment) = self.fragment()? {
            content.extend_from_slice(fragment.data);
        }
        Ok(content)
    }

    /// Reads the source to its end: a digest covers what follows the archive, too.
    ///
    /// Errors: `InvalidArgument` when that is more than any program pads an archive with. A few
    /// kilobytes of zstd can inflate for days.
    pub fn drain(mut self) -> Result<()> {
        self.consume_lent();
        let mut seen = 0;
        loop {
            let available = self.source.fill_buf().map_err(from_io)?.len();
            if available == 0 {
                return Ok(());
            }
            seen += available as u64;
            if seen > MAX_TRAILER {
                let text = "archive/tar: no end of data behind the end of the archive";
                return Err(Error::said(types::Kind::InvalidArgument, text));
            }
            self.source.consume(available);
        }
    }

    fn entry(&mut self, header: &Header, mut extensions: Extensions) -> Result<Entry> {
        let mut entry = header.entry().ok_or_else(invalid_header)?;
        extensions.records.merge(&mut entry).ok_or_else(invalid_header)?;
        if let Some(name) = extensions.long_name {
            entry.name = name;
        }
        if let Some(link) = extensions.long_link {
            entry.link = link;
        }
        // Before there was a type for directories, they were files whose name ends in a slash.
        if header.flag() == 0 && entry.name.ends_with(b"/") {
            entry.kind = Kind::Directory;
        }
        match entry.kind {
            Kind::File | Kind::Other(_) => self.expect(entry.size)?,
            // Compat: only files have data, whatever size the header gives (Go `archive/tar`).
            _ => entry.size = 0,
        }
        if entry.kind == Kind::File {
            self.map_file(header, &extensions.records, &mut entry)?;
        }
        Ok(entry)
    }

    fn map_file(&mut self, header: &Header, records: &Records, entry: &mut Entry) -> Result<()> {
        let map = match header.flag() {
            b'S' => Map::Known(self.old_map(header, entry)?),
            _ => sparse::from_records(records, entry)?,
        };
        let map = match map {
            Map::None => return Ok(()),
            Map::Known(map) => map,
            Map::BeforeData => self.map_before_data()?,
        };
        sparse::check(&map, entry.size, self.stored)?;
        self.region = Region { offset: 0, length: 0 };
        self.map = map.into_iter();
        Ok(())
    }

    /// Notes that `size` bytes of data and their padding come next.
    fn expect(&mut self, size: u64) -> Result<()> {
        if i64::try_from(size).is_err() {
            return Err(invalid_header());
        }
        self.stored = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        self.region = Region { offset: 0, length: size };
        self.map = Vec::new().into_iter();
        Ok(())
    }

    fn skip_data(&mut self) -> Result<()> {
        self.consume_lent();
        self.region.length = 0;
        self.map = Vec::new().into_iter();
        let (stored, padding) =
            (std::mem::take(&mut self.stored), std::mem::take(&mut self.padding));
        if self.skip(stored)? > 0 {
            return Err(unexpected_eof());
        }
        // Compat: an archive may end without the last padding; the next header is then the end.
        self.skip(padding).map(drop)
    }

    /// Skips `count` bytes and tells how many of them were not there.
    fn skip(&mut self, mut count: u64) -> Result<u64> {
        while count > 0 {
            let available = self.source.fill_buf().map_err(from_io)?.len();
            if available == 0 {
                break;
            }
            let step = available.min(usize::try_from(count).unwrap_or(usize::MAX));
            self.source.consume(step);
            count -= step as u64;
        }
        Ok(count)
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Header::parse(&block).map(Some).ok_or_else(invalid_header);
        }
        match self.block()? {
            None => Ok(None),
            Some(block) if block == [0; BLOCK] => Ok(None),
            Some(_) => Err(invalid_header()),
        }
    }

    /// The next block, or `None` if the source ends exactly here.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        match self.read(&mut block)? {
            0 => Ok(None),
            BLOCK => Ok(Some(block)),
            _ => Err(unexpected_eof()),
        }
    }

    /// The next block of the entry's own data, which some of the metadata is hidden in.
    pub(super) fn stored_block(&mut self) -> Result<[u8; BLOCK]> {
        self.stored = self.stored.checked_sub(BLOCK as u64).ok_or_else(invalid_header)?;
        self.block()?.ok_or_else(unexpected_eof)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let available = self.source.fill_buf().map_err(from_io)?;
            if available.is_empty() {
                break;
            }
            let step = available.len().min(buffer.len() - filled);
            buffer[filled..filled + step].copy_from_slice(&available[..step]);
            self.source.consume(step);
            filled += step;
        }
        Ok(filled)
    }

    fn extension(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = header.size().filter(|&size| size <= MAX_EXTENSION);
        let size = size.ok_or_else(invalid_header)?;
        let mut data = vec![0; size as usize];
        if self.read(&mut data)? < data.len() {
            return Err(unexpected_eof());
        }
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(data)
    }

    fn long_text(&mut self, header: &Header) -> Result<Vec<u8>> {
        let data = self.extension(header)?;
        Ok(block::text(&data).to_vec())
    }

    fn consume_lent(&mut self) {
        let lent = std::mem::take(&mut self.lent);
        self.stored -= lent as u64;
        self.source.consume(lent);
    }
}

/// What a source failed with. Sources of ours carry their own error inside.
fn from_io(error: std::io::Error) -> Error {
    if error.kind() == ErrorKind::UnexpectedEof {
        return unexpected_eof();
    }
    error.downcast().unwrap_or_else(Error::from)
}
