// SPDX-License-Identifier: Apache-2.0
//! From an archive to images, and back.
//!
//! ```text
//! archive --> blobs, index --> labels that keep them --> unpacked --> image records
//! ```
//!
//! As with a pull, the image records are written last, and what a failed import has brought is
//! collected with its lease.
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use images::{
    Document, Layer, Layers, Rootfs, Selection,
    archive::{self, Bytestream, NameRule, names},
    choose, read_config, ref_key,
};
use records::Image;
use tokio::sync::mpsc;
use types::{Descriptor, Error, Labels, Platform, Result, media_types, platform::Matcher};

use crate::{Client, Event, Progress, Unpack, progress::Tracker};

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 8;

/// How to import an archive.
#[derive(Clone)]
pub struct Import {
    /// How its images are named.
    pub names: Vec<NameRule>,
    /// The platforms whose manifests are kept, none being all.
    pub platforms: Vec<Platform>,
    /// Where to unpack to.
    pub unpack: Vec<Unpack>,
    /// How many manifests of an index are kept at most, the preferred ones; 0 is no limit. The index
    /// of the archive counts as one, as in containerd (`core/transfer/local/import.go`).
    pub manifest_limit: usize,
    /// Whether layers may go once they are unpacked.
    pub discard_layers: bool,
    /// Whether manifests that the archive names but does not have are passed over.
    pub skip_missing: bool,
    /// Whether plain layers are compressed, where the archive has no manifests of its own.
    pub compress: bool,
    /// Labels of the image records.
    pub labels: Labels,
    /// Who hears of it.
    pub progress: Arc<dyn Progress>,
}

impl Client {
    /// Takes the images of an archive in, unpacks them, and keeps them under their names. An image
    /// that has none by the rules is not kept.
    ///
    /// Errors: `InvalidArgument` for what is no archive of images; `FailedPrecondition` for blobs that
    /// are not what they are called; `NotFound` for what is missing. Whatever fails, there is no image.
    pub async fn import(&self, source: Bytestream, import: &Import) -> Result<Vec<Image>> {
        let held = self.hold().await?;
        let outcome = held.client().import_held(source, import).await;
        held.release().await;
        outcome
    }

    async fn import_held(&self, source: Bytestream, import: &Import) -> Result<Vec<Image>> {
        import.say("Importing", None);
        let store = &*self.content;
        let how = archive::Import { compress: import.compress };
        let index = archive::import(store, source, how).await?;
        let Some(Document::Index(mut listed)) = images::read(store, &index).await? else {
            return Err(Error::invalid(format!("{} is no index", index.digest)));
        };
        let kept = self.keep_parts(&index, import).await?;
        self.keep_referrers(&listed.manifests).await?;
        if import.manifest_limit > 0 {
            // An image of which nothing is kept would be a name for nothing.
            listed.manifests.retain(|image| kept.contains(&image.digest));
        }
        for unpack in &import.unpack {
            for image in &listed.manifests {
                self.unpack_imported(image, unpack, import).await?;
            }
        }
        let mut images = self.keep_named(&index, true, import).await?;
        for image in &listed.manifests {
            images.extend(self.keep_named(image, false, import).await?);
        }
        import.say("Completed import", None);
        Ok(images)
    }

    /// Labels what has parts with them, so that they are kept. Of what is not wanted, nothing is.
    /// Answers with all that is.
    async fn keep_parts(
        &self,
        index: &Descriptor,
        import: &Import,
    ) -> Result<HashSet<types::Digest>> {
        let store = &*self.content;
        let wanted: Vec<_> = import.platforms.iter().map(Matcher::only).collect();
        let is_wanted = |platform: &Platform| wanted.iter().any(|it| it.matches(platform));
        let fits =
            |child: &Descriptor| wanted.is_empty() || child.platform.as_ref().is_none_or(is_wanted);
        let mut depths = HashMap::from([(index.digest.clone(), 0)]);
        let (mut parts, mut absent) = (Vec::new(), HashSet::new());
        images::walk(store, index.clone(), |parent, children| {
            let mut children = match children {
                Err(error) if error.is_not_found() && import.skip_missing => {
                    absent.insert(parent.digest.clone());
                    return Ok(Vec::new());
                }
                children => children?,
            };
            let depth = depths.get(&parent.digest).map_or(1, |depth| depth + 1);
            if media_types::is_index(&parent.media_type) {
                children.retain(fits);
                if import.manifest_limit > 0 {
                    let all = Selection { wanted: children, others: Vec::new() };
                    children = all.limited(&import.platforms, import.manifest_limit).wanted;
                }
                if depth > MAX_DEPTH {
                    let what = format!("index {} is nested too deep", parent.digest);
                    return Err(Error::invalid(what));
                }
            }
            for child in &children {
                depths.insert(child.digest.clone(), depth);
            }
            parts.push((parent.digest.clone(), children.clone()));
            Ok(children)
        })
        .await?;
        let mut kept = HashSet::new();
        for (parent, mut children) in parts {
            let is_discarded =
                |it: &Descriptor| import.discard_layers && media_types::is_layer(&it.media_type);
            children.retain(|child| !absent.contains(&child.digest) && !is_discarded(child));
            let keeps = images::labels::of_children(&children);
            images::labels::set(store, &parent, keeps).await?;
            kept.extend(children.into_iter().map(|child| child.digest));
        }
        Ok(kept)
    }

