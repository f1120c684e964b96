// SPDX-License-Identifier: Apache-2.0
//! Archives that clients send, and those that they are sent.
use std::sync::Arc;

use ::client::{Client, Event, Import, Progress};
use ::images::archive::{Bytestream, Export, NameRule};
use api::containerd::types::transfer::{
    ImageExportStream, ImageImportStream, ImageReference, ImageStore,
};
use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio::sync::mpsc;
use types::{Error, Platform, Result};

use super::unpacks::Unpacks;
use crate::convert::FromWire;
use crate::streaming::{Stream, window};

/// How many pieces of an archive may wait for the client.
const WAITING: usize = 4;

/// How images get the names of `store` (containerd `core/transfer/image/imagestore.go`).
pub(super) fn rules(name: &str, references: Vec<ImageReference>) -> Vec<NameRule> {
    let own = NameRule { name: name.to_owned(), ..NameRule::default() };
    let own = Some(own).filter(|rule| !rule.name.is_empty());
    let rule = |it: ImageReference| NameRule {
        name: it.name,
        is_prefix: it.is_prefix,
        allow_overwrite: it.allow_overwrite,
        add_digest: it.add_digest,
        skip_named_digest: it.skip_named_digest,
    };
    own.into_iter().chain(references.into_iter().map(rule)).collect()
}

/// Takes in an archive.
pub(super) async fn import(
    client: &Client,
    from: ImageImportStream,
    stream: Stream,
    to: ImageStore,
    unpacks: &Unpacks,
    progress: Arc<dyn Progress>,
) -> Result<()> {
    let import = Import {
        names: rules(&to.name, to.extra_references),
        platforms: Vec::from_wire(to.platforms)?,
        unpack: unpacks.choose(to.unpacks)?,
        manifest_limit: to.manifest_limit as usize,
        discard_layers: false,
        skip_missing: false,
        compress: from.force_compress,
        labels: to.labels,
        progress,
    };
    client.import(window::receive(stream), &import).await.map(drop)
}

/// Sends an archive.
pub(super) async fn export(
    client: &Client,
    from: ImageStore,
    to: ImageExportStream,
    stream: Stream,
    progress: Arc<dyn Progress>,
) -> Result<()> {
    let said = |event: &'static str| Event { event: event.into(), ..Event::default() };
    progress.report(said("Exporting"));
    let export = Export {
        images: client.named(&lookup(&from)?).await?,
        platforms: Vec::<Platform>::from_wire(to.platforms)?,
        all_platforms: to.all_platforms,
        skip_docker_manifest: to.skip_compatibility_manifest,
        skip_non_distributable: to.skip_non_distributable,
        skip_missing: false,
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    let sending = window::send(stream, receiver);
    let (made, sent) = tokio::join!(client.export(&export, sender), sending);
    // If the client is gone, making the archive failed for want of a reader: the cause comes first.
    sent.and(made)?;
    progress.report(said("Completed export"));
    Ok(())
}

/// The names to look up. With a prefix that would be a search, which containerd does not do either,
/// in these words (containerd `core/transfer/image/imagestore.go`, `Lookup`).
fn lookup(from: &ImageStore) -> Result<Vec<String>> {
    let own = Some(from.name.clone()).filter(|name| !name.is_empty());
    let mut names = Vec::from_iter(own);
    for reference in &from.extra_references {
        if reference.is_prefix {
            return Err(Error::unimplemented("prefix lookup on export not implemented"));
        }
        names.push(reference.name.clone());
    }
    Ok(names)
}

/// Sends back what was sent, unread (containerd `core/transfer/local/transfer.go`, `echo`).
pub(super) async fn echo(from: Stream, to: Stream) -> Result<()> {
    let mut source: Bytestream = window::receive(from);
    let (sender, receiver) = mpsc::channel::<Bytes>(WAITING);
    let reading = async move {
        while let Some(piece) = source.try_next().await? {
            if sender.send(piece).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let (read, sent) = tokio::join!(reading, window::send(to, receiver));
    read.and(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_for_the_index_and_further_ones_as_they_say() {
        let reference = ImageReference {
            name: "r.io/a".into(),
            is_prefix: true,
            add_digest: true,
            ..ImageReference::default()
        };
        let [own, prefix] = &rules("r.io/all", vec![reference])[..] else { panic!() };
        assert_eq!((own.name.as_str(), own.is_prefix), ("r.io/all", false));
        assert!(prefix.is_prefix && prefix.add_digest && !prefix.allow_overwrite);
        assert_eq!(rules("", Vec::new()), []);
    }

    #[test]
    fn an_export_does_not_search() {
        let reference = |is_prefix| ImageReference {
            name: "r.io/b".into(),
            is_prefix,
            ..ImageReference::default()
        };
        let store = |is_prefix| ImageStore {
            name: "r.io/a".into(),
            extra_references: vec![reference(is_prefix)],
            ..ImageStore::default()
        };
        assert_eq!(lookup(&store(false)).unwrap(), ["r.io/a", "r.io/b"]);
        assert_eq!(lookup(&store(true)).unwrap_err().kind(), types::Kind::Unimplemented);
    }
}
