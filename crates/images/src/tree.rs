// SPDX-License-Identifier: Apache-2.0
use std::collections::HashSet;

use content::{Store, blob};
use types::{Context, Descriptor, Error, Kind, Result, media_types};

use crate::document::{Document, MAX_SIZE};

/// Reads an index or a manifest; `None` for anything else, which is not read at all.
///
/// Errors: `InvalidArgument` when it is not what its descriptor says; `OutOfRange` when it is longer
/// than [`MAX_SIZE`]; `NotFound`.
pub async fn read(
    store: &(impl Store + ?Sized),
    descriptor: &Descriptor,
) -> Result<Option<Document>> {
    let media_type = &descriptor.media_type;
    if !media_types::is_manifest(media_type) && !media_types::is_index(media_type) {
        return Ok(None);
    }
    let data = blob::read(store, &descriptor.digest, MAX_SIZE).await?;
    Document::parse(descriptor, &data)
}

/// What `descriptor` refers to: nothing unless it is an index or a manifest.
pub async fn children(
    store: &(impl Store + ?Sized),
    descriptor: &Descriptor,
) -> Result<Vec<Descriptor>> {
    let document = read(store, descriptor).await.context(|| "children")?;
    Ok(document.map(|document| document.children()).unwrap_or_default())
}

/// How many parts an image may have, all platforms together. A hundred platforms with the hundred and
/// twenty-seven layers that Docker allows are a quarter of it.
const MAX_PARTS: usize = 1 << 16;

/// Everything that can be reached from `root`, itself included, parents before their children.
///
/// `follow` is shown each descriptor and the outcome of reading its children, and says which of them
/// to go on to. What is referred to twice is visited once, so that an index which lists itself many
/// times over costs no more than one that does not.
///
/// Errors: those of `follow`; `ResourceExhausted` for more parts than any image has.
pub async fn walk(
    store: &(impl Store + ?Sized),
    root: Descriptor,
    mut follow: impl FnMut(&Descriptor, Result<Vec<Descriptor>>) -> Result<Vec<Descriptor>>,
) -> Result<Vec<Descriptor>> {
    let (mut visited, mut ahead) = (Vec::new(), vec![root]);
    let mut seen = HashSet::new();
    while let Some(next) = ahead.pop() {
        if !seen.insert((next.digest.clone(), next.media_type.clone())) {
            continue;
        }
        let found = children(store, &next).await;
        ahead.extend(follow(&next, found)?.into_iter().rev());
        visited.push(next);
        if visited.len() + ahead.len() > MAX_PARTS {
            let what = format!("more than {MAX_PARTS} parts");
            return Err(Error::new(Kind::ResourceExhausted, what));
        }
    }
    Ok(visited)
}
