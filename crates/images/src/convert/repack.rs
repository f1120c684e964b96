// SPDX-License-Identifier: Apache-2.0
//! Blobs packed otherwise.
use std::io::Read;

use bytes::Bytes;
use content::{Expected, Store};
use diff::{Packing, Repacked};
use tokio::{sync::mpsc, task};
use types::{Context, Descriptor, Digest, Error, Kind, Labels, Result, labels::UNCOMPRESSED};

use crate::labels;

/// How many pieces of a blob may wait for the store.
const WAITING: usize = 4;
/// How long another who packs the same is waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_mins(1);

/// Packs a blob as `packing` says into a blob of its own, which is labelled with what it inflates to.
/// The descriptor has no media type.
pub async fn repack(store: &dyn Store, digest: &Digest, packing: Packing) -> Result<Descriptor> {
    let reader = store.reader(digest).await?.into_sync();
    let reference = format!("convert-{packing:?}-{digest}").to_lowercase();
    Ok(pack(store, &reference, reader, packing).await?.0)
}

/// Packs what `reader` yields as `packing` says, by way of the ingest `reference`. Returns the blob,
/// without a media type, and the digest of what it inflates to, which is its label too.
pub(super) async fn pack(
    store: &dyn Store,
    reference: &str,
    reader: impl Read + Send + 'static,
    packing: Packing,
) -> Result<(Descriptor, Digest)> {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(WAITING);
    let gone = |_| Error::cancelled("convert");
    let packing_up = task::spawn_blocking(move || {
        diff::repack(reader, packing, &mut |piece| sender.blocking_send(piece).map_err(gone))
    });
    let ingest = content::blob::open(store, reference, Expected::default(), PATIENCE).await;
    let mut ingest = ingest.context(|| "failed to open writer")?;
    ingest.truncate(0).await?;
    let mut written = Ok(());
    while let (true, Some(piece)) = (written.is_ok(), receiver.recv().await) {
        written = ingest.write(piece).await;
    }
    drop(receiver);
    let made = packing_up.await.map_err(|error| Error::caused(Kind::Internal, "convert", error))?;
    let outcome = match written.and(made) {
        Ok(made) => commit(store, &mut *ingest, made).await,
        Err(error) => Err(error),
    };
    drop(ingest);
    if outcome.is_err() {
        // The first error is the one that tells; what stays is collected.
        drop(store.abort(reference).await);
    }
    outcome
}

async fn commit(
    store: &dyn Store,
    ingest: &mut dyn content::Ingest,
    made: Repacked,
) -> Result<(Descriptor, Digest)> {
    let Repacked { diff_id, digest, size } = made;
    let labels = Labels::from([(UNCOMPRESSED.to_owned(), diff_id.to_string())]);
    let expected = Expected { size: Some(size), digest: Some(digest.clone()) };
    match ingest.commit(expected, labels.clone()).await {
        Err(error) if error.is_already_exists() => labels::set(store, &digest, labels).await?,
        committed => drop(committed.context(|| "failed to commit")?),
    }
    Ok((Descriptor::new("", digest, size), diff_id))
}
