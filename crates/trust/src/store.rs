// SPDX-License-Identifier: Apache-2.0
//! Signatures beside the images that they are of, in a store.
//!
//! A label on the image's manifest or index refers to them, so that they are found from it, and are
//! collected with it and not before. It is the label that containerd gives to referrers (containerd
//! `core/images/mediatypes.go`, `ChildGCLabels`). Anybody may set it, and nothing is believed of it.
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use content::{Fetch, Info, Store, blob};
use futures_util::{StreamExt as _, stream::BoxStream};
use types::{Descriptor, Digest, FieldMask, Labels, Result, media_types};

use crate::Evidence;

/// The beginning of labels that refer to referrers.
const REFERRER: &str = "containerd.io/gc.ref.content.referrer.";
/// How labels refer to anything else.
const CHILD: &str = "containerd.io/gc.ref.content.";
/// The longest blob that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;

/// The signatures that are kept beside `image`; none if it is not there itself.
pub async fn kept(store: &dyn Store, image: &Digest) -> Result<Vec<Evidence>> {
    let labels = match store.info(image).await {
        Err(error) if error.is_not_found() => return Ok(Vec::new()),
        info => info?.labels,
    };
    let mut candidates = Vec::new();
    for digest in labels.iter().filter(|(key, _)| key.starts_with(REFERRER)).map(|(_, it)| it) {
        let Ok(digest) = digest.parse::<Digest>() else { continue };
        if let Ok(info) = store.info(&digest).await {
            candidates.push(Descriptor::new(media_types::MANIFEST, digest, info.size));
        }
    }
    Ok(crate::gather(&Blobs(store), &candidates).await)
}

/// Keeps `evidence` beside `image`, which has to be there.
///
/// Where nothing holds the blobs before they are referred to, a collection in between takes them:
/// callers do this under a lease.
pub async fn keep(store: &dyn Store, image: &Digest, evidence: &Evidence) -> Result<()> {
    let mut children = Labels::new();
    for (at, (part, data)) in evidence.parts.iter().enumerate() {
        write(store, part, data, Labels::new()).await?;
        children.insert(format!("{CHILD}{at}"), part.digest.to_string());
    }
    let Evidence { manifest, data, .. } = evidence;
    write(store, manifest, data, children.clone()).await?;
    // One that was there before, from another namespace or another pull, may have no labels.
    label(store, &manifest.digest, children).await?;
    let key = format!("{REFERRER}sha256.{}", &manifest.digest.hex()[..12]);
    label(store, image, Labels::from([(key, manifest.digest.to_string())])).await
}

async fn write(store: &dyn Store, part: &Descriptor, data: &Bytes, labels: Labels) -> Result<()> {
    let reference = format!("signature-{}", part.digest);
    blob::write(store, &reference, part.into(), data.clone(), labels).await.map(drop)
}

async fn label(store: &dyn Store, digest: &Digest, labels: Labels) -> Result<()> {
    let mask = FieldMask::new(labels.keys().map(|key| format!("labels.{key}")));
    let unsaid = SystemTime::UNIX_EPOCH;
    let digest = digest.clone();
    let info = Info { digest, size: 0, created_at: unsaid, updated_at: unsaid, labels };
    store.update(info, &mask).await.map(drop)
}

/// A store as a place to fetch from.
struct Blobs<'a>(&'a dyn Store);

#[async_trait]
impl Fetch for Blobs<'_> {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let data = blob::read(self.0, &descriptor.digest, MAX_SIZE).await?;
        let rest = data.slice(data.len().min(offset as usize)..);
        Ok(futures_util::stream::iter([Ok(rest)]).boxed())
    }
}
