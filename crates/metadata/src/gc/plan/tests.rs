// SPDX-License-Identifier: Apache-2.0
use std::{convert::Infallible, sync::Arc, time::Duration};

use super::*;
use crate::gc::{order, reprieve::Reprieve};

/// Reads `kind name`, with an optional `@namespace` at the end; the namespace is else `n`.
fn node(text: &str) -> Node {
    let (text, namespace) = text.split_once('@').unwrap_or((text, "n"));
    let (kind, key) = text.split_once(' ').expect("a kind and a name");
    let kind = match kind {
        "container" => Kind::Container,
        "sandbox" => Kind::Sandbox,
        "content" => Kind::Content,
        "image" => Kind::Image,
        "ingest" => Kind::Ingest,
        "lease" => Kind::Lease,
        snapshotter => Kind::Snapshot(snapshotter.into()),
    };
    Node::new(&Arc::from(namespace), kind, key)
}

fn show(node: &Node) -> String {
    let kind = match &node.kind {
        Kind::Container => "container",
        Kind::Sandbox => "sandbox",
        Kind::Content => "content",
        Kind::Image => "image",
        Kind::Ingest => "ingest",
        Kind::Lease => "lease",
        Kind::Mount => "mount",
        Kind::Snapshot(snapshotter) => snapshotter,
    };
    format!("{kind} {}", node.key)
}

pub(super) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24)
}

/// One thing per line: `kind name [-> kind name]... [| label=value]...`, where labels come without
/// their common prefix. An ingest may say `until=<seconds from now>`, a snapshot `committing`.
fn parse(line: &str) -> Entry {
    let mut parts = line.split(" | ");
    let mut nodes = parts.next().expect("something before the labels").split(" -> ");
    let own = node(nodes.next().expect("a node"));
    let refs = nodes.map(node).collect();
    let mut stay =
        if matches!(own.kind, Kind::Container | Kind::Sandbox) { Stay::Yes } else { Stay::No };
    let mut labels = types::Labels::new();
    for label in parts {
        match label.split_once('=') {
            Some(("until", seconds)) => {
                let seconds: i64 = seconds.parse().unwrap();
                let distance = Duration::from_secs(seconds.unsigned_abs());
                let time = if seconds < 0 { now() - distance } else { now() + distance };
                stay = Stay::Until(time);
            }
            Some((key, value)) => {
                drop(labels.insert(format!("containerd.io/gc.{key}"), value.into()));
            }
            None => stay = Stay::Yes,
        }
    }
    Entry { node: own, labels, refs, stay }
}

fn inventory(lines: &[&str]) -> Vec<Entry> {
    lines.iter().map(|line| parse(line)).collect()
}

#[track_caller]
fn check(lines: &[&str], garbage: &[&str]) {
    let plan = plan(&inventory(lines), now());
    let found: Vec<_> = plan.garbage.iter().map(show).collect();
    assert_eq!(found, garbage);
}

const PAST: &str = "1970-01-01T23:59:59Z";
const FUTURE: &str = "1970-01-02T00:00:01Z";

#[test]
fn an_image_keeps_the_tree_below_its_target() {
    check(
        &[
            "image busybox -> content index",
            "content index | ref.content.0=manifest",
            "content manifest | ref.content.config=config | ref.content.l.0=layer",
            "content config | ref.snapshot.overlayfs=chain-1",
            "content layer",
            "content other",
            "overlayfs chain-1 -> overlayfs chain-0",
            "overlayfs chain-0",
            "overlayfs chain-2 -> overlayfs chain-1",
            "native chain-1",
        ],
        &["content other", "overlayfs chain-2", "native chain-1"],
    );
}

#[test]
fn namespaces_do_not_keep_each_others_things() {
    check(&["image i -> content x", "content x@other", "content x"], &["content x"]);
}

#[test]
fn a_sandbox_keeps_what_it_is_labelled_with() {
    check(
        &[
            "sandbox s | ref.content.x=x | ref.snapshot.overlayfs=s",
            "content x",
            "overlayfs s",
            "content y",
        ],
        &["content y"],
    );
}

