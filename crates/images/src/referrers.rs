// SPDX-License-Identifier: Apache-2.0
//! What is about an image without being a part of it: signatures, lists of materials, attestations.
//!
//! A label on the image's manifest or index refers to each, so that they are found from it and are
//! collected with it: `containerd.io/gc.ref.content.referrer.sha256.<12 digits>` (containerd
//! `core/images/mediatypes.go`, `ChildGCLabels`). Anybody may set it, and nothing is believed of it.
use content::{Store, blob};
use serde::Deserialize;
use types::{Descriptor, Digest, Labels, Result, media_types};

use crate::{MAX_SIZE, labels};

/// How many referrers of one image are looked at: a stranger may have put them there.
const MAX_COUNT: usize = 256;

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// Where it is, with the type of the artifact and its annotations.
    pub descriptor: Descriptor,
    /// What it says that it is about, if it says so.
    pub subject: Option<Digest>,
}

/// What of a manifest or an index concerns those who look for it (OCI distribution spec, "Listing
/// Referrers": a manifest without a type of its own has that of its config).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct About {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Config>,
    manifests: Option<serde::de::IgnoredAny>,
    subject: Option<Subject>,
    annotations: Option<Labels>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: Digest,
}

impl Referrer {
    /// Reads a manifest or an index; `None` for what is neither.
    pub fn parse(digest: &Digest, data: &[u8]) -> Option<Self> {
        let about: About = serde_json::from_slice(data).ok()?;
        let by_shape = match (&about.manifests, &about.config) {
            (Some(_), None) => media_types::INDEX,
            (None, Some(_)) => media_types::MANIFEST,
            _ => return None,
        };
        let media_type = about.media_type.unwrap_or_else(|| by_shape.to_owned());
        let mut descriptor = Descriptor::new(media_type, digest.clone(), data.len() as u64);
        descriptor.artifact_type =
            about.artifact_type.or(about.config.map(|config| config.media_type));
        descriptor.annotations = about.annotations.unwrap_or_default();
        Some(Self { descriptor, subject: about.subject.map(|subject| subject.digest) })
    }

    /// Reads the one called `digest` from a store.
    pub async fn read(store: &dyn Store, digest: &Digest) -> Result<Option<Self>> {
        let data = blob::read(store, digest, MAX_SIZE).await?;
        Ok(Self::parse(digest, &data))
    }
}

/// The referrers that are kept beside `subject`, as far as they are there.
///
/// Errors: `NotFound` when `subject` is not there itself.
pub async fn referrers(store: &dyn Store, subject: &Digest) -> Result<Vec<Referrer>> {
    let info = store.info(subject).await?;
    let mut found: Vec<Referrer> = Vec::new();
    for digest in labels::referrers(&info.labels).take(MAX_COUNT) {
        let is_known = found.iter().any(|known| known.descriptor.digest == digest);
        match Referrer::read(store, &digest).await {
            Ok(Some(referrer)) if !is_known => found.push(referrer),
            Ok(_) => {}
            Err(error) => tracing::debug!(%digest, %error, "a referrer cannot be read"),
        }
    }
    Ok(found)
}

/// Keeps `referrer` beside `subject`, for as long as that is kept.
pub async fn refer(store: &dyn Store, subject: &Digest, referrer: &Digest) -> Result<()> {
    labels::set(store, subject, labels::of_referrer(referrer)).await
}

/// What an archive's entry says by its name or kind that it is about, of those beside it: cosign keeps
/// signatures under a tag that is made of the image's digest, `sha256-<hex>.sig` (cosign
/// `specs/SIGNATURE_SPEC.md`), and marks them so in the layouts that it saves (cosign
/// `pkg/oci/layout/index.go`).
pub fn subject_by_name(entry: &Descriptor, beside: &[Descriptor]) -> Option<Digest> {
    let is_kind = |it: &Descriptor, kinds: &[&str]| {
        let kind = it.annotations.get("kind").and_then(|kind| kind.strip_prefix(COSIGN));
        kind.is_some_and(|kind| kinds.contains(&kind))
    };
    if is_kind(entry, &["sigs", "atts"]) {
        let mut images = beside.iter().filter(|it| is_kind(it, &["image", "imageIndex"]));
        return Some(images.next()?.digest.clone());
    }
    let names = [crate::archive::IMAGE_NAME, crate::archive::REF_NAME];
    names.iter().find_map(|name| of_tag(entry.annotations.get(*name)?))
}

/// How cosign's kinds of entries begin.
const COSIGN: &str = "dev.cosignproject.cosign/";

/// The digest in `sha256-<hex>.sig`, with or without a repository before it.
fn of_tag(name: &str) -> Option<Digest> {
    let tag = name.rsplit(':').next().unwrap_or(name);
    let (digest, suffix) = tag.split_once('.')?;
    if !matches!(suffix, "sig" | "att" | "sbom") {
        return None;
    }
    digest.replacen('-', ":", 1).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_tells_what_it_is_and_of_what() {
        let subject = Digest::of("an image");
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"a/b"}},
                "subject":{{"mediaType":"x","digest":"{subject}","size":1}},
                "annotations":{{"k":"v"}}}}"#,
            media_types::MANIFEST
        );
        let found = Referrer::parse(&Digest::of(&text), text.as_bytes()).unwrap();
        assert_eq!(found.subject, Some(subject));
        assert_eq!(found.descriptor.artifact_type.as_deref(), Some("a/b"));
        assert_eq!(
            (&*found.descriptor.annotations["k"], found.descriptor.size),
            ("v", text.len() as u64)
        );
        assert_eq!(Referrer::parse(&Digest::of("{}"), b"{}"), None);
        assert_eq!(Referrer::parse(&Digest::of("x"), b"no json"), None);
    }

    #[test]
    fn an_entry_may_say_by_its_name_what_it_is_about() {
        let image = Descriptor::new(media_types::MANIFEST, Digest::of("image"), 5);
        let named = |name: &str| {
            let mut entry = Descriptor::new(media_types::MANIFEST, Digest::of("sig"), 3);
            entry.annotations.insert(crate::archive::REF_NAME.into(), name.into());
            subject_by_name(&entry, std::slice::from_ref(&image))
        };
        let hex = image.digest.hex();
        assert_eq!(named(&format!("sha256-{hex}.sig")), Some(image.digest.clone()));
        assert_eq!(named(&format!("r.io/a:sha256-{hex}.att")), Some(image.digest.clone()));
        assert_eq!(named(&format!("sha256-{hex}.txt")), None);
        assert_eq!(named("latest"), None);
    }

    #[test]
    fn a_layout_of_cosigns_says_by_kind_what_is_the_image() {
        let kind = |text: &str, kind: &str| {
            let mut entry = Descriptor::new(media_types::MANIFEST, Digest::of(text), 3);
            entry.annotations.insert("kind".into(), format!("{COSIGN}{kind}"));
            entry
        };
        let beside = [kind("s", "sigs"), kind("i", "imageIndex")];
        assert_eq!(subject_by_name(&beside[0], &beside), Some(Digest::of("i")));
        assert_eq!(subject_by_name(&beside[1], &beside), None);
    }
}
