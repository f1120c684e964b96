// SPDX-License-Identifier: Apache-2.0
//! From a registry to an image that can be run.
//!
//! ```text
//! index --> manifest --> config ----------------.
//!              `-------> layer, layer, ... ------+--> unpacked --> image record
//! ```
//!
//! A document is in the store only with labels that keep its children, and the image record is
//! written last. Layers are unpacked as they arrive, while others are still on their way.
mod arrivals;
mod blob;
mod document;
mod image;
mod referrers;

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use content::Fetch;
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use images::{Document, Selection, labels::Source, ref_key};
use records::Image;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use types::{Descriptor, Digest, Error, FieldMask, Kind, Labels, Platform, Result, media_types};

use crate::{Client, Progress, progress::Tracker};

/// How many blobs are fetched at once, unless said otherwise.
const CONCURRENCY: usize = 3;
/// How deep indexes may be nested.
const MAX_DEPTH: usize = 8;

/// What to pull, and what to make of it.
#[derive(Clone)]
pub struct Pull {
    /// The name of the image, a full reference: `docker.io/library/busybox:latest`.
    pub name: String,
    /// The names that it is kept under; `name` if there are none.
    pub kept_as: Vec<String>,
    /// What the name was resolved to.
    pub target: Descriptor,
    /// Where it is fetched from.
    pub fetch: Arc<dyn Fetch>,
    /// The platforms that are wanted; of each index the best manifest for each of them. None are all.
    pub platforms: Vec<Platform>,
    /// Whether indexes, manifests and configs are fetched alone, without layers.
    pub metadata_only: bool,
    /// How many manifests of an index are fetched at most, the preferred ones; 0 is no limit.
    pub manifest_limit: usize,
    /// Whether to fetch the manifests and configs of other platforms too, so that the image can be
    /// pushed as a whole.
    pub all_metadata: bool,
    /// Where to unpack to.
    pub unpack: Vec<Unpack>,
    /// Whether layers may go once they are unpacked: the image does not refer to them then.
    pub discard_layers: bool,
    /// Labels of the image record.
    pub labels: Labels,
    /// How many blobs to fetch at once; 0 for the default of 3.
    pub concurrency: usize,
    /// Ends it early, in good order: it fails as cancelled. Whoever waits for the same blobs goes on.
    pub stop: CancellationToken,
    /// Who hears of it.
    pub progress: Arc<dyn Progress>,
}

/// Where to unpack images to.
#[derive(Clone, Debug, Default)]
pub struct Unpack {
    /// The snapshotter.
    pub snapshotter: String,
    /// The platform of images that go there.
    pub platform: Platform,
    /// Whether the snapshotter brings layers by itself, so that those it has need not be fetched.
    pub brings_layers: bool,
    /// How layers are applied.
    pub options: diff::Apply,
    /// How many layers are applied at once, where the snapshotter can; 0 for one for each processor.
    pub parallel: usize,
    /// The turns that all unpacks share, in place of `parallel` for each.
    pub turns: Option<Arc<Semaphore>>,
}

impl Client {
    /// Fetches an image and unpacks it, and keeps it under its name.
    ///
    /// What is there already is not fetched, what was begun is gone on with, and what somebody else is
    /// fetching or unpacking is waited for. Holds everything until the image does.
    ///
    /// Errors: `NotFound` when no platform fits; `InvalidArgument` for what is no image that we know;
    /// `FailedPrecondition` when what came is not what was asked for. Whatever fails, there is no
    /// image, and blobs that are whole are kept only for as long as something else wants them.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves a lease behind, which expires, and with it all that was made.
    pub async fn pull(&self, pull: &Pull) -> Result<Image> {
        if pull.target.media_type == media_types::DOCKER_SCHEMA1 {
            let what = "schema 1 image manifests are no longer supported";
            return Err(Error::invalid(what));
        }
        let held = self.hold().await?;
        let outcome = Session::new(held.client(), pull).run().await;
        held.release().await;
        outcome
    }

    /// Keeps an image under its name, in place of what had the name before.
    pub async fn keep_image(&self, image: Image) -> Result<Image> {
        for _ in 0..5 {
            match self.images.create(image.clone()).await {
                Err(error) if error.is_already_exists() => {}
                outcome => return outcome,
            }
            match self.images.update(image.clone(), &FieldMask::default()).await {
                Err(error) if error.is_not_found() => {}
                outcome => return outcome,
            }
        }
        Err(Error::new(Kind::Aborted, format!("image {:?}: comes and goes", image.name)))
    }
}

