// SPDX-License-Identifier: Apache-2.0
use std::time::SystemTime;

use fs_err as fs;
use futures_util::StreamExt;
use types::{FieldMask, Filters, Kind as ErrorKind, Labels};

use super::{Claim, Suite, kept, kept_with, list, refused};
use crate::{Commit, Info, Kind, Usage};

pub(super) const CLAIMS: &[Claim] = list![
    a_walk_can_be_filtered,
    a_walk_meets_parents_before_their_children,
    a_walk_leaves_the_snapshotter_usable,
    labels_are_replaced_all_or_one_by_one,
    nothing_but_labels_can_be_updated,
    usage_grows_with_what_is_written,
    usage_is_without_parents,
];

async fn a_walk_can_be_filtered(suite: Suite<'_>) {
    suite.prepare("a-np", None).await;
    suite.base("p").await;
    suite.prepare("a", Some("p")).await;
    suite.view("v", Some("p")).await;
    suite.prepare("tmp", None).await;
    let labels = kept_with([("l", "1")]);
    let commit = Commit { labels, parent: None };
    suite.snapshots.commit("p-wl", "tmp", commit).await.expect("it is committed");
    let two = || kept_with([("l", "2")]);
    suite.snapshots.prepare("a-wl", Some("p-wl"), two()).await.expect("it is prepared");
    suite.snapshots.view("v-wl", Some("p-wl"), two()).await.expect("it is viewed");

    check(suite, &[], &["a", "a-np", "a-wl", "p", "p-wl", "v", "v-wl"]).await;
    check(suite, &["kind==active"], &["a", "a-np", "a-wl"]).await;
    check(suite, &["kind==view"], &["v", "v-wl"]).await;
    check(suite, &["kind==committed"], &["p", "p-wl"]).await;
    check(suite, &["labels.l"], &["a-wl", "p-wl", "v-wl"]).await;
    check(suite, &["labels.l==2"], &["a-wl", "v-wl"]).await;
    check(suite, &["labels.l==1", "kind==view"], &["p-wl", "v", "v-wl"]).await;
    check(suite, &["kind==active,labels.l==2"], &["a-wl"]).await;
    check(suite, &["parent==p"], &["a", "v"]).await;
    check(suite, &["name~=^a"], &["a", "a-np", "a-wl"]).await;
    check(suite, &["name==nothing"], &[]).await;
}

async fn check(suite: Suite<'_>, filters: &[&str], want: &[&str]) {
    let infos = suite.walk(filters).await;
    let mut names: Vec<_> = infos.iter().map(|info| info.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, want, "{filters:?}");
}

async fn a_walk_meets_parents_before_their_children(suite: Suite<'_>) {
    suite.base("z").await;
    suite.layer("y", Some("z"), |_| ()).await;
    suite.layer("x", Some("y"), |_| ()).await;
    suite.prepare("a", Some("x")).await;
    suite.view("b", Some("z")).await;
    let infos = suite.walk(&[]).await;
    let place = |name: &str| infos.iter().position(|info| info.name == name);
    for info in infos.iter().filter(|info| info.parent.is_some()) {
        let parent = place(info.parent.as_deref().unwrap_or_default());
        assert!(parent < place(&info.name), "{}", info.name);
    }
    for info in &infos {
        assert_eq!(suite.stat(&info.name).await, *info);
    }
}

async fn a_walk_leaves_the_snapshotter_usable(suite: Suite<'_>) {
    suite.base("one").await;
    suite.base("two").await;
    let mut walk = suite.snapshots.walk(Filters::default());
    while let Some(info) = walk.next().await {
        let info = info.expect("the walk goes on");
        assert_eq!(suite.stat(&info.name).await, info);
        suite.view(&format!("view of {}", info.name), Some(&info.name)).await;
    }
}

