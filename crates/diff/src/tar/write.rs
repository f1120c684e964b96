// SPDX-License-Identifier: Apache-2.0
use std::{collections::BTreeMap, io::Write, ops::Range};

use types::{Error, Result};

use super::{
    BLOCK, Entry, Kind,
    block::{
        CHECKSUM, FLAG, GID, LINK, MAGIC, MAJOR, MINOR, MODE, MTIME, NAME, SIZE, UID, USTAR_MAGIC,
        checksums,
    },
    pax,
};

/// Writes an archive in PAX format, entry by entry.
///
/// Compat: byte for byte what Go's `archive/tar` writes for the same entries (`writer.go`), because
/// a layer is named by its digest, and the same files should have the same name.
pub struct Writer<W> {
    sink: W,
    /// What is still to be written of the current entry's data.
    left: u64,
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Writes an archive from its start.
    pub fn new(sink: W) -> Self {
        Self { sink, left: 0, padding: 0 }
    }

    /// Begins an entry. Its data, `entry.size` bytes, comes next through [`Writer::data`].
    ///
    /// Errors: `FailedPrecondition` when the entry before is not complete.
    pub fn append(&mut self, entry: &Entry) -> Result<()> {
        self.finish_entry()?;
        self.sink.write_all(&encode(entry)?)?;
        self.left = if entry.kind == Kind::File { entry.size } else { 0 };
        self.padding = (self.left.next_multiple_of(BLOCK as u64) - self.left) as usize;
        Ok(())
    }

    /// Adds data to the current entry.
    ///
    /// Errors: `FailedPrecondition` when that is more than the entry said.
    pub fn data(&mut self, data: &[u8]) -> Result<()> {
        self.left = (self.left.checked_sub(data.len() as u64))
            .ok_or_else(|| Error::failed_precondition("archive/tar: write too long"))?;
        Ok(self.sink.write_all(data)?)
    }

    /// What it is written to, so that what is there by now can be taken.
    pub fn sink(&mut self) -> &mut W {
        &mut self.sink
    }

    /// Ends the archive with two blocks of zeros and gives back what it was written to.
    pub fn finish(mut self) -> Result<W> {
        self.finish_entry()?;
        self.sink.write_all(&[0; 2 * BLOCK])?;
        Ok(self.sink)
    }

    fn finish_entry(&mut self) -> Result<()> {
        if self.left > 0 {
            let missed = format!("archive/tar: missed writing {} bytes", self.left);
            return Err(Error::failed_precondition(missed));
        }
        Ok(self.sink.write_all(&[0; BLOCK][..std::mem::take(&mut self.padding)])?)
    }
}

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// The blocks that stand before an entry's data: its PAX records, if it needs any, and its header.
fn encode(entry: &Entry) -> Result<Vec<u8>> {
    let mut records = Records::new();
    let header = header(entry, &mut records)?;
    for (name, value) in &entry.xattrs {
        records.insert([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
    }
    if records.is_empty() {
        return Ok(header.to_vec());
    }
    let mut blocks = extension(&entry.name, &records);
    blocks.extend_from_slice(&header);
    Ok(blocks)
}

/// Fills a header with what fits in it, and `records` with what does not.
fn header(entry: &Entry, records: &mut Records) -> Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    put_text(&mut block[NAME], &entry.name, "path", records)?;
    put_text(&mut block[LINK], &entry.link, "linkpath", records)?;
    block[FLAG] = flag(entry.kind);
    put_octal(&mut block[MODE], i64::from(entry.mode));
    put_number(&mut block, UID, entry.uid, "uid", records);
    put_number(&mut block, GID, entry.gid, "gid", records);
    let size = if entry.kind == Kind::File { entry.size as i64 } else { 0 };
    put_number(&mut block, SIZE, size, "size", records);
    let fits = put_octal(&mut block[MTIME], entry.modified.seconds);
    if !fits || entry.modified.nanos != 0 {
        records.insert(b"mtime".to_vec(), pax::format_time(entry.modified).into());
    }
    let (major, minor) = entry.device;
    if !put_octal(&mut block[MAJOR], major) || !put_octal(&mut block[MINOR], minor) {
        let name = String::from_utf8_lossy(&entry.name).into_owned();
        return Err(Error::invalid(format!("{name}: device {major}:{minor} does not fit")));
    }
    block[MAGIC].copy_from_slice(USTAR_MAGIC);
    put_checksum(&mut block);
    Ok(block)
}

/// The blocks of a PAX extended header. It has a name so that readers who know no better make a
/// harmless file of it.
fn extension(name: &[u8], records: &Records) -> Vec<u8> {
    let data: Vec<u8> =
        records.iter().flat_map(|(key, value)| pax::format_record(key, value)).collect();
    let mut block = [0; BLOCK];
    put_truncated(&mut block[NAME], &extension_name(name));
    for field in [MODE, UID, GID, MTIME] {
        put_octal(&mut block[field], 0);
    }
    put_octal(&mut block[SIZE], data.len() as i64);
    block[FLAG] = b'x';
    block[MAGIC].copy_from_slice(USTAR_MAGIC);
    put_checksum(&mut block);
    let mut blocks = block.to_vec();
    blocks.extend_from_slice(&data);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    blocks
}

/// `a/b` becomes `a/PaxHeaders.0/b`, in ASCII and at most as long as fits.
fn extension_name(name: &[u8]) -> Vec<u8> {
    let split = name.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, file) = name.split_at(split);
    let parts = [directory, b"PaxHeaders.0/", file].concat();
    let mut name = crate::names::clean(&to_ascii(&parts));
    name.truncate(NAME.len());
    while name.ends_with(b"/") {
        name.pop();
    }
    name
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::Link => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::Other(flag) => flag,
    }
}

