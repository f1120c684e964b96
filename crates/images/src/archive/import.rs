// SPDX-License-Identifier: Apache-2.0
//! From an archive into a store.
use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use content::{Expected, Ingest, Store};
use serde::Deserialize;
use types::{Context, Descriptor, Digest, Error, Hasher, Kind, Labels, Result, media_types};

use super::{
    BLOBS, Bytestream, DOCKER, INDEX, LAYOUT, LAYOUT_VERSION, docker,
    pieces::{Piece, pieces},
};
use crate::{MAX_SIZE, tree};

/// How long another import of the same file is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to read an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Import {
    /// Whether plain layers are packed with gzip where the archive has no manifests of its own.
    pub compress: bool,
}

/// Takes the blobs of an archive into `store` and answers with its index. The archive may be packed
/// itself, with gzip or zstd.
///
/// An archive with an OCI layout is that, even if it has a `manifest.json` too; of one that has only
/// the latter, manifests and the index are made (containerd `core/images/archive/importer.go`). What
/// is in the store already is read and hashed, but not written. Of two files with one name the last
/// one counts, as for everybody who unpacks archives.
///
/// Nothing keeps what was taken from collection but a lease of the caller's.
///
/// Errors: `InvalidArgument` for what is no such archive; `FailedPrecondition` for a blob that is not
/// what its name says.
pub async fn import(store: &dyn Store, source: Bytestream, how: Import) -> Result<Descriptor> {
    let mut found = Found::default();
    let mut pieces = pieces(source);
    while let Some(piece) = pieces.recv().await {
        match piece? {
            Piece::File { name, size } => {
                let file = File { store, name, size };
                file.take(&mut pieces, &mut found).await?;
            }
            Piece::Link { name, to } => drop(found.links.insert(name, to)),
            Piece::Data(_) | Piece::End => return Err(Error::internal("data without a file")),
        }
    }
    found.index(store, how).await
}

/// What an archive has.
#[derive(Debug, Default)]
pub(super) struct Found {
    layout: Option<Bytes>,
    docker: Option<Bytes>,
    /// By their names in the archive.
    pub(super) blobs: BTreeMap<String, Descriptor>,
    links: BTreeMap<String, String>,
}

/// `oci-layout`.
#[derive(Deserialize)]
struct Layout {
    #[serde(default, rename = "imageLayoutVersion")]
    version: String,
}

impl Found {
    async fn index(mut self, store: &dyn Store, how: Import) -> Result<Descriptor> {
        let refused = |why: String| Err(Error::said(Kind::InvalidArgument, why));
        if let Some(layout) = &self.layout {
            let layout: Layout = json(layout).context(|| format!("untar oci layout {LAYOUT:?}"))?;
            match layout.version.as_str() {
                "" => {}
                LAYOUT_VERSION => return self.layout_index(store).await,
                version => return refused(format!("unsupported OCI version {version}")),
            }
        }
        let Some(docker) = self.docker.take() else {
            return refused("unrecognized image format".to_owned());
        };
        self.follow_links()?;
        docker::index(store, &self, &docker, how).await
    }

    async fn layout_index(mut self, store: &dyn Store) -> Result<Descriptor> {
        let Some(mut index) = self.blobs.remove(INDEX) else {
            let why = format!("missing {INDEX} in OCI layout {LAYOUT_VERSION}");
            return Err(Error::said(Kind::InvalidArgument, why));
        };
        media_types::INDEX.clone_into(&mut index.media_type);
        // Whether it is one is found out before anything else looks at it.
        tree::read(store, &index).await?;
        Ok(index)
    }

    /// Layers that images share are links to the first of them.
    fn follow_links(&mut self) -> Result<()> {
        for (name, to) in std::mem::take(&mut self.links) {
            let Some(blob) = self.blobs.get(&to) else {
                let why = format!("no target for symlink layer from {name:?} to {to:?}");
                return Err(Error::said(Kind::InvalidArgument, why));
            };
            self.blobs.insert(name, blob.clone());
        }
        Ok(())
    }
}

pub(super) fn json<T: serde::de::DeserializeOwned>(data: &[u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| Error::caused(Kind::InvalidArgument, "", error))
}

type Pieces = tokio::sync::mpsc::Receiver<Result<Piece>>;

/// A file of the archive, whose data comes next.
struct File<'a> {
    store: &'a dyn Store,
    name: String,
    size: u64,
}

