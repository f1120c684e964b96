// SPDX-License-Identifier: Apache-2.0
//! From files to an image.
//!
//! ```text
//! directory, archive --> layer -----------------------.
//! container --> what it changed --> its image's layers + one more --> config, manifest, record
//! ```
//!
//! The same files with the same `epoch` give the same image, whoever packages them and when.
use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use content::{Expected, blob};
use diff::Packing;
use images::{Config, choose, labels};
use mount::Mount;
use records::Image;
use serde_json::{Map, Value, json};
use snapshots::Snapshotter;
use types::{
    Context, Descriptor, Digest, Error, Labels, Platform, Result, labels::UNCOMPRESSED,
    media_types, platform::Matcher,
};

use crate::Client;

/// How long another who writes the same is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest config that is built on.
const MAX_CONFIG: u64 = images::MAX_SIZE;

/// What an image is made of.
pub enum Files {
    /// Everything in a directory, where the daemon sees it.
    Directory(PathBuf),
    /// A tar archive, packed or not.
    Archive(images::archive::Bytestream),
    /// The image of a container, and what the container has changed.
    Container(String),
}

/// An image to be made.
#[derive(Clone, Debug, Default)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What it runs on.
    pub platform: Platform,
    /// What its containers are to be like, in the words of an image config (`Cmd`, `Env`, ...). What is
    /// not said is as in the container's image.
    pub run: Map<String, Value>,
    /// The time that it is said to be made at; files that are younger are made as old.
    pub epoch: Option<SystemTime>,
    /// Labels of the image record.
    pub labels: Labels,
}

/// What an image is made upon.
#[derive(Default)]
struct Base {
    config: Map<String, Value>,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
}

impl Client {
    /// Makes an image and keeps it under its name.
    ///
    /// Errors: `NotFound` when what it is made of is not there; `InvalidArgument` for an archive that
    /// is none.
    pub async fn package(&self, files: Files, package: &Package) -> Result<Image> {
        let held = self.hold().await?;
        let outcome = held.client().package_held(files, package).await;
        held.release().await;
        outcome
    }

    async fn package_held(&self, files: Files, package: &Package) -> Result<Image> {
        let (base, layer) = match files {
            Files::Directory(path) => {
                let path = path.to_string_lossy().into_owned();
                let upper = [Mount::bind(path, ["ro", "rbind"])];
                (Base::default(), self.layer_of(&[], &upper, package).await?)
            }
            Files::Archive(source) => (Base::default(), self.layer_from(source, package).await?),
            Files::Container(id) => self.changes(&id, package).await?,
        };
        let target = self.describe(base, layer, package).await?;
        let now = SystemTime::now();
        let (name, labels) = (package.name.clone(), package.labels.clone());
        self.keep_image(Image { name, labels, target, created_at: now, updated_at: now }).await
    }

    async fn layer_of(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        package: &Package,
    ) -> Result<Descriptor> {
        let options = diff::Compare {
            media_type: media_types::LAYER_GZIP.to_owned(),
            source_date_epoch: package.epoch,
            ..diff::Compare::default()
        };
        self.differ.compare(lower, upper, options).await
    }

    /// Takes an archive in and packs it.
    async fn layer_from(
        &self,
        mut source: images::archive::Bytestream,
        package: &Package,
    ) -> Result<Descriptor> {
        use futures_util::TryStreamExt;
        let (store, reference) = (&*self.content, format!("package-{}", package.name));
        let mut ingest = blob::open(store, &reference, Expected::default(), PATIENCE).await?;
        ingest.truncate(0).await?;
        while let Some(piece) = source.try_next().await? {
            ingest.write(piece).await?;
        }
        let digest = ingest.settled().await?;
        let committed = match (ingest.commit(Expected::default(), Labels::new()).await, digest) {
            (Err(error), Some(digest)) if error.is_already_exists() => digest,
            (committed, _) => committed?,
        };
        let packed = images::repack(store, &committed, Packing::Gzip).await?;
        Ok(Descriptor { media_type: media_types::LAYER_GZIP.to_owned(), ..packed })
    }

