// SPDX-License-Identifier: Apache-2.0
//! The rules once more, as slowly and as plainly as they can be said, over random records.
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use proptest::prelude::*;
use types::Labels;

use super::{plan, tests::now};
use crate::gc::{
    inventory::{Entry, Stay},
    node::{Kind, Node},
    order,
};

/// How many names there are of each kind.
const NAMES: usize = 4;

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        1 => Just(Kind::Container),
        4 => Just(Kind::Content),
        3 => Just(Kind::Image),
        1 => Just(Kind::Ingest),
        1 => Just(Kind::Sandbox),
        2 => Just(Kind::Mount),
        2 => Just(Kind::Lease),
        4 => prop_oneof![Just("overlayfs"), Just("native")]
            .prop_map(|name| Kind::Snapshot(Arc::from(name))),
    ]
}

fn node(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Node> {
    let namespace = prop_oneof![9 => Just("n"), 1 => Just("m")];
    (namespace, kind, 0..NAMES)
        .prop_map(|(namespace, kind, key)| Node::new(&namespace.into(), kind, key.to_string()))
}

fn time() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("1970-01-01T20:00:00Z".to_owned()),
        Just("1970-01-01T23:30:00Z".to_owned()),
        Just("1970-01-02T12:00:00Z".to_owned()),
        Just("soon".to_owned()),
    ]
}

