// SPDX-License-Identifier: Apache-2.0
//! What goes, and what has to stay.
use types::Kind as ErrorKind;

use super::{
    Claim, Suite, list, refused,
    tree::{listing, write},
};

pub(super) const CLAIMS: &[Claim] = list![
    a_chain_is_removed_from_its_end,
    siblings_outlive_each_other,
    cleaning_up_spares_what_is_in_use,
    a_commit_that_is_refused_leaves_the_snapshot_as_it_was,
    a_snapshot_can_be_removed_while_it_is_mounted,
];

async fn a_chain_is_removed_from_its_end(suite: Suite<'_>) {
    suite.layer("a", None, |root| write(root, "a", "a")).await;
    suite.layer("b", Some("a"), |root| write(root, "b", "b")).await;
    suite.layer("c", Some("b"), |root| write(root, "c", "c")).await;
    suite.view("view", Some("c")).await;
    for key in ["a", "b", "c"] {
        refused(suite.snapshots.remove(key).await, ErrorKind::FailedPrecondition);
    }
    for key in ["view", "c", "b", "a"] {
        suite.remove(key).await;
        refused(suite.snapshots.stat(key).await, ErrorKind::NotFound);
    }
    assert_eq!(suite.walk(&[]).await, []);
}

async fn siblings_outlive_each_other(suite: Suite<'_>) {
    suite.layer("image", None, |root| write(root, "f", "image")).await;
    let one = suite.prepare("one", Some("image")).await;
    let two = suite.prepare("two", Some("image")).await;
    suite.within(&one, |root| write(root, "f", "one"));
    suite.within(&two, |root| write(root, "f", "two"));
    let before = suite.within(&two, listing);
    suite.remove("one").await;
    suite.snapshots.cleanup().await.expect("it is cleaned up");
    assert_eq!(suite.within(&two, listing), before);
    suite.commit("two-committed", "two").await;
    let view = suite.view("view", Some("two-committed")).await;
    assert_eq!(suite.within(&view, listing), before);
}

async fn cleaning_up_spares_what_is_in_use(suite: Suite<'_>) {
    suite.layer("base", None, |root| write(root, "f", "base")).await;
    let active = suite.prepare("active", Some("base")).await;
    suite.within(&active, |root| write(root, "g", "active"));
    let view = suite.view("view", Some("base")).await;
    let before = (suite.within(&active, listing), suite.within(&view, listing));
    for _ in 0..2 {
        suite.snapshots.cleanup().await.expect("it is cleaned up");
    }
    assert_eq!((suite.within(&active, listing), suite.within(&view, listing)), before);
}

async fn a_commit_that_is_refused_leaves_the_snapshot_as_it_was(suite: Suite<'_>) {
    suite.base("taken").await;
    let mounts = suite.prepare("key", None).await;
    suite.within(&mounts, |root| write(root, "f", "first"));
    let error = suite.snapshots.commit("taken", "key", super::committed()).await;
    refused(error, ErrorKind::AlreadyExists);
    assert_eq!(suite.snapshots.mounts("key").await.expect("it has mounts"), mounts);
    suite.within(&mounts, |root| write(root, "f", "second"));
    let written = suite.within(&mounts, listing);
    suite.commit("free", "key").await;
    let view = suite.view("view", Some("free")).await;
    assert_eq!(suite.within(&view, listing), written);
}

/// Whoever has it mounted goes on until they unmount, and nothing else is in the way.
async fn a_snapshot_can_be_removed_while_it_is_mounted(suite: Suite<'_>) {
    suite.layer("base", None, |root| write(root, "f", "base")).await;
    let mounts = suite.prepare("key", Some("base")).await;
    let mounted = (suite.manner.mount)(&mounts, suite.work).expect("it is mounted");
    suite.remove("key").await;
    mounted.close().expect("it is unmounted");
    suite.snapshots.cleanup().await.expect("it is cleaned up");
    suite.prepare("key", Some("base")).await;
}
