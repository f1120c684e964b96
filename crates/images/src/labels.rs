// SPDX-License-Identifier: Apache-2.0
//! The labels of an image's blobs: what keeps its parts from collection, and where they came from.
//!
//! | on | label | value |
//! |---|---|---|
//! | a manifest | `containerd.io/gc.ref.content.config` | its config |
//! | a manifest | `containerd.io/gc.ref.content.l.<n>` | its layers |
//! | an index | `containerd.io/gc.ref.content.m.<n>` | its manifests |
//! | either | `containerd.io/gc.ref.content.referrer.sha256.<12 digits>` | what refers to it |
//! | a config | `containerd.io/gc.ref.snapshot.<snapshotter>` | its topmost snapshot |
//! | a layer | `containerd.io/uncompressed` | its diff ID |
//! | any blob | `containerd.io/distribution.source.<host>` | repositories that have it |
use std::{collections::BTreeMap, time::SystemTime};

use content::{Info, Store};
use types::{Descriptor, Digest, FieldMask, Labels, Result, labels, media_types};

use crate::{Config, media::is_known_config};

/// Marks a descriptor as a referrer of the manifest that it names.
const SUBJECT: &str = "io.containerd.manifest.subject";

/// The signal that ends a container, as its image says (containerd `client/signals.go`).
pub const STOP_SIGNAL: &str = "io.containerd.image.config.stop-signal";

/// The prefixes of labels that mean something to the daemon or to CRI.
const RESERVED: [&str; 3] = ["containerd.io/", "io.containerd.", "io.cri-containerd"];

/// The labels by which a parent keeps `children` from collection (containerd
/// `core/images/handlers.go`, `SetChildrenMappedLabels`, and `mediatypes.go`, `ChildGCLabels`).
pub fn of_children(children: &[Descriptor]) -> Labels {
    let mut labels = Labels::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for child in children {
        let prefix = prefix(child);
        let count = counts.entry(prefix).or_default();
        let key = match *count {
            _ if prefix.ends_with(".sha256.") => format!("{prefix}{}", &child.digest.hex()[..12]),
            0 if !prefix.ends_with('.') => prefix.to_owned(),
            n => format!("{prefix}{n}"),
        };
        *count += 1;
        labels.insert(key, child.digest.to_string());
    }
    labels
}

fn prefix(child: &Descriptor) -> &'static str {
    match child.media_type.as_str() {
        _ if child.annotations.contains_key(SUBJECT) => {
            "containerd.io/gc.ref.content.referrer.sha256."
        }
        it if is_known_config(it) => "containerd.io/gc.ref.content.config",
        it if media_types::is_manifest(it) => "containerd.io/gc.ref.content.m.",
        it if media_types::is_layer(it) => "containerd.io/gc.ref.content.l.",
        _ => "containerd.io/gc.ref.content.",
    }
}

/// The beginning of labels that refer to referrers.
const REFERRER: &str = "containerd.io/gc.ref.content.referrer.";

/// The label by which a manifest or an index keeps what refers to it.
pub fn of_referrer(referrer: &Digest) -> Labels {
    let key = format!("{REFERRER}{}.{}", referrer.algorithm().name(), &referrer.hex()[..12]);
    Labels::from([(key, referrer.to_string())])
}

/// What `labels` say refers to their blob.
pub fn referrers(labels: &Labels) -> impl Iterator<Item = Digest> {
    let found = labels.iter().filter(|(key, _)| key.starts_with(REFERRER));
    found.filter_map(|(_, digest)| digest.parse().ok())
}

/// The label by which a config keeps the snapshot `top`, and so all beneath it.
pub fn of_snapshot(snapshotter: &str, top: &Digest) -> Labels {
    Labels::from([(format!("{}{snapshotter}", labels::GC_REF_SNAPSHOT), top.to_string())])
}

/// The labels that a container takes over from its image.
///
/// An image comes from a stranger, and the daemon acts on labels of its own: on a log URI it runs a
/// program. So those are not taken over (CVE-2026-53488).
pub fn of_container(config: &Config) -> Labels {
    let is_reserved = |key: &str| RESERVED.iter().any(|prefix| key.starts_with(prefix));
    let mut labels = config.run.labels.clone();
    labels.retain(|key, value| !is_reserved(key) && labels::validate(key, value).is_ok());
    let signal = match config.run.stop_signal.as_str() {
        "" => "SIGTERM",
        signal => signal,
    };
    if labels::validate(STOP_SIGNAL, signal).is_ok() {
        labels.insert(STOP_SIGNAL.to_owned(), signal.to_owned());
    }
    labels
}

/// A repository that blobs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    key: String,
    repository: String,
}

