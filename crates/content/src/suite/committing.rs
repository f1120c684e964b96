// SPDX-License-Identifier: Apache-2.0
use bytes::Bytes;
use futures_util::future;
use types::{Algorithm, Digest, Hasher, Kind, Labels};

use super::{Claim, content, expecting, labels, list, open, open_new, refused, store_blob};
use crate::{Expected, Store, blob};

pub(super) const CLAIMS: &[Claim] = list![
    a_blob_is_committed_once,
    a_writer_of_a_known_blob_is_refused,
    a_wrong_size_is_refused_and_the_ingest_stays,
    a_wrong_digest_is_refused_and_the_ingest_stays,
    an_empty_blob_is_a_blob,
    a_blob_may_be_named_by_sha512,
    a_closed_writer_does_nothing_more,
    labels_are_given_at_commit,
    commits_of_one_blob_at_the_same_time_all_end,
];

async fn a_blob_is_committed_once(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, Labels::new()).await;
    for expected in [expecting(&data), Expected::default()] {
        let mut writer = open_new(store, "again").await;
        writer.write(data.clone()).await.expect("it is written");
        let error = writer.commit(expected, Labels::new()).await;
        let error = refused(error, Kind::AlreadyExists);
        assert!(error.to_string().contains(digest.as_str()), "{error}");
        drop(writer);
        drop(open_new(store, "again").await);
        assert_eq!(store.status("again").await.expect("it is new").offset, 0);
    }
}

async fn a_writer_of_a_known_blob_is_refused(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, Labels::new()).await;
    let refusal = store.writer("known", expecting(&data)).await.map(drop);
    let error = refused(refusal, Kind::AlreadyExists);
    assert!(error.to_string().contains(digest.as_str()), "{error}");
}

async fn a_wrong_size_is_refused_and_the_ingest_stays(store: &dyn Store) {
    let (data, digest) = content(256);
    let mut writer = open_new(store, "size").await;
    writer.write(data.clone()).await.expect("it is written");
    let wrong = Expected { size: Some(255), digest: None };
    let error = refused(writer.commit(wrong, Labels::new()).await, Kind::FailedPrecondition);
    // The words are the store's own: Go's local store and its metadata have different ones.
    let text = error.to_string();
    assert!(text.contains("256") && text.contains("255"), "{text}");
    drop(writer);
    commit_the_rest(store, "size", &digest).await;
}

async fn a_wrong_digest_is_refused_and_the_ingest_stays(store: &dyn Store) {
    let (data, digest) = content(256);
    let wrong = content(256).1;
    let mut writer = open_new(store, "digest").await;
    writer.write(data).await.expect("it is written");
    let expected = Expected { size: Some(256), digest: Some(wrong.clone()) };
    let error = refused(writer.commit(expected, Labels::new()).await, Kind::FailedPrecondition);
    let text = format!("unexpected commit digest {digest}, expected {wrong}");
    assert!(error.to_string().contains(&text), "{error}");
    refused(store.info(&wrong).await, Kind::NotFound);
    drop(writer);
    commit_the_rest(store, "digest", &digest).await;
}

async fn commit_the_rest(store: &dyn Store, reference: &str, digest: &Digest) {
    refused(store.info(digest).await, Kind::NotFound);
    let mut writer = open_new(store, reference).await;
    assert_eq!(writer.status().offset, 256);
    let committed = writer.commit(Expected::default(), Labels::new()).await;
    assert_eq!(committed.expect("it commits"), *digest);
}

async fn an_empty_blob_is_a_blob(store: &dyn Store) {
    let mut writer = open_new(store, "empty").await;
    let digest = writer.commit(Expected::default(), Labels::new()).await.expect("it commits");
    assert_eq!(digest, Digest::of(""));
    assert_eq!(store.info(&digest).await.expect("it is there").size, 0);
    assert_eq!(blob::read(store, &digest, 0).await.expect("it is read"), Bytes::new());
}

async fn a_blob_may_be_named_by_sha512(store: &dyn Store) {
    let (data, _) = content(1000);
    let mut hasher = Hasher::new(Algorithm::Sha512);
    hasher.update(&data);
    let digest = hasher.finish();
    let expected = Expected { size: None, digest: Some(digest.clone()) };
    let mut writer = open(store, "long", expected.clone()).await.expect("it opens");
    writer.write(data.clone()).await.expect("it is written");
    let committed = writer.commit(expected, Labels::new()).await.expect("it commits");
    assert_eq!(committed, digest);
    assert_eq!(blob::read(store, &digest, 1000).await.expect("it is read"), data);
    let found = super::walk(store, &[]).await;
    assert!(found.iter().any(|info| info.digest == digest));
}

async fn a_closed_writer_does_nothing_more(store: &dyn Store) {
    let (data, _) = content(256);
    let mut writer = open_new(store, "closed").await;
    writer.write(data.clone()).await.expect("it is written");
    writer.commit(Expected::default(), Labels::new()).await.expect("it commits");
    refused(writer.commit(Expected::default(), Labels::new()).await, Kind::FailedPrecondition);
    refused(writer.write(data).await, Kind::FailedPrecondition);
}

async fn labels_are_given_at_commit(store: &dyn Store) {
    let given = labels([("containerd.io/gc.root", "now"), ("a.b", "c")]);
    let (data, digest) = content(256);
    store_blob(store, &data, given.clone()).await;
    let found = store.info(&digest).await.expect("it is there").labels;
    for (key, value) in &given {
        assert_eq!(found.get(key), Some(value), "{key}");
    }
}

async fn commits_of_one_blob_at_the_same_time_all_end(store: &dyn Store) {
    let (data, digest) = content(300_000);
    let commits = (0..8).map(|number| {
        let data = data.clone();
        async move {
            let mut writer = open_new(store, &format!("same-{number}")).await;
            writer.write(data).await.expect("it is written");
            writer.commit(Expected::default(), Labels::new()).await
        }
    });
    let outcomes = future::join_all(commits).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), Kind::AlreadyExists, "{error}");
    }
    assert!(blob::read(store, &digest, 300_000).await.expect("it is read") == data);
}
