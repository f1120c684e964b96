// SPDX-License-Identifier: Apache-2.0
use std::io::Read;

use bytes::Bytes;
use types::{Kind, Labels};

use super::{Claim, content, list, refused, store_blob};
use crate::{Store, blob};

pub(super) const CLAIMS: &[Claim] = list![
    what_is_not_there_is_not_found,
    any_part_can_be_read,
    a_piece_is_read_as_by_a_reader,
    a_piece_of_what_was_deleted_is_not_found,
    a_blob_can_be_read_by_synchronous_code,
    a_deleted_blob_is_gone,
    an_open_reader_survives_the_deletion,
    a_blob_too_large_for_memory_is_refused,
];

async fn what_is_not_there_is_not_found(store: &dyn Store) {
    let (_, digest) = content(8);
    refused(store.info(&digest).await, Kind::NotFound);
    refused(store.reader(&digest).await.map(drop), Kind::NotFound);
    let error = refused(store.delete(&digest).await, Kind::NotFound);
    assert!(error.to_string().contains(digest.as_str()), "{error}");
    refused(store.status("nothing").await, Kind::NotFound);
    refused(store.abort("nothing").await, Kind::NotFound);
}

async fn any_part_can_be_read(store: &dyn Store) {
    let (data, digest) = content(100_000);
    store_blob(store, &data, Labels::new()).await;
    let reader = store.reader(&digest).await.expect("it opens");
    assert_eq!(reader.size(), 100_000);
    for (offset, len) in [(0, 10), (99_990, 10), (5, 70_000), (0, 100_000), (50_000, 0)] {
        let part = reader.read_at(offset, len).await.expect("it is read");
        let start = offset as usize;
        assert!(part == data.slice(start..start + len), "{len} from {offset}");
    }
    assert_eq!(reader.read_at(99_990, 1000).await.expect("it is read"), data.slice(99_990..));
    for past in [100_000, 100_001, u64::MAX] {
        assert_eq!(reader.read_at(past, 10).await.expect("it is the end"), Bytes::new());
    }
}

async fn a_piece_is_read_as_by_a_reader(store: &dyn Store) {
    let (data, digest) = content(100_000);
    store_blob(store, &data, Labels::new()).await;
    let reader = store.reader(&digest).await.expect("it opens");
    let past = [(99_990, 1000), (100_000, 10), (100_001, 10), (u64::MAX, 10)];
    for (offset, len) in past.into_iter().chain([(0, 10), (5, 70_000), (0, 100_000), (9, 0)]) {
        let piece = store.piece(&digest, offset, len).await.expect("it is read");
        let read = reader.read_at(offset, len).await.expect("it is read");
        assert!(piece.data == read, "{len} from {offset}");
        assert_eq!(piece.size, 100_000);
    }
}

/// Whoever read a piece before is not given another from memory.
async fn a_piece_of_what_was_deleted_is_not_found(store: &dyn Store) {
    let (data, digest) = content(256);
    refused(store.piece(&digest, 0, 10).await, Kind::NotFound);
    for _ in 0..2 {
        store_blob(store, &data, Labels::new()).await;
        for _ in 0..2 {
            let piece = store.piece(&digest, 6, 10).await.expect("it is read");
            assert_eq!(piece.data, data.slice(6..16));
        }
        store.delete(&digest).await.expect("it is deleted");
        refused(store.piece(&digest, 6, 10).await, Kind::NotFound);
    }
}

async fn a_blob_can_be_read_by_synchronous_code(store: &dyn Store) {
    let (data, digest) = content(3_000_000);
    store_blob(store, &data, Labels::new()).await;
    let reader = store.reader(&digest).await.expect("it opens");
    reader.read_at(1000, 1000).await.expect("it is read");
    let mut reader = reader.into_sync();
    let read = tokio::task::spawn_blocking(move || {
        let mut read = Vec::new();
        reader.read_to_end(&mut read).map(|_| read)
    });
    assert!(read.await.expect("it ends").expect("it is read") == data);
}

async fn a_deleted_blob_is_gone(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, super::labels([("a", "b")])).await;
    store.delete(&digest).await.expect("it is deleted");
    refused(store.info(&digest).await, Kind::NotFound);
    refused(store.delete(&digest).await, Kind::NotFound);
    assert!(super::walk(store, &[]).await.iter().all(|info| info.digest != digest));
    store_blob(store, &data, Labels::new()).await;
    let info = store.info(&digest).await.expect("it is back");
    assert_eq!(info.labels.get("a"), None, "labels of the old blob are gone");
}

async fn an_open_reader_survives_the_deletion(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, Labels::new()).await;
    let reader = store.reader(&digest).await.expect("it opens");
    let first = reader.read_at(0, 128).await.expect("it is read");
    assert_eq!(first, data.slice(..128));
}

async fn a_blob_too_large_for_memory_is_refused(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, Labels::new()).await;
    refused(blob::read(store, &digest, 255).await, Kind::OutOfRange);
    assert_eq!(blob::read(store, &digest, 256).await.expect("it is read"), data);
}
