// SPDX-License-Identifier: Apache-2.0
//! From a store into an archive, byte for byte as Go's containerd writes it
//! (`core/images/archive/exporter.go`).
use std::collections::{BTreeMap, BTreeSet, HashSet};

use bytes::Bytes;
use content::Store;
use diff::tar;
use serde_json::json;
use tokio::sync::mpsc;
use types::{
    Context, Descriptor, Digest, Error, Hasher, Kind, Platform, Result,
    labels::DISTRIBUTION_SOURCE, media_types, platform::Matcher,
};

use super::{
    BLOBS, DOCKER, IMAGE_NAME, INDEX, LAYOUT, LAYOUT_VERSION, REF_NAME, docker::Saved, names,
};
use crate::{
    document::{Document, Index, to_json},
    tree,
};

/// How much is read at once.
const CHUNK: usize = 512 * 1024;
/// How deep indexes may be nested.
const MAX_DEPTH: usize = 8;

/// What to export, and how.
#[derive(Clone, Debug, Default)]
pub struct Export {
    /// Images and their names. The same one may have several.
    pub images: Vec<(Option<String>, Descriptor)>,
    /// The platforms whose manifests are written, the first one being that which Docker gets; none
    /// are this machine's.
    pub platforms: Vec<Platform>,
    /// Whether the manifests of all other platforms are written too.
    pub all_platforms: bool,
    /// Whether the file that Docker reads is left out.
    pub skip_docker_manifest: bool,
    /// Whether layers that are not to be handed on are left out.
    pub skip_non_distributable: bool,
    /// Whether a manifest is written without its parts if some of them are not here, and left out
    /// if it is not here itself.
    pub skip_missing: bool,
}

/// Writes an archive of images to `out`, piece by piece.
///
/// Errors: `InvalidArgument` for what is no image; `NotFound` when no platform fits or something is
/// missing; `Cancelled` when nobody takes the pieces any more.
pub async fn export(store: &dyn Store, what: &Export, out: mpsc::Sender<Bytes>) -> Result<()> {
    let plan = Plan::make(store, what).await?;
    let mut writer = Writer { tar: tar::Writer::new(Vec::new()), out };
    for (name, record) in &plan.records {
        writer.record(store, name, record).await?;
    }
    let rest = writer.tar.finish()?;
    writer.out.send(rest.into()).await.map_err(gone)
}

fn gone<T>(_unsent: T) -> Error {
    Error::cancelled("export")
}

/// What an archive is made of.
enum Record {
    Directory,
    Blob(Box<Descriptor>),
    Text { mode: u32, data: Bytes },
}

/// The files of an archive, sorted by name as they are written.
#[derive(Default)]
struct Plan {
    records: BTreeMap<String, Record>,
    algorithms: BTreeSet<String>,
    /// What Docker is told of: manifests, in the order of the images.
    docker: Vec<(Descriptor, Vec<String>)>,
}

impl Plan {
    async fn make(store: &dyn Store, what: &Export) -> Result<Self> {
        let mut plan = Self::default();
        let mut listed = Vec::new();
        for (name, image) in &what.images {
            let image = described(store, name.as_deref(), image).await?;
            let top = plan.image(store, what, &image).await?;
            if let Some(top) = top {
                plan.tell_docker(top, name.as_deref());
            }
            listed.push(image);
        }
        let layout = json!({ "imageLayoutVersion": LAYOUT_VERSION });
        plan.text(LAYOUT, 0o444, to_json(&layout)?);
        let media_type = media_types::INDEX.to_owned();
        let index = Index { schema_version: 2, media_type, manifests: listed, ..Index::default() };
        plan.text(INDEX, 0o644, to_json(&index)?);
        if !what.skip_docker_manifest && !plan.docker.is_empty() {
            let saved = plan.saved(store).await.context(|| "unable to create manifests file")?;
            plan.text(DOCKER, 0o644, to_json(&saved)?);
        }
        if !plan.algorithms.is_empty() {
            plan.records.insert(BLOBS.to_owned(), Record::Directory);
            for algorithm in &plan.algorithms {
                plan.records.insert(format!("{BLOBS}{algorithm}/"), Record::Directory);
            }
        }
        Ok(plan)
    }

    /// Plans the blobs of an image. Returns the manifest of it that Docker gets.
    async fn image(
        &mut self,
        store: &dyn Store,
        what: &Export,
        image: &Descriptor,
    ) -> Result<Option<Descriptor>> {
        if media_types::is_manifest(&image.media_type) {
            self.blobs(store, what, image).await?;
            return Ok(Some(image.clone()));
        }
        let Some(Document::Index(index)) = tree::read(store, image).await? else {
            return Err(Error::invalid("only manifests may be exported"));
        };
        self.blob(what, image);
        let matcher = match what.platforms.as_slice() {
            [] => Matcher::strict([Platform::host()]),
            platforms => Matcher::strict(platforms.to_vec()),
        };
        let rank = |child: &Descriptor| match &child.platform {
            None => Some(usize::MAX),
            Some(platform) => matcher.rank(platform),
        };
        let mut fitting = Vec::new();
        for child in index.manifests {
            let rank = rank(&child);
            if rank.is_some() || what.all_platforms {
                let is_there = self.blobs(store, what, &child).await?;
                fitting.extend(rank.filter(|_| is_there).map(|rank| (rank, child)));
            }
        }
        fitting.sort_by_key(|(rank, _)| *rank);
        match fitting.into_iter().next() {
            Some((_, best)) => Ok(Some(best).filter(|it| media_types::is_manifest(&it.media_type))),
            None if what.skip_missing => Ok(None),
            None => Err(Error::not_found("no manifest found for platform")),
        }
    }

