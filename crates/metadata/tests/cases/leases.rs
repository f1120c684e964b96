// SPDX-License-Identifier: Apache-2.0
use ::content::Expected;
use ::records::{Delete, Lease, Resource};
use types::{Digest, FieldMask, Kind, Labels, labels::GC_EXPIRE};

use super::world::{World, image, labels, layer, lease, put, refused};

const LONG: &str = "2999-01-01T00:00:00Z";

async fn held(world: &World, lease: &str) -> Vec<(String, String)> {
    let resources = world.at("n").leases().resources(lease).await.unwrap();
    resources.into_iter().map(|resource| (resource.kind, resource.id)).collect()
}

#[tokio::test]
async fn what_is_created_belongs_to_the_lease() {
    let world = World::new().await;
    world.at("n").leases().create(lease("l", Labels::new())).await.unwrap();
    let scoped = world.under("n", "l");
    let snapshots = scoped.snapshotter("native").unwrap();
    let mut writer = scoped.content().writer("ref", Expected::default()).await.unwrap();
    writer.write("hello".into()).await.unwrap();
    snapshots.prepare("key", None, Labels::new()).await.unwrap();
    let target = Digest::of("x");
    scoped.images().create(image("kept", &target, Labels::new())).await.unwrap();
    scoped.images().create(image("fading", &target, labels([(GC_EXPIRE, LONG)]))).await.unwrap();
    let pair = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    let want = [pair("images", "fading"), pair("ingests", "ref"), pair("snapshots/native", "key")];
    assert_eq!(held(&world, "l").await, want);

    let digest = writer.commit(Expected::default(), Labels::new()).await.unwrap();
    snapshots.commit("name", "key", Default::default()).await.unwrap();
    scoped.images().delete("fading", Delete::default()).await.unwrap();
    let want = [pair("content", digest.as_str()), pair("snapshots/native", "name")];
    assert_eq!(held(&world, "l").await, want);

    scoped.content().delete(&digest).await.unwrap();
    snapshots.remove("name").await.unwrap();
    assert_eq!(held(&world, "l").await, []);
}

/// Or else another client could delete what this one was told it need not bring.
#[tokio::test]
async fn what_exists_already_is_leased_as_well() {
    let world = World::new().await;
    let plain = world.at("n");
    let digest = put(&plain, "hello", Labels::new()).await;
    layer(&plain, "name", None).await;
    plain.leases().create(lease("l", Labels::new())).await.unwrap();
    let scoped = world.under("n", "l");
    let snapshots = scoped.snapshotter("native").unwrap();
    let expected = Expected { size: None, digest: Some(digest.clone()) };
    let outcome = scoped.content().writer("ref", expected).await.map(drop);
    let text = refused(outcome, Kind::AlreadyExists);
    assert_eq!(text, format!("content {digest}: already exists"));
    refused(snapshots.prepare("name", None, Labels::new()).await, Kind::AlreadyExists);
    world.db.collect().await.unwrap();
    plain.content().info(&digest).await.unwrap();
    snapshots.stat("name").await.unwrap();
    plain.leases().delete("l", Delete { sync: true, target: None }).await.unwrap();
    refused(plain.content().info(&digest).await, Kind::NotFound);
    assert_eq!(world.stored_snapshots().await, [""; 0]);
}

#[tokio::test]
async fn a_lease_that_does_not_exist_holds_nothing() {
    let world = World::new().await;
    let scoped = world.under("n", "missing");
    let snapshots = scoped.snapshotter("native").unwrap();
    let want = "lease does not exist: not found";
    let outcome = scoped.content().writer("ref", Expected::default()).await.map(drop);
    assert_eq!(refused(outcome, Kind::NotFound), want);
    let outcome = snapshots.prepare("key", None, Labels::new()).await;
    assert_eq!(refused(outcome, Kind::NotFound), want);
    assert_eq!(world.stored_snapshots().await, [""; 0], "what could not be recorded is undone");
    let fading = image("i", &Digest::of("x"), labels([(GC_EXPIRE, LONG)]));
    assert_eq!(refused(scoped.images().create(fading).await, Kind::NotFound), want);
    refused(scoped.images().get("i").await, Kind::NotFound);
    scoped.images().create(image("i", &Digest::of("x"), Labels::new())).await.unwrap();
}

#[tokio::test]
async fn a_lease_can_be_extended() {
    let world = World::new().await;
    let leases = world.at("n").leases();
    leases.create(lease("l", labels([(GC_EXPIRE, "2000-01-01T00:00:00Z")]))).await.unwrap();
    let longer = Lease { labels: labels([(GC_EXPIRE, LONG)]), ..lease("l", Labels::new()) };
    leases.update(longer, &FieldMask::new(["labels"])).await.unwrap();
    leases.add("l", Resource::image("i")).await.unwrap();
    world.db.collect().await.unwrap();
    assert_eq!(leases.get("l").await.unwrap().labels[GC_EXPIRE], LONG);
}
