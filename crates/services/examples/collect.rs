// SPDX-License-Identifier: Apache-2.0
//! What collections cost those who ask meanwhile, Go's daemon or ours, by the same client:
//! `cargo run --release -p containerd-services --example collect <socket> <seconds> <blobs>
//! <snapshots> <image>...`.
//!
//! It fills the stores, and then has [`WORKERS`] of its clients pull the images, make leases and
//! snapshots and delete all of it again, each deletion waiting for a collection, while two more ask
//! for little things all the time. It fails when something that was referred to is gone, or when
//! something is left that nobody refers to. It prints how long the little things took, one line for
//! each bucket: the question, the bucket's upper bound in milliseconds, and how many fell into it.
use std::{
    env,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use ::content::{Expected, blob};
use ::records::{Delete, Image, Lease};
use client::{Client, Pull, Unpack};
use futures_util::TryStreamExt;
use registry::{Reference, Registry};
use snapshots::{Commit, Snapshotter};
use tokio::task::JoinSet;
use types::{
    Descriptor, Digest, Error, FieldMask, Filters, Kind, Labels, Platform, Result, Scope,
    media_types, platform::Matcher,
};

const NAMESPACE: &str = "collect";
const SNAPSHOTTER: &str = "overlayfs";

/// How many pull and delete at once.
const WORKERS: usize = 8;
/// How many fill the stores at once.
const FILLERS: usize = 32;
/// How many blobs an image has that fills the store.
const BLOBS: usize = 500;

/// Upper bounds of the buckets, in milliseconds; the last has none.
const BUCKETS: [f64; 11] =
    [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 500.0, f64::INFINITY];

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = env::args().skip(1).collect();
    let usage = || Error::invalid("collect <socket> <seconds> <blobs> <snapshots> <image>...");
    let [socket, seconds, blobs, snapshots, images @ ..] = &words[..] else { return Err(usage()) };
    let number = |word: &String| word.parse::<usize>().map_err(|_not_one| usage());
    let channel = services::dial(socket.as_ref(), Duration::from_secs(10)).await?;
    let client = services::connect(&channel, &Scope::new(NAMESPACE)?)?;
    let stock = Stock { blobs: number(blobs)?, snapshots: number(snapshots)? };
    stock.lay_in(&client).await?;
    let until = Instant::now() + Duration::from_secs(number(seconds)? as u64);
    let rounds = work(socket, images, until).await?;
    println!("rounds {rounds}");
    stock.check(&client).await
}

/// Connects once more, so that nobody waits for another's turn on a connection.
async fn client(socket: &str) -> Result<Client> {
    let channel = services::dial(socket.as_ref(), Duration::from_secs(10)).await?;
    services::connect(&channel, &Scope::new(NAMESPACE)?)
}

/// Those who work and those who ask, until the time is up; answers how many rounds were worked.
async fn work(socket: &str, images: &[String], until: Instant) -> Result<usize> {
    let mut asking = JoinSet::new();
    asking.spawn(ask("read", client(socket).await?, until, |it| async move {
        it.images.get("fill-0").await.map(drop)
    }));
    asking.spawn(ask("write", client(socket).await?, until, |it| async move {
        let mut image = it.images.get("fill-0").await?;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        image.labels.insert("asked".into(), time.as_nanos().to_string());
        it.images.update(image, &FieldMask::new(["labels.asked"])).await.map(drop)
    }));
    let mut working = JoinSet::new();
    for number in 0..WORKERS {
        let worker = Worker { client: client(socket).await?, number, images: images.to_vec() };
        working.spawn(worker.until(until));
    }
    let mut rounds = 0;
    while let Some(done) = working.join_next().await {
        rounds += done.expect("no worker panics")?;
    }
    let mut histograms = Vec::new();
    while let Some(histogram) = asking.join_next().await {
        histograms.push(histogram.expect("nobody who asks panics")?);
    }
    histograms.sort_by_key(|histogram| histogram.what);
    histograms.iter().for_each(Histogram::tell);
    Ok(rounds)
}