/// Writes a text if it is short and ASCII. Otherwise a record holds it, and the header as much as
/// old readers may make use of.
fn put_text(field: &mut [u8], text: &[u8], key: &str, records: &mut Records) -> Result<()> {
    if text.contains(&0) {
        return Err(Error::invalid(format!("{}: NUL in name", String::from_utf8_lossy(text))));
    }
    if text.len() > field.len() || !text.is_ascii() {
        records.insert(key.into(), text.to_vec());
    }
    put_truncated(field, &to_ascii(text));
    Ok(())
}

/// A name cut off behind a slash would make some readers take the file for a directory.
fn put_truncated(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
    if text.len() > field.len() && field.ends_with(b"/") {
        let kept = field.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        field[kept] = 0;
    }
}

/// Go walks the text by character and takes bytes that are no UTF-8 for one that is not ASCII.
fn to_ascii(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(u8::is_ascii).collect()
}

fn put_number(
    block: &mut [u8; BLOCK],
    field: Range<usize>,
    number: i64,
    key: &str,
    records: &mut Records,
) {
    if !put_octal(&mut block[field], number) {
        records.insert(key.into(), number.to_string().into());
    }
}

/// Writes a number in octal with a NUL after it, or zero if that does not fit.
fn put_octal(field: &mut [u8], number: i64) -> bool {
    let digits = field.len() - 1;
    let fits = number >= 0 && number >> (3 * digits) == 0;
    let text = format!("{:0digits$o}", if fits { number } else { 0 });
    field[..digits].copy_from_slice(text.as_bytes());
    field[digits] = 0;
    fits
}

fn put_checksum(block: &mut [u8; BLOCK]) {
    let (sum, _) = checksums(block);
    put_octal(&mut block[CHECKSUM.start..CHECKSUM.end - 1], sum);
    block[CHECKSUM.end - 1] = b' ';
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Archive, Time},
        *,
    };

    fn entry(name: &str) -> Entry {
        Entry { name: name.into(), mode: 0o644, ..Entry::default() }
    }

    fn check(entry: &Entry) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        writer.append(entry).unwrap();
        writer.data(&vec![b'x'; entry.size as usize]).unwrap();
        let bytes = writer.finish().unwrap();
        let mut archive = Archive::new(bytes.as_slice());
        assert_eq!(&archive.next_entry().unwrap().unwrap(), entry);
        assert_eq!(archive.content(u64::MAX).unwrap().len() as u64, entry.size);
        assert_eq!(archive.next_entry().unwrap(), None);
        bytes
    }

    #[test]
    fn what_is_written_is_read_again() {
        assert_eq!(check(&entry("short")).len(), 3 * BLOCK);
        assert_eq!(check(&Entry { size: 513, ..entry("data") }).len(), 5 * BLOCK);
        check(&entry(&"long/".repeat(60)));
        check(&entry("ünïcödé"));
        check(&Entry { name: vec![b'x', 0xff, b'y'], ..entry("") });
        check(&Entry { kind: Kind::Symlink, link: vec![b'l'; 300], ..entry("l") });
        check(&Entry { uid: 1 << 22, gid: -1, ..entry("ids") });
        check(&Entry { modified: Time { seconds: -7, nanos: 250_000_000 }, ..entry("old") });
        check(&Entry { kind: Kind::Block, device: (8, 1), ..entry("sda1") });
        let xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 10, 255])];
        check(&Entry { xattrs, kind: Kind::Directory, ..entry("d/") });
    }

    #[test]
    fn sizes_are_held_to() {
        let mut writer = Writer::new(Vec::new());
        writer.append(&Entry { size: 2, ..entry("two") }).unwrap();
        assert!(writer.data(b"abc").is_err());
        assert!(writer.append(&entry("next")).is_err());
    }
}
