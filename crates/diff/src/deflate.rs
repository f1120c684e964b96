// SPDX-License-Identifier: Apache-2.0
//! Making a blob of a stream: hashed, compressed on as many cores as there are, hashed again.
//!
//! The same stream gives the same blob on any machine. Gzip is a single member, put together from
//! pieces of a fixed length that were deflated apart from each other (as `pigz -i` does), so any reader
//! of gzip reads it.
//!
//! ```text
//! Sink --+--> hash (diff ID)
//!        `--> pack --> worker, worker, ... --> in order --> hash (digest) --> send
//! ```
use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
};

use bytes::Bytes;
use flate2::{Compress, Compression as Level, Crc, FlushCompress};
use types::{Algorithm, Digest, Error, Hasher, Result};

use crate::{
    media::Compression,
    stream::{self, Chunk, Pool},
};

/// The length of a piece. Another length would make other blobs of the same files.
const PIECE: usize = 1 << 20;

/// The most pieces on their way, and so, in megabytes, the memory.
const PIECES: usize = 12;

/// Compat: the level of Go's containerd (`pkg/archive/compression/compression.go`).
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 3;

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Made {
    /// The digest of what was written into the sink.
    pub(crate) diff_id: Digest,
    /// The digest of what was sent.
    pub(crate) digest: Digest,
    /// The length of what was sent.
    pub(crate) size: u64,
}

/// Runs `produce` on this thread, and packs and sends on others what it writes.
pub(crate) fn run(
    compression: Compression,
    send: &mut (dyn FnMut(Bytes) -> Result<()> + Send),
    produce: impl FnOnce(&mut Sink) -> Result<()>,
) -> Result<Made> {
    let (to_hash, hashing) = channel();
    let (to_pack, packing) = channel();
    thread::scope(|scope| {
        let named = |name: &str| thread::Builder::new().name(name.into());
        let hash = named("diff-hash").spawn_scoped(scope, move || stream::hash(&hashing))?;
        let pack = named("diff-pack")
            .spawn_scoped(scope, move || pack(compression, &packing, Outlet::new(send)))?;
        let mut sink = Sink { pool: Pool::new(PIECES, PIECE), piece: None, to_hash, to_pack };
        let produced = produce(&mut sink).and_then(|()| Ok(sink.flush()?));
        drop(sink);
        let panicked = |_| Error::internal("packing a layer");
        let packed = pack.join().map_err(panicked)?;
        let (diff_id, _) = hash.join().map_err(panicked)?;
        // If packing failed, so did producing for want of a reader: the cause comes first.
        let (digest, size) = packed?;
        produced?;
        Ok(Made { diff_id, digest, size })
    })
}

/// Where the stream goes in.
pub(crate) struct Sink {
    pool: Pool,
    piece: Option<Chunk>,
    to_hash: Sender<Arc<Chunk>>,
    to_pack: Sender<Arc<Chunk>>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = self.piece.get_or_insert_with(|| self.pool.take());
        let step = piece.append(data);
        if piece.is_full() {
            self.flush()?;
        }
        Ok(step)
    }

    /// Sends what there is of a piece, which is only for the last one.
    fn flush(&mut self) -> io::Result<()> {
        let Some(piece) = self.piece.take() else { return Ok(()) };
        let piece = Arc::new(piece);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to_hash.send(piece.clone()).map_err(gone)?;
        self.to_pack.send(piece).map_err(gone)
    }
}

/// Where the blob comes out.
struct Outlet<'a> {
    send: &'a mut (dyn FnMut(Bytes) -> Result<()> + Send),
    hasher: Hasher,
    size: u64,
}

impl<'a> Outlet<'a> {
    fn new(send: &'a mut (dyn FnMut(Bytes) -> Result<()> + Send)) -> Self {
        Self { send, hasher: Hasher::new(Algorithm::Sha256), size: 0 }
    }

    fn put(&mut self, data: Bytes) -> Result<()> {
        self.hasher.update(&data);
        self.size += data.len() as u64;
        (self.send)(data)
    }
}

impl Write for Outlet<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.put(Bytes::copy_from_slice(data)).map_err(io::Error::other)?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn pack(
    compression: Compression,
    incoming: &Receiver<Arc<Chunk>>,
    mut outlet: Outlet<'_>,
) -> Result<(Digest, u64)> {
    match compression {
        Compression::None => {
            for piece in incoming {
                outlet.put(Bytes::copy_from_slice(&piece))?;
            }
        }
        Compression::Gzip => gzip(incoming, &mut outlet)?,
        Compression::Zstd => zstd(incoming, &mut outlet)?,
    }
    Ok((outlet.hasher.finish(), outlet.size))
}

fn zstd(incoming: &Receiver<Arc<Chunk>>, outlet: &mut Outlet<'_>) -> Result<()> {
    let mut encoder = zstd::Encoder::new(outlet, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    // However many workers there are, at least one: the outcome is the same, and differs without.
    encoder
        .multithread(thread::available_parallelism().map_or(1, |count| count.get().min(8)) as u32)?;
    let packed = incoming.iter().try_for_each(|piece| encoder.write_all(&piece));
    packed.and_then(|()| encoder.finish().map(drop)).map_err(from_io)
}

/// The error of an outlet travels inside an I/O error.
fn from_io(error: io::Error) -> Error {
    error.downcast().unwrap_or_else(Error::from)
}

/// A piece to deflate, and where the outcome goes.
struct Job {
    piece: Arc<Chunk>,
    done: SyncSender<Deflated>,
}

struct Deflated {
    data: Vec<u8>,
    crc: Crc,
}

/// RFC 1952: a header without name or time, deflated data, checksum and length.
fn gzip(incoming: &Receiver<Arc<Chunk>>, outlet: &mut Outlet<'_>) -> Result<()> {
    const FASTEST: u8 = 4;
    const UNKNOWN_SYSTEM: u8 = 255;
    const LAST_BLOCK: [u8; 2] = [3, 0];
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, FASTEST, UNKNOWN_SYSTEM];
    outlet.put(Bytes::copy_from_slice(&header))?;
    let mut crc = Crc::new();
    in_order(incoming, |deflated| {
        crc.combine(&deflated.crc);
        outlet.put(deflated.data.into())
    })?;
    let trailer = [&LAST_BLOCK[..], &crc.sum().to_le_bytes(), &crc.amount().to_le_bytes()].concat();
    outlet.put(trailer.into())
}

