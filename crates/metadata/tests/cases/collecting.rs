// SPDX-License-Identifier: Apache-2.0
use std::time::{Duration, SystemTime};

use ::content::Expected;
use ::records::{Delete, Resource};
use metadata::{Collector, Removed, Schedule};
use tokio::time::{sleep, timeout};
use types::{
    Digest, Kind, Labels,
    labels::{GC_EXPIRE, GC_ROOT},
};

use super::world::{World, blobs, container, image, labels, layer, lease, names, put, refused};

/// An image of one layer and a config that names the snapshot, and a container of it.
async fn pull(world: &World, namespace: &str) -> [Digest; 3] {
    let scoped = world.at(namespace);
    scoped.leases().create(lease("pull", Labels::new())).await.unwrap();
    let leased = world.under(namespace, "pull");
    let layer_digest = put(&leased, "layer", Labels::new()).await;
    layer(&leased, "chain", None).await;
    let config =
        put(&leased, "config", labels([("containerd.io/gc.ref.snapshot.native", "chain")])).await;
    let refs = labels([
        ("containerd.io/gc.ref.content.config", config.as_str()),
        ("containerd.io/gc.ref.content.l.0", layer_digest.as_str()),
    ]);
    let manifest = put(&leased, "manifest", refs).await;
    leased.images().create(image("i", &manifest, Labels::new())).await.unwrap();
    scoped.leases().delete("pull", Delete { sync: true, target: None }).await.unwrap();
    let mut all = [layer_digest, config, manifest];
    all.sort();
    all
}

#[tokio::test]
async fn what_is_referred_to_stays_and_the_rest_goes() {
    let world = World::new().await;
    let scoped = world.at("n");
    let all = pull(&world, "n").await;
    let snapshots = world.snapshots("n");
    snapshots.prepare("rootfs", Some("chain"), Labels::new()).await.unwrap();
    scoped.containers().create(container("c", "rootfs")).await.unwrap();
    put(&scoped, "garbage", Labels::new()).await;
    put(&scoped, "root", labels([(GC_ROOT, "now")])).await;
    snapshots.prepare("garbage", Some("chain"), Labels::new()).await.unwrap();

    let removed = world.db.collect().await.unwrap().removed;
    assert_eq!(removed, Removed { content: 1, snapshots: 1, ..Removed::default() });
    assert_eq!(names(&*snapshots).await, ["chain", "rootfs"]);
    assert_eq!(world.stored_snapshots().await.len(), 2);
    assert_eq!(world.stored_blobs().await.len(), 4);

    scoped.images().delete("i", Delete { sync: true, target: None }).await.unwrap();
    assert_eq!(blobs(&*scoped.content()).await, [Digest::of("root")]);
    assert_eq!(names(&*snapshots).await, ["chain", "rootfs"], "the container has it");
    scoped.containers().delete("c", Delete { sync: true, target: None }).await.unwrap();
    assert_eq!(world.stored_snapshots().await, [""; 0]);
    assert_eq!(all.len(), 3);
}

#[tokio::test]
async fn a_blob_stays_while_any_namespace_has_it() {
    let world = World::new().await;
    let all = pull(&world, "a").await;
    pull(&world, "b").await;
    let sync = || Delete { sync: true, target: None };
    world.at("a").images().delete("i", sync()).await.unwrap();
    assert_eq!(blobs(&*world.at("a").content()).await, []);
    assert_eq!(world.stored_blobs().await, all);
    world.at("b").images().delete("i", sync()).await.unwrap();
    assert_eq!(world.stored_blobs().await, []);
    assert_eq!(world.stored_snapshots().await, [""; 0]);
}

