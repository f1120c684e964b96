// SPDX-License-Identifier: Apache-2.0
//! From the store to a registry: children before their parents, because a registry refuses a manifest
//! whose parts it does not have.
//!
//! ```text
//! blobs, at once --> manifests, at once --> indexes, inner ones first
//! ```
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use content::{Ingest, Reader};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;
use types::{
    Context, Descriptor, Error, Kind, Labels, Platform, Result, labels::DISTRIBUTION_SOURCE,
    media_types,
};

use crate::{
    Client, Progress,
    progress::{Meter, Tracker},
    retry::Retry,
};

/// How many blobs are sent at once, unless said otherwise.
const CONCURRENCY: usize = 3;
/// How much is read at once.
const CHUNK: usize = 1 << 20;

/// What to push, and where to.
#[derive(Clone)]
pub struct Push {
    /// The name of the image, for progress.
    pub name: String,
    /// What is pushed.
    pub target: Descriptor,
    /// Where it is pushed to.
    pub to: Arc<dyn content::Push>,
    /// The platforms whose manifests are pushed; none are all. An index is pushed as it is.
    pub platforms: Vec<Platform>,
    /// Whether layers that registries are asked not to hand on are pushed too.
    pub non_distributable: bool,
    /// How many blobs to send at once; 0 for the default of 3.
    pub concurrency: usize,
    /// The turns that all pushes share, beside that.
    pub turns: Option<Arc<Semaphore>>,
    /// Who hears of it.
    pub progress: Arc<dyn Progress>,
}

impl Client {
    /// Sends an image to a registry. What the registry has is not sent.
    ///
    /// Errors: `NotFound` when a part of the image is not here.
    pub async fn push(&self, push: &Push) -> Result<()> {
        let tracker = Tracker::new(Arc::clone(&push.progress), "uploading");
        tracker.whole("pushing content", &push.name, &push.target);
        let mut plan = self.plan(push).await?;
        // From the top, so that whoever draws it has a parent for everything.
        let told = plan.listed.iter().map(|part| {
            (part.descriptor.digest.clone(), tracker.blob(&part.descriptor, &part.parent))
        });
        let mut meters: HashMap<_, _> = told.collect();
        let concurrency = if push.concurrency == 0 { CONCURRENCY } else { push.concurrency };
        let stages = [(&mut plan.blobs, concurrency), (&mut plan.manifests, concurrency)];
        for (parts, at_once) in stages.into_iter().chain([(&mut plan.indexes, 1)]) {
            let sends = parts.drain(..).filter_map(|part| {
                Some(self.send(push, part.clone(), meters.remove(&part.digest)?))
            });
            let sends = stream::iter(sends.collect::<Vec<_>>());
            sends.buffer_unordered(at_once).try_collect::<()>().await?;
        }
        tracker.whole("pushed content", &push.name, &push.target);
        Ok(())
    }

    /// Finds out what there is to send, and where a registry may have it from already.
    async fn plan(&self, push: &Push) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut found = HashMap::new();
        let keep = |child: &Descriptor| {
            push.non_distributable || !media_types::is_non_distributable(&child.media_type)
        };
        let visited = images::walk(&*self.content, push.target.clone(), |parent, children| {
            let mut children = children?;
            if media_types::is_index(&parent.media_type) {
                children = images::select(children, &push.platforms).wanted;
            }
            children.retain(keep);
            found.insert(parent.digest.clone(), children.clone());
            Ok(children)
        });
        for descriptor in visited.await? {
            let labels = match self.content.info(&descriptor.digest).await {
                Ok(info) => info.labels,
                Err(error) if error.is_not_found() => Labels::new(),
                Err(error) => return Err(error),
            };
            plan.labels.insert(descriptor.digest, sources(&labels));
        }
        plan.order(&push.target, &push.name, &found, &mut HashSet::new());
        Ok(plan)
    }

    async fn send(&self, push: &Push, descriptor: Descriptor, mut meter: Meter) -> Result<()> {
        let _turn = match &push.turns {
            Some(turns) => Some(turns.acquire().await.map_err(|_closed| Error::cancelled("push"))?),
            None => None,
        };
        let mut retry = Retry::default();
        loop {
            let mut offset = 0;
            let error = match self.attempt(push, &descriptor, &mut meter, &mut offset).await {
                Ok(()) => {
                    meter.complete();
                    return Ok(());
                }
                Err(error) if error.is_already_exists() => {
                    meter.exists();
                    return Ok(());
                }
                Err(error) => error,
            };
            match retry.wait(&error, offset) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(explained(&descriptor, error)),
            }
        }
    }

    async fn attempt(
        &self,
        push: &Push,
        descriptor: &Descriptor,
        meter: &mut Meter,
        offset: &mut u64,
    ) -> Result<()> {
        let reader = self.content.reader(&descriptor.digest).await?;
        let mut upload = push.to.push(descriptor).await?;
        *offset = upload.status().offset;
        if *offset > reader.size() {
            upload.truncate(0).await?;
            *offset = 0;
        }
        loop {
            let poured = pour(&*reader, &mut *upload, descriptor, meter, offset).await;
            match poured {
                // It says by itself when that was often enough.
                Err(error) if error.kind() == Kind::Aborted => {
                    *offset = upload.status().offset;
                    meter.at(*offset);
                    tracing::debug!(%error, "reading what is uploaded again");
                }
                outcome => return outcome,
            }
        }
    }
}

