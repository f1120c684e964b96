// SPDX-License-Identifier: Apache-2.0
use std::time::SystemTime;

use types::{Kind as ErrorKind, Labels};

use super::{Claim, Suite, committed, kept, kept_with, list, refused};
use crate::{Capability, Commit, Kind};

pub(super) const CLAIMS: &[Claim] = list![
    a_snapshot_lives_from_prepare_to_commit,
    parents_are_remembered,
    a_key_is_used_once,
    a_name_is_committed_once,
    what_is_not_there_is_not_found,
    a_parent_has_to_be_committed,
    an_empty_key_is_refused,
    only_what_is_active_is_committed,
    only_what_has_no_children_is_removed,
    a_removed_key_is_free_again,
    mounts_can_be_asked_for_again,
    labels_are_not_inherited,
    a_parent_can_be_chosen_at_commit,
    a_parent_cannot_be_changed_at_commit,
];

async fn a_snapshot_lives_from_prepare_to_commit(suite: Suite<'_>) {
    let before = SystemTime::now();
    suite.prepare("key", None).await;
    let info = suite.stat("key").await;
    assert_eq!((info.kind, info.name.as_str(), info.parent), (Kind::Active, "key", None));
    assert_eq!(info.created_at, info.updated_at);
    assert!(before <= info.created_at && info.created_at <= SystemTime::now());

    let committing = SystemTime::now();
    suite.commit("name", "key").await;
    let info = suite.stat("name").await;
    assert_eq!((info.kind, info.name.as_str(), info.parent), (Kind::Committed, "name", None));
    assert!(committing <= info.created_at && info.created_at <= SystemTime::now());
    refused(suite.snapshots.stat("key").await, ErrorKind::NotFound);

    suite.view("view", Some("name")).await;
    let info = suite.stat("view").await;
    assert_eq!((info.kind, info.parent.as_deref()), (Kind::View, Some("name")));
}

/// A <- B <- C: each knows its own parent and nothing further.
async fn parents_are_remembered(suite: Suite<'_>) {
    suite.base("a").await;
    suite.layer("b", Some("a"), |_| ()).await;
    suite.prepare("c", Some("b")).await;
    assert_eq!(suite.stat("a").await.parent, None);
    assert_eq!(suite.stat("b").await.parent.as_deref(), Some("a"));
    assert_eq!(suite.stat("c").await.parent.as_deref(), Some("b"));
}

async fn a_key_is_used_once(suite: Suite<'_>) {
    let snapshots = suite.snapshots;
    suite.base("base").await;
    suite.prepare("active", Some("base")).await;
    suite.view("view", Some("base")).await;
    for key in ["active", "view", "base"] {
        let error = snapshots.prepare(key, Some("base"), kept()).await;
        let error = refused(error, ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(key), "{error}");
        refused(snapshots.view(key, Some("base"), kept()).await, ErrorKind::AlreadyExists);
        refused(snapshots.prepare(key, None, kept()).await, ErrorKind::AlreadyExists);
    }
}

