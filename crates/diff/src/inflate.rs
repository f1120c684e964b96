// SPDX-License-Identifier: Apache-2.0
//! Reading what is compressed, whatever it is called: the first bytes tell.
//!
//! Errors of the source pass through as they are. Errors of the decoder are the archive's fault, and
//! say so: `InvalidArgument`, in the words of Go's decoders where clients have seen them.
use std::{
    cell::Cell,
    io::{self, BufReader, Chain, Cursor, ErrorKind, Read},
    rc::Rc,
};

use flate2::bufread::MultiGzDecoder;
use types::{Error, Kind};
use zstd::stream::read::Decoder as ZstdDecoder;

use crate::Packing;

/// How much compressed data is read at a time.
const BUFFER: usize = 128 * 1024;

/// How much is looked at to recognise a format.
const HEAD: usize = 8;

type Source<R> = BufReader<Chain<Cursor<Vec<u8>>, Watched<R>>>;

/// A reader of what another reader holds compressed.
pub(crate) struct Inflate<R: Read> {
    decoder: Decoder<Source<R>>,
    source_failed: Rc<Cell<bool>>,
}

enum Decoder<S: io::BufRead> {
    Plain(S),
    Gzip(Box<MultiGzDecoder<S>>),
    Zstd(ZstdDecoder<'static, S>),
}

impl<R: Read> Inflate<R> {
    /// Reads `source` as it is.
    pub(crate) fn plain(source: R) -> Self {
        let source_failed = Rc::default();
        let source = watched(Vec::new(), source, &source_failed);
        Self { decoder: Decoder::Plain(source), source_failed }
    }

    /// Looks at the first bytes of `source` and decodes gzip (one member or many), zstd, or nothing
    /// (containerd `pkg/archive/compression/compression.go`).
    pub(crate) fn detect(mut source: R) -> io::Result<Self> {
        let mut head = vec![0; HEAD];
        let length = read_full(&mut source, &mut head)?;
        head.truncate(length);
        let source_failed = Rc::default();
        let decoder = match Format::of(&head) {
            Format::Plain => Decoder::Plain(watched(head, source, &source_failed)),
            Format::Gzip => {
                let source = watched(head, source, &source_failed);
                Decoder::Gzip(Box::new(MultiGzDecoder::new(source)))
            }
            Format::Zstd => {
                let source = watched(head, source, &source_failed);
                Decoder::Zstd(ZstdDecoder::with_buffer(source)?)
            }
        };
        Ok(Self { decoder, source_failed })
    }
}

fn watched<R: Read>(head: Vec<u8>, reader: R, failed: &Rc<Cell<bool>>) -> Source<R> {
    let watched = Watched { reader, failed: failed.clone() };
    BufReader::with_capacity(BUFFER, Cursor::new(head).chain(watched))
}

impl<R: Read> Read for Inflate<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (format, result) = match &mut self.decoder {
            Decoder::Plain(source) => return source.read(buffer),
            Decoder::Gzip(decoder) => ("gzip", decoder.read(buffer)),
            Decoder::Zstd(decoder) => ("zstd", decoder.read(buffer)),
        };
        result.map_err(|error| match error.kind() {
            ErrorKind::Interrupted => error,
            _ if self.source_failed.get() => error,
            _ => io::Error::other(malformed(format, &error)),
        })
    }
}

fn malformed(format: &str, error: &io::Error) -> Error {
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
        ErrorKind::InvalidInput if format == "gzip" => "invalid header".to_owned(),
        _ => error.to_string(),
    };
    Error::said(Kind::InvalidArgument, format!("{format}: {why}"))
}

/// A source that remembers having failed, so that its errors are not taken for the decoder's.
struct Watched<R> {
    reader: R,
    failed: Rc<Cell<bool>>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer).inspect_err(|error| {
            self.failed.set(error.kind() != ErrorKind::Interrupted);
        })
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
}

impl Format {
    /// RFC 1952 section 2.3.1 and RFC 8878 section 3.1; a zstd stream may open with a frame that is
    /// to be skipped.
    fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, _, _, _, _, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// How a blob with these first bytes is packed.
pub fn packing(head: &[u8]) -> Packing {
    match Format::of(head) {
        Format::Plain => Packing::Plain,
        Format::Gzip => Packing::Gzip,
        Format::Zstd => Packing::Zstd,
    }
}

/// Reads until `buffer` is full or the source is at its end.
pub(crate) fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(data: &[u8]) -> Result<Vec<u8>, String> {
        let mut inflated = Vec::new();
        let mut reader = Inflate::detect(data).map_err(|error| error.to_string())?;
        match reader.read_to_end(&mut inflated) {
            Ok(_) => Ok(inflated),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn bytes_tell_their_format() {
        let zstd = zstd::encode_all(&b"zstd"[..], 0).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &zstd].concat();
        assert_eq!(inflate(b"").unwrap(), b"");
        assert_eq!(inflate(b"plain").unwrap(), b"plain");
        assert_eq!(inflate(&gzip(b"gzip")).unwrap(), b"gzip");
        assert_eq!(inflate(&zstd).unwrap(), b"zstd");
        assert_eq!(inflate(&skippable).unwrap(), b"zstd");
    }

    #[test]
    fn members_and_frames_are_joined() {
        let members = [gzip(b"one "), gzip(b""), gzip(b"two")].concat();
        assert_eq!(inflate(&members).unwrap(), b"one two");
        let frame = |data: &[u8]| zstd::encode_all(data, 0).unwrap();
        assert_eq!(inflate(&[frame(b"one "), frame(b"two")].concat()).unwrap(), b"one two");
    }

    #[test]
    fn what_is_cut_off_or_broken_says_so() {
        let data: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        let (gz, zst) = (gzip(&data), zstd::encode_all(&data[..], 0).unwrap());
        assert_eq!(inflate(&gz[..gz.len() / 2]).unwrap_err(), "gzip: unexpected EOF");
        assert_eq!(inflate(&gz[..gz.len() - 1]).unwrap_err(), "gzip: unexpected EOF");
        assert_eq!(inflate(&zst[..zst.len() / 2]).unwrap_err(), "zstd: unexpected EOF");
        let mut flipped = gz.clone();
        let end = flipped.len();
        flipped[end - 6] ^= 1;
        assert!(inflate(&flipped).unwrap_err().starts_with("gzip: "));
        assert_eq!(inflate(&[gz, vec![1; 64]].concat()).unwrap_err(), "gzip: invalid header");
    }

    #[test]
    fn a_failing_source_is_not_taken_for_a_broken_archive() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the network is gone"))
            }
        }
        let whole = gzip(&[7; 100]);
        let mut reader = Inflate::detect(whole[..20].chain(Failing)).unwrap();
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "the network is gone");
    }
}
