// SPDX-License-Identifier: Apache-2.0
//! What labels say of what refers to what (containerd `core/metadata/gc.go`, and
//! `docs/garbage-collection.md` for what they are for).
use std::{
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::SignedDuration;
use types::{
    Labels,
    labels::{GC_EXPIRE, GC_REF_CONTENT, GC_REF_IMAGE, GC_REF_SNAPSHOT, GC_ROOT},
};

use super::node::{Kind, Node};

/// What all of these labels begin with.
pub(super) const PREFIX: &str = "containerd.io/gc.";

const BREF_CONTAINER: &str = "containerd.io/gc.bref.container";
const BREF_CONTENT: &str = "containerd.io/gc.bref.content";
const BREF_IMAGE: &str = "containerd.io/gc.bref.image";
const BREF_SNAPSHOT: &str = "containerd.io/gc.bref.snapshot.";
const COND_SNAPSHOT: &str = "containerd.io/gc.cond.snapshot";
const USED_AT: &str = "containerd.io/gc.cond.value-usedat";

/// What one label says of the thing that has it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Link {
    /// It stays.
    Root,
    /// It refers to the node.
    To(Node),
    /// The node refers to it.
    From(Node),
    /// It refers to the node if that was used as the test wants.
    If(Node, Test),
    /// It was used then.
    UsedAt(SystemTime),
}

/// Whether something was used within a time, or not for that long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Within(Duration),
    NotWithin(Duration),
}

impl Test {
    /// Whether something that was used at `time` passes.
    pub(super) fn passes(self, time: SystemTime, now: SystemTime) -> bool {
        let ago = now.duration_since(time).unwrap_or_default();
        match self {
            Self::Within(limit) => ago < limit,
            Self::NotWithin(limit) => ago > limit,
        }
    }

    /// When something that was used at `time`, and passes, no longer does.
    pub(super) fn end(self, time: SystemTime) -> Option<SystemTime> {
        match self {
            Self::Within(limit) => time.checked_add(limit),
            Self::NotWithin(_) => None,
        }
    }
}

/// Reads the labels of something in `namespace`. What cannot be read says nothing.
pub(super) fn links(namespace: &Arc<str>, labels: &Labels) -> Vec<Link> {
    let all = labels
        .range::<str, _>((Bound::Included(PREFIX), Bound::Unbounded))
        .take_while(|(key, _)| key.starts_with(PREFIX));
    all.flat_map(|(key, value)| read(namespace, key, value)).collect()
}

fn read(namespace: &Arc<str>, key: &str, value: &str) -> Vec<Link> {
    let node = |kind| Node::new(namespace, kind, value);
    let of = |snapshotter: &str| Node::snapshot(namespace, head(snapshotter), value);
    let link = if key.starts_with(GC_ROOT) {
        Link::Root
    } else if is(key, GC_REF_CONTENT) {
        Link::To(node(Kind::Content))
    } else if is(key, GC_REF_IMAGE) {
        Link::To(node(Kind::Image))
    } else if let Some(snapshotter) = key.strip_prefix(GC_REF_SNAPSHOT) {
        Link::To(of(snapshotter))
    } else if is(key, BREF_CONTAINER) {
        Link::From(node(Kind::Container))
    } else if is(key, BREF_CONTENT) {
        Link::From(node(Kind::Content))
    } else if is(key, BREF_IMAGE) {
        Link::From(node(Kind::Image))
    } else if let Some(snapshotter) = key.strip_prefix(BREF_SNAPSHOT) {
        Link::From(of(snapshotter))
    } else if key.starts_with(USED_AT) {
        return value
            .parse::<jiff::Timestamp>()
            .map(|at| Link::UsedAt(at.into()))
            .into_iter()
            .collect();
    } else if let Some(snapshotter) = key.strip_prefix(COND_SNAPSHOT) {
        return conditions(namespace, snapshotter.trim_start_matches(['.', '/']), value);
    } else {
        return Vec::new();
    };
    vec![link]
}

