// SPDX-License-Identifier: Apache-2.0
//! Archives sent to a daemon, and taken from one.
use std::sync::Arc;

use ::client::Progress;
use ::images::archive::{Bytestream, Export, NameRule};
use api::containerd::{
    services::transfer::v1 as pb,
    types::transfer::{
        ImageExportStream, ImageImportStream, ImageReference, ImageStore, UnpackConfiguration,
    },
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use pb::transfer_client::TransferClient;
use tokio::{sync::mpsc, task::JoinHandle};
use types::{Error, Labels, Platform, Result};

use super::{listen, open};
use crate::call::{Peer, error};
use crate::convert::ToWire;
use crate::streaming::{Stream, window};

/// How many pieces of an archive may wait.
const WAITING: usize = 4;

/// An archive for a daemon to import.
pub struct Imported {
    /// How its images are named.
    pub names: Vec<NameRule>,
    /// The platforms whose manifests are kept, none being all.
    pub platforms: Vec<Platform>,
    /// The snapshotters to unpack to, each for a platform.
    pub unpack: Vec<(String, Platform)>,
    /// Whether plain layers are compressed, where the archive has no manifests of its own.
    pub compress: bool,
    /// Labels of the image records.
    pub labels: Labels,
    /// Who hears of it.
    pub progress: Arc<dyn Progress>,
}

/// Has the daemon at `peer` import an archive.
pub async fn import(peer: Peer, source: Bytestream, image: Imported) -> Result<()> {
    let progress_stream = reports(&peer, &image.progress).await?;
    let (feeding, stream) = feed(&peer, source).await?;
    let from = ImageImportStream { stream, force_compress: image.compress, ..Default::default() };
    let (index, references) = references(image.names);
    let unpack = |(snapshotter, platform): (String, Platform)| UnpackConfiguration {
        platform: Some(platform.to_wire()),
        snapshotter,
    };
    let to = ImageStore {
        name: index,
        labels: image.labels,
        platforms: image.platforms.to_wire(),
        extra_references: references,
        unpacks: image.unpack.into_iter().map(unpack).collect(),
        ..Default::default()
    };
    let request = request(api::pack(&from), api::pack(&to), progress_stream);
    let outcome = TransferClient::new(peer).transfer(request).await;
    let fed = if outcome.is_ok() { Ok(()) } else { feeding.cause().await };
    // What could not be read here is why the daemon did not understand it.
    fed.and(outcome.map(drop).map_err(error))
}

/// Has the daemon at `peer` export images, and hands the archive to `take` piece by piece.
pub async fn export(
    peer: Peer,
    what: Export,
    progress: Arc<dyn Progress>,
    mut take: impl FnMut(Bytes) -> Result<()>,
) -> Result<()> {
    let progress_stream = reports(&peer, &progress).await?;
    let (sender, mut pieces) = mpsc::channel(WAITING);
    let stream = open(&peer, "export", |stream| carry(stream, sender)).await?;
    let mut names = what.images.into_iter().filter_map(|(name, _)| name);
    let name = names.next().unwrap_or_default();
    let further = names.map(|name| ImageReference { name, ..Default::default() }).collect();
    let from = ImageStore { name, extra_references: further, ..Default::default() };
    let to = ImageExportStream {
        stream,
        platforms: what.platforms.to_wire(),
        all_platforms: what.all_platforms,
        skip_compatibility_manifest: what.skip_docker_manifest,
        skip_non_distributable: what.skip_non_distributable,
        ..Default::default()
    };
    let request = request(api::pack(&from), api::pack(&to), progress_stream);
    let taking = async move {
        let mut taken = Ok(());
        while let Some(piece) = pieces.recv().await {
            taken = taken.and_then(|()| take(piece?));
            if taken.is_err() {
                break;
            }
        }
        taken
    };
    let mut client = TransferClient::new(peer);
    let (outcome, taken) = tokio::join!(client.transfer(request), taking);
    taken.and(outcome.map(drop).map_err(error))
}

fn request(
    source: prost_types::Any,
    destination: prost_types::Any,
    progress_stream: String,
) -> pb::TransferRequest {
    let options = Some(pb::TransferOptions { progress_stream });
    pb::TransferRequest { source: Some(source), destination: Some(destination), options }
}

async fn reports(peer: &Peer, progress: &Arc<dyn Progress>) -> Result<String> {
    let progress = progress.clone();
    open(peer, "progress", |stream| listen(stream, progress)).await
}

/// The name of the index, if it has one, and all other names.
fn references(rules: Vec<NameRule>) -> (String, Vec<ImageReference>) {
    let mut index = String::new();
    let mut references = Vec::new();
    for rule in rules {
        if index.is_empty() && !rule.is_prefix && !rule.add_digest {
            index = rule.name;
            continue;
        }
        references.push(ImageReference {
            name: rule.name,
            is_prefix: rule.is_prefix,
            allow_overwrite: rule.allow_overwrite,
            add_digest: rule.add_digest,
            skip_named_digest: rule.skip_named_digest,
        });
    }
    (index, references)
}

async fn carry(stream: Stream, sender: mpsc::Sender<Result<Bytes>>) {
    let mut source = window::receive(stream);
    while let Some(piece) = source.try_next().await.transpose() {
        if sender.send(piece).await.is_err() {
            return;
        }
    }
}

/// A source that is being read.
struct Feeding(JoinHandle<Result<()>>);

impl Feeding {
    /// Why it ended early, if it did by itself.
    async fn cause(mut self) -> Result<()> {
        if !self.0.is_finished() {
            self.0.abort();
        }
        match (&mut self.0).await {
            Ok(Err(error)) => Err(error),
            _ => Ok(()),
        }
    }
}

async fn feed(peer: &Peer, mut source: Bytestream) -> Result<(Feeding, String)> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let id = open(peer, "import", |stream| async move {
        if let Err(error) = window::send(stream, receiver).await {
            tracing::debug!(%error, "import stream ended");
        }
    })
    .await?;
    let feeding = tokio::spawn(async move {
        while let Some(piece) = source.try_next().await? {
            if sender.send(piece).await.is_err() {
                return Ok(());
            }
        }
        Ok::<(), Error>(())
    });
    Ok((Feeding(feeding), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_whole_name_is_the_indexs() {
        let whole = |name: &str| NameRule { name: name.into(), ..NameRule::default() };
        let prefix = NameRule { is_prefix: true, ..whole("r.io/a") };
        let (index, others) = references(vec![prefix, whole("r.io/all:1"), whole("r.io/all:2")]);
        assert_eq!(index, "r.io/all:1");
        let names: Vec<_> = others.iter().map(|it| (it.name.as_str(), it.is_prefix)).collect();
        assert_eq!(names, [("r.io/a", true), ("r.io/all:2", false)]);
    }
}
