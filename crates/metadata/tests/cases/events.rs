// SPDX-License-Identifier: Apache-2.0
use ::events::{Event, Subscription};
use ::records::{Delete, Namespace};
use futures_util::FutureExt;
use types::{FieldMask, Labels, labels::GC_EXPIRE};

use super::world::{World, container, image, labels, layer, put};

fn check(subscription: &mut Subscription, want: &[(&str, Event)]) {
    for (namespace, event) in want {
        let envelope = subscription.next().now_or_never().unwrap().unwrap().unwrap();
        let told = (&*envelope.namespace, &*envelope.topic, &envelope.event);
        assert_eq!(told, (*namespace, event.topic, &event.body));
    }
    assert!(subscription.next().now_or_never().is_none(), "that was all");
}

#[tokio::test]
async fn everything_that_changes_is_told_when_it_is_answered() {
    let world = World::new().await;
    let scoped = world.at("n");
    let mut told = world.listen().await;
    let none = Labels::new();

    let digest = put(&scoped, "hello", Labels::new()).await;
    check(&mut told, &[("n", Event::content_created(&digest, 5))]);

    let images = scoped.images();
    let some = labels([("a", "1")]);
    images.create(image("i", &digest, Labels::new())).await.unwrap();
    images.update(image("i", &digest, some.clone()), &FieldMask::default()).await.unwrap();
    images.delete("i", Delete::default()).await.unwrap();
    check(
        &mut told,
        &[
            ("n", Event::image_created("i", &none)),
            ("n", Event::image_updated("i", &some)),
            ("n", Event::image_deleted("i")),
        ],
    );

    let containers = scoped.containers();
    containers.create(container("c", "s")).await.unwrap();
    containers.update(container("c", "t"), &FieldMask::new(["snapshotkey"])).await.unwrap();
    containers.delete("c", Delete::default()).await.unwrap();
    check(
        &mut told,
        &[
            ("n", Event::container_created("c", "busybox", "io.containerd.runc.v2", None)),
            ("n", Event::container_updated("c", "busybox", &none, "t")),
            ("n", Event::container_deleted("c")),
        ],
    );

    let namespaces = world.db.namespaces();
    let other = Namespace { name: "other".into(), labels: some.clone() };
    namespaces.create(other.clone()).await.unwrap();
    namespaces.update(other, &FieldMask::default()).await.unwrap();
    namespaces.delete("other", Delete::default()).await.unwrap();
    check(
        &mut told,
        &[
            ("other", Event::namespace_created("other", &some)),
            ("other", Event::namespace_updated("other", &some)),
            ("other", Event::namespace_deleted("other")),
        ],
    );

    layer(&scoped, "base", None).await;
    let snapshots = scoped.snapshotter("native").unwrap();
    snapshots.view("v", Some("base"), Labels::new()).await.unwrap();
    snapshots.prepare("a", Some("base"), Labels::new()).await.unwrap();
    snapshots.remove("a").await.unwrap();
    check(
        &mut told,
        &[
            ("n", Event::snapshot_prepared("native", "base key", "")),
            ("n", Event::snapshot_committed("native", "base key", "base")),
            ("n", Event::snapshot_prepared("native", "a", "base")),
            ("n", Event::snapshot_removed("native", "a")),
        ],
    );
    scoped.content().delete(&digest).await.unwrap();
    check(&mut told, &[("n", Event::content_deleted(&digest))]);
}

#[tokio::test]
async fn what_failed_is_not_told() {
    let world = World::new().await;
    let scoped = world.at("n");
    scoped.containers().create(container("c", "s")).await.unwrap();
    let mut told = world.listen().await;
    scoped.containers().create(container("c", "s")).await.unwrap_err();
    scoped.images().delete("i", Delete::default()).await.unwrap_err();
    check(&mut told, &[]);
}

#[tokio::test]
async fn what_is_collected_is_told_of_images_and_snapshots() {
    let world = World::new().await;
    let scoped = world.at("n");
    let digest = put(&scoped, "x", Labels::new()).await;
    let past = labels([(GC_EXPIRE, "2000-01-01T00:00:00Z")]);
    scoped.images().create(image("i", &digest, past)).await.unwrap();
    layer(&scoped, "base", None).await;
    let mut told = world.listen().await;
    world.db.collect().await.unwrap();
    let want = [("n", Event::image_deleted("i")), ("n", Event::snapshot_removed("native", "base"))];
    check(&mut told, &want);
}