    /// The image that a container was made from, and what the container has changed.
    async fn changes(&self, id: &str, package: &Package) -> Result<(Base, Descriptor)> {
        let container = self.containers.get(id).await?;
        let image = self.images.get(&container.image).await;
        let image = image.context(|| format!("image of container {id:?}"))?;
        let snapshotter = (self.snapshotters)(&container.snapshotter)?;
        let key = &container.snapshot_key;
        let parent = snapshotter.stat(key).await?.parent;
        let upper = snapshotter.mounts(key).await?;
        let view = format!("package-{key}");
        let lower = snapshotter.view(&view, parent.as_deref(), Labels::new()).await?;
        let layer = self.layer_of(&lower, &upper, package).await;
        discard(&*snapshotter, &view).await;
        Ok((self.base(&image, package).await?, layer?))
    }

    async fn base(&self, image: &Image, package: &Package) -> Result<Base> {
        let store = &*self.content;
        let chosen = choose(store, &image.target, &Matcher::only(&package.platform)).await?;
        let config = blob::read(store, &chosen.manifest.config.digest, MAX_CONFIG).await?;
        let malformed = |error| Error::caused(types::Kind::InvalidArgument, "image config", error);
        let read: Config = serde_json::from_slice(&config).map_err(malformed)?;
        Ok(Base {
            config: serde_json::from_slice(&config).map_err(malformed)?,
            layers: chosen.manifest.layers,
            diff_ids: read.root_fs.diff_ids,
        })
    }

    async fn diff_id(&self, layer: &Digest) -> Result<Digest> {
        let info = self.content.info(layer).await?;
        let label = info.labels.get(UNCOMPRESSED);
        label.ok_or_else(|| Error::internal(format!("{layer} has no {UNCOMPRESSED}")))?.parse()
    }

    /// Writes config and manifest.
    async fn describe(
        &self,
        mut base: Base,
        layer: Descriptor,
        package: &Package,
    ) -> Result<Descriptor> {
        base.diff_ids.push(self.diff_id(&layer.digest).await?);
        base.layers.push(layer);
        let config = package.config(base.config, &base.diff_ids)?;
        let config = self.document(media_types::CONFIG, &config, Labels::new()).await?;
        let children = [vec![config.clone()], base.layers.clone()].concat();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_types::MANIFEST,
            "config": config, "layers": base.layers,
        });
        let keeps = labels::of_children(&children);
        self.document(media_types::MANIFEST, &manifest, keeps).await
    }

    async fn document(&self, kind: &str, value: &Value, keeps: Labels) -> Result<Descriptor> {
        let (store, data) = (&*self.content, Bytes::from(value.to_string()));
        let descriptor = Descriptor::new(kind, Digest::of(&data), data.len() as u64);
        let reference = images::ref_key(&descriptor);
        let expected = Expected::from(&descriptor);
        blob::write(store, &reference, expected, data, keeps.clone()).await?;
        labels::set(store, &descriptor.digest, keeps).await?;
        Ok(descriptor)
    }
}

impl Package {
    /// The config of the image: that of `base`, with what was asked for and one more layer.
    fn config(&self, base: Map<String, Value>, diff_ids: &[Digest]) -> Result<Value> {
        let made = self.epoch.unwrap_or_else(SystemTime::now);
        let made = jiff::Timestamp::try_from(made)
            .map_err(|error| Error::caused(types::Kind::InvalidArgument, "epoch", error))?;
        let made = json!(format!("{made:.0}"));
        let mut config = base;
        let platform = self.platform.clone().normalized();
        config.entry("os").or_insert(json!(platform.os));
        config.entry("architecture").or_insert(json!(platform.architecture));
        if !platform.variant.is_empty() {
            config.entry("variant").or_insert(json!(platform.variant));
        }
        config.insert("created".to_owned(), made.clone());
        config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
        let run = config.entry("config").or_insert_with(|| json!({}));
        if let Value::Object(run) = run {
            run.extend(self.run.clone());
        } else {
            *run = Value::Object(self.run.clone());
        }
        let step = json!({ "created": made, "created_by": "ctr images package" });
        if let Value::Array(history) = config.entry("history").or_insert_with(|| json!([])) {
            history.push(step);
        }
        Ok(Value::Object(config))
    }
}

async fn discard(snapshotter: &dyn Snapshotter, view: &str) {
    if let Err(error) = snapshotter.remove(view).await {
        tracing::warn!(view, %error, "failed to remove view");
    }
}