    /// Plans everything beneath `root`, itself included. Returns whether it is there.
    async fn blobs(&mut self, store: &dyn Store, what: &Export, root: &Descriptor) -> Result<bool> {
        let mut ahead = vec![(root.clone(), 0)];
        let mut seen = HashSet::new();
        let mut is_there = true;
        while let Some((next, depth)) = ahead.pop() {
            if !seen.insert(next.digest.clone()) {
                continue;
            }
            if depth > MAX_DEPTH {
                return Err(Error::invalid(format!("index {} is nested too deep", root.digest)));
            }
            let children = match tree::children(store, &next).await {
                Err(error) if error.is_not_found() && what.skip_missing => {
                    is_there &= next.digest != root.digest;
                    continue;
                }
                children => children?,
            };
            self.blob(what, &next);
            let is_manifest = media_types::is_manifest(&next.media_type);
            if is_manifest && what.skip_missing && !all_there(store, &children).await? {
                continue;
            }
            ahead.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
        }
        Ok(is_there)
    }

    fn blob(&mut self, what: &Export, blob: &Descriptor) {
        if what.skip_non_distributable && media_types::is_non_distributable(&blob.media_type) {
            return;
        }
        self.algorithms.insert(blob.digest.algorithm().name().to_owned());
        self.records.insert(path(&blob.digest), Record::Blob(Box::new(blob.clone())));
    }

    fn text(&mut self, name: &str, mode: u32, data: Vec<u8>) {
        self.records.insert(name.to_owned(), Record::Text { mode, data: data.into() });
    }

    fn tell_docker(&mut self, manifest: Descriptor, name: Option<&str>) {
        let known = self.docker.iter().position(|(it, _)| it.digest == manifest.digest);
        let place = known.unwrap_or_else(|| {
            self.docker.push((manifest, Vec::new()));
            self.docker.len() - 1
        });
        self.docker[place].1.extend(name.map(str::to_owned));
    }

    async fn saved(&self, store: &dyn Store) -> Result<Vec<Saved>> {
        let mut saved = Vec::new();
        for (descriptor, names) in &self.docker {
            let Some(Document::Manifest(manifest)) = tree::read(store, descriptor).await? else {
                continue;
            };
            let tags =
                names.iter().map(|name| names::familiar(name)).collect::<Result<Vec<_>>>()?;
            let layers: Vec<_> = manifest.layers.iter().map(|layer| path(&layer.digest)).collect();
            saved.push(Saved {
                config: path(&manifest.config.digest),
                repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
                layers: Some(layers).filter(|layers| !layers.is_empty()),
            });
        }
        Ok(saved)
    }
}

async fn all_there(store: &dyn Store, parts: &[Descriptor]) -> Result<bool> {
    for part in parts {
        match store.info(&part.digest).await {
            Err(error) if error.is_not_found() => return Ok(false),
            info => drop(info?),
        }
    }
    Ok(true)
}

/// An image as the index lists it: with its name, and with the repositories that have it.
async fn described(
    store: &dyn Store,
    name: Option<&str>,
    image: &Descriptor,
) -> Result<Descriptor> {
    let mut image = image.clone();
    if let Some(name) = name {
        image.annotations.insert(IMAGE_NAME.to_owned(), name.to_owned());
        image.annotations.insert(REF_NAME.to_owned(), names::tag(name).to_owned());
    }
    let info = store.info(&image.digest).await?;
    let sources = info.labels.into_iter().filter(|(key, _)| key.starts_with(DISTRIBUTION_SOURCE));
    image.annotations.extend(sources);
    Ok(image)
}

fn path(digest: &Digest) -> String {
    format!("{BLOBS}{}/{}", digest.algorithm().name(), digest.hex())
}

/// Writes records as files of a tar archive.
struct Writer {
    tar: tar::Writer<Vec<u8>>,
    out: mpsc::Sender<Bytes>,
}

impl Writer {
    async fn record(&mut self, store: &dyn Store, name: &str, record: &Record) -> Result<()> {
        let (kind, mode, size) = match record {
            Record::Directory => (tar::Kind::Directory, 0o755, 0),
            Record::Blob(blob) => (tar::Kind::File, 0o444, blob.size),
            Record::Text { mode, data } => (tar::Kind::File, *mode, data.len() as u64),
        };
        let name = name.as_bytes().to_vec();
        self.tar.append(&tar::Entry { name, kind, mode, size, ..tar::Entry::default() })?;
        match record {
            Record::Directory => {}
            Record::Text { data, .. } => self.tar.data(data)?,
            Record::Blob(blob) => self.blob(store, blob).await?,
        }
        self.flush().await
    }

    /// Copies a blob, and sees to it that it is what it is called.
    async fn blob(&mut self, store: &dyn Store, blob: &Descriptor) -> Result<()> {
        let reader = store.reader(&blob.digest).await.context(|| "failed to get reader")?;
        let (mut offset, mut hasher) = (0, Hasher::new(blob.digest.algorithm()));
        while offset < blob.size {
            let piece = reader.read_at(offset, CHUNK).await?;
            if piece.is_empty() {
                break;
            }
            offset += piece.len() as u64;
            hasher.update(&piece);
            self.tar.data(&piece)?;
            self.flush().await?;
        }
        let digest = hasher.finish();
        if digest != blob.digest {
            return Err(Error::new(Kind::DataLoss, format!("unexpected digest {digest} copied")));
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        let written = std::mem::take(self.tar.sink());
        self.out.send(written.into()).await.map_err(gone)
    }
}
