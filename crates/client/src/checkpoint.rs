// SPDX-License-Identifier: Apache-2.0
//! Checkpoints as content: what a runtime has written to a directory, packed as a blob, and back.
//!
//! ```text
//! directory --tar--> blob (criu.tar)      spec --> blob (config+proto)      both: descriptors
//! ```
use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use content::{Expected, Ingest, Store};
use diff::{Options, Target, Whiteouts};
use runtime::Checkpoints;
use tokio::{sync::mpsc, task::spawn_blocking};
use types::{Context, Descriptor, Error, Kind, Labels, Result};

/// The media type of a packed image of CRIU's (containerd `core/images/mediatypes.go`).
pub const CHECKPOINT: &str = "application/vnd.containerd.container.criu.checkpoint.criu.tar";
/// The media type of the spec that goes with it.
pub const CHECKPOINT_CONFIG: &str =
    "application/vnd.containerd.container.checkpoint.config.v1+proto";
/// What a checkpoint is once its media type has been checked.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// How many pieces of a tar may be on their way to the store.
const QUEUE: usize = 4;
/// The size of a piece, in bytes.
const PIECE: usize = 256 << 10;

/// Keeps checkpoints in a content store.
pub struct KeptCheckpoints {
    content: Arc<dyn Store>,
}

impl KeptCheckpoints {
    /// Checkpoints in `content`.
    pub fn new(content: Arc<dyn Store>) -> Self {
        Self { content }
    }
}

#[async_trait]
impl Checkpoints for KeptCheckpoints {
    async fn keep(&self, directory: &Path, config: Bytes) -> Result<Vec<Descriptor>> {
        // Compat: Go names these ingests by the directory.
        let reference = directory.display().to_string();
        let mut ingest = self.content.writer(&reference, Expected::default()).await?;
        let size = pack(directory.to_owned(), &mut *ingest).await?;
        let image = named(CHECKPOINT, ingest, size).await?;
        let reference = directory.join("spec").display().to_string();
        let mut ingest = self.content.writer(&reference, Expected::default()).await?;
        let size = config.len() as u64;
        ingest.write(config).await?;
        Ok(vec![image, named(CHECKPOINT_CONFIG, ingest, size).await?])
    }

    async fn unpack(&self, checkpoint: &Descriptor, directory: &Path) -> Result<()> {
        if checkpoint.media_type != CHECKPOINT {
            let message = format!("unsupported checkpoint type {:?}", checkpoint.media_type);
            return Err(Error::said(Kind::InvalidArgument, message));
        }
        let reader = self.content.reader(&checkpoint.digest).await?.into_sync();
        let directory = directory.to_owned();
        let target = Target { directory, whiteouts: Whiteouts::Remove, parents: Vec::new() };
        let unpacking =
            spawn_blocking(move || diff::apply(reader, TAR, &target, &Options::default()));
        let unpacked = unpacking.await.map_err(|e| Error::caused(Kind::Internal, "unpack", e))?;
        unpacked.map(drop).context(|| format!("checkpoint {}", checkpoint.digest))
    }
}

/// Writes a directory into an ingest as a tar, and returns its size.
async fn pack(directory: PathBuf, ingest: &mut dyn Ingest) -> Result<u64> {
    let (sender, mut pieces) = mpsc::channel(QUEUE);
    let packing = spawn_blocking(move || {
        let sink = Pieces { sender, piece: Vec::with_capacity(PIECE) };
        let mut sink = diff::compare(None, &directory, None, None, sink)?;
        Ok::<_, Error>(sink.flush()?)
    });
    let mut size = 0;
    while let Some(piece) = pieces.recv().await {
        size += Bytes::len(&piece) as u64;
        ingest.write(piece).await?;
    }
    packing.await.map_err(|e| Error::caused(Kind::Internal, "pack a checkpoint", e))??;
    Ok(size)
}

/// Makes what was written a blob. That it is there already is as good.
async fn named(media_type: &str, mut ingest: Box<dyn Ingest>, size: u64) -> Result<Descriptor> {
    let digest = ingest.digest();
    let expected = Expected { size: Some(size), digest: None };
    let digest = match ingest.commit(expected, Labels::new()).await {
        Err(error) if error.is_already_exists() => digest.ok_or(error)?,
        committed => committed.context(|| "failed to commit a checkpoint")?,
    };
    Ok(Descriptor::new(media_type, digest, size))
}

/// Passes on what is written, in pieces.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(data);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(piece.into()).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use content::Memory;
    use fs_err as fs;

    use super::*;

    fn store() -> Arc<dyn Store> {
        Arc::new(Memory::default())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_checkpoint_is_packed_and_unpacked_as_it_was() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let pages: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
        fs::write(from.path().join("pages-1.img"), &pages).unwrap();
        fs::create_dir(from.path().join("criu.work")).unwrap();
        fs::write(from.path().join("criu.work/dump.log"), "done").unwrap();
        let checkpoints = KeptCheckpoints::new(store());
        let config = Bytes::from_static(b"spec");
        let kept = checkpoints.keep(from.path(), config.clone()).await.unwrap();
        let types: Vec<_> = kept.iter().map(|it| it.media_type.as_str()).collect();
        assert_eq!(types, [CHECKPOINT, CHECKPOINT_CONFIG]);
        assert_eq!(kept[1].size, 4);
        let again = checkpoints.keep(from.path(), config).await.unwrap();
        assert_eq!(again[1], kept[1]);
        checkpoints.unpack(&kept[0], to.path()).await.unwrap();
        assert_eq!(fs::read(to.path().join("pages-1.img")).unwrap(), pages);
        assert_eq!(fs::read(to.path().join("criu.work/dump.log")).unwrap(), b"done");
    }

    #[tokio::test]
    async fn another_media_type_is_no_checkpoint() {
        let other = Descriptor::new(CHECKPOINT_CONFIG, types::Digest::of("x"), 1);
        let refused = KeptCheckpoints::new(store()).unpack(&other, Path::new("/")).await;
        assert_eq!(
            refused.unwrap_err().to_string(),
            format!("unsupported checkpoint type {CHECKPOINT_CONFIG:?}")
        );
    }
}