#[test]
fn a_container_keeps_its_snapshot_and_what_it_is_labelled_with() {
    check(
        &[
            "container c -> overlayfs c | ref.content.checkpoint=x | ref.image=i",
            "overlayfs c -> overlayfs base",
            "overlayfs base",
            "overlayfs other",
            "content x",
            &format!("image i -> content y | expire={PAST}"),
            "content y",
        ],
        &["overlayfs other"],
    );
}

#[test]
fn an_expired_image_goes_with_what_it_alone_kept() {
    check(
        &[
            &format!("image old -> content a | expire={PAST}"),
            &format!("image new -> content b | expire={FUTURE}"),
            "image odd -> content c | expire=tomorrow",
            "content a",
            "content b",
            "content c",
        ],
        &["image old", "content a"],
    );
}

#[test]
fn a_lease_keeps_what_it_holds_until_it_expires() {
    check(
        &[
            "lease l -> content a -> overlayfs s -> ingest i -> image e",
            &format!("lease old -> content b -> ingest j | expire={PAST}"),
            &format!("lease new -> content c | expire={FUTURE}"),
            "content a | ref.content.0=d",
            "content b",
            "content c",
            "content d",
            "content e",
            "overlayfs s -> overlayfs p",
            "overlayfs p",
            "ingest i -> content e",
            "ingest j",
            &format!("image e -> content f | expire={PAST}"),
            "content f",
        ],
        &["lease old", "content b", "ingest j"],
    );
}

#[test]
fn a_flat_lease_keeps_no_more_than_a_thing_needs() {
    check(
        &[
            "lease l -> content a -> overlayfs s -> image i | flat=now",
            "content a | ref.content.0=b",
            "content b",
            "overlayfs s -> overlayfs p | ref.content.0=c",
            "overlayfs p",
            "content c",
            &format!("image i -> content d | expire={PAST} | ref.content.x=e"),
            "content d | ref.content.0=f",
            "content e",
            "content f",
        ],
        &["content b", "content c", "content e", "content f"],
    );
}

#[test]
fn what_is_held_flat_and_in_full_is_held_in_full() {
    check(
        &[
            "lease flat -> content a | flat=now",
            "lease full -> content a",
            "content a | ref.content.0=b",
            "content b",
        ],
        &[],
    );
}

#[test]
fn roots_and_ingests_stay_on_their_own() {
    check(
        &[
            "content root | root=now | ref.content.0=a",
            "content a",
            "overlayfs root -> overlayfs p | root=now",
            "overlayfs p",
            "overlayfs active -> overlayfs q | committing",
            "overlayfs q",
            "ingest fresh -> content b | until=1",
            "content b",
            "ingest stale -> content c | until=-1",
            "content c",
            "ingest lost",
        ],
        &["ingest stale", "content c", "ingest lost"],
    );
}

#[test]
fn what_refers_back_lives_as_long_as_what_it_refers_to() {
    check(
        &[
            "container c",
            "content a | bref.container=c",
            "content b | bref.container=gone",
            "content d | bref.content.x=a | ref.content=e",
            "content e",
            "overlayfs s | bref.image=i",
            "image i -> content f",
            "content f",
            &format!("image g -> content h | expire={PAST} | bref.snapshot.overlayfs/x=s"),
            "content h",
        ],
        &["content b"],
    );
}

#[test]
fn a_condition_keeps_what_was_used_as_it_says() {
    check(
        &[
            "image i -> content m | cond.snapshot.overlayfs=usedat<1h|warm",
            "content m | cond.snapshot.overlayfs=usedat<1h|cold | cond.snapshot.overlayfs/b=usedat<1h|unused",
            "overlayfs warm | cond.value-usedat=1970-01-01T23:30:00Z",
            "overlayfs cold | cond.value-usedat=1970-01-01T22:30:00Z",
            "overlayfs unused",
        ],
        &["overlayfs cold", "overlayfs unused"],
    );
}

#[test]
fn circles_that_nothing_keeps_go() {
    check(&["content a | ref.content=b", "content b | ref.content=a"], &["content a", "content b"]);
}

