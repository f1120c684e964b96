// SPDX-License-Identifier: Apache-2.0
//! The collector against clients that pull and delete all the time.
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::content::{Expected, blob};
use ::records::Delete;
use ::snapshots::Commit;
use metadata::Scoped;
use types::{Digest, Labels, Result, labels::SNAPSHOT_REF};

use super::world::{World, image, labels, lease, names};

const LONG: Duration = Duration::from_secs(4);

/// One client: pulls an image under a lease, checks that all of it is there and stays, and deletes
/// it. Layers are shared with other clients and other namespaces.
async fn client(world: Arc<World>, namespace: &'static str, number: usize) -> usize {
    let mut rounds = 0;
    let began = Instant::now();
    while began.elapsed() < LONG {
        let name = format!("image-{number}-{rounds}");
        let lease_id = format!("pull-{number}-{rounds}");
        let plain = world.at(namespace);
        plain.leases().create(lease(&lease_id, Labels::new())).await.unwrap();
        let leased = world.under(namespace, &lease_id);
        // The first two layers are everybody's, the third is changing hands, the last is its own.
        let layers = [0, 1, 2 + rounds % 3, 100 + number * 1000 + rounds];
        let manifest = pull(&leased, &name, &layers).await;
        plain.leases().delete(&lease_id, Delete::default()).await.unwrap();
        check(&plain, &manifest, &layers).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        check(&plain, &manifest, &layers).await;
        let sync = rounds % 4 == 0;
        plain.images().delete(&name, Delete { sync, target: None }).await.unwrap();
        rounds += 1;
    }
    rounds
}

fn layer_data(number: usize) -> String {
    format!("layer {number} {}", "x".repeat(2000))
}

/// The names of the snapshots that the layers make, each over the one before.
fn chain(layers: &[usize]) -> Vec<String> {
    (1..=layers.len()).map(|end| format!("chain{:?}", &layers[..end])).collect()
}

async fn pull(scoped: &Scoped, name: &str, layers: &[usize]) -> Digest {
    let mut refs = Labels::new();
    for (at, number) in layers.iter().enumerate() {
        let digest = put(scoped, name, &layer_data(*number), Labels::new()).await;
        refs.insert(format!("containerd.io/gc.ref.content.l.{at}"), digest.to_string());
    }
    unpack(scoped, name, layers).await;
    let top = chain(layers).pop().unwrap();
    let config_labels = labels([("containerd.io/gc.ref.snapshot.native", &top)]);
    let config = put(scoped, name, &format!("config {layers:?}"), config_labels).await;
    refs.insert("containerd.io/gc.ref.content.config".into(), config.to_string());
    let manifest = put(scoped, name, &format!("manifest {layers:?}"), refs).await;
    scoped.images().create(image(name, &manifest, Labels::new())).await.unwrap();
    manifest
}

/// Stores a blob as clients do: that somebody else has it, or is bringing it, is as well.
async fn put(scoped: &Scoped, by: &str, data: &str, labels: Labels) -> Digest {
    let digest = Digest::of(data);
    let expected = Expected { size: Some(data.len() as u64), digest: Some(digest.clone()) };
    let reference = format!("{by} {digest}");
    let content = scoped.content();
    match blob::write(&*content, &reference, expected, data.to_owned(), labels).await {
        Ok(digest) => digest,
        Err(error) if error.is_already_exists() => digest,
        Err(error) => panic!("{error}"),
    }
}

async fn unpack(scoped: &Scoped, by: &str, layers: &[usize]) {
    let snapshots = scoped.snapshotter("native").unwrap();
    let mut parent: Option<String> = None;
    for name in chain(layers) {
        let key = format!("extract {by} {name}");
        let target = labels([(SNAPSHOT_REF, &name)]);
        let unpacked: Result<()> = async {
            snapshots.prepare(&key, parent.as_deref(), target).await?;
            snapshots.commit(&name, &key, Commit::default()).await
        }
        .await;
        match unpacked {
            Err(error) if !error.is_already_exists() => panic!("{name}: {error}"),
            _ => parent = Some(name),
        }
    }
}

async fn check(scoped: &Scoped, manifest: &Digest, layers: &[usize]) {
    fn there<T>(what: &str, outcome: Result<T>) -> T {
        outcome.unwrap_or_else(|error| panic!("{what}: {error}"))
    }
    let content = scoped.content();
    let info = there("manifest", content.info(manifest).await);
    for digest in info.labels.values() {
        let digest: Digest = digest.parse().unwrap();
        let data = there("blob", blob::read(&*content, &digest, 10_000).await);
        assert_eq!(Digest::of(&data), digest);
    }
    let snapshots = scoped.snapshotter("native").unwrap();
    for name in chain(layers) {
        there(&name, snapshots.stat(&name).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_in_use_is_collected_and_everything_else_is() {
    let world = Arc::new(World::new().await);
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let namespace = ["a", "b", "c"][number % 3];
            tokio::spawn(client(Arc::clone(&world), namespace, number))
        })
        .collect();
    let collecting = Arc::clone(&world);
    let collector = tokio::spawn(async move {
        let mut count = 0;
        loop {
            // Some are left alone: they have to keep their turn all the same.
            let patience = if count % 3 == 0 { Duration::from_millis(2) } else { LONG };
            let asked = tokio::time::timeout(patience, collecting.db.collect()).await;
            if let Ok(stats) = asked {
                assert_eq!(stats.unwrap().failures, [""; 0]);
            }
            count += 1;
        }
    });
    let mut rounds = 0;
    for client in clients {
        rounds += client.await.unwrap();
    }
    assert!(!collector.is_finished(), "the collector went on all the time");
    collector.abort();
    println!("{rounds} pulls and deletes");
    world.db.collect().await.unwrap();
    assert_eq!(world.stored_blobs().await, []);
    assert_eq!(world.stored_snapshots().await, [""; 0]);
    for namespace in ["a", "b", "c"] {
        assert_eq!(names(&*world.snapshots(namespace)).await, [""; 0]);
    }
    assert_eq!(world.backends.content.statuses(&Default::default()).await.unwrap(), []);
}