/// Whether `key` is `base`, alone or with a suffix after `.` or `/`.
fn is(key: &str, base: &str) -> bool {
    key.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '/']))
}

/// The snapshotter, without the suffix that tells labels apart.
fn head(snapshotter: &str) -> &str {
    snapshotter.split('/').next().unwrap_or_default()
}

/// Reads `usedat<1h,usedat>24h|key`. Conditions that nobody knows are passed over.
fn conditions(namespace: &Arc<str>, snapshotter: &str, value: &str) -> Vec<Link> {
    let Some((conditions, key)) = value.split_once('|') else { return Vec::new() };
    let node = Node::snapshot(namespace, head(snapshotter), key);
    let tests = conditions.split(',').filter_map(|condition| {
        let rest = condition.strip_prefix("usedat")?;
        let limit = |text: &str| Duration::try_from(text.parse::<SignedDuration>().ok()?).ok();
        match rest.split_at_checked(1)? {
            ("<", text) => limit(text).map(Test::Within),
            (">", text) => limit(text).map(Test::NotWithin),
            _ => None,
        }
    });
    tests.map(|test| Link::If(node.clone(), test)).collect()
}

/// When something with these labels expires. A time that cannot be read is none (containerd
/// `core/metadata/gc.go`, `isExpiredImage`).
pub(crate) fn expiry(labels: &Labels) -> Option<SystemTime> {
    let text = labels.get(GC_EXPIRE)?;
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Some(time.into()),
        Err(error) => {
            tracing::info!(%error, text, "ignoring invalid expiration");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &str, value: &str, want: &[Link]) {
        let labels = [(format!("{PREFIX}{key}"), value.to_owned())].into();
        assert_eq!(links(&"n".into(), &labels), want, "{key}={value}");
    }

    fn node(kind: Kind) -> Node {
        Node::new(&"n".into(), kind, "v")
    }

    #[test]
    fn references_may_have_a_suffix_after_a_dot_or_a_slash() {
        let to = |kind| [Link::To(node(kind))];
        check("ref.content", "v", &to(Kind::Content));
        check("ref.content.0", "v", &to(Kind::Content));
        check("ref.content/layer", "v", &to(Kind::Content));
        check("ref.contents", "v", &[]);
        check("ref.image.x", "v", &to(Kind::Image));
        check("ref.snapshot.overlayfs", "v", &to(Kind::Snapshot("overlayfs".into())));
        check("ref.snapshot.overlayfs/1", "v", &to(Kind::Snapshot("overlayfs".into())));
        check("ref.unknown", "v", &[]);
    }

    #[test]
    fn back_references_and_roots_are_read() {
        check("bref.container", "v", &[Link::From(node(Kind::Container))]);
        check("bref.content.a", "v", &[Link::From(node(Kind::Content))]);
        check("bref.image/a", "v", &[Link::From(node(Kind::Image))]);
        check("bref.snapshot.s/a", "v", &[Link::From(node(Kind::Snapshot("s".into())))]);
        check("root", "v", &[Link::Root]);
    }

    #[test]
    fn conditions_are_alternatives_on_one_snapshot() {
        let snapshot = || node(Kind::Snapshot("overlayfs".into()));
        let hours = Duration::from_hours;
        check(
            "cond.snapshot.overlayfs/x",
            "usedat<24h,usedat>1h30m,size<3,usedat=1h,usedat<soon|v",
            &[
                Link::If(snapshot(), Test::Within(hours(24))),
                Link::If(snapshot(), Test::NotWithin(Duration::from_mins(90))),
            ],
        );
        check("cond.snapshot.overlayfs", "v", &[]);
        let time = SystemTime::UNIX_EPOCH + hours(1);
        check("cond.value-usedat", "1970-01-01T01:00:00Z", &[Link::UsedAt(time)]);
        assert!(Test::Within(hours(2)).passes(time, time + hours(1)));
        assert!(!Test::NotWithin(hours(2)).passes(time, time + hours(1)));
    }
}
