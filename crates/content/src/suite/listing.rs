// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeSet;

use types::{Digest, FieldMask, Filters, Kind, Labels};

use super::{Claim, content, labels, list, open_new, refused, store_blob, walk};
use crate::{Info, Store};

pub(super) const CLAIMS: &[Claim] = list![
    a_walk_meets_every_blob_once,
    a_walk_can_be_filtered,
    statuses_can_be_filtered,
    labels_are_replaced_all_or_one_by_one,
    an_empty_value_removes_a_label,
    nothing_but_labels_can_be_updated,
];

async fn a_walk_meets_every_blob_once(store: &dyn Store) {
    assert_eq!(walk(store, &[]).await, []);
    let mut want = BTreeSet::new();
    for _ in 0..40 {
        want.insert(store_blob(store, &content(16).0, Labels::new()).await);
    }
    let infos = walk(store, &[]).await;
    assert_eq!(infos.len(), 40);
    assert!(infos.iter().all(|info| info.size == 16));
    assert_eq!(infos.into_iter().map(|info| info.digest).collect::<BTreeSet<_>>(), want);
}

async fn a_walk_can_be_filtered(store: &dyn Store) {
    let first = store_blob(store, &content(16).0, labels([("kind", "a"), ("x.y/z", "1")])).await;
    let second = store_blob(store, &content(16).0, labels([("kind", "b")])).await;
    let third = store_blob(store, &content(16).0, labels([("kind", "a")])).await;
    let all = [&first, &second, &third];
    check_walk(store, &["labels.kind==a"], &[&first, &third]).await;
    check_walk(store, &["labels.kind==b", "labels.\"x.y/z\"==1"], &[&first, &second]).await;
    check_walk(store, &["labels.kind==a,labels.\"x.y/z\""], &[&first]).await;
    check_walk(store, &["labels.kind~=^[ab]$"], &all).await;
    check_walk(store, &[&format!("digest=={second}")], &[&second]).await;
    check_walk(store, &["labels.kind==c"], &[]).await;
}

async fn check_walk(store: &dyn Store, filters: &[&str], want: &[&Digest]) {
    let found: BTreeSet<_> = walk(store, filters).await.into_iter().map(|i| i.digest).collect();
    let want: BTreeSet<_> = want.iter().map(|&digest| digest.clone()).collect();
    assert_eq!(found, want, "{filters:?}");
}

async fn statuses_can_be_filtered(store: &dyn Store) {
    let mut writers = Vec::new();
    for reference in ["layer-1", "layer-2", "config-1"] {
        let mut writer = open_new(store, reference).await;
        writer.write(content(24).0).await.expect("it is written");
        writers.push(writer);
    }
    check_statuses(store, &[], &["config-1", "layer-1", "layer-2"]).await;
    check_statuses(store, &["ref~=^layer-"], &["layer-1", "layer-2"]).await;
    check_statuses(store, &["ref==config-1", "ref==layer-2"], &["config-1", "layer-2"]).await;
    check_statuses(store, &["ref==nothing"], &[]).await;
    drop(writers);
    check_statuses(store, &[], &["config-1", "layer-1", "layer-2"]).await;
}

async fn check_statuses(store: &dyn Store, filters: &[&str], want: &[&str]) {
    let parsed = Filters::parse(filters).expect("the filters parse");
    let mut found = store.statuses(&parsed).await.expect("they are listed");
    found.sort_by(|a, b| a.reference.cmp(&b.reference));
    assert!(found.iter().all(|status| status.offset == 24));
    let found: Vec<_> = found.iter().map(|status| status.reference.as_str()).collect();
    assert_eq!(found, want, "{filters:?}");
}

async fn labels_are_replaced_all_or_one_by_one(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, labels([("k1", "v1"), ("k2", "v2")])).await;
    let before = store.info(&digest).await.expect("it is there");

    let all = labels([("k1", "v1"), ("k3", "v3")]);
    let updated = update(store, &digest, &all, &["labels"]).await;
    assert_eq!(updated.labels, all);
    assert_eq!((updated.size, updated.created_at), (256, before.created_at));
    assert!(updated.updated_at >= before.updated_at);

    let some = labels([("k1", "new"), ("k3", "not named"), ("k.4", "v4")]);
    let updated = update(store, &digest, &some, &["labels.k1", "labels.k.4"]).await;
    let want = labels([("k1", "new"), ("k3", "v3"), ("k.4", "v4")]);
    assert_eq!(updated.labels, want);
    assert_eq!(store.info(&digest).await.expect("it is there").labels, want);

    let updated = update(store, &digest, &all, &[]).await;
    assert_eq!(updated.labels, all);
}

async fn an_empty_value_removes_a_label(store: &dyn Store) {
    let (data, digest) = content(256);
    store_blob(store, &data, labels([("k1", "v1"), ("k2", "v2"), ("k3", "v3")])).await;
    let updated = update(store, &digest, &labels([("k1", "")]), &["labels.k1", "labels.k2"]).await;
    assert_eq!(updated.labels, labels([("k3", "v3")]));
}

async fn update(store: &dyn Store, digest: &Digest, labels: &Labels, paths: &[&str]) -> Info {
    let mask = FieldMask::new(paths.iter().copied());
    store.update(asked(digest, labels), &mask).await.expect("it is updated")
}

fn asked(digest: &Digest, labels: &Labels) -> Info {
    let never = std::time::SystemTime::UNIX_EPOCH;
    let digest = digest.clone();
    Info { digest, size: 0, created_at: never, updated_at: never, labels: labels.clone() }
}

async fn nothing_but_labels_can_be_updated(store: &dyn Store) {
    let (data, digest) = content(256);
    let info = asked(&digest, &Labels::new());
    refused(store.update(info.clone(), &FieldMask::default()).await, Kind::NotFound);
    store_blob(store, &data, Labels::new()).await;
    for path in ["size", "digest", "created_at", "label"] {
        refused(store.update(info.clone(), &FieldMask::new([path])).await, Kind::InvalidArgument);
    }
    let long = asked(&digest, &labels([("k", &"v".repeat(4096))]));
    refused(store.update(long, &FieldMask::default()).await, Kind::InvalidArgument);
}