impl Source {
    /// Where an image called `name` comes from; `None` when the name is no reference.
    ///
    /// The port is no part of the host (containerd `core/remotes/docker/handler.go`).
    pub fn of(name: &str) -> Option<Self> {
        let (host, path) = name.split_once('/')?;
        let host = match host.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => host,
        };
        let repository = path.split([':', '@']).next().filter(|it| !it.is_empty())?;
        let key = format!("{}.{}", labels::DISTRIBUTION_SOURCE, host.trim_matches(['[', ']']));
        Some(Self { key, repository: repository.to_owned() })
    }

    /// The label of a blob that has `existing` ones: every repository that it was seen in, sorted.
    /// `None` when that is said already, or has become too long to be said.
    pub fn label(&self, existing: &Labels) -> Option<(String, String)> {
        let before = existing.get(&self.key).map(String::as_str).unwrap_or_default();
        let mut all: Vec<_> = before.split(',').filter(|it| !it.is_empty()).collect();
        all.push(&self.repository);
        all.sort_unstable();
        all.dedup();
        let value = all.join(",");
        let is_news = value != before && labels::validate(&self.key, &value).is_ok();
        is_news.then(|| (self.key.clone(), value))
    }
}

/// Sets `wanted` on a blob beside the labels that it has.
pub async fn set(store: &(impl Store + ?Sized), digest: &Digest, wanted: Labels) -> Result<()> {
    let mask = FieldMask::new(wanted.keys().map(|key| format!("labels.{key}")));
    if mask.is_empty() {
        return Ok(());
    }
    let unsaid = SystemTime::UNIX_EPOCH;
    let digest = digest.clone();
    let info = Info { digest, size: 0, created_at: unsaid, updated_at: unsaid, labels: wanted };
    store.update(info, &mask).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(media_type: &str) -> Descriptor {
        Descriptor::new(media_type, Digest::of(media_type), 1)
    }

    fn keys(children: &[Descriptor]) -> Vec<String> {
        of_children(children).into_keys().collect()
    }

    #[test]
    fn children_are_numbered_by_kind() {
        let manifest = [
            media_types::CONFIG,
            media_types::LAYER,
            media_types::DOCKER_LAYER_GZIP,
            "application/vnd.in-toto+json",
        ];
        assert_eq!(
            keys(&manifest.map(child)),
            ["0", "config", "l.0", "l.1"].map(|end| format!("containerd.io/gc.ref.content.{end}"))
        );
        let index = [media_types::MANIFEST, media_types::DOCKER_MANIFEST, media_types::INDEX];
        assert_eq!(
            keys(&index.map(child)),
            ["0", "m.0", "m.1"].map(|end| format!("containerd.io/gc.ref.content.{end}"))
        );
    }

    #[test]
    fn a_second_config_and_a_referrer_have_names_of_their_own() {
        let mut referrer = child(media_types::MANIFEST);
        referrer.annotations.insert(SUBJECT.into(), "sha256:0".into());
        let hex = referrer.digest.hex()[..12].to_owned();
        assert_eq!(
            keys(&[child(media_types::CONFIG), child(media_types::DOCKER_CONFIG), referrer]),
            ["config".to_owned(), "config1".to_owned(), format!("referrer.sha256.{hex}")]
                .map(|end| format!("containerd.io/gc.ref.content.{end}"))
        );
    }

    #[test]
    fn a_source_is_a_host_and_its_repositories() {
        let source = Source::of("localhost:5000/team/app:1@sha256:0").unwrap();
        let (key, value) = source.label(&Labels::new()).unwrap();
        assert_eq!(key, "containerd.io/distribution.source.localhost");
        assert_eq!(value, "team/app");
        let with = |value: &str| Labels::from([(key.clone(), value.to_owned())]);
        assert_eq!(source.label(&with("a,z")).unwrap().1, "a,team/app,z");
        assert_eq!(source.label(&with("team/app")), None);
        assert_eq!(source.label(&with(&"x".repeat(4050))), None);
        assert_eq!(Source::of("busybox"), None);
    }

    #[test]
    fn reserved_labels_of_an_image_do_not_reach_its_containers() {
        let mut config = Config::default();
        let label = |key: &str| (key.to_owned(), "x".to_owned());
        config.run.labels = [
            label("maintainer"),
            label("containerd.io/restart.loguri"),
            label("io.containerd.thing"),
            label("io.cri-containerd.kind"),
        ]
        .into();
        let labels = of_container(&config);
        assert_eq!(labels.keys().collect::<Vec<_>>(), [STOP_SIGNAL, "maintainer"]);
        assert_eq!(labels[STOP_SIGNAL], "SIGTERM");
    }
}
