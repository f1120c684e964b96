// SPDX-License-Identifier: Apache-2.0
use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use fs_err as fs;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use types::{Algorithm, Digest, Filters, Result};

use super::{Shared, blocking};
use crate::Info;

/// How many blobs are looked at in one hop.
const BATCH: usize = 512;

/// Streams the blobs that match, as the directories list them: nothing is held but one batch.
pub(super) fn stream(shared: Arc<Shared>, filters: Filters) -> BoxStream<'static, Result<Info>> {
    let walk = Walk { shared, filters, algorithms: ALGORITHMS.to_vec(), listing: None };
    stream::try_unfold(Some(walk), |walk| async move {
        let Some(walk) = walk else { return Ok(None) };
        blocking(move || Ok(Some(walk.batch()?))).await
    })
    .map_ok(|batch| stream::iter(batch.into_iter().map(Ok)))
    .try_flatten()
    .boxed()
}

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha512, Algorithm::Sha256];

struct Walk {
    shared: Arc<Shared>,
    filters: Filters,
    /// Those not listed yet, last first.
    algorithms: Vec<Algorithm>,
    listing: Option<(Algorithm, fs::ReadDir)>,
}

impl Walk {
    /// The next blobs, and the walk that goes on from there.
    fn batch(mut self) -> Result<(Vec<Info>, Option<Self>)> {
        let mut batch = Vec::new();
        for _ in 0..BATCH {
            match self.next()? {
                Some(found) => batch.extend(self.look(found)?),
                None => return Ok((batch, None)),
            }
        }
        Ok((batch, Some(self)))
    }

    fn next(&mut self) -> Result<Option<(Algorithm, fs::DirEntry)>> {
        loop {
            if let Some((algorithm, listing)) = &mut self.listing
                && let Some(entry) = listing.next()
            {
                return Ok(Some((*algorithm, entry?)));
            }
            let Some(algorithm) = self.algorithms.pop() else { return Ok(None) };
            let listing = unless_missing(fs::read_dir(self.shared.layout.blobs(algorithm)))?;
            self.listing = listing.map(|listing| (algorithm, listing));
        }
    }

    /// A file that is not named as a blob is none of ours; one that is gone was just removed.
    fn look(&self, (algorithm, entry): (Algorithm, fs::DirEntry)) -> Result<Option<Info>> {
        let text = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
        let Ok(digest) = text.parse::<Digest>() else {
            tracing::warn!(path = %entry.path().display(), "invalid digest for blob path");
            return Ok(None);
        };
        let Some(metadata) = unless_missing(entry.metadata())? else { return Ok(None) };
        let info = self.shared.describe(digest, &metadata)?;
        Ok(self.filters.matches(&info).then_some(info))
    }
}

fn unless_missing<T>(outcome: io::Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        outcome => Ok(Some(outcome?)),
    }
}
