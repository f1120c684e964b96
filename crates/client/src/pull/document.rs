// SPDX-License-Identifier: Apache-2.0
//! One index or manifest. It is small, so it is read before it is stored: it is in the store only with
//! the labels that keep its children.
use bytes::{Bytes, BytesMut};
use content::{Expected, Ingest};
use futures_util::StreamExt;
use images::{Document, MAX_SIZE, labels, ref_key};
use types::{Context, Descriptor, Digest, Error, Hasher, Kind, Labels, Result, media_types};

use super::{
    Session,
    blob::{discard, open, sizeless},
};
use crate::{progress::Meter, retry::Retry};

impl Session<'_> {
    /// Fetches an index or manifest, if it is not there yet, and reads it; `None` for what is neither,
    /// which is not fetched.
    pub(super) async fn document(
        &self,
        descriptor: &Descriptor,
        parent: &str,
    ) -> Result<Option<Document>> {
        let media_type = &descriptor.media_type;
        if media_type == media_types::DOCKER_SCHEMA1 {
            return Err(Error::invalid(format!("{media_type} not supported")));
        }
        if !media_types::is_index(media_type) && !media_types::is_manifest(media_type) {
            return Ok(None);
        }
        let meter = self.tracker.blob(descriptor, parent);
        self.unless_stopped(descriptor, self.bring_document(descriptor, &meter)).await
    }

    async fn bring_document(
        &self,
        descriptor: &Descriptor,
        meter: &Meter,
    ) -> Result<Option<Document>> {
        let _turn = self.turn(descriptor).await?;
        let (store, reference) = (&*self.client.content, ref_key(descriptor));
        let document = match open(store, &reference, descriptor.into()).await {
            Err(error) if error.is_already_exists() => {
                let document = self.existing(descriptor).await?;
                meter.exists();
                return Ok(document);
            }
            Err(error) => return Err(error),
            Ok(ingest) => self.store(descriptor, ingest).await,
        };
        match document {
            Ok(_) => meter.complete(),
            Err(_) => discard(store, &reference).await,
        }
        document
    }

    /// Reads what is there, and sees to it that its children are kept.
    async fn existing(&self, descriptor: &Descriptor) -> Result<Option<Document>> {
        let store = &*self.client.content;
        let document = images::read(store, descriptor).await?;
        let info = store.info(&descriptor.digest).await?;
        let mut wanted = self.labels(document.as_ref(), &info.labels);
        wanted.retain(|key, value| info.labels.get(key) != Some(value));
        labels::set(store, &descriptor.digest, wanted).await?;
        Ok(document)
    }

    async fn store(
        &self,
        descriptor: &Descriptor,
        mut ingest: Box<dyn Ingest>,
    ) -> Result<Option<Document>> {
        let is_whole = descriptor.size != 0 && ingest.status().offset == descriptor.size;
        if is_whole && self.commit(&mut *ingest, descriptor, Labels::new()).await.is_ok() {
            return self.existing(descriptor).await;
        } else if is_whole {
            // What an earlier transfer left is not what was asked for.
            drop(ingest);
            discard(&*self.client.content, &ref_key(descriptor)).await;
            ingest = open(&*self.client.content, &ref_key(descriptor), descriptor.into()).await?;
        }
        let data = self.download(descriptor).await?;
        let document = Document::parse(descriptor, &data)?;
        if ingest.status().offset != 0 {
            ingest.truncate(0).await?;
        }
        ingest.write(data).await?;
        let labels = self.labels(document.as_ref(), &Labels::new());
        self.commit(&mut *ingest, descriptor, labels).await?;
        Ok(document)
    }

    async fn commit(
        &self,
        ingest: &mut dyn Ingest,
        descriptor: &Descriptor,
        labels: Labels,
    ) -> Result<()> {
        match ingest.commit(descriptor.into(), labels.clone()).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_already_exists() => {
                labels::set(&*self.client.content, &descriptor.digest, labels).await
            }
            Err(error) => {
                Err(error.context(format!("failed commit on ref {:?}", ref_key(descriptor))))
            }
        }
    }

    /// The labels of a document: what keeps its children, and where it came from.
    fn labels(&self, document: Option<&Document>, existing: &Labels) -> Labels {
        let mut children = document.map(Document::children).unwrap_or_default();
        if self.pull.discard_layers {
            children.retain(|child| !media_types::is_layer(&child.media_type));
        }
        let mut labels = labels::of_children(&children);
        labels.extend(self.source_label(existing));
        labels
    }

    /// Fetches a document into memory. A transfer that breaks is begun anew: it is short.
    async fn download(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let Descriptor { digest, size, .. } = descriptor;
        if *size == 0 {
            return Err(sizeless(descriptor));
        }
        if *size > MAX_SIZE {
            let what = format!("manifest {digest} has {size} bytes, more than {MAX_SIZE}");
            return Err(Error::invalid(what));
        }
        let mut retry = Retry::default();
        loop {
            let error = match self.download_once(descriptor).await {
                Ok(data) => return Ok(data),
                Err(error) => error,
            };
            match retry.wait(&error, 0) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    async fn download_once(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let size = descriptor.size as usize;
        let mut data = BytesMut::with_capacity(size);
        let mut pieces = self.pull.fetch.fetch(descriptor, 0).await?;
        while let Some(piece) = pieces.next().await {
            data.extend_from_slice(&piece?);
            if data.len() > size {
                break;
            }
        }
        let data = data.freeze();
        if data.len() < size {
            let (digest, have) = (&descriptor.digest, data.len());
            let what = format!("{digest}: unexpected EOF after {have} of {size} bytes");
            return Err(Error::said(Kind::Unavailable, what));
        }
        Expected::from(descriptor)
            .check(data.len() as u64, &hash(&descriptor.digest, &data))
            .context(|| format!("failed commit on ref {:?}", ref_key(descriptor)))?;
        Ok(data)
    }
}

fn hash(like: &Digest, data: &[u8]) -> Digest {
    let mut hasher = Hasher::new(like.algorithm());
    hasher.update(data);
    hasher.finish()
}