async fn labels_are_replaced_all_or_one_by_one(suite: Suite<'_>) {
    suite.base("committed").await;
    suite.prepare("active", Some("committed")).await;
    suite.view("view", None).await;
    for key in ["committed", "active", "view"] {
        let before = suite.stat(key).await;
        let all = kept_with([("l1", "v1"), ("l2", "v2"), ("l3", "v3")]);
        let began = SystemTime::now();
        let updated = update(suite, key, &all, &[]).await;
        assert_eq!(updated.labels, all);
        assert_eq!((updated.created_at, updated.kind), (before.created_at, before.kind));
        assert_eq!(updated.parent, before.parent, "the parent that was sent is not looked at");
        assert!(began <= updated.updated_at && updated.updated_at <= SystemTime::now());

        let some = kept_with([("l1", "updated"), ("l4", "v4")]);
        let updated = update(suite, key, &some, &["labels.l1", "labels.l2"]).await;
        assert_eq!(updated.labels, kept_with([("l1", "updated"), ("l3", "v3")]));

        let updated = update(suite, key, &kept_with([("l4", "v4")]), &["labels"]).await;
        assert_eq!(updated.labels, kept_with([("l4", "v4")]));
        assert_eq!(suite.stat(key).await, updated);
    }
}

async fn update(suite: Suite<'_>, key: &str, labels: &Labels, paths: &[&str]) -> Info {
    let mask = FieldMask::new(paths.iter().copied());
    suite.snapshots.update(asked(key, labels), &mask).await.expect("it is updated")
}

fn asked(key: &str, labels: &Labels) -> Info {
    Info {
        kind: Kind::Active,
        name: key.to_owned(),
        parent: Some("does not exist".to_owned()),
        labels: labels.clone(),
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
    }
}

async fn nothing_but_labels_can_be_updated(suite: Suite<'_>) {
    suite.prepare("key", None).await;
    for path in ["parent", "name", "kind", "label"] {
        let error = suite.snapshots.update(asked("key", &kept()), &FieldMask::new([path])).await;
        refused(error, ErrorKind::InvalidArgument);
    }
    let error = suite.snapshots.update(asked("no", &kept()), &FieldMask::default()).await;
    refused(error, ErrorKind::NotFound);
}

async fn usage(suite: Suite<'_>, key: &str) -> Usage {
    suite.snapshots.usage(key).await.expect("it is measured")
}

async fn usage_grows_with_what_is_written(suite: Suite<'_>) {
    let mounts = suite.prepare("key", None).await;
    let mut last = usage(suite, "key").await;
    for name in ["a", "b", "c"] {
        suite.within(&mounts, |root| {
            let mut file = fs::File::create(root.join(name)).expect("it is made");
            std::io::Write::write_all(&mut file, &vec![1; 256 << 10]).expect("it is written");
            file.sync_all().expect("it is synced");
        });
        let now = usage(suite, "key").await;
        assert!(now.size >= last.size + (256 << 10), "{last:?} {now:?}");
        if !suite.manner.images {
            assert_eq!(now.inodes, last.inodes + 1);
        }
        last = now;
    }
    suite.commit("name", "key").await;
    let committed = usage(suite, "name").await;
    if suite.manner.images {
        assert!(committed.size >= 3 * (256 << 10) && committed.inodes == 1, "{committed:?}");
    } else {
        assert_eq!(committed, last);
    }
}

/// Unless layers are copies, and then they are what they take.
async fn usage_is_without_parents(suite: Suite<'_>) {
    suite
        .layer("base", None, |root| {
            fs::write(root.join("f"), vec![1; 1 << 20]).expect("it is written");
        })
        .await;
    suite.layer("next", Some("base"), |_| ()).await;
    let (base, next) = (usage(suite, "base").await, usage(suite, "next").await);
    let grace = if suite.manner.images { 256 << 10 } else { 0 };
    assert!(next.size <= base.size + grace && next.inodes <= base.inodes, "{base:?} {next:?}");
    suite.view("view", Some("next")).await;
    assert!(usage(suite, "view").await.size <= next.size + grace);
}