/// Asks one thing after the other, and keeps how long each took.
async fn ask<F: Future<Output = Result<()>>>(
    what: &'static str,
    client: Client,
    until: Instant,
    question: impl Fn(Client) -> F,
) -> Result<Histogram> {
    let mut histogram = Histogram { what, counts: [0; BUCKETS.len()], longest: Duration::ZERO };
    while Instant::now() < until {
        let began = Instant::now();
        question(client.clone()).await?;
        histogram.add(began.elapsed());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(histogram)
}

struct Histogram {
    what: &'static str,
    counts: [usize; BUCKETS.len()],
    longest: Duration,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let took = time.as_secs_f64() * 1000.0;
        let bucket = BUCKETS.iter().position(|bound| took <= *bound);
        self.counts[bucket.expect("the last bucket has no bound")] += 1;
        self.longest = self.longest.max(time);
    }

    fn tell(&self) {
        for (bound, count) in BUCKETS.iter().zip(self.counts) {
            println!("{} {bound} {count}", self.what);
        }
        println!("{} longest {:.2}", self.what, self.longest.as_secs_f64() * 1000.0);
    }
}

/// What is in the stores all the time.
#[derive(Clone, Copy)]
struct Stock {
    blobs: usize,
    snapshots: usize,
}

impl Stock {
    async fn lay_in(self, client: &Client) -> Result<()> {
        let lease = "fill";
        client.leases.create(held(lease)).await?;
        let under = client.under.as_ref().expect("it has no lease")(lease)?;
        for image in 0..self.images() {
            self.image(&under, image).await?;
        }
        let parts = self.snapshots.div_ceil(FILLERS);
        let mut tasks = JoinSet::new();
        for from in (0..self.snapshots).step_by(parts.max(1)) {
            let (snapshots, to) = ((under.snapshotters)(SNAPSHOTTER)?, self.snapshots);
            tasks.spawn(chain(snapshots, from..(from + parts).min(to)));
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics")?;
        }
        client.leases.delete(lease, Delete::default()).await
    }

    fn images(self) -> usize {
        self.blobs.div_ceil(BLOBS).max(1)
    }

    /// An image of many blobs, which its manifest refers to.
    async fn image(self, client: &Client, number: usize) -> Result<()> {
        let mut tasks = JoinSet::new();
        for part in 0..FILLERS {
            let client = client.clone();
            tasks.spawn(async move {
                let mut made = Vec::new();
                for at in (part..BLOBS - 1).step_by(FILLERS) {
                    made.push(put(&client, format!("{number} {at}"), Labels::new()).await?);
                }
                Ok::<_, Error>(made)
            });
        }
        let mut refs = Labels::new();
        while let Some(done) = tasks.join_next().await {
            for blob in done.expect("no task panics")? {
                let key = format!("containerd.io/gc.ref.content.l.{}", refs.len());
                refs.insert(key, blob.digest.to_string());
            }
        }
        let target = put(client, format!("manifest {number}"), refs).await?;
        let (now, name) = (SystemTime::UNIX_EPOCH, format!("fill-{number}"));
        let labels = Labels::new();
        let image = Image { name, labels, target, created_at: now, updated_at: now };
        client.images.create(image).await.map(drop)
    }

    /// All of it is there, and nothing else, once what was made meanwhile is collected.
    async fn check(self, client: &Client) -> Result<()> {
        client.leases.create(held("last")).await?;
        client.leases.delete("last", Delete { sync: true, target: None }).await?;
        let blobs: Vec<_> = client.content.walk(Filters::default()).try_collect().await?;
        same("blobs", self.images() * BLOBS, blobs.len())?;
        let snapshots = (client.snapshotters)(SNAPSHOTTER)?;
        let snapshots: Vec<_> = snapshots.walk(Filters::default()).try_collect().await?;
        same("snapshots", self.snapshots, snapshots.len())
    }
}

fn same(what: &str, want: usize, have: usize) -> Result<()> {
    if want == have {
        return Ok(());
    }
    Err(Error::new(Kind::DataLoss, format!("{have} {what}, and there should be {want}")))
}