#[test]
fn the_next_expiry_is_the_earliest_to_come() {
    let lines = [
        format!("lease old | expire={PAST}"),
        "lease new | expire=1970-01-02T00:01:00Z".to_owned(),
        "image i | expire=1970-01-02T00:00:30Z".to_owned(),
        "ingest i | until=40".to_owned(),
    ];
    let entries: Vec<_> = lines.iter().map(|line| parse(line)).collect();
    assert_eq!(plan(&entries, now()).expires, Some(now() + Duration::from_secs(30)));
}

/// What is left to remove when `touched` was written between the plan and the removal, and things
/// are as `then` says by now.
#[track_caller]
fn check_reprieve(before: &[&str], touched: &[&str], then: &[&str], condemned: &[&str]) {
    let plan = plan(&inventory(before), now());
    let garbage = plan.garbage.clone();
    let then = inventory(then);
    let mut reprieve = Reprieve::new(plan);
    reprieve.touch(touched.iter().map(|text| node(text)));
    let look =
        |node: &Node| Ok::<_, Infallible>(then.iter().find(|entry| entry.node == *node).cloned());
    while !reprieve.is_settled() {
        let Ok(()) = reprieve.spare(look);
    }
    let left = garbage.iter().filter(|node| !reprieve.is_spared(node));
    assert_eq!(left.map(show).collect::<Vec<_>>(), condemned);
}

#[test]
fn what_was_referred_to_meanwhile_is_spared_with_all_below() {
    let garbage = ["content m | ref.content.0=l", "content l", "content other"];
    let then =
        ["image i -> content m", "content m | ref.content.0=l", "content l", "content other"];
    check_reprieve(&garbage, &[], &garbage, &["content m", "content l", "content other"]);
    check_reprieve(&garbage, &["image i"], &then, &["content other"]);
    check_reprieve(&garbage, &["content l"], &garbage, &["content m", "content other"]);
}

#[test]
fn what_was_held_flat_is_looked_into_when_it_is_referred_to() {
    let before = ["lease l -> content a | flat=now", "content a | ref.content.0=b", "content b"];
    let then = ["image i -> content a", "content a | ref.content.0=b", "content b"];
    check_reprieve(&before, &["image i"], &then, &[]);
}

#[test]
fn what_refers_back_to_something_new_is_spared() {
    let before = ["content a | bref.image=i", "content b"];
    let then = ["image i -> content x", "content a | bref.image=i", "content b"];
    check_reprieve(&before, &["image i"], &then, &["content b"]);
}

#[track_caller]
fn check_order(lines: &[&str], want: &[&[&str]]) {
    let entries = inventory(lines);
    let groups = order::groups(&entries, &plan(&entries, now()));
    let mut shown: Vec<Vec<_>> =
        groups.iter().map(|group| group.iter().map(show).collect()).collect();
    for group in &mut shown {
        group.sort();
    }
    assert_eq!(shown, want);
}

#[test]
fn what_refers_goes_before_what_it_refers_to() {
    check_order(
        &[
            "content l",
            "content m | ref.content.0=l",
            "overlayfs b",
            "overlayfs a -> overlayfs b",
            &format!("image i -> content m | expire={PAST}"),
        ],
        &[&["overlayfs a"], &["overlayfs b"], &["image i"], &["content m"], &["content l"]],
    );
}

#[test]
fn what_is_attached_to_a_thing_goes_after_it() {
    check_order(&["content a | bref.content=b", "content b"], &[&["content b"], &["content a"]]);
}

#[test]
fn a_circle_goes_at_once_after_what_refers_to_it() {
    check_order(
        &[
            "content a | ref.content=b",
            "content b | ref.content=c",
            "content c | ref.content.0=a | ref.content.1=d",
            "content d",
            "content e | ref.content=b",
        ],
        &[&["content e"], &["content a", "content b", "content c"], &["content d"]],
    );
}

#[test]
fn a_condition_that_holds_ends_one_day() {
    let lines = [
        "image i -> content m | cond.snapshot.overlayfs=usedat<1h|warm",
        "overlayfs warm | cond.value-usedat=1970-01-01T23:30:00Z",
    ];
    assert_eq!(plan(&inventory(&lines), now()).expires, Some(now() + Duration::from_mins(30)));
}