#[tokio::test]
async fn a_promise_keeps_the_blob_of_another_namespace() {
    let world = World::new().await;
    let (a, b) = (world.at("a"), world.at("b"));
    let digest = put(&a, "hello", Labels::new()).await;
    let expected = || Expected { size: None, digest: Some(digest.clone()) };
    drop(b.content().writer("ref", expected()).await.unwrap());
    assert_eq!(world.db.collect().await.unwrap().removed.content, 1);
    assert_eq!(world.stored_blobs().await, std::slice::from_ref(&digest));
    b.content().abort("ref").await.unwrap();
    world.db.collect().await.unwrap();
    assert_eq!(world.stored_blobs().await, []);
}

#[tokio::test]
async fn a_flat_lease_keeps_no_more_than_it_holds() {
    let world = World::new().await;
    pull(&world, "n").await;
    let scoped = world.at("n");
    let flat = lease("flat", labels([("containerd.io/gc.flat", "now")]));
    scoped.leases().create(flat).await.unwrap();
    let manifest = Digest::of("manifest");
    scoped.leases().add("flat", Resource::content(&manifest)).await.unwrap();
    scoped.images().delete("i", Delete { sync: true, target: None }).await.unwrap();
    assert_eq!(blobs(&*scoped.content()).await, [manifest]);
}

#[tokio::test]
async fn orphans_of_an_earlier_life_go_with_the_first_collection() {
    let world = World::new().await;
    let backend = &world.backends.content;
    ::content::blob::write(&**backend, "r", Expected::default(), "orphan", Labels::new())
        .await
        .unwrap();
    drop(backend.writer("left", Expected::default()).await.unwrap());
    let native = &world.backends.snapshotters["native"];
    native.prepare("key", None, Labels::new()).await.unwrap();
    native.commit("base", "key", Default::default()).await.unwrap();
    native.prepare("child", Some("base"), Labels::new()).await.unwrap();
    let stats = world.db.collect().await.unwrap();
    assert_eq!(stats.failures, [""; 0]);
    assert_eq!(world.stored_blobs().await, []);
    assert_eq!(world.stored_snapshots().await, [""; 0]);
    assert_eq!(backend.statuses(&Default::default()).await.unwrap(), []);
}

async fn until_gone(world: &World, digest: &Digest) {
    let gone = async {
        while world.backends.content.info(digest).await.is_ok() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("it is collected");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_collector_comes_after_a_deletion() {
    let world = World::new().await;
    let scoped = world.at("n");
    let collector = Collector::start(world.db.clone(), Schedule::default());
    let digest = put(&scoped, "x", labels([(GC_ROOT, "now")])).await;
    scoped.images().create(image("i", &digest, Labels::new())).await.unwrap();
    world.db.collect().await.unwrap();
    scoped.content().delete(&digest).await.unwrap();
    until_gone(&world, &digest).await;
    collector.stop().await;
}

/// containerd never runs its collector while idle, so what expires stays (containerd issue 6294).
#[tokio::test(flavor = "multi_thread")]
async fn the_collector_comes_when_something_expires_though_nobody_calls() {
    let world = World::new().await;
    let scoped = world.at("n");
    let soon = jiff::Timestamp::try_from(SystemTime::now() + Duration::from_millis(700)).unwrap();
    let expires = labels([(GC_EXPIRE, &soon.to_string())]);
    scoped.leases().create(lease("l", expires)).await.unwrap();
    let digest = put(&world.under("n", "l"), "x", Labels::new()).await;
    let collector = Collector::start(world.db.clone(), Schedule::default());
    world.db.collect().await.unwrap();
    scoped.content().info(&digest).await.unwrap();
    until_gone(&world, &digest).await;
    refused(scoped.leases().resources("l").await, Kind::NotFound);
    collector.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_ask_together_share_a_collection() {
    let world = World::new().await;
    put(&world.at("n"), "x", Labels::new()).await;
    let asked = (0..16).map(|_| world.db.collect());
    let all = futures_util::future::join_all(asked).await;
    let removed: Vec<_> = all.into_iter().map(|stats| stats.unwrap().removed.content).collect();
    assert!(removed.contains(&1), "{removed:?}");
}