async fn a_name_is_committed_once(suite: Suite<'_>) {
    suite.base("base").await;
    suite.prepare("one", None).await;
    suite.prepare("two", None).await;
    for name in ["base", "two", "one"] {
        let error = suite.snapshots.commit(name, "one", committed()).await;
        let error = refused(error, ErrorKind::AlreadyExists);
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(suite.stat("one").await.kind, Kind::Active);
    suite.commit("three", "one").await;
}

async fn what_is_not_there_is_not_found(suite: Suite<'_>) {
    let snapshots = suite.snapshots;
    refused(snapshots.stat("no").await, ErrorKind::NotFound);
    refused(snapshots.usage("no").await, ErrorKind::NotFound);
    refused(snapshots.mounts("no").await, ErrorKind::NotFound);
    refused(snapshots.remove("no").await, ErrorKind::NotFound);
    refused(snapshots.commit("name", "no", committed()).await, ErrorKind::NotFound);
    refused(snapshots.prepare("key", Some("no"), kept()).await, ErrorKind::NotFound);
    refused(snapshots.view("key", Some("no"), kept()).await, ErrorKind::NotFound);
    refused(snapshots.stat("key").await, ErrorKind::NotFound);
}

async fn a_parent_has_to_be_committed(suite: Suite<'_>) {
    let snapshots = suite.snapshots;
    suite.prepare("active", None).await;
    suite.view("view", None).await;
    for parent in ["active", "view"] {
        let error = snapshots.prepare("key", Some(parent), kept()).await;
        refused(error, ErrorKind::InvalidArgument);
        let error = snapshots.view("key", Some(parent), kept()).await;
        refused(error, ErrorKind::InvalidArgument);
    }
}

async fn an_empty_key_is_refused(suite: Suite<'_>) {
    let snapshots = suite.snapshots;
    refused(snapshots.prepare("", None, kept()).await, ErrorKind::InvalidArgument);
    refused(snapshots.view("", None, kept()).await, ErrorKind::InvalidArgument);
    suite.prepare("key", None).await;
    refused(snapshots.commit("", "key", committed()).await, ErrorKind::InvalidArgument);
}

async fn only_what_is_active_is_committed(suite: Suite<'_>) {
    suite.base("base").await;
    suite.view("view", Some("base")).await;
    for key in ["base", "view"] {
        let error = suite.snapshots.commit("name", key, committed()).await;
        refused(error, ErrorKind::FailedPrecondition);
    }
}

async fn only_what_has_no_children_is_removed(suite: Suite<'_>) {
    suite.base("a").await;
    suite.layer("b", Some("a"), |_| ()).await;
    suite.prepare("c", Some("b")).await;
    suite.view("d", Some("b")).await;
    for key in ["a", "b"] {
        let error = refused(suite.snapshots.remove(key).await, ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains("remove"), "{error}");
    }
    suite.remove("c").await;
    refused(suite.snapshots.remove("b").await, ErrorKind::FailedPrecondition);
    for key in ["d", "b", "a"] {
        suite.remove(key).await;
        refused(suite.snapshots.stat(key).await, ErrorKind::NotFound);
    }
    suite.snapshots.cleanup().await.expect("the rest is cleaned up");
}

async fn a_removed_key_is_free_again(suite: Suite<'_>) {
    suite.base("base").await;
    suite.prepare("reuse", Some("base")).await;
    suite.remove("reuse").await;
    suite.view("reuse", Some("base")).await;
    suite.remove("reuse").await;
    suite.prepare("reuse", None).await;
    suite.remove("base").await;
    suite.commit("base", "reuse").await;
}

async fn mounts_can_be_asked_for_again(suite: Suite<'_>) {
    suite.base("base").await;
    let active = suite.prepare("active", Some("base")).await;
    let view = suite.view("view", Some("base")).await;
    assert_eq!(suite.snapshots.mounts("active").await.expect("it has mounts"), active);
    assert_eq!(suite.snapshots.mounts("view").await.expect("it has mounts"), view);
    refused(suite.snapshots.mounts("base").await, ErrorKind::FailedPrecondition);
}

async fn labels_are_not_inherited(suite: Suite<'_>) {
    let given = kept_with([("on", "active")]);
    suite.snapshots.prepare("key", None, given).await.expect("it is prepared");
    assert_eq!(suite.stat("key").await.labels.get("on").map(String::as_str), Some("active"));
    suite.commit("name", "key").await;
    assert_eq!(suite.stat("name").await.labels.get("on"), None);
    suite.prepare("child", Some("name")).await;
    assert_eq!(suite.stat("child").await.labels.get("on"), None);
}

fn onto(parent: &str) -> Commit {
    Commit { labels: kept(), parent: Some(parent.to_owned()) }
}

/// Layers can then be unpacked side by side: what each is on top of matters only at the end.
async fn a_parent_can_be_chosen_at_commit(suite: Suite<'_>) {
    let snapshots = suite.snapshots;
    suite.prepare("upper", None).await;
    suite.base("lower").await;
    if !snapshots.capabilities().contains(&Capability::Rebase) {
        let error = snapshots.commit("top", "upper", onto("lower")).await;
        refused(error, ErrorKind::Unimplemented);
        return;
    }
    refused(snapshots.commit("top", "upper", onto("nothing")).await, ErrorKind::NotFound);
    suite.prepare("active", None).await;
    let error = snapshots.commit("top", "upper", onto("active")).await;
    refused(error, ErrorKind::FailedPrecondition);
    snapshots.commit("top", "upper", onto("lower")).await.expect("it is rebased");
    assert_eq!(suite.stat("top").await.parent.as_deref(), Some("lower"));
    refused(snapshots.remove("lower").await, ErrorKind::FailedPrecondition);
    let names: Vec<_> = suite.walk(&["kind==committed"]).await;
    let names: Vec<_> = names.iter().map(|info| info.name.as_str()).collect();
    assert_eq!(names, ["lower", "top"], "the parent comes first, though it is younger");
}

async fn a_parent_cannot_be_changed_at_commit(suite: Suite<'_>) {
    suite.base("one").await;
    suite.base("two").await;
    suite.prepare("key", Some("one")).await;
    let error = suite.snapshots.commit("name", "key", onto("two")).await;
    let error = error.expect_err("the parent stays");
    let kinds = [ErrorKind::InvalidArgument, ErrorKind::Unimplemented];
    assert!(kinds.contains(&error.kind()), "{error}");
    let same = Commit { labels: Labels::new(), parent: Some("one".to_owned()) };
    suite.snapshots.commit("name", "key", same).await.expect("the same parent is no change");
}