/// One pull.
struct Session<'a> {
    client: &'a Client,
    pull: &'a Pull,
    source: Option<Source>,
    tracker: Tracker,
    /// As many permits as blobs may be fetched at once.
    turns: Semaphore,
    /// Ends everything when something has failed.
    stop: CancellationToken,
    /// The documents that have been visited.
    seen: Mutex<HashSet<Digest>>,
    /// Whether a manifest was found that is wanted.
    found: AtomicBool,
}

impl<'a> Session<'a> {
    fn new(client: &'a Client, pull: &'a Pull) -> Self {
        let turns = if pull.concurrency == 0 { CONCURRENCY } else { pull.concurrency };
        Self {
            client,
            pull,
            source: Source::of(&pull.name),
            tracker: Tracker::new(Arc::clone(&pull.progress), "downloading"),
            turns: Semaphore::new(turns),
            stop: pull.stop.child_token(),
            seen: Mutex::default(),
            found: AtomicBool::default(),
        }
    }

    async fn run(&self) -> Result<Image> {
        let Pull { name, target, labels, .. } = self.pull;
        self.tracker.whole("fetching image content", name, target);
        self.visit(target, name.clone(), !self.pull.metadata_only, 0).await?;
        if !self.pull.metadata_only && !self.found.load(Ordering::Relaxed) {
            return Err(self.no_match());
        }
        let mut first = None;
        for name in self.names() {
            let (now, labels, target) = (SystemTime::now(), labels.clone(), target.clone());
            let image = Image { name, labels, target, created_at: now, updated_at: now };
            let image = self.client.keep_image(image).await?;
            self.tracker.whole("saved", &image.name, &image.target);
            first.get_or_insert(image);
        }
        first.ok_or_else(|| Error::internal("an image without a name"))
    }

    fn names(&self) -> Vec<String> {
        match self.pull.kept_as.as_slice() {
            [] => vec![self.pull.name.clone()],
            names => names.to_vec(),
        }
    }

    fn no_match(&self) -> Error {
        Error::not_found(format!("no match for platform in manifest {}", self.pull.target.digest))
    }

    /// Fetches `descriptor` and what it refers to. Of what is not `wanted`, only metadata.
    fn visit<'b>(
        &'b self,
        descriptor: &'b Descriptor,
        parent: String,
        wanted: bool,
        depth: usize,
    ) -> BoxFuture<'b, Result<()>> {
        async move {
            if !self.is_first(&descriptor.digest) {
                return Ok(());
            }
            match self.document(descriptor, &parent).await? {
                Some(Document::Index(index)) => {
                    let children = images::select(index.manifests, &self.pull.platforms)
                        .limited(&self.pull.platforms, self.pull.manifest_limit);
                    self.index(descriptor, children, wanted, depth).await
                }
                Some(Document::Manifest(manifest)) => {
                    self.found.fetch_or(wanted, Ordering::Relaxed);
                    self.manifest(descriptor, &manifest, wanted).await
                }
                None => {
                    self.found.fetch_or(wanted, Ordering::Relaxed);
                    self.blob(descriptor, &parent).await
                }
            }
        }
        .boxed()
    }

    async fn index(
        &self,
        descriptor: &Descriptor,
        children: Selection,
        wanted: bool,
        depth: usize,
    ) -> Result<()> {
        if depth >= MAX_DEPTH {
            let what = format!("index {} is nested too deep", descriptor.digest);
            return Err(Error::invalid(what));
        }
        if depth == 0 && children.wanted.is_empty() {
            return Err(self.no_match());
        }
        let visit = |child, wanted| self.visit(child, ref_key(descriptor), wanted, depth + 1);
        let others = children.others.iter().filter(|_| self.pull.all_metadata);
        let first = children.wanted.iter().map(|child| visit(child, wanted));
        self.all(first.chain(others.map(|child| visit(child, false)))).await
    }

    fn is_first(&self, digest: &Digest) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone())
    }

    /// Does everything at once. When one thing fails all end, but in good order.
    async fn all<'b>(&self, parts: impl Iterator<Item = BoxFuture<'b, Result<()>>>) -> Result<()> {
        let watched = parts.map(|part| part.inspect(|outcome| self.watch(outcome)));
        first_cause(join_all(watched).await)
    }

    fn watch(&self, outcome: &Result<()>) {
        if outcome.is_err() {
            self.stop.cancel();
        }
    }
}

/// The error that others followed from: those are cancelled.
fn first_cause(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
    let mut errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
    let cause = errors.iter().position(|error| error.kind() != Kind::Cancelled).unwrap_or(0);
    if errors.is_empty() { Ok(()) } else { Err(errors.swap_remove(cause)) }
}
