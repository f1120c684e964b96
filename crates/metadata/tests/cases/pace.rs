// SPDX-License-Identifier: Apache-2.0
//! How fast records are written. The numbers are printed; what is claimed is that company helps.
use std::{sync::Arc, time::Instant};

use content::Memory;
use metadata::{Backends, Db, Options};
use types::{Digest, FieldMask, Labels};

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
