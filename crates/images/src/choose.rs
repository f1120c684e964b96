// SPDX-License-Identifier: Apache-2.0
use std::collections::HashSet;

use content::Store;
use types::{Descriptor, Error, Platform, Result, media_types, platform::Matcher};

use crate::{
    document::{Config, Document, Manifest, read_config},
    tree,
};

/// The manifest that was chosen from an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Where it is.
    pub descriptor: Descriptor,
    /// What it says.
    pub manifest: Manifest,
}

/// Chooses the manifest of `image` that fits `wanted` best.
///
/// A manifest that is the image itself is chosen whatever it runs on. In an index, one whose
/// descriptor names no platform is judged by its config, after all that do (containerd
/// `core/images/image.go`, `Manifest`).
///
/// Errors: `NotFound` when none fits, and when a part that is needed to tell is missing.
pub async fn choose(
    store: &(impl Store + ?Sized),
    image: &Descriptor,
    wanted: &Matcher,
) -> Result<Chosen> {
    let mut ahead = vec![image.clone()];
    let mut seen = HashSet::new();
    let mut what = "manifest";
    while let Some(descriptor) = ahead.pop() {
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        match tree::read(store, &descriptor).await? {
            Some(Document::Index(index)) => {
                what = "no match for platform in manifest";
                ahead.extend(ranked(index.manifests, wanted).into_iter().rev());
            }
            Some(Document::Manifest(manifest)) => {
                let is_root = descriptor.digest == image.digest;
                if is_root || fits(store, &descriptor, &manifest, wanted).await? {
                    return Ok(Chosen { descriptor, manifest: *manifest });
                }
            }
            None if descriptor.digest == image.digest => {
                let Descriptor { media_type, digest, .. } = descriptor;
                let what = format!("unexpected media type {media_type} for {digest}");
                return Err(Error::not_found(what));
            }
            None => {}
        }
    }
    Err(Error::not_found(format!("{what} {}", image.digest)))
}

/// The config of the manifest of `image` that fits `wanted` best, and where it is.
pub async fn config(
    store: &(impl Store + ?Sized),
    image: &Descriptor,
    wanted: &Matcher,
) -> Result<(Descriptor, Config)> {
    let descriptor = choose(store, image, wanted).await?.manifest.config;
    let config = read_config(store, &descriptor).await?;
    Ok((descriptor, config))
}

/// The platforms that `image` is for. Attestations, which are for `unknown`, do not count.
pub async fn platforms(store: &(impl Store + ?Sized), image: &Descriptor) -> Result<Vec<Platform>> {
    let mut platforms = Vec::new();
    let configs = tree::walk(store, image.clone(), |descriptor, children| {
        let Some(platform) = &descriptor.platform else { return children };
        if platform.os != "unknown" && platform.architecture != "unknown" {
            platforms.push(platform.clone());
        }
        Ok(Vec::new())
    });
    for descriptor in configs.await? {
        if media_types::is_config(&descriptor.media_type) && descriptor.platform.is_none() {
            platforms.push(read_config(store, &descriptor).await?.platform.normalized());
        }
    }
    Ok(platforms)
}

/// What of an index is wanted, and what else is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The best manifest for each platform that was asked for, and whatever names no platform.
    pub wanted: Vec<Descriptor>,
    /// The others.
    pub others: Vec<Descriptor>,
}

impl Selection {
    /// The preferred `limit` of them, by the order of `platforms`; what names no platform comes after
    /// them, and others last. 0 is no limit (containerd `core/images/handlers.go`, `LimitManifests`).
    #[must_use]
    pub fn limited(mut self, platforms: &[Platform], limit: usize) -> Self {
        if limit > 0 {
            let matchers: Vec<_> = platforms.iter().map(Matcher::only).collect();
            self.wanted.sort_by_key(|child| {
                let platform = child.platform.as_ref();
                let fits = |it: &Matcher| platform.is_some_and(|platform| it.matches(platform));
                matchers.iter().position(fits).unwrap_or(matchers.len())
            });
            self.wanted.truncate(limit);
            self.others.truncate(limit - self.wanted.len());
        }
        self
    }
}