    /// Keeps what is about an image beside it, as signatures are: before the image gets a name, because
    /// a policy may want to see them.
    async fn keep_referrers(&self, listed: &[Descriptor]) -> Result<()> {
        let store = &*self.content;
        for entry in listed {
            let about = match images::Referrer::read(store, &entry.digest).await {
                Err(error) if error.is_not_found() => continue,
                read => read?.and_then(|referrer| referrer.subject),
            };
            let Some(subject) = about.or_else(|| images::subject_by_name(entry, listed)) else {
                continue;
            };
            match images::refer(store, &subject, &entry.digest).await {
                // What it is about may be elsewhere.
                Err(error) if error.is_not_found() => {}
                kept => kept?,
            }
        }
        Ok(())
    }

    /// Unpacks what of `image` is for the platform, if anything is.
    async fn unpack_imported(
        &self,
        image: &Descriptor,
        unpack: &Unpack,
        import: &Import,
    ) -> Result<()> {
        let store = &*self.content;
        let wanted = Matcher::only(&unpack.platform);
        let chosen = match choose(store, image, &wanted).await {
            Err(error) if error.is_not_found() => return self.passed_over(image, import).await,
            chosen => chosen?,
        };
        if !media_types::is_config(&chosen.manifest.config.media_type) {
            return Ok(());
        }
        let config = match read_config(store, &chosen.manifest.config).await {
            Err(error) if error.is_not_found() && import.skip_missing => return Ok(()),
            config => config?,
        };
        if !wanted.matches(&config.platform) {
            return Ok(());
        }
        let rootfs = Rootfs::plan(&chosen.manifest, &config)?;
        let tracker = Tracker::new(Arc::clone(&import.progress), "importing");
        let told = Told { tracker, parent: ref_key(&chosen.descriptor) };
        self.unpacker(unpack)?.unpack(&rootfs, &told).await.map(drop)
    }

    /// An image that no platform fits is none of ours, but one that is not there is missed.
    async fn passed_over(&self, image: &Descriptor, import: &Import) -> Result<()> {
        match self.content.info(&image.digest).await {
            Err(error) if error.is_not_found() && import.skip_missing => Ok(()),
            info => info.map(drop),
        }
    }

    async fn keep_named(
        &self,
        target: &Descriptor,
        is_index: bool,
        import: &Import,
    ) -> Result<Vec<Image>> {
        let mut kept = Vec::new();
        for name in names(&import.names, target, is_index) {
            let (now, labels, target) = (SystemTime::now(), import.labels.clone(), target.clone());
            let image = Image { name, labels, target, created_at: now, updated_at: now };
            let image = self.keep_image(image).await?;
            import.say("saved", Some(&image));
            kept.push(image);
        }
        Ok(kept)
    }

    /// Writes an archive of images to `out`, with everything in it held meanwhile.
    pub async fn export(
        &self,
        export: &archive::Export,
        out: mpsc::Sender<bytes::Bytes>,
    ) -> Result<()> {
        archive::export(&*self.content, export, out).await
    }

    /// Looks images up by their names, to be exported.
    pub async fn named(&self, names: &[String]) -> Result<Vec<(Option<String>, Descriptor)>> {
        let mut found = Vec::new();
        for name in names {
            let image = self.images.get(name).await?;
            found.push((Some(image.name), image.target));
        }
        Ok(found)
    }
}

impl Import {
    fn say(&self, event: &'static str, image: Option<&Image>) {
        self.progress.report(Event {
            event: event.into(),
            name: image.map(|image| image.name.clone()).unwrap_or_default(),
            descriptor: image.map(|image| image.target.clone()),
            ..Event::default()
        });
    }
}

/// Layers that are there, and whom their unpacking is told.
struct Told {
    tracker: Tracker,
    parent: String,
}

#[async_trait]
impl Layers for Told {
    async fn arrive(&self, _layer: &Layer) -> Result<()> {
        Ok(())
    }

    fn extracting(&self, layer: &Layer) {
        self.tracker.unpacked(&layer.descriptor, &self.parent, false);
    }

    fn extracted(&self, layer: &Layer) {
        self.tracker.unpacked(&layer.descriptor, &self.parent, true);
    }
}