impl File<'_> {
    async fn take(self, pieces: &mut Pieces, found: &mut Found) -> Result<()> {
        match self.name.as_str() {
            LAYOUT => found.layout = Some(self.small(pieces).await?),
            DOCKER => found.docker = Some(self.small(pieces).await?),
            _ => {
                let digest = self.blob(pieces).await;
                let digest = digest.context(|| format!("failed to ingest {:?}", self.name))?;
                let descriptor = Descriptor::new("", digest, self.size);
                found.blobs.insert(self.name, descriptor);
            }
        }
        Ok(())
    }

    async fn small(&self, pieces: &mut Pieces) -> Result<Bytes> {
        if self.size > MAX_SIZE {
            let Self { name, size, .. } = self;
            let why = format!("{name} has {size} bytes, more than {MAX_SIZE}");
            return Err(Error::invalid(why));
        }
        let mut data = Vec::with_capacity(self.size as usize);
        while let Some(more) = next(pieces).await? {
            data.extend_from_slice(&more);
        }
        Ok(data.into())
    }

    async fn blob(&self, pieces: &mut Pieces) -> Result<Digest> {
        let claimed = claimed(&self.name)?;
        if self.name == INDEX && self.size > MAX_SIZE {
            let what = format!("index of {} bytes, more than {MAX_SIZE}", self.size);
            return Err(Error::invalid(what));
        }
        let reference = format!("tar-{}", self.name);
        let expected = Expected { size: Some(self.size), digest: claimed.clone() };
        match content::blob::open(self.store, &reference, expected.clone(), PATIENCE).await {
            Ok(mut ingest) => {
                let outcome = self.write(&mut *ingest, expected, pieces).await;
                if outcome.is_err() {
                    drop(ingest);
                    self.discard(&reference).await;
                }
                outcome
            }
            Err(error) if error.is_already_exists() => self.compare(expected, pieces).await,
            Err(error) => Err(error),
        }
    }

    async fn write(
        &self,
        ingest: &mut dyn Ingest,
        expected: Expected,
        pieces: &mut Pieces,
    ) -> Result<Digest> {
        if ingest.status().offset != 0 {
            ingest.truncate(0).await?;
        }
        // A store hashes too, but one that finds the blob there does not say what it is.
        let mut hasher = expected.digest.is_none().then(hasher);
        while let Some(data) = next(pieces).await? {
            if let Some(hasher) = &mut hasher {
                hasher.update(&data);
            }
            ingest.write(data).await?;
        }
        let digest = hasher.map(Hasher::finish);
        let known = expected.digest.clone().or(digest);
        match (ingest.commit(expected, Labels::new()).await, known) {
            (Err(error), Some(known)) if error.is_already_exists() => Ok(known),
            (outcome, _) => outcome,
        }
    }

    /// Reads what is there already: whether the archive has the same is all there is to find out.
    async fn compare(&self, expected: Expected, pieces: &mut Pieces) -> Result<Digest> {
        let algorithm = expected.digest.as_ref().map(Digest::algorithm);
        let (mut hasher, mut size) =
            (Hasher::new(algorithm.unwrap_or(types::Algorithm::Sha256)), 0);
        while let Some(data) = next(pieces).await? {
            hasher.update(&data);
            size += data.len() as u64;
        }
        let digest = hasher.finish();
        expected.check(size, &digest)?;
        Ok(digest)
    }

    async fn discard(&self, reference: &str) {
        if let Err(error) = self.store.abort(reference).await
            && !error.is_not_found()
        {
            tracing::warn!(reference, %error, "failed to abort ingest");
        }
    }
}

fn hasher() -> Hasher {
    Hasher::new(types::Algorithm::Sha256)
}

/// The digest that a file says it has by its name, `blobs/sha256/<hex>`.
fn claimed(name: &str) -> Result<Option<Digest>> {
    let Some((algorithm, hex)) = name.strip_prefix(BLOBS).and_then(|name| name.split_once('/'))
    else {
        return Ok(None);
    };
    format!("{algorithm}:{hex}").parse().map(Some)
}

/// More data of the current file; `None` at its end.
async fn next(pieces: &mut Pieces) -> Result<Option<Bytes>> {
    match pieces.recv().await {
        Some(Ok(Piece::Data(data))) => Ok(Some(data)),
        Some(Ok(Piece::End)) => Ok(None),
        Some(Err(error)) => Err(error),
        _ => Err(Error::said(Kind::InvalidArgument, "unexpected EOF")),
    }
}
