// SPDX-License-Identifier: Apache-2.0
//! Figures of the stores of a daemon, Go's or ours, by the same client:
//! `cargo run --release -p containerd-services --example load <socket> <directory> [--small]`.
//!
//! It prints one line for each figure: a number, its unit (`1/s` or `ms`), and what it is about. What
//! it makes is in a namespace of its own, which it empties again; its files are in the directory.
use std::{
    fmt::Write as _,
    future::Future,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use ::content::{Expected, blob};
use ::diff::{Apply, Compare};
use ::records::{Container, Delete, Image, Lease, Runtime};
use client::Client;
use fs_err as fs;
use mount::Mount;
use tokio::task::JoinSet;
use types::{
    Any, Descriptor, Digest, Error, FieldMask, Filters, Labels, Result, Scope, media_types,
};

const NAMESPACE: &str = "load";

/// How many clients ask at once, each on a connection of its own.
const CLIENTS: usize = 16;
const WRITERS: usize = 8;

/// How much of everything.
#[derive(Clone, Copy)]
struct Sizes {
    /// Records of each client.
    records: usize,
    blobs: usize,
    containers: usize,
    image: usize,
    tree: usize,
    files: usize,
}

const WHOLE: Sizes = Sizes {
    records: 100,
    blobs: 2000,
    containers: 1000,
    image: 1000,
    tree: 200 << 20,
    files: 6000,
};
const SMALL: Sizes =
    Sizes { records: 10, blobs: 200, containers: 100, image: 100, tree: 10 << 20, files: 300 };

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (socket, folder, sizes) = match words[..] {
        [socket, folder] => (socket, folder, WHOLE),
        [socket, folder, "--small"] => (socket, folder, SMALL),
        _ => return Err(Error::invalid("load <socket> <directory> [--small]")),
    };
    let load = Load { socket: Path::new(socket), folder: Path::new(folder), sizes };
    load.images().await?;
    load.leases().await?;
    load.blobs().await?;
    load.containers().await?;
    load.large_image().await?;
    load.layers().await
}

struct Load<'a> {
    socket: &'a Path,
    folder: &'a Path,
    sizes: Sizes,
}

