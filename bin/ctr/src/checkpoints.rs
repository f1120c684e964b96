// SPDX-License-Identifier: Apache-2.0
//! Checkpoints as images: an index of all that a container was, made and read.
//!
//! ```text
//! index --+-- image                 what it was made from, if that is to be kept
//!         +-- layer                 what it changed
//!         +-- criu.tar, config      what it was doing, and its spec
//!         `-- options               what its runtime was told, and what the checkpoint was
//! ```
use ::content::{Expected, blob};
use api::containerd::runc::v1::CheckpointOptions;
use client::{CHECKPOINT, CHECKPOINT_CONFIG, Client};
use images::{Document, Index};
use prost::Message as _;
use records::{Container, Image};
use runtime::Status;
use types::{
    Any, Descriptor, Digest, Error, Kind, Labels, Platform, Result, labels::GC_REF_CONTENT,
    media_types,
};

use crate::snapshots;

// The names are those of containerd `client/container.go` and `core/images/mediatypes.go`.
const IMAGE: &str = "org.opencontainers.image.ref.name";
const RUNTIME: &str = "io.containerd.checkpoint.runtime";
const SNAPSHOTTER: &str = "io.containerd.checkpoint.snapshotter";
const OPTIONS: &str = "application/vnd.containerd.container.checkpoint.options.v1+proto";
const RUNTIME_OPTIONS: &str =
    "application/vnd.containerd.container.checkpoint.runtime.options+proto";

/// A checkpoint that is being made. A lease of the caller's keeps what is written.
pub(crate) struct Saving<'a> {
    client: &'a Client,
    container: &'a Container,
    index: Index,
}

impl<'a> Saving<'a> {
    /// A checkpoint of which nothing is known yet.
    pub(crate) fn new(client: &'a Client, container: &'a Container) -> Self {
        Self { client, container, index: Index { schema_version: 2, ..Index::default() } }
    }

    /// Says what kind of container it was.
    pub(crate) fn describe(&mut self) {
        let Container { image, runtime, snapshotter, .. } = self.container;
        let told = [(IMAGE, image), (RUNTIME, &runtime.name), (SNAPSHOTTER, snapshotter)];
        self.annotate(told);
    }

    /// Says more.
    pub(crate) fn annotate<'b>(&mut self, told: impl IntoIterator<Item = (&'b str, &'b String)>) {
        let told = told.into_iter().map(|(key, value)| (key.to_owned(), value.clone()));
        self.index.annotations.extend(told);
    }

    /// Keeps the image that the container was made from.
    pub(crate) async fn image(&mut self) -> Result<()> {
        let image = self.client.images.get(&self.container.image).await?;
        self.index.manifests.push(image.target);
        Ok(())
    }

    /// Keeps what the runtime was told.
    pub(crate) async fn runtime(&mut self) -> Result<()> {
        match &self.container.runtime.options {
            Some(options) if !options.value.is_empty() => {
                self.blob(RUNTIME_OPTIONS, encoded(options)).await
            }
            _ => Ok(()),
        }
    }

    /// Keeps what the container changed.
    pub(crate) async fn changes(&mut self) -> Result<()> {
        let Container { snapshotter, snapshot_key: key, .. } = self.container;
        let reference = format!("checkpoint-rw-{key}");
        let options = diff::Compare { reference, ..diff::Compare::default() };
        let layer = snapshots::changes(self.client, snapshotter, key, options).await?;
        self.add(layer);
        Ok(())
    }

    /// Keeps what the container is doing; nothing, if the options name a directory for that.
    pub(crate) async fn task(&mut self, options: &Any) -> Result<()> {
        let id = &self.container.id;
        for kept in self.client.tasks.checkpoint(id, Some(options.clone())).await? {
            self.add(kept);
        }
        Ok(())
    }

    /// Keeps how that was saved.
    pub(crate) async fn options(&mut self, options: &Any) -> Result<()> {
        self.blob(OPTIONS, encoded(options)).await
    }

    async fn blob(&mut self, media_type: &str, data: Vec<u8>) -> Result<()> {
        let size = data.len() as u64;
        let digest = Digest::of(&data);
        self.write(&digest, data, Labels::new()).await?;
        self.add(Descriptor::new(media_type, digest, size));
        Ok(())
    }

    async fn write(&self, digest: &Digest, data: Vec<u8>, labels: Labels) -> Result<()> {
        let reference = format!("checkpoint-{}-{digest}", self.container.id);
        let expected = Expected { size: Some(data.len() as u64), digest: Some(digest.clone()) };
        blob::write(&*self.client.content, &reference, expected, data, labels).await.map(drop)
    }

    fn add(&mut self, part: Descriptor) {
        self.index.manifests.push(Descriptor { platform: Some(Platform::host()), ..part });
    }

    /// Gives it all a name.
    pub(crate) async fn keep(self, name: String, labels: Labels) -> Result<Image> {
        let parts = self.index.manifests.iter().enumerate();
        let kept = parts.map(|(at, it)| (format!("{GC_REF_CONTENT}.{at}"), it.digest.to_string()));
        let data = serde_json::to_vec(&self.index).map_err(std::io::Error::from)?;
        let (digest, size) = (Digest::of(&data), data.len() as u64);
        self.write(&digest, data, kept.collect()).await?;
        let now = std::time::SystemTime::now();
        let target = Descriptor::new(media_types::INDEX, digest, size);
        let image = Image { name, target, labels, created_at: now, updated_at: now };
        self.client.images.create(image).await
    }
}