/// Sends what is not yet sent, and ends the upload.
async fn pour(
    reader: &dyn Reader,
    upload: &mut dyn Ingest,
    descriptor: &Descriptor,
    meter: &mut Meter,
    offset: &mut u64,
) -> Result<()> {
    while *offset < reader.size() {
        let piece = reader.read_at(*offset, CHUNK).await?;
        if piece.is_empty() {
            let what = format!("content {} ends early", descriptor.digest);
            return Err(Error::new(Kind::DataLoss, what));
        }
        let further = *offset + piece.len() as u64;
        upload.write(piece).await?;
        *offset = further;
        meter.at(further);
    }
    finish(upload, descriptor).await
}

async fn finish(upload: &mut dyn Ingest, descriptor: &Descriptor) -> Result<()> {
    let committed = upload.commit(descriptor.into(), Labels::new()).await;
    committed
        .map(drop)
        .context(|| format!("failed commit on ref {:?}", images::ref_key(descriptor)))
}

/// What a bare `400 Bad Request` for an index most likely means (containerd
/// `core/remotes/handlers.go`, `PushContent`).
fn explained(descriptor: &Descriptor, error: Error) -> Error {
    if media_types::is_index(&descriptor.media_type)
        && error.to_string().contains("400 Bad Request")
    {
        return error.context(
            "manifest list/index references to blobs and/or manifests are missing in your target registry",
        );
    }
    error
}

/// The labels that say where a blob came from.
fn sources(labels: &Labels) -> Labels {
    let is_source =
        |key: &str| key.strip_prefix(DISTRIBUTION_SOURCE).is_some_and(|host| host.starts_with('.'));
    let sources = labels.iter().filter(|(key, _)| is_source(key));
    sources.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Something that is told of.
struct Part {
    descriptor: Descriptor,
    /// What refers to it, in progress.
    parent: String,
}

/// What there is to send, in order.
#[derive(Default)]
struct Plan {
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
    indexes: Vec<Descriptor>,
    /// All of them, parents before their children.
    listed: Vec<Part>,
    /// Where each blob came from.
    labels: HashMap<types::Digest, Labels>,
}

impl Plan {
    /// Adds what is beneath `descriptor`, and then `descriptor`, so that inner indexes come before
    /// outer ones.
    fn order(
        &mut self,
        descriptor: &Descriptor,
        parent: &str,
        found: &HashMap<types::Digest, Vec<Descriptor>>,
        seen: &mut HashSet<types::Digest>,
    ) {
        if !seen.insert(descriptor.digest.clone()) {
            return;
        }
        let part = Part { descriptor: descriptor.clone(), parent: parent.to_owned() };
        self.listed.push(part);
        let name = images::ref_key(descriptor);
        for child in found.get(&descriptor.digest).into_iter().flatten() {
            self.order(&self.sourced(child, descriptor), &name, found, seen);
        }
        match descriptor.media_type.as_str() {
            it if media_types::is_index(it) => self.indexes.push(descriptor.clone()),
            it if media_types::is_manifest(it) => self.manifests.push(descriptor.clone()),
            _ => self.blobs.push(descriptor.clone()),
        }
    }

    /// A child with annotations of where it came from: from where it says itself, else from where its
    /// parent did, since a registry that has a manifest has its parts.
    fn sourced(&self, child: &Descriptor, parent: &Descriptor) -> Descriptor {
        let mut child = child.clone();
        let own = self.labels.get(&child.digest).into_iter().flatten();
        let parents = self.labels.get(&parent.digest).into_iter().flatten();
        let inherited = sources(&parent.annotations);
        for (key, value) in own.chain(&inherited).chain(parents) {
            child.annotations.entry(key.clone()).or_insert_with(|| value.clone());
        }
        child
    }
}
