// SPDX-License-Identifier: Apache-2.0
//! Reading and writing tar archives: a stream of [`Entry`]s, each followed by its data.
//!
//! [`Archive`] reads what is met in layers: POSIX ustar and PAX, GNU (long names, base-256 numbers,
//! sparse files of the old and of the three PAX kinds), V7 and STAR. [`Writer`] writes PAX byte for
//! byte as Go's `archive/tar` does, so that equal trees give equal layers whoever made them.
//! Memory is bounded whatever the archive says: extension headers and sparse maps have limits.
//!
//! ```text
//! BufRead --> Archive::next_entry --> Entry
//!                    `--> fragment, fragment, ...   (where data lies in a file that may have holes)
//! ```
mod block;
mod pax;
mod read;
mod sparse;
mod write;

pub use read::{Archive, Fragment};
pub use write::Writer;

use types::{Error, Kind as ErrorKind};

/// The size of everything in a tar archive: headers, and what data is padded to.
pub(crate) const BLOCK: usize = 512;

/// The longest extension header that is read (`maxSpecialFileSize` in Go's `archive/tar`).
const MAX_EXTENSION: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    #[default]
    File,
    /// Another name of a file that is in the archive or beneath it.
    Link,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
    /// Something that only whoever wrote it understands, by its type flag.
    Other(u8),
}

/// A point in time: seconds since 1970, and nanoseconds after that second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, less than a billion, counted forwards from the second.
    pub nanos: u32,
}

/// What an archive says of one file. Names are bytes, as on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The path, as it stands in the archive.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// The target of a hard or symbolic link.
    pub link: Vec<u8>,
    /// Permissions, with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// The length of the file once unpacked.
    pub size: u64,
    /// When the content last changed.
    pub modified: Time,
    /// When it was last read, where the archive says so.
    pub accessed: Option<Time>,
    /// Major and minor number of a device.
    pub device: (i64, i64),
    /// Extended attributes, in the order of the archive.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Compat: the words of Go's `archive/tar`, which end up in clients' logs.
fn invalid_header() -> Error {
    Error::said(ErrorKind::InvalidArgument, "archive/tar: invalid tar header")
}

fn unexpected_eof() -> Error {
    Error::said(ErrorKind::InvalidArgument, "unexpected EOF")
}