/// Freezes a task that runs, has `work` done, and thaws it again whatever came of it.
pub(crate) async fn while_paused<T>(
    client: &Client,
    id: &str,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let is_running = match client.tasks.get(id, "").await {
        Ok(task) => task.status == Status::Running,
        Err(error) if error.is_not_found() => false,
        Err(error) => return Err(error),
    };
    if !is_running {
        return work.await;
    }
    client.tasks.pause(id).await?;
    let outcome = work.await;
    match client.tasks.resume(id).await {
        // It was to end with the checkpoint.
        Err(error) if error.is_not_found() => {}
        Err(error) => eprintln!("ctr: error resuming task: {error}"),
        Ok(()) => {}
    }
    outcome
}

/// Options of runc for a checkpoint, as they go over the wire.
pub(crate) fn packed(options: &CheckpointOptions) -> Any {
    let packed = api::pack(options);
    Any::new(packed.type_url, packed.value)
}

fn encoded(any: &Any) -> Vec<u8> {
    let any = prost_types::Any { type_url: any.type_url.clone(), value: any.value.to_vec() };
    any.encode_to_vec()
}

/// A checkpoint that is there.
pub(crate) struct Saved {
    name: String,
    index: Index,
}

impl Saved {
    /// Reads the checkpoint that an image is.
    pub(crate) async fn read(client: &Client, name: &str) -> Result<Self> {
        let image = client.images.get(name).await?;
        match images::read(&*client.content, &image.target).await? {
            Some(Document::Index(index)) => Ok(Self { name: name.to_owned(), index: *index }),
            _ => Err(Error::invalid(format!("image {name:?} is no checkpoint"))),
        }
    }

    /// The image that the container was made from.
    pub(crate) fn image(&self) -> Result<&str> {
        self.told(IMAGE, "image name not found in index")
    }

    /// Where its snapshot was.
    pub(crate) fn snapshotter(&self) -> Result<&str> {
        self.told(SNAPSHOTTER, "snapshotter not found in index")
    }

    /// What ran it, and what that was told.
    pub(crate) async fn runtime(&self, client: &Client) -> Result<records::Runtime> {
        let name = self.told(RUNTIME, "runtime not found in index")?.to_owned();
        let options = match self.part(RUNTIME_OPTIONS) {
            Ok(part) => Some(any(client, part).await?),
            Err(_without) => None,
        };
        Ok(records::Runtime { name, options })
    }

    /// What it was to be.
    pub(crate) async fn spec(&self, client: &Client) -> Result<Any> {
        any(client, self.part(CHECKPOINT_CONFIG)?).await
    }

    /// What it had changed.
    pub(crate) fn changes(&self) -> Result<&Descriptor> {
        self.part(media_types::LAYER_GZIP)
    }

    /// What it was doing.
    pub(crate) fn task(&self) -> Result<&Descriptor> {
        self.part(CHECKPOINT)
    }

    fn told(&self, key: &str, missing: &'static str) -> Result<&str> {
        let told = self.index.annotations.get(key).filter(|value| !value.is_empty());
        told.map(String::as_str).ok_or_else(|| Error::said(Kind::NotFound, missing))
    }

    fn part(&self, media_type: &str) -> Result<&Descriptor> {
        let found = self.index.manifests.iter().find(|part| part.media_type == media_type);
        found.ok_or_else(|| {
            let what = format!("checkpoint {:?} has no {media_type}", self.name);
            Error::said(Kind::NotFound, what)
        })
    }
}

async fn any(client: &Client, part: &Descriptor) -> Result<Any> {
    let data = blob::read(&*client.content, &part.digest, images::MAX_SIZE).await?;
    let any = prost_types::Any::decode(&*data)
        .map_err(|error| Error::caused(Kind::InvalidArgument, part.media_type.clone(), error))?;
    Ok(Any::new(any.type_url, any.value))
}