/// A label of the collector's, without the prefix.
fn label() -> impl Strategy<Value = (String, String)> {
    let key = || (0..NAMES).prop_map(|key| key.to_string());
    let reference = prop_oneof![
        Just("ref.content.0"),
        Just("ref.content/1"),
        Just("ref.contentious"),
        Just("ref.image"),
        Just("ref.snapshot.overlayfs"),
        Just("ref.snapshot.native/x"),
        Just("bref.container"),
        Just("bref.content.a"),
        Just("bref.image"),
        Just("bref.snapshot.overlayfs"),
    ];
    let condition = prop_oneof![Just("usedat<1h"), Just("usedat>1h"), Just("usedat<2h,usedat>9h")];
    prop_oneof![
        8 => (reference, key()).prop_map(|(name, value)| (name.to_owned(), value)),
        1 => Just(("root".to_owned(), "now".to_owned())),
        1 => Just(("flat".to_owned(), "now".to_owned())),
        1 => time().prop_map(|time| ("expire".to_owned(), time)),
        1 => time().prop_map(|time| ("cond.value-usedat".to_owned(), time)),
        1 => (condition, key())
            .prop_map(|(when, key)| ("cond.snapshot.overlayfs".to_owned(), format!("{when}|{key}"))),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    let held = prop_oneof![
        Just(Kind::Content),
        Just(Kind::Image),
        Just(Kind::Ingest),
        Just(Kind::Mount),
        Just(Kind::Snapshot("overlayfs".into())),
    ];
    let held = proptest::collection::vec((held, 0..NAMES), 0..4);
    let labels = proptest::collection::vec(label(), 0..3);
    (node(kind()), held, labels, any::<bool>()).prop_map(|(node, held, labels, later)| {
        let own = |kind: Kind, key: usize| Node::new(&node.namespace, kind, key.to_string());
        let first = held.first().map_or(0, |(_, key)| *key);
        let refs = match &node.kind {
            Kind::Content | Kind::Sandbox | Kind::Mount => vec![],
            Kind::Image | Kind::Ingest => vec![own(Kind::Content, first)],
            Kind::Container => vec![own(Kind::Snapshot("overlayfs".into()), first)],
            // Parents have greater numbers: there are no circles of them.
            Kind::Snapshot(_) => {
                let key = node.key.parse::<usize>().unwrap();
                held.iter()
                    .take(1)
                    .filter(|(_, k)| *k > key)
                    .map(|(_, k)| own(node.kind.clone(), *k))
                    .collect()
            }
            Kind::Lease => held.iter().map(|(kind, key)| own(kind.clone(), *key)).collect(),
        };
        let stay = match node.kind {
            Kind::Container | Kind::Sandbox => Stay::Yes,
            Kind::Mount if later => Stay::Yes,
            Kind::Ingest if later => Stay::Until(now() + Duration::from_hours(1)),
            Kind::Ingest => Stay::Until(now() - Duration::from_hours(1)),
            _ => Stay::No,
        };
        let prefixed = |(key, value): (String, String)| (format!("containerd.io/gc.{key}"), value);
        let labels: Labels = labels.into_iter().map(prefixed).collect();
        Entry { node, labels, refs, stay }
    })
}

/// The value of a label that says a time, unless it cannot be read.
fn says(entry: &Entry, label: &str) -> Option<SystemTime> {
    let text = entry.labels.get(&format!("containerd.io/gc.{label}"))?;
    text.parse::<jiff::Timestamp>().ok().map(Into::into)
}

fn has(entry: &Entry, label: &str) -> bool {
    entry.labels.contains_key(&format!("containerd.io/gc.{label}"))
}

fn is_expired(entry: &Entry) -> bool {
    says(entry, "expire").is_some_and(|time| time < now())
}

/// Whether `from` refers to `to` by a label on `from`, fully.
fn refers(from: &Entry, to: &Node) -> bool {
    let names: &[&str] = match &to.kind {
        Kind::Content => &["ref.content.0", "ref.content/1"],
        Kind::Image => &["ref.image"],
        Kind::Snapshot(name) if &**name == "overlayfs" => &["ref.snapshot.overlayfs"],
        Kind::Snapshot(_) => &["ref.snapshot.native/x"],
        _ => &[],
    };
    let value = |name: &&str| from.labels.get(&format!("containerd.io/gc.{name}"));
    from.node.namespace == to.namespace && names.iter().any(|name| value(name) == Some(&to.key))
}

/// Whether `to` is attached to `from` by a label on `to`, or by a condition that holds.
fn is_attached(to: &Entry, from: &Node, entries: &[Entry]) -> bool {
    if to.node.namespace != from.namespace || to.node.kind == Kind::Lease {
        return false;
    }
    let name = match &from.kind {
        Kind::Container => "bref.container",
        Kind::Content => "bref.content.a",
        Kind::Image => "bref.image",
        Kind::Snapshot(name) if &**name == "overlayfs" => "bref.snapshot.overlayfs",
        _ => "",
    };
    if to.labels.get(&format!("containerd.io/gc.{name}")) == Some(&from.key) {
        return true;
    }
    let Some(used) = says(to, "cond.value-usedat") else { return false };
    if to.node.kind != Kind::Snapshot("overlayfs".into())
        || !matches!(from.kind, Kind::Content | Kind::Image)
    {
        return false;
    }
    let hours = now().duration_since(used).unwrap_or_default().as_secs_f64() / 3600.0;
    let Some(from) = entries.iter().find(|entry| entry.node == *from) else { return false };
    let label = from.labels.get("containerd.io/gc.cond.snapshot.overlayfs");
    let Some((when, key)) = label.and_then(|label| label.split_once('|')) else { return false };
    let holds = match when {
        "usedat<1h" => hours < 1.0,
        "usedat>1h" => hours > 1.0,
        _ => !(2.0..=9.0).contains(&hours),
    };
    key == to.node.key && holds
}

/// What stays: begun with the roots and added to until nothing changes. `true` is in full.
fn kept(entries: &[Entry]) -> BTreeSet<(Node, bool)> {
    let mut kept = BTreeSet::new();
    for entry in entries {
        let is_root = match (&entry.node.kind, entry.stay) {
            (Kind::Container | Kind::Sandbox, _) => true,
            (Kind::Image | Kind::Lease, _) => !is_expired(entry),
            (Kind::Ingest, Stay::Until(time)) => time >= now(),
            (Kind::Content | Kind::Snapshot(_), _) => has(entry, "root"),
            (Kind::Mount, Stay::Yes) => true,
            (Kind::Mount, _) => says(entry, "expire").is_some_and(|time| time >= now()),
            _ => false,
        };
        if is_root {
            kept.insert((entry.node.clone(), true));
        }
        if is_root && entry.node.kind == Kind::Lease {
            let is_full = |node: &Node| {
                !has(entry, "flat") || matches!(node.kind, Kind::Ingest | Kind::Mount)
            };
            kept.extend(entry.refs.iter().map(|node| (node.clone(), is_full(node))));
        }
    }
    loop {
        let before = kept.len();
        for (from, is_full) in kept.clone() {
            if is_full {
                let attached = entries.iter().filter(|to| is_attached(to, &from, entries));
                kept.extend(attached.map(|to| (to.node.clone(), true)));
            }
            let Some(entry) = entries.iter().find(|entry| entry.node == from) else { continue };
            if from.kind == Kind::Lease {
                continue;
            }
            kept.extend(entry.refs.iter().map(|node| (node.clone(), is_full)));
            if is_full {
                let to = entries.iter().filter(|to| refers(entry, &to.node));
                kept.extend(to.map(|to| (to.node.clone(), true)));
                // What does not exist may still have things attached.
                for key in 0..NAMES {
                    for kind in [Kind::Content, Kind::Image, Kind::Snapshot("overlayfs".into())] {
                        let node = Node::new(&from.namespace, kind, key.to_string());
                        if refers(entry, &node) {
                            kept.insert((node, true));
                        }
                    }
                }
            }
        }
        if kept.len() == before {
            return kept;
        }
    }
}

fn unique(entries: Vec<Entry>) -> Vec<Entry> {
    let mut seen = BTreeSet::new();
    entries.into_iter().filter(|entry| seen.insert(entry.node.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_planned_is_what_the_rules_say(all in proptest::collection::vec(entry(), 0..24)) {
        let entries = unique(all);
        let kept = kept(&entries);
        let stays = |node: &Node| [true, false].iter().any(|full| kept.contains(&(node.clone(), *full)));
        let want: Vec<_> =
            entries.iter().map(|entry| &entry.node).filter(|node| !stays(node)).cloned().collect();
        let plan = plan(&entries, now());
        prop_assert_eq!(&plan.garbage, &want);

        // And it goes in an order that leaves everything whole: nothing goes before what refers to it.
        let groups = order::groups(&entries, &plan);
        let place = |node: &Node| groups.iter().position(|group| group.contains(node));
        prop_assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), want.len());
        for from in entries.iter().filter(|entry| want.contains(&entry.node)) {
            for to in entries.iter().filter(|entry| want.contains(&entry.node)) {
                if from.refs.contains(&to.node) || refers(from, &to.node) {
                    prop_assert!(place(&from.node) <= place(&to.node));
                }
            }
        }
    }
}
