// SPDX-License-Identifier: Apache-2.0
//! How fast records are written. The numbers are printed; what is claimed is that company helps.
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use content::Memory;
use metadata::{Backends, Db, Options};
use types::{Digest, FieldMask, Labels, Scope};

use super::world::{World, container};

/// Writes per second by `writers` at the same time.
async fn pace(world: &World, writers: usize, each: usize) -> f64 {
    let containers = world.at("n").containers();
    for writer in 0..writers {
        let id = format!("c-{writers}-{writer}");
        containers.create(container(&id, "s")).await.unwrap();
    }
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let containers = world.at("n").containers();
            tokio::spawn(async move {
                let id = format!("c-{writers}-{writer}");
                for number in 0..each {
                    let labels = Labels::from([("n".to_owned(), number.to_string())]);
                    let change = records::Container { labels, ..container(&id, "s") };
                    containers.update(change, &FieldMask::new(["labels"])).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    f64::from((writers * each) as u32) / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_share_the_cost_of_a_sync() {
    let world = World::new().await;
    let alone = pace(&world, 1, 300).await;
    let together = pace(&world, 16, 150).await;
    let crowd = pace(&world, 64, 50).await;
    println!("durable writes per second: {alone:.0} alone, {together:.0} by 16, {crowd:.0} by 64");
    assert!(together > alone, "{together} {alone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_for_writes() {
    let world = World::new().await;
    let containers = world.at("n").containers();
    containers.create(container("c", "s")).await.unwrap();
    let writing = world.at("n").containers();
    let writer = tokio::spawn(async move {
        loop {
            writing.update(container("c", "s"), &FieldMask::new(["labels"])).await.unwrap();
        }
    });
    let began = Instant::now();
    for _ in 0..2000 {
        containers.get("c").await.unwrap();
    }
    println!("reads per second beside a writer: {:.0}", 2000.0 / began.elapsed().as_secs_f64());
    writer.abort();
}

/// Fills the database of a node that has pulled a lot: 5000 images of 10 blobs each, and a tenth as
/// much garbage.
fn fill(path: &std::path::Path) {
    let mut raw = rusqlite::Connection::open(path).unwrap();
    let tx = raw.transaction().unwrap();
    let blob = |name: &str, labels: String| {
        let digest = Digest::of(name);
        tx.prepare_cached("INSERT INTO blobs VALUES ('n', ?, 1, ?, 0, 0)")
            .unwrap()
            .execute((digest.as_str(), labels))
            .unwrap();
        digest
    };
    for number in 0..5500 {
        let refs: Vec<_> = (0..9)
            .map(|layer| {
                let digest = blob(&format!("{number} {layer}"), "{}".into());
                format!("\"containerd.io/gc.ref.content.{layer}\":\"{digest}\"")
            })
            .collect();
        let manifest = blob(&format!("{number}"), format!("{{{}}}", refs.join(",")));
        if number < 5000 {
            tx.prepare_cached("INSERT INTO images VALUES ('n', ?, '{}', 'm', ?, 1, '{}', 0, 0)")
                .unwrap()
                .execute((format!("image-{number}"), manifest.as_str()))
                .unwrap();
        }
    }
    tx.commit().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_reads_without_keeping_writers_from_writing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.sqlite");
    let backends = || Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
    drop(Db::open(&path, backends(), Options::default()).await.unwrap());
    fill(&path);
    let db = Db::open(&path, backends(), Options::default()).await.unwrap();
    let stats = db.collect().await.unwrap();
    assert_eq!((stats.seen, stats.removed.content), (60_000, 5_000));
    let (whole, pause) = (stats.metadata, stats.pause);
    println!("60000 records: {whole:?} to collect, of which writers waited {pause:?}");
    assert!(pause < whole);
}

/// How long each of many writes took, for a person to read and for a claim on the longest.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn longest(&self) -> Duration {
        self.0.iter().max().copied().unwrap_or_default()
    }

    fn print(&mut self, title: &str) {
        self.0.sort();
        let at = |per_mille: usize| self.0[(self.0.len() - 1) * per_mille / 1000];
        println!(
            "{title}: {} writes, median {:?}, 99% {:?}, 99.9% {:?}, longest {:?}",
            self.0.len(),
            at(500),
            at(990),
            at(999),
            self.longest()
        );
        let mut bound = Duration::from_micros(125);
        let mut below = 0;
        while below < self.0.len() {
            let count = self.0.partition_point(|time| *time < bound) - below;
            if count > 0 {
                println!("  < {bound:>9?} {count:>6} {}", "#".repeat(count * 60 / self.0.len()));
            }
            below += count;
            bound *= 2;
        }
    }
}

/// Writes until `done`, and tells how long each took.
async fn write_until(db: Db, done: Arc<AtomicBool>) -> Latencies {
    let containers = db.scope(Scope::new("w").unwrap()).containers();
    let mut latencies = Latencies::default();
    while !done.load(Ordering::Relaxed) {
        let began = Instant::now();
        containers.update(container("c", "s"), &FieldMask::new(["labels"])).await.unwrap();
        latencies.0.push(began.elapsed());
    }
    latencies
}

/// A node of 10 000 snapshots and 100 000 blobs, of which a tenth is garbage.
fn fill_large(path: &std::path::Path) {
    let mut raw = rusqlite::Connection::open(path).unwrap();
    let tx = raw.transaction().unwrap();
    for number in 0..10_000 {
        let image = Digest::of(format!("{number}"));
        let mut refs = vec![format!("\"containerd.io/gc.ref.snapshot.none\":\"s{number}\"")];
        for layer in 0..9 {
            let digest = Digest::of(format!("{number} {layer}"));
            refs.push(format!("\"containerd.io/gc.ref.content.{layer}\":\"{digest}\""));
            let put = "INSERT INTO blobs VALUES ('n', ?, 1, '{}', 0, 0)";
            tx.prepare_cached(put).unwrap().execute([digest.as_str()]).unwrap();
        }
        let put = "INSERT INTO blobs VALUES ('n', ?, 1, ?, 0, 0)";
        let refs = format!("{{{}}}", refs.join(","));
        tx.prepare_cached(put).unwrap().execute([image.as_str(), &refs]).unwrap();
        let put = "INSERT INTO snapshots VALUES ('n', 'none', ?1, ?1, NULL, '{}', 0, 0)";
        tx.prepare_cached(put).unwrap().execute([format!("s{number}")]).unwrap();
        if number % 10 != 0 {
            let put = "INSERT INTO images VALUES ('n', ?, '{}', 'm', ?, 1, '{}', 0, 0)";
            let name = format!("i{number}");
            tx.prepare_cached(put).unwrap().execute([&name, image.as_str()]).unwrap();
        }
    }
    tx.commit().unwrap();
}

/// The collector took 0.33 s of everybody's time once, for half as many records.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_long_for_a_large_collection() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta.sqlite");
    let backends = || Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
    drop(Db::open(&path, backends(), Options::default()).await.unwrap());
    fill_large(&path);
    let db = Db::open(&path, backends(), Options::default()).await.unwrap();
    let containers = db.scope(Scope::new("w").unwrap()).containers();
    containers.create(container("c", "s")).await.unwrap();
    let mut measured = Vec::new();
    for collects in [false, true] {
        let done = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> =
            (0..2).map(|_| tokio::spawn(write_until(db.clone(), Arc::clone(&done)))).collect();
        let stats = if collects {
            Some(db.collect().await.unwrap())
        } else {
            tokio::time::sleep(Duration::from_secs(1)).await;
            None
        };
        done.store(true, Ordering::Relaxed);
        let mut all = Latencies::default();
        for writer in writers {
            all.0.extend(writer.await.unwrap().0);
        }
        measured.push((stats, all));
    }
    let [(_, mut quiet), (Some(stats), mut during)]: [_; 2] =
        measured.try_into().ok().expect("two were measured")
    else {
        panic!("the second one collects");
    };
    quiet.print("without a collection");
    during.print("during a collection");
    let (seen, whole, pause) = (stats.seen, stats.metadata, stats.pause);
    println!("{seen} records, {:?}, in {whole:?}; the longest step took {pause:?}", stats.removed);
    assert_eq!((stats.removed.content, stats.removed.snapshots), (10_000, 1_000));
    assert!(during.0.len() > 50, "writers went on meanwhile: {}", during.0.len());
    // Steps are a millisecond long; a machine that has other things to do stretches them.
    assert!(pause < Duration::from_millis(100), "{pause:?}");
}
