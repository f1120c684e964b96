// SPDX-License-Identifier: Apache-2.0
//! A stream of bytes, taken apart on a thread of its own: inflated, and read as a tar archive.
//!
//! ```text
//! stream --> inflate --> tar --> File, Data, Data, End, Link, File, ...
//! ```
use std::io::{self, BufReader, Read};

use bytes::{Buf, Bytes};
use diff::tar::{Archive, Kind};
use futures_util::StreamExt;
use tokio::{runtime::Handle, sync::mpsc, task};
use types::{Error, Result};

use super::Bytestream;

/// How much data a piece has at most. With as many pieces as may wait, this bounds the memory.
const PIECE: usize = 512 * 1024;
const WAITING: usize = 4;

/// The most files of an archive. What has more is no image, but costs as much as one.
const MAX_FILES: usize = 200_000;

/// A part of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A regular file begins. The name is cleaned, but may still be anything.
    File { name: String, size: u64 },
    /// Some of its data.
    Data(Bytes),
    /// It ends.
    End,
    /// A symbolic link, and what it leads to, as a name in the archive.
    Link { name: String, to: String },
}

/// Takes `source` apart. Whoever drops the receiver ends it.
pub(super) fn pieces(source: Bytestream) -> mpsc::Receiver<Result<Piece>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let handle = Handle::current();
    task::spawn_blocking(move || {
        let reader = Arriving { source, current: Bytes::new(), handle, until: sender.clone() };
        if let Err(error) = take_apart(reader, &sender) {
            // Nobody who wants to hear it is left when this fails.
            drop(sender.blocking_send(Err(error)));
        }
    });
    receiver
}

fn take_apart(reader: Arriving, sender: &mpsc::Sender<Result<Piece>>) -> Result<()> {
    let send = |piece| sender.blocking_send(Ok(piece)).map_err(|_gone| Error::cancelled("import"));
    let inflated = BufReader::with_capacity(PIECE, diff::inflate(reader)?);
    let mut archive = Archive::new(inflated);
    let mut files = 0;
    while let Some(entry) = archive.next_entry()? {
        files += 1;
        if files > MAX_FILES {
            return Err(Error::invalid(format!("archive of more than {MAX_FILES} files")));
        }
        let name = clean(&String::from_utf8_lossy(&entry.name));
        match entry.kind {
            Kind::File => {
                send(Piece::File { name, size: entry.size })?;
                while let Some(fragment) = archive.fragment()? {
                    send(Piece::Data(Bytes::copy_from_slice(fragment.data)))?;
                }
                send(Piece::End)?;
            }
            Kind::Symlink => {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                let to = clean(&format!("{folder}/{}", String::from_utf8_lossy(&entry.link)));
                send(Piece::Link { name, to: to.trim_start_matches('/').to_owned() })?;
            }
            _ => tracing::debug!(name, kind = ?entry.kind, "file type ignored"),
        }
    }
    Ok(())
}

/// A name without empty and single-dot segments, and without `..` where that can be resolved (Go
/// `path.Clean`).
pub(super) fn clean(name: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let is_rooted = name.starts_with('/');
    for segment in name.split('/') {
        match segment {
            "" | "." => {}
            ".." if kept.last().is_some_and(|last| *last != "..") => drop(kept.pop()),
            ".." if is_rooted => {}
            segment => kept.push(segment),
        }
    }
    let joined = kept.join("/");
    if is_rooted { format!("/{joined}") } else { joined }
}

/// A stream as a reader, for a blocking thread.
struct Arriving {
    source: Bytestream,
    current: Bytes,
    handle: Handle,
    /// Once nobody listens any more, there is nothing to wait for.
    until: mpsc::Sender<Result<Piece>>,
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            let Self { source, until, handle, .. } = self;
            let next = handle.block_on(async {
                tokio::select! {
                    next = source.next() => next,
                    () = until.closed() => Some(Err(Error::cancelled("import"))),
                }
            });
            match next {
                Some(Ok(data)) => self.current = data,
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let step = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..step]);
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_and_cannot_climb_out_of_a_root() {
        for (name, want) in [
            ("./index.json", "index.json"),
            ("blobs//sha256/./a", "blobs/sha256/a"),
            ("a/../index.json", "index.json"),
            ("../../etc/passwd", "../../etc/passwd"),
            ("/../etc/passwd", "/etc/passwd"),
            ("a/b/", "a/b"),
        ] {
            assert_eq!(clean(name), want);
        }
    }
}
