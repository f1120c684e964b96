// SPDX-License-Identifier: Apache-2.0
//! Whole blobs at once: manifests, configs and whatever else is small enough for memory.
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use types::{Digest, Error, Hasher, Kind, Labels, Result};

use crate::{Expected, Ingest, Reader, Store};

/// How much is asked of a reader at once.
const CHUNK: usize = 1 << 20;

/// Reads a blob that is at most `limit` bytes long; a longer one is `OutOfRange`.
pub async fn read(store: &(impl Store + ?Sized), digest: &Digest, limit: u64) -> Result<Bytes> {
    let reader = store.reader(digest).await?;
    if reader.size() > limit {
        let size = reader.size();
        let text = format!("content {digest} has {size} bytes, more than {limit}");
        return Err(Error::new(Kind::OutOfRange, text));
    }
    read_all(reader.as_ref()).await
}

async fn read_all(reader: &dyn Reader) -> Result<Bytes> {
    let size = reader.size() as usize;
    let first = reader.read_at(0, size.min(CHUNK)).await?;
    if first.len() == size {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(size);
    whole.extend_from_slice(&first);
    while whole.len() < size {
        let more = reader.read_at(whole.len() as u64, CHUNK.min(size - whole.len())).await?;
        if more.is_empty() {
            return Err(Error::new(Kind::DataLoss, format!("blob of {size} bytes ends early")));
        }
        whole.extend_from_slice(&more);
    }
    Ok(whole.freeze())
}

/// The digest that the bytes of a blob have now, by the algorithm of its name. It differs from the
/// name when the disk, or another program, has changed them.
pub async fn digest_now(store: &(impl Store + ?Sized), digest: &Digest) -> Result<Digest> {
    let reader = store.reader(digest).await?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut offset = 0;
    loop {
        let bytes = reader.read_at(offset, CHUNK).await?;
        if bytes.is_empty() {
            return Ok(hasher.finish());
        }
        hasher.update(&bytes);
        offset += bytes.len() as u64;
    }
}

/// Writes `data` as a blob through the ingest `reference` and returns its digest.
///
/// That the blob exists already is a success; `labels` are then not applied. What an earlier writer
/// left in the ingest is thrown away.
pub async fn write(
    store: &(impl Store + ?Sized),
    reference: &str,
    mut expected: Expected,
    data: impl Into<Bytes>,
    labels: Labels,
) -> Result<Digest> {
    let data = data.into();
    let digest = expected.digest.get_or_insert_with(|| Digest::of(&data)).clone();
    match write_new(store, reference, expected, data, labels).await {
        Err(error) if error.is_already_exists() => Ok(digest),
        outcome => outcome,
    }
}

async fn write_new(
    store: &(impl Store + ?Sized),
    reference: &str,
    expected: Expected,
    data: Bytes,
    labels: Labels,
) -> Result<Digest> {
    let mut ingest = store.writer(reference, expected.clone()).await?;
    if ingest.status().offset != 0 {
        ingest.truncate(0).await?;
    }
    ingest.write(data).await?;
    ingest.commit(expected, labels).await
}

/// Opens an ingest, and waits for up to `patience` while another writer has it open.
///
/// Between two pulls of the same image this is the ordinary case: the second waits and then finds
/// the blob there (containerd `core/content/helpers.go`, `OpenWriter`).
pub async fn open(
    store: &(impl Store + ?Sized),
    reference: &str,
    expected: Expected,
    patience: Duration,
) -> Result<Box<dyn Ingest>> {
    let deadline = tokio::time::Instant::now() + patience;
    let mut pause = Duration::from_millis(2);
    loop {
        match store.writer(reference, expected.clone()).await {
            Err(error) if error.kind() == Kind::Unavailable => {
                if tokio::time::Instant::now() + pause > deadline {
                    return Err(error);
                }
            }
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}