impl Load<'_> {
    async fn client(&self) -> Result<Client> {
        let channel = services::dial(self.socket, Duration::from_secs(10)).await?;
        services::connect(&channel, &Scope::new(NAMESPACE)?)
    }

    async fn clients(&self, count: usize) -> Result<Vec<Client>> {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(self.client().await?);
        }
        Ok(all)
    }

    async fn images(&self) -> Result<()> {
        let clients = self.clients(CLIENTS).await?;
        let target = put(&clients[0], "target".to_owned(), Labels::new()).await?;
        let image = Image {
            name: String::new(),
            labels: Labels::new(),
            target,
            created_at: SystemTime::UNIX_EPOCH,
            updated_at: SystemTime::UNIX_EPOCH,
        };
        let named = move |name: String| Image { name, ..image.clone() };
        let create = named.clone();
        self.rate("image create, 16 clients", &clients, self.sizes.records, move |it, name| {
            let (images, image) = (it.images, create(name));
            async move { images.create(image).await.map(drop) }
        })
        .await?;
        self.rate("image update, 16 clients", &clients, self.sizes.records, move |it, name| {
            let (images, mut image) = (it.images, named(name));
            image.labels.insert("changed".into(), "yes".into());
            async move { images.update(image, &FieldMask::new(["labels"])).await.map(drop) }
        })
        .await?;
        self.rate("image delete, 16 clients", &clients, self.sizes.records, |it, name| async move {
            it.images.delete(&name, Delete::default()).await
        })
        .await
    }

    async fn leases(&self) -> Result<()> {
        let clients = self.clients(CLIENTS).await?;
        self.rate("lease create, 16 clients", &clients, self.sizes.records, |it, id| async move {
            let lease = Lease { id, created_at: SystemTime::UNIX_EPOCH, labels: Labels::new() };
            it.leases.create(lease).await.map(drop)
        })
        .await?;
        self.rate("lease delete, 16 clients", &clients, self.sizes.records, |it, id| async move {
            it.leases.delete(&id, Delete::default()).await
        })
        .await
    }

    async fn blobs(&self) -> Result<()> {
        let clients = self.clients(WRITERS).await?;
        let lease = "blobs";
        let held =
            Lease { id: lease.into(), created_at: SystemTime::UNIX_EPOCH, labels: Labels::new() };
        clients[0].leases.create(held).await?;
        let under: Result<Vec<Client>> =
            clients.iter().map(|it| it.under.as_ref().expect("it has no lease")(lease)).collect();
        let each = self.sizes.blobs / WRITERS;
        self.rate("small blobs, 8 writers", &under?, each, |it, name| async move {
            put(&it, name, Labels::new()).await.map(drop)
        })
        .await?;
        let sync = Delete { sync: true, target: None };
        clients[0].leases.delete(lease, sync).await
    }

    async fn containers(&self) -> Result<()> {
        let client = self.client().await?;
        let spec = Any::new("types.containerd.io/opencontainers/runtime-spec/1/Spec", spec());
        let id = |number: usize| format!("c{number}");
        for number in 0..self.sizes.containers {
            client.containers.create(container(id(number), spec.clone())).await?;
        }
        let mut times = Vec::new();
        for _ in 0..9 {
            let began = Instant::now();
            let found = client.containers.list(&Filters::default()).await?.len();
            times.push(began.elapsed());
            assert_eq!(found, self.sizes.containers, "all are listed");
        }
        times.sort();
        told(times[times.len() / 2], &format!("list of {} containers", self.sizes.containers));
        for number in 0..self.sizes.containers {
            client.containers.delete(&id(number), Delete::default()).await?;
        }
        Ok(())
    }

    async fn large_image(&self) -> Result<()> {
        let client = self.client().await?;
        let mut refs = Labels::new();
        for number in 0..self.sizes.image {
            let layer = put(&client, format!("layer {number}"), Labels::new()).await?;
            let key = format!("containerd.io/gc.ref.content.l.{number}");
            refs.insert(key, layer.digest.to_string());
        }
        let target = put(&client, "the manifest".to_owned(), refs).await?;
        let (now, name) = (SystemTime::UNIX_EPOCH, "large".to_owned());
        let labels = Labels::new();
        client
            .images
            .create(Image { name, labels, target, created_at: now, updated_at: now })
            .await?;
        let began = Instant::now();
        client.images.delete("large", Delete { sync: true, target: None }).await?;
        told(began.elapsed(), &format!("image of {} blobs deleted, sync", self.sizes.image));
        Ok(())
    }

    async fn layers(&self) -> Result<()> {
        let client = self.client().await?;
        let tree = self.folder.join("tree");
        make(&tree, self.sizes)?;
        let megabytes = self.sizes.tree >> 20;
        let how = Compare { media_type: media_types::LAYER_GZIP.to_owned(), ..Compare::default() };
        let began = Instant::now();
        let from = [Mount::bind(tree.to_string_lossy(), ["ro", "rbind"])];
        let layer = client.differ.compare(&[], &from, how).await?;
        told(began.elapsed(), &format!("diff of a tree of {megabytes} MB to gzip"));
        let snapshots = (client.snapshotters)("overlayfs")?;
        let mounts = snapshots.prepare("unpacked", None, Labels::new()).await?;
        let began = Instant::now();
        client.differ.apply(&layer, &mounts, Apply::default()).await?;
        told(began.elapsed(), &format!("unpack of the same {megabytes} MB"));
        snapshots.remove("unpacked").await?;
        Ok(fs::remove_dir_all(tree)?)
    }

    /// How many a second are done, when each client does so many, one after the other.
    async fn rate<F>(
        &self,
        what: &str,
        clients: &[Client],
        each: usize,
        work: impl Fn(Client, String) -> F + Clone + Send + 'static,
    ) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send,
    {
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, client) in clients.iter().cloned().enumerate() {
            let work = work.clone();
            tasks.spawn(async move {
                for at in 0..each {
                    work(client.clone(), format!("n{number}-{at}")).await?;
                }
                Ok::<(), Error>(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no task panics")?;
        }
        let count = u32::try_from(each * clients.len()).map_or(f64::NAN, f64::from);
        println!("{:.0} 1/s {what}", count / began.elapsed().as_secs_f64());
        Ok(())
    }
}

fn told(time: Duration, what: &str) {
    println!("{:.2} ms {what}", time.as_secs_f64() * 1000.0);
}

async fn put(client: &Client, text: String, labels: Labels) -> Result<Descriptor> {
    let digest = Digest::of(&text);
    let expected = Expected { digest: Some(digest.clone()), size: Some(text.len() as u64) };
    let (reference, size) = (format!("put {text}"), text.len() as u64);
    blob::write(&*client.content, &reference, expected, text, labels).await?;
    Ok(Descriptor::new(media_types::LAYER, digest, size))
}

fn container(id: String, spec: Any) -> Container {
    Container {
        id,
        labels: Labels::new(),
        image: "image".into(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(spec),
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created_at: SystemTime::UNIX_EPOCH,
        updated_at: SystemTime::UNIX_EPOCH,
        extensions: [].into(),
        sandbox: String::new(),
    }
}

/// About as long as what runs a container.
fn spec() -> String {
    let mut spec = String::from("{\"ociVersion\":\"1.0.2\",\"process\":{\"env\":[");
    for number in 0..200 {
        _ = write!(spec, "\"VARIABLE_{number}=value\",");
    }
    spec + "\"LAST=1\"]}}"
}

/// Files of words, which compress about as well as programs do.
fn make(tree: &Path, sizes: Sizes) -> Result<()> {
    let length = sizes.tree / sizes.files;
    let mut seed = 0x9e37_79b9_u64;
    for number in 0..sizes.files {
        let folder = tree.join(format!("d{}", number / 100));
        fs::create_dir_all(&folder)?;
        let mut bytes = Vec::with_capacity(length + 64);
        while bytes.len() < length {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.extend_from_slice(&seed.to_le_bytes());
            bytes.extend_from_slice(b"and some words that repeat");
        }
        bytes.truncate(length);
        fs::write(folder.join(format!("f{number}")), bytes)?;
    }
    Ok(())
}
