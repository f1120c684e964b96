// SPDX-License-Identifier: Apache-2.0
use std::{
    io,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use content::{Expected, Ingest, Store};
use mount::{Manager, Mount};
use tokio::{sync::mpsc, task};
use tracing::{debug, warn};
use types::{Context, Descriptor, Digest, Error, FieldMask, Result, labels, media_types};

use crate::{
    Apply, Arriving, BEFORE_PARENT, Compare, Differ, NEEDS_PARENT, Options, Processor,
    activated::Activated,
    apply_to_mounts,
    compare::compare_mounts,
    deflate::Made,
    media::{self, Compression},
    processor,
};

/// How many pieces of a blob may wait for the store.
const WAITING: usize = 4;

/// Applies and compares by walking through files: it works on any filesystem, and takes short cuts on
/// overlays.
pub struct Walking {
    store: Arc<dyn Store>,
    scratch: PathBuf,
    processors: Vec<Processor>,
    manager: Option<Arc<dyn Manager>>,
    max_size: u64,
}

impl Walking {
    /// Reads and writes layers in `store`. What has to be mounted is mounted below `scratch`.
    pub fn new(store: Arc<dyn Store>, scratch: impl Into<PathBuf>) -> Self {
        Self { store, scratch: scratch.into(), processors: Vec::new(), manager: None, max_size: 0 }
    }

    /// Has programs turn layers of other media types into those that are known.
    pub fn with_processors(mut self, processors: Vec<Processor>) -> Self {
        self.processors = processors;
        self
    }

    /// Refuses layers that inflate to more than `max_size` bytes, unless it is 0.
    pub fn with_max_size(mut self, max_size: u64) -> Self {
        self.max_size = max_size;
        self
    }

    /// Has mounts that are no system's performed by a manager.
    pub fn with_mounts(mut self, manager: Option<Arc<dyn Manager>>) -> Self {
        self.manager = manager;
        self
    }

    /// Applies what `reader` yields, on a thread of its own.
    async fn apply_read(
        &self,
        reader: impl io::Read + Send + 'static,
        media_type: &str,
        mounts: &[Mount],
        options: Apply,
    ) -> Result<Descriptor> {
        let activated = Activated::of(self.manager.as_ref(), "diff-apply", mounts).await?;
        let (media_type, mounts) = (media_type.to_owned(), activated.mounts.clone());
        let before_parent = options.payloads.contains_key(BEFORE_PARENT);
        let options = Options {
            overlay_bind: before_parent,
            scratch: self.scratch.clone(),
            processors: self.processors.clone(),
            payloads: options.payloads,
            max_size: self.max_size,
            ..Options::default()
        };
        let applying =
            task::spawn_blocking(move || apply_to_mounts(reader, &media_type, &mounts, &options));
        let failed = |error| Error::caused(types::Kind::Internal, "apply", error);
        let applied = applying.await.map_err(failed);
        activated.undo().await;
        let applied = applied??;
        let mut described = Descriptor::new(media_types::LAYER, applied.digest, applied.size);
        if before_parent {
            let needs_parent = applied.needs_parent.to_string();
            described.annotations.insert(NEEDS_PARENT.to_owned(), needs_parent);
        }
        Ok(described)
    }

    /// Compares, and writes the outcome through `ingest` while it is being made.
    async fn write(&self, ingest: &mut dyn Ingest, job: Job) -> Result<Made> {
        let (sender, mut receiver) = mpsc::channel(WAITING);
        let scratch = self.scratch.clone();
        let making = task::spawn_blocking(move || {
            let gone = |_| Error::cancelled("diff");
            let mut send = |data: Bytes| sender.blocking_send(data).map_err(gone);
            let Job { lower, upper, compression, epoch } = &job;
            compare_mounts(lower, upper, *compression, *epoch, &scratch, &mut send)
        });
        let mut written = Ok(());
        while let (true, Some(data)) = (written.is_ok(), receiver.recv().await) {
            written = ingest.write(data).await;
        }
        // Whoever is still making a layer that cannot be written is told so, and unmounts.
        drop(receiver);
        let made =
            making.await.map_err(|error| Error::caused(types::Kind::Internal, "diff", error))?;
        written.and(made).context(|| "failed to write diff")
    }

    /// Names the blob, and sees to its label even if it was there before.
    async fn commit(
        &self,
        ingest: &mut dyn Ingest,
        made: &Made,
        mut labels: labels::Labels,
    ) -> Result<()> {
        labels.insert(labels::UNCOMPRESSED.into(), made.diff_id.to_string());
        let expected = Expected { size: Some(made.size), digest: Some(made.digest.clone()) };
        match ingest.commit(expected, labels).await {
            Err(error) if error.is_already_exists() => {
                self.label(&made.digest, &made.diff_id).await
            }
            result => result.map(drop).context(|| "failed to commit"),
        }
    }

    async fn label(&self, digest: &Digest, diff_id: &Digest) -> Result<()> {
        let info = self.store.info(digest).await;
        let mut info = info.context(|| "failed to get info from content store")?;
        if info.labels.contains_key(labels::UNCOMPRESSED) {
            return Ok(());
        }
        info.labels.insert(labels::UNCOMPRESSED.into(), diff_id.to_string());
        let mask = FieldMask::new([format!("labels.{}", labels::UNCOMPRESSED)]);
        let updated = self.store.update(info, &mask).await;
        updated.map(drop).context(|| "error setting uncompressed label")
    }
}

/// What to compare, and how.
struct Job {
    lower: Vec<Mount>,
    upper: Vec<Mount>,
    compression: Compression,
    epoch: Option<SystemTime>,
}

#[async_trait]
impl Differ for Walking {
    /// Compat: the digest of the descriptor was checked when the content was committed, and is not
    /// checked again (containerd `core/diff/apply/apply.go`).
    async fn apply(
        &self,
        descriptor: &Descriptor,
        mounts: &[Mount],
        options: Apply,
    ) -> Result<Descriptor> {
        processor::plan(&descriptor.media_type, &self.processors)?;
        let reader = self.store.reader(&descriptor.digest).await;
        let reader = reader.context(|| "failed to get reader from content store")?.into_sync();
        let described = self.apply_read(reader, &descriptor.media_type, mounts, options).await?;
        debug!(digest = %descriptor.digest, size = descriptor.size, "diff applied");
        Ok(described)
    }

    fn takes_arriving(&self) -> bool {
        true
    }

    async fn apply_arriving(
        &self,
        media_type: &str,
        source: Arriving,
        mounts: &[Mount],
        options: Apply,
    ) -> Result<Descriptor> {
        processor::plan(media_type, &self.processors)?;
        self.apply_read(source, media_type, mounts, options).await
    }

    async fn compare(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        options: Compare,
    ) -> Result<Descriptor> {
        let (media_type, compression) = media::to_make(&options.media_type)?;
        let is_own = options.reference.is_empty();
        let reference = if is_own { unique_reference()? } else { options.reference };
        let epoch = options.source_date_epoch;
        let manager = self.manager.as_ref();
        let lower = Activated::of(manager, "diff-lower", lower).await?;
        let upper = match Activated::of(manager, "diff-upper", upper).await {
            Ok(upper) => upper,
            Err(error) => {
                lower.undo().await;
                return Err(error);
            }
        };
        let (old, new) = (lower.mounts.clone(), upper.mounts.clone());
        let job = Job { lower: old, upper: new, compression, epoch };
        let made: Result<Made> = async {
            let ingest = self.store.writer(&reference, Expected::default()).await;
            let mut ingest = ingest.context(|| "failed to open writer")?;
            if !is_own {
                ingest.truncate(0).await?;
            }
            let made = self.write(&mut *ingest, job).await?;
            self.commit(&mut *ingest, &made, options.labels).await?;
            Ok(made)
        }
        .await;
        upper.undo().await;
        lower.undo().await;
        if is_own
            && made.is_err()
            && let Err(error) = self.store.abort(&reference).await
            && !error.is_not_found()
        {
            warn!(%reference, %error, "failed to delete diff upload");
        }
        let made = made?;
        Ok(Descriptor::new(media_type, made.digest, made.size))
    }
}

/// A name that no other ingest has: the time and something random.
pub(crate) fn unique_reference() -> Result<String> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(io::Error::from)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(format!("{}-{:016x}", now.as_nanos(), u64::from_le_bytes(random)))
}