/// Snapshots, each over the one before, which collections keep.
async fn chain(snapshots: Arc<dyn Snapshotter>, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut parent = None;
    for number in numbers {
        let (key, name) = (format!("making-{number}"), format!("fill-{number}"));
        let labels = Labels::from([("containerd.io/gc.root".to_owned(), "yes".to_owned())]);
        // A chain stays as short as those of images are.
        let below = parent.take().filter(|_| number % 10 != 0);
        snapshots.prepare(&key, below.as_deref(), labels.clone()).await?;
        let options = Commit { labels, ..Commit::default() };
        snapshots.commit(&name, &key, options).await?;
        parent = Some(name);
    }
    Ok(())
}

/// Pulls, makes and deletes.
struct Worker {
    client: Client,
    number: usize,
    images: Vec<String>,
}

impl Worker {
    async fn until(self, until: Instant) -> Result<usize> {
        let registry = Registry::new(registry::Options::default());
        let mut rounds = 0;
        while Instant::now() < until {
            let reference = &self.images[(self.number + rounds) % self.images.len()];
            let name = format!("{reference}-{}", self.number);
            let image = self.client.pull(&pull(&registry, reference, &name).await?).await?;
            self.leased(rounds).await?;
            self.whole(&image).await?;
            self.client.images.delete(&name, Delete { sync: true, target: None }).await?;
            rounds += 1;
        }
        Ok(rounds)
    }

    /// What a lease holds is there until the lease is deleted.
    async fn leased(&self, round: usize) -> Result<()> {
        let id = format!("lease-{}-{round}", self.number);
        self.client.leases.create(held(&id)).await?;
        let under = self.client.under.as_ref().expect("it has no lease")(&id)?;
        let blob = put(&under, id.clone(), Labels::new()).await?;
        let snapshots = (under.snapshotters)(SNAPSHOTTER)?;
        snapshots.prepare(&id, None, Labels::new()).await?;
        self.client.leases.create(held(&format!("{id}-other"))).await?;
        let sync = || Delete { sync: true, target: None };
        self.client.leases.delete(&format!("{id}-other"), sync()).await?;
        self.client.content.info(&blob.digest).await?;
        snapshots.stat(&id).await?;
        self.client.leases.delete(&id, sync()).await
    }

    /// Every blob of an image is there, and its topmost snapshot.
    async fn whole(&self, image: &Image) -> Result<()> {
        let (host, target) = (Platform::host(), &image.target);
        let there = images::check(&*self.client.content, target, &Matcher::only(&host)).await?;
        same("missing blobs", 0, there.missing.len())?;
        let unpacked = self.client.is_unpacked(target, SNAPSHOTTER, &host).await?;
        same("topmost snapshots", 1, usize::from(unpacked))
    }
}

async fn pull(registry: &Registry, reference: &str, name: &str) -> Result<Pull> {
    let reference: Reference = reference.parse()?;
    Ok(Pull {
        name: reference.to_string(),
        kept_as: vec![name.to_owned()],
        target: registry.resolve(&reference).await?,
        fetch: registry.fetcher(&reference)?,
        platforms: vec![Platform::host()],
        metadata_only: false,
        manifest_limit: 0,
        all_metadata: false,
        unpack: vec![Unpack {
            snapshotter: SNAPSHOTTER.into(),
            platform: Platform::host(),
            ..Unpack::default()
        }],
        discard_layers: false,
        labels: Labels::new(),
        concurrency: 0,
        stop: tokio_util::sync::CancellationToken::new(),
        progress: Arc::new(client::Silent),
    })
}

fn held(id: &str) -> Lease {
    Lease { id: id.into(), created_at: SystemTime::UNIX_EPOCH, labels: Labels::new() }
}

async fn put(client: &Client, text: String, labels: Labels) -> Result<Descriptor> {
    let digest = Digest::of(&text);
    let expected = Expected { digest: Some(digest.clone()), size: Some(text.len() as u64) };
    let (reference, size) = (format!("put {text}"), text.len() as u64);
    blob::write(&*client.content, &reference, expected, text, labels).await?;
    Ok(Descriptor::new(media_types::LAYER, digest, size))
}
