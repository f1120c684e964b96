// SPDX-License-Identifier: Apache-2.0
//! Archives for tests: proper ones through the crate's own writer, odd ones header by header.
use diff::{
    Applied, Options, Target, Whiteouts,
    tar::{Entry, Kind, Time, Writer},
};
use std::path::Path;
use types::{Result, media_types};

/// What the entries of a test are, unless it says otherwise.
pub(super) const TIME: Time = Time { seconds: 1_700_000_000, nanos: 0 };

pub(super) fn entry(kind: Kind, name: &str) -> Entry {
    let mode = if kind == Kind::Directory { 0o755 } else { 0o644 };
    Entry { name: name.into(), kind, mode, modified: TIME, ..Entry::default() }
}

pub(super) fn dir(name: &str) -> (Entry, Vec<u8>) {
    (entry(Kind::Directory, name), vec![])
}

pub(super) fn file(name: &str, content: &str) -> (Entry, Vec<u8>) {
    let size = content.len() as u64;
    (Entry { size, ..entry(Kind::File, name) }, content.into())
}

pub(super) fn symlink(name: &str, target: &str) -> (Entry, Vec<u8>) {
    (Entry { link: target.into(), ..entry(Kind::Symlink, name) }, vec![])
}

pub(super) fn link(name: &str, target: &str) -> (Entry, Vec<u8>) {
    (Entry { link: target.into(), ..entry(Kind::Link, name) }, vec![])
}

pub(super) fn tar(entries: impl IntoIterator<Item = (Entry, Vec<u8>)>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (entry, data) in entries {
        writer.append(&entry).unwrap();
        writer.data(&data).unwrap();
    }
    writer.finish().unwrap()
}

pub(super) fn unsynced() -> Options {
    Options { sync: false, ..Options::default() }
}

/// Unpacks where whiteouts remove things.
pub(super) fn unpack(archive: &[u8], into: &Path) -> Result<Applied> {
    unpack_as(archive, into, Whiteouts::Remove, &[])
}

/// Unpacks where whiteouts become those of an overlay.
pub(super) fn unpack_upper(archive: &[u8], into: &Path, parents: &[&Path]) -> Result<Applied> {
    unpack_as(archive, into, Whiteouts::Overlay { userxattr: false }, parents)
}

fn unpack_as(
    archive: &[u8],
    into: &Path,
    whiteouts: Whiteouts,
    parents: &[&Path],
) -> Result<Applied> {
    let parents = parents.iter().map(|path| path.to_path_buf()).collect();
    let target = Target { directory: into.to_owned(), whiteouts, parents };
    diff::apply(archive, media_types::LAYER_GZIP, &target, &unsynced())
}

/// A header to be filled in by hand.
pub(super) struct Raw(pub(super) [u8; 512]);

impl Raw {
    /// A GNU header of a file, with sane numbers.
    pub(super) fn gnu(name: &str, flag: u8, size: usize) -> Self {
        let mut raw = Self([0; 512]);
        raw.put(0, name).put(100, "0000644\0").put(108, "0000000\0").put(116, "0000000\0");
        raw.put(124, format!("{size:011o}\0")).put(136, "14524727400\0");
        raw.0[156] = flag;
        raw.put(257, "ustar  \0");
        raw
    }

    /// A V7 header: no magic.
    pub(super) fn v7(name: &str, flag: u8, size: usize) -> Self {
        let mut raw = Self::gnu(name, flag, size);
        raw.put(257, "\0\0\0\0\0\0\0\0");
        raw
    }

    pub(super) fn put(&mut self, at: usize, text: impl AsRef<[u8]>) -> &mut Self {
        let text = text.as_ref();
        self.0[at..at + text.len()].copy_from_slice(text);
        self
    }

    /// The header with its checksum, its data and their padding.
    pub(super) fn with(mut self, data: &[u8]) -> Vec<u8> {
        self.put(148, "        ");
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.put(148, format!("{sum:06o}\0 "));
        let mut blocks = self.0.to_vec();
        blocks.extend_from_slice(data);
        blocks.resize(blocks.len().next_multiple_of(512), 0);
        blocks
    }
}

/// Puts headers together, and the end behind them.
pub(super) fn archive(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), vec![0; 1024]].concat()
}
