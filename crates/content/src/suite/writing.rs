// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, SystemTime};

use types::{Digest, Kind};

use super::{Claim, content, expecting, list, open, open_new, refused};
use crate::{Expected, Status, Store, blob};

pub(super) const CLAIMS: &[Claim] = list![
    a_blob_can_be_read_once_it_is_committed,
    what_is_expected_is_all_optional,
    a_status_tells_how_far_a_writer_is,
    an_ingest_is_open_once,
    many_ingests_are_open_at_once,
    a_dropped_writer_leaves_its_ingest_to_be_resumed,
    a_resumed_ingest_can_be_begun_anew,
    what_was_written_is_read_back_where_it_can_be,
    a_writer_can_go_back,
    writes_of_any_size_add_up,
    an_aborted_ingest_is_gone,
    a_reference_is_needed,
    a_reference_may_be_any_text,
];

async fn a_blob_can_be_read_once_it_is_committed(store: &dyn Store) {
    let (data, digest) = content(256);
    let mut writer = open_new(store, "c1").await;
    writer.write(data.clone()).await.expect("it is written");
    refused(store.reader(&digest).await.map(drop), Kind::NotFound);
    refused(store.info(&digest).await, Kind::NotFound);
    let before = SystemTime::now();
    let committed = writer.commit(Expected::default(), Default::default()).await;
    assert_eq!(committed.expect("it commits"), digest);
    assert_eq!(writer.digest(), Some(digest.clone()));
    let info = store.info(&digest).await.expect("it is there");
    assert_eq!((info.digest, info.size), (digest.clone(), 256));
    assert!(about(info.created_at, before, SystemTime::now()));
    assert!(about(info.updated_at, before, SystemTime::now()));
    assert_eq!(blob::read(store, &digest, 256).await.expect("it is read"), data);
    refused(store.status("c1").await, Kind::NotFound);
}

async fn what_is_expected_is_all_optional(store: &dyn Store) {
    for (number, (size, named)) in
        [(None, false), (Some(256), false), (None, true), (Some(256), true), (Some(0), true)]
            .into_iter()
            .enumerate()
    {
        let (data, digest) = content(256);
        let expected = Expected { size, digest: named.then(|| digest.clone()) };
        let reference = format!("c{number}");
        let mut writer = open(store, &reference, expected.clone()).await.expect("it opens");
        for chunk in data.chunks(32) {
            writer.write(data.slice_ref(chunk)).await.expect("it is written");
        }
        let committed = writer.commit(expected, Default::default()).await.expect("it commits");
        assert_eq!(committed, digest);
    }
}

async fn a_status_tells_how_far_a_writer_is(store: &dyn Store) {
    let (data, digest) = content(256);
    let before = SystemTime::now();
    let mut writer = open(store, "c1", expecting(&data)).await.expect("it opens");
    let started = SystemTime::now();
    for (from, to) in [(0, 64), (64, 192), (192, 256)] {
        let status = writer.status();
        check_status(&status, from, 256);
        assert!(about(status.started_at, before, started));
        writer.write(data.slice(from as usize..to)).await.expect("it is written");
        let status = store.status("c1").await.expect("it is there");
        check_status(&status, to as u64, 256);
        assert!(about(status.started_at, before, started));
        assert!(about(status.updated_at, before, SystemTime::now()));
        if let Some(so_far) = writer.digest() {
            assert_eq!(so_far, Digest::of(&data[..to]));
        }
    }
    writer.commit(Expected::default(), Default::default()).await.expect("it commits");
    assert_eq!(store.info(&digest).await.expect("it is there").size, 256);
}

fn check_status(status: &Status, offset: u64, total: u64) {
    assert_eq!(status.reference, "c1");
    assert_eq!((status.offset, status.total), (offset, total));
}

/// Whether `time` is in between, give or take what file systems and the wire round off.
fn about(time: SystemTime, from: SystemTime, to: SystemTime) -> bool {
    let slack = Duration::from_millis(20);
    from - slack <= time && time <= to + slack
}

async fn an_ingest_is_open_once(store: &dyn Store) {
    let writer = open_new(store, "c1").await;
    let error = refused(store.writer("c1", Expected::default()).await.map(drop), Kind::Unavailable);
    assert!(error.to_string().contains("c1"), "{error}");
    drop(writer);
    drop(open_new(store, "c1").await);
}

async fn many_ingests_are_open_at_once(store: &dyn Store) {
    let (one, two) = (content(1000), content(1000));
    let mut first = open_new(store, "one").await;
    let mut second = open_new(store, "two").await;
    for (left, right) in one.0.chunks(100).zip(two.0.chunks(100)) {
        first.write(one.0.slice_ref(left)).await.expect("it is written");
        second.write(two.0.slice_ref(right)).await.expect("it is written");
    }
    let committed = second.commit(Expected::default(), Default::default()).await;
    assert_eq!(committed.expect("it commits"), two.1);
    let committed = first.commit(Expected::default(), Default::default()).await;
    assert_eq!(committed.expect("it commits"), one.1);
}

