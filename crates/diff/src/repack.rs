// SPDX-License-Identifier: Apache-2.0
//! A blob packed otherwise: inflated, and compressed as it is wanted, in one pass.
use std::io::{self, Read};

use bytes::Bytes;
use types::{Digest, Error, Result};

use crate::{deflate, inflate::Inflate, media::Compression};

/// How a blob is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As it is.
    Plain,
    /// Gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// A blob that was packed anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repacked {
    /// The digest of what is in it.
    pub diff_id: Digest,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// Inflates what `reader` yields, whatever its first bytes say that it is, packs it as `packing` says
/// and hands it to `send` piece by piece. The same content gives the same blob on any machine.
///
/// Errors: those of `reader` and of `send` as they are; `InvalidArgument` for what is compressed but
/// broken.
pub fn repack(
    reader: impl Read,
    packing: Packing,
    send: &mut (dyn FnMut(Bytes) -> Result<()> + Send),
) -> Result<Repacked> {
    let compression = match packing {
        Packing::Plain => Compression::None,
        Packing::Gzip => Compression::Gzip,
        Packing::Zstd => Compression::Zstd,
    };
    let made = deflate::run(compression, send, |sink| {
        let mut source = inflate(reader)?;
        io::copy(&mut source, sink).map(drop).map_err(from_io)
    })?;
    Ok(Repacked { diff_id: made.diff_id, digest: made.digest, size: made.size })
}

/// Reads what is compressed, whatever it is called: the first bytes tell (gzip, zstd, or nothing).
pub fn inflate<R: Read>(reader: R) -> Result<impl Read> {
    Inflate::detect(reader).map_err(from_io)
}

/// The error of a reader of ours travels inside an I/O error.
fn from_io(error: io::Error) -> Error {
    error.downcast().unwrap_or_else(Error::from)
}

#[cfg(test)]
mod tests {
    use types::Digest;

    use super::*;
    use crate::packing;

    fn packed(data: &[u8], as_what: Packing) -> (Vec<u8>, Repacked) {
        let mut whole = Vec::new();
        let mut send = |piece: Bytes| {
            whole.extend_from_slice(&piece);
            Ok(())
        };
        let made = repack(data, as_what, &mut send).unwrap();
        (whole, made)
    }

    #[test]
    fn what_is_packed_otherwise_holds_the_same() {
        let data: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let (zipped, first) = packed(&data, Packing::Gzip);
        let (zstd, second) = packed(&zipped, Packing::Zstd);
        let (plain, third) = packed(&zstd, Packing::Plain);
        assert_eq!(plain, data);
        for (made, blob) in [(&first, &zipped), (&second, &zstd), (&third, &plain)] {
            assert_eq!(made.diff_id, Digest::of(&data));
            assert_eq!((&made.digest, made.size), (&Digest::of(blob), blob.len() as u64));
        }
        let all = [&zipped, &zstd, &plain].map(|blob| packing(blob));
        assert_eq!(all, [Packing::Gzip, Packing::Zstd, Packing::Plain]);
    }

    #[test]
    fn what_is_broken_or_not_taken_is_an_error() {
        let (mut zipped, _) = packed(&vec![7; 100_000], Packing::Gzip);
        zipped.truncate(zipped.len() / 2);
        let broken = repack(zipped.as_slice(), Packing::Plain, &mut |_| Ok(())).unwrap_err();
        assert_eq!(broken.to_string(), "gzip: unexpected EOF");
        let refuse = &mut |_| Err(Error::unavailable("full"));
        let refused = repack(&[7; 9][..], Packing::Plain, refuse).unwrap_err();
        assert!(refused.to_string().starts_with("full"), "{refused}");
    }
}