/// Deflates pieces on all cores, and hands them on in the order in which they came.
fn in_order(
    incoming: &Receiver<Arc<Chunk>>,
    mut put: impl FnMut(Deflated) -> Result<()>,
) -> Result<()> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(PIECES / 3);
    let (to_work, jobs) = channel::<Job>();
    let jobs = Mutex::new(jobs);
    thread::scope(|scope| {
        for _ in 0..workers {
            let worker = thread::Builder::new().name("diff-deflate".into());
            worker.spawn_scoped(scope, || work(&jobs))?;
        }
        let panicked = |_| Error::internal("deflating a layer");
        let mut under_way = VecDeque::new();
        for piece in incoming {
            let (done, deflated) = sync_channel(1);
            to_work.send(Job { piece, done }).expect("the receiver outlives the sender");
            under_way.push_back(deflated);
            if under_way.len() > 2 * workers
                && let Some(first) = under_way.pop_front()
            {
                put(first.recv().map_err(panicked)?)?;
            }
        }
        drop(to_work);
        under_way.into_iter().try_for_each(|next| put(next.recv().map_err(panicked)?))
    })
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        let job = match jobs.lock() {
            Ok(jobs) => jobs.recv(),
            Err(_) => return,
        };
        let Ok(Job { piece, done }) = job else { return };
        let deflated = deflate(&piece);
        drop(piece);
        drop(done.send(deflated));
    }
}

/// Deflates a piece up to a byte boundary, without ending the stream.
fn deflate(piece: &[u8]) -> Deflated {
    let mut compress = Compress::new(Level::new(GZIP_LEVEL), false);
    let mut data = Vec::with_capacity(piece.len() / 2 + 1024);
    loop {
        let rest = &piece[compress.total_in() as usize..];
        compress
            .compress_vec(rest, &mut data, FlushCompress::Sync)
            .expect("deflating to memory cannot fail");
        // Room that is left shows that everything has been flushed.
        if data.len() < data.capacity() {
            break;
        }
        data.reserve(piece.len() / 2 + 1024);
    }
    let mut crc = Crc::new();
    crc.update(piece);
    Deflated { data, crc }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::inflate::Inflate;

    fn make(compression: Compression, data: &[u8]) -> (Made, Vec<u8>) {
        let mut blob = Vec::new();
        let mut send = |bytes: Bytes| {
            blob.extend_from_slice(&bytes);
            Ok(())
        };
        let made = run(compression, &mut send, |sink| Ok(sink.write_all(data)?)).unwrap();
        (made, blob)
    }

    fn samples() -> Vec<Vec<u8>> {
        let noise = |length: usize| {
            let mut state = 1_u64;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            };
            (0..length).map(|_| next()).collect::<Vec<u8>>()
        };
        vec![
            vec![],
            b"small".to_vec(),
            vec![0; PIECE],
            vec![7; 5 * PIECE + 1],
            noise(3 * PIECE - 1),
        ]
    }

    #[test]
    fn what_is_packed_can_be_unpacked() {
        for data in samples() {
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let (made, blob) = make(compression, &data);
                assert_eq!(made.diff_id, Digest::of(&data));
                assert_eq!(made.digest, Digest::of(&blob));
                assert_eq!(made.size, blob.len() as u64);
                let mut unpacked = Vec::new();
                Inflate::detect(&*blob).unwrap().read_to_end(&mut unpacked).unwrap();
                assert!(unpacked == data, "{compression:?} of {} bytes", data.len());
            }
        }
    }

    #[test]
    fn the_same_stream_gives_the_same_blob_however_it_is_written() {
        let data: Vec<u8> = (0..PIECE as u32).flat_map(u32::to_le_bytes).collect();
        let (whole, _) = make(Compression::Gzip, &data);
        let mut send = |_| Ok(());
        let pieces = run(Compression::Gzip, &mut send, |sink| {
            data.chunks(1000).try_for_each(|piece| Ok(sink.write_all(piece)?))
        });
        assert_eq!(pieces.unwrap(), whole);
    }

    #[test]
    fn zstd_gives_the_same_blob_on_any_number_of_cores() {
        let data: Vec<u8> = (0..3 * PIECE as u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = |workers| {
            let mut encoder = zstd::Encoder::new(Vec::new(), ZSTD_LEVEL).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.multithread(workers).unwrap();
            data.chunks(PIECE).for_each(|piece| encoder.write_all(piece).unwrap());
            encoder.finish().unwrap()
        };
        let (_, blob) = make(Compression::Zstd, &data);
        assert!(blob == packed(1) && blob == packed(3));
    }

    #[test]
    fn the_first_failure_is_the_one_that_is_told() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut send = |_| Err(Error::unavailable("store"));
            let error =
                run(compression, &mut send, |sink| Ok(sink.write_all(&vec![1; 4 * PIECE])?));
            assert_eq!(error.unwrap_err().to_string(), "store: unavailable");
            let mut send = |_| Ok(());
            let error = run(compression, &mut send, |_| Err(Error::not_found("file")));
            assert_eq!(error.unwrap_err().to_string(), "file: not found");
        }
    }
}