async fn a_dropped_writer_leaves_its_ingest_to_be_resumed(store: &dyn Store) {
    let (data, digest) = content(256);
    let mut writer = open(store, "cb", expecting(&data)).await.expect("it opens");
    writer.write(data.slice(..128)).await.expect("it is written");
    let left = writer.status();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(writer);

    let mut writer = open(store, "cb", expecting(&data)).await.expect("it opens again");
    let found = writer.status();
    assert_eq!((found.offset, found.total), (128, 256));
    assert!(about(found.started_at, left.started_at, left.started_at));
    assert!(
        about(found.updated_at, left.updated_at, left.updated_at),
        "that is when it was written"
    );
    if let Some(so_far) = writer.digest() {
        assert_eq!(so_far, Digest::of(&data[..128]));
    }
    writer.write(data.slice(128..)).await.expect("it is written");
    let committed = writer.commit(expecting(&data), Default::default()).await;
    assert_eq!(committed.expect("it commits"), digest);
    assert_eq!(blob::read(store, &digest, 256).await.expect("it is read"), data);
}

async fn a_resumed_ingest_can_be_begun_anew(store: &dyn Store) {
    let (data, digest) = content(256);
    let mut writer = open_new(store, "cb").await;
    writer.write(content(200).0).await.expect("it is written");
    drop(writer);
    let mut writer = open_new(store, "cb").await;
    writer.truncate(0).await.expect("it goes back");
    assert_eq!(writer.status().offset, 0);
    writer.write(data.clone()).await.expect("it is written");
    let committed = writer.commit(expecting(&data), Default::default()).await;
    assert_eq!(committed.expect("it commits"), digest);
}

async fn what_was_written_is_read_back_where_it_can_be(store: &dyn Store) {
    let (data, digest) = content(1 << 20);
    let (early, late) = (data.slice(..700_000), data.slice(700_000..));
    let mut writer = open_new(store, "cb").await;
    writer.write(early.clone()).await.expect("it is written");
    drop(writer);
    let mut writer = open(store, "cb", expecting(&data)).await.expect("it opens again");
    let before = writer.written(500_000, 1 << 20).await.expect("it answers");
    writer.write(late.clone()).await.expect("it is written");
    let across = writer.written(690_000, 20_000).await.expect("it answers");
    let past = writer.written(1 << 20, 10).await.expect("it answers");
    assert_eq!(before.is_some(), across.is_some(), "it can or it cannot");
    assert!(before.is_none_or(|read| read == data.slice(500_000..700_000)));
    assert!(across.is_none_or(|read| read == data.slice(690_000..710_000)));
    assert!(past.is_none_or(|read| read.is_empty()));
    let committed = writer.commit(expecting(&data), Default::default()).await;
    assert_eq!(committed.expect("it commits"), digest);
}

/// To the start: that is what the wire can say.
async fn a_writer_can_go_back(store: &dyn Store) {
    let (data, digest) = content(3 << 20);
    let mut writer = open_new(store, "back").await;
    for chunk in data.chunks(100_000) {
        writer.write(data.slice_ref(chunk)).await.expect("it is written");
    }
    writer.truncate(0).await.expect("it goes back");
    writer.write(data.slice(..10)).await.expect("it is written");
    assert_eq!(writer.status().offset, 10);
    writer.write(data.slice(10..)).await.expect("it is written");
    let committed = writer.commit(expecting(&data), Default::default()).await;
    assert_eq!(committed.expect("it commits"), digest);
}

async fn writes_of_any_size_add_up(store: &dyn Store) {
    let (data, digest) = content(5_000_000);
    let mut writer = open(store, "big", expecting(&data)).await.expect("it opens");
    let mut at = 0;
    for size in (0..).map(|n: usize| [1, 0, 4096, 70_000, 262_144, 1_500_000][n % 6]) {
        let end = data.len().min(at + size);
        writer.write(data.slice(at..end)).await.expect("it is written");
        at = end;
        assert_eq!(writer.status().offset, at as u64);
        if at == data.len() {
            break;
        }
    }
    let committed = writer.commit(Expected::default(), Default::default()).await;
    assert_eq!(committed.expect("it commits"), digest);
    assert!(blob::read(store, &digest, 5_000_000).await.expect("it is read") == data);
}

async fn an_aborted_ingest_is_gone(store: &dyn Store) {
    let mut writer = open_new(store, "gone").await;
    writer.write(content(100).0).await.expect("it is written");
    drop(writer);
    // Until the writer has let go it may still write its last bytes down.
    drop(open_new(store, "gone").await);
    store.abort("gone").await.expect("it is aborted");
    refused(store.status("gone").await, Kind::NotFound);
    refused(store.abort("gone").await, Kind::NotFound);
    let writer = open_new(store, "gone").await;
    assert_eq!(writer.status().offset, 0);
}

async fn a_reference_is_needed(store: &dyn Store) {
    refused(store.writer("", Expected::default()).await.map(drop), Kind::InvalidArgument);
}

async fn a_reference_may_be_any_text(store: &dyn Store) {
    let long = "layer-".repeat(200);
    for reference in ["../../etc/passwd", "a/b c:d@e", "\u{fc}\n", &long] {
        let (data, digest) = content(64);
        let mut writer = open_new(store, reference).await;
        writer.write(data).await.expect("it is written");
        assert_eq!(store.status(reference).await.expect("it is there").reference, reference);
        let committed = writer.commit(Expected::default(), Default::default()).await;
        assert_eq!(committed.expect("it commits"), digest);
    }
}