/// Splits the children of an index into those that are best for one of `platforms` and the others.
/// No platforms are all of them.
///
/// What hardware could run too is not wanted beside what it runs best: of `linux/amd64` and
/// `linux/386`, a machine that runs both gets the first (containerd `core/images/handlers.go`,
/// `SelectManifestsPerPlatform`).
pub fn select(children: Vec<Descriptor>, platforms: &[Platform]) -> Selection {
    let best: HashSet<usize> =
        platforms.iter().filter_map(|platform| best(&children, platform)).collect();
    let mut selection = Selection::default();
    for (index, child) in children.into_iter().enumerate() {
        let is_wanted = platforms.is_empty() || child.platform.is_none() || best.contains(&index);
        let side = if is_wanted { &mut selection.wanted } else { &mut selection.others };
        side.push(child);
    }
    selection
}

fn best(children: &[Descriptor], platform: &Platform) -> Option<usize> {
    let matcher = Matcher::only(platform);
    let rank = |child: &Descriptor| matcher.rank(child.platform.as_ref()?);
    let ranks =
        children.iter().enumerate().filter_map(|(index, child)| Some((rank(child)?, index)));
    ranks.min().map(|(_, index)| index)
}

/// Those that may fit, best first.
fn ranked(children: Vec<Descriptor>, wanted: &Matcher) -> Vec<Descriptor> {
    let rank = |child: &Descriptor| match &child.platform {
        Some(platform) => wanted.rank(platform),
        None => Some(usize::MAX),
    };
    let mut ranked: Vec<_> =
        children.into_iter().filter_map(|child| Some((rank(&child)?, child))).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, child)| child).collect()
}

async fn fits(
    store: &(impl Store + ?Sized),
    descriptor: &Descriptor,
    manifest: &Manifest,
    wanted: &Matcher,
) -> Result<bool> {
    match &descriptor.platform {
        Some(platform) => Ok(wanted.matches(platform)),
        None => Ok(wanted.matches(&read_config(store, &manifest.config).await?.platform)),
    }
}

#[cfg(test)]
mod tests {
    use types::Digest;

    use super::*;

    fn child(platform: &str) -> Descriptor {
        let mut child = Descriptor::new(media_types::MANIFEST, Digest::of(platform), 1);
        let platform = platform.split_once('/');
        child.platform = platform.map(|(os, architecture)| Platform::new(os, architecture, ""));
        child
    }

    #[track_caller]
    fn check(platforms: &[&str], want: &[&str]) {
        let all = ["linux/386", "linux/amd64", "linux/arm64", "unknown/unknown", "none"];
        let platforms: Vec<Platform> = platforms.iter().map(|text| text.parse().unwrap()).collect();
        let selection = select(all.map(child).to_vec(), &platforms);
        assert_eq!(selection.wanted, want.iter().copied().map(child).collect::<Vec<_>>());
        assert_eq!(selection.wanted.len() + selection.others.len(), all.len());
    }

    #[test]
    fn each_platform_gets_its_best_manifest_and_no_other() {
        check(&["linux/amd64"], &["linux/amd64", "none"]);
        check(&["linux/arm64", "linux/386"], &["linux/386", "linux/arm64", "none"]);
        check(&["windows/amd64"], &["none"]);
        check(&[], &["linux/386", "linux/amd64", "linux/arm64", "unknown/unknown", "none"]);
    }

    #[test]
    fn what_runs_best_comes_first_and_what_names_no_platform_last() {
        let matcher = Matcher::only(&"linux/amd64".parse().unwrap());
        let all = ["none", "linux/386", "linux/arm64", "linux/amd64"].map(child).to_vec();
        assert_eq!(ranked(all, &matcher), ["linux/amd64", "linux/386", "none"].map(child));
    }
}
