// SPDX-License-Identifier: Apache-2.0
//! What can go wrong on the way.
use std::{sync::Arc, time::Duration};

use client::Client;
use content::{Expected, Memory, Store};
use images::ref_key;
use types::{Descriptor, Error, Filters, Kind};

use super::{
    image::{Image, image, plain},
    remote::Remote,
    world::{World, pull},
};

async fn fails(world: &World, remote: &Remote, image: &Image) -> Error {
    world.client().pull(&pull(remote, &image.manifest, "overlay")).await.unwrap_err()
}

/// There is no image, the ingest of `part` is gone, and after a collection there is nothing at all.
async fn check_nothing_is_left(world: &World, part: &Descriptor) {
    let client = world.client();
    assert_eq!(client.images.list(&Filters::default()).await.unwrap(), []);
    assert!(client.content.status(&ref_key(part)).await.unwrap_err().is_not_found());
    assert_eq!(client.leases.list(&Filters::default()).await.unwrap(), []);
    assert_eq!(world.snapshots("overlay").await.1, 0, "no active snapshot");
    world.db.collect().await.unwrap();
    assert_eq!(client.content.statuses(&Filters::default()).await.unwrap(), []);
    assert_eq!(world.blobs().await, []);
    assert_eq!(world.snapshots("overlay").await, (0, 0));
}

#[tokio::test]
async fn a_layer_of_a_wrong_digest_leaves_nothing() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..2]);
    let wrong = &image.layers[1];
    remote.replace(&wrong.digest, vec![7; wrong.size as usize]);
    let error = fails(&world, &remote, &image).await;
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let text = error.to_string();
    let start = format!("failed commit on ref \"layer-{}\": ", wrong.digest);
    assert!(text.starts_with(&start) && text.contains("unexpected commit digest"), "{text}");
    check_nothing_is_left(&world, wrong).await;
}

#[tokio::test]
async fn a_manifest_of_a_wrong_digest_or_length_leaves_nothing() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..1]);
    let right = remote.get(&image.manifest.digest);
    remote.replace(&image.manifest.digest, right.to_ascii_uppercase());
    let error = fails(&world, &remote, &image).await;
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error}");
    remote.replace(&image.manifest.digest, [right.as_ref(), b" "].concat());
    let error = fails(&world, &remote, &image).await;
    assert!(error.to_string().contains("unexpected commit size"), "{error}");
    check_nothing_is_left(&world, &image.manifest).await;
}

#[tokio::test]
async fn a_layer_that_goes_on_too_long_is_cut_off() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..1]);
    remote.replace(&image.layers[0].digest, vec![7; 1 << 20]);
    let error = fails(&world, &remote, &image).await;
    assert!(error.to_string().contains("bytes announced"), "{error}");
    check_nothing_is_left(&world, &image.layers[0]).await;
}

#[tokio::test]
async fn a_transfer_that_breaks_goes_on_where_it_was() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..2]);
    let digest = &image.layers[1].digest;
    remote.cut(digest, &[3000, 20_000, 20_000]);
    world.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    assert_eq!(remote.offsets(digest), [0, 3000, 20_000, 20_000]);
}

#[tokio::test]
async fn a_manifest_that_breaks_is_begun_anew() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..1]);
    remote.cut(&image.manifest.digest, &[100]);
    world.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    assert_eq!(remote.offsets(&image.manifest.digest), [0, 0]);
}

#[tokio::test]
async fn what_does_not_get_any_further_is_given_up_and_can_be_gone_on_with_later() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..2]);
    let digest = &image.layers[1].digest;
    remote.cut(digest, &[5000; 5]);
    // The lease holds the ingest: without one, a collection would be free to take it.
    let held = world.client().hold().await.unwrap();
    let pull = pull(&remote, &image.manifest, "overlay");
    let error = held.client().pull(&pull).await.unwrap_err();
    assert_eq!((error.kind(), remote.offsets(digest).len()), (Kind::Unavailable, 5));
    let status = held.client().content.status(&ref_key(&image.layers[1])).await.unwrap();
    assert_eq!(status.offset, 5000);
    held.client().pull(&pull).await.unwrap();
    assert_eq!(remote.offsets(digest).last(), Some(&5000));
    held.release().await;
}

#[tokio::test]
async fn what_an_earlier_transfer_left_is_not_believed() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..2]);
    let held = world.client().hold().await.unwrap();
    let content = &held.client().content;
    for (left, part) in [(4000, &image.layers[1]), (image.manifest.size, &image.manifest)] {
        let mut ingest = content.writer(&ref_key(part), Expected::default()).await.unwrap();
        ingest.write(vec![7; left as usize].into()).await.unwrap();
    }
    held.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    assert_eq!(remote.offsets(&image.layers[1].digest), [4000, 0]);
    held.release().await;
}

#[tokio::test]
async fn what_somebody_else_is_writing_is_waited_for() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..2]);
    let layer = image.layers[1].clone();
    let content = Arc::new(Memory::default());
    let mut other = content.writer(&ref_key(&layer), (&layer).into()).await.unwrap();
    let finish = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        other.write(remote.get(&layer.digest)).await.unwrap();
        other.commit((&layer).into(), Default::default()).await.unwrap();
    };
    let mut pull = pull(&remote, &image.manifest, "overlay");
    pull.unpack.clear();
    let client = Client { content: content.clone(), under: None, ..world.client() };
    let (pulled, ()) = tokio::join!(client.pull(&pull), finish);
    pulled.unwrap();
    assert_eq!(remote.offsets(&layer.digest), [] as [u64; 0]);
}

#[tokio::test]
async fn what_nobody_has_is_not_found() {
    let (world, remote) = (World::new().await, Remote::default());
    let mut image = image(&remote, &plain()[..1]);
    let other = Remote::default();
    for part in [&image.manifest, &image.config] {
        other.add(&part.media_type, remote.get(&part.digest));
    }
    assert_eq!(fails(&world, &other, &image).await.kind(), Kind::NotFound);
    check_nothing_is_left(&world, &image.layers[0]).await;
    image.manifest.size = 0;
    let error = fails(&world, &remote, &image).await;
    assert_eq!(error.kind(), Kind::InvalidArgument);
    assert!(error.to_string().contains("reports content size of zero"), "{error}");
    check_nothing_is_left(&world, &image.manifest).await;
}

#[tokio::test]
async fn a_pull_that_is_stopped_ends_in_good_order_and_another_goes_on() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    remote.pause(Duration::from_millis(20));
    let stopped = pull(&remote, &image.manifest, "overlay");
    let stop = stopped.stop.clone();
    let going_on = pull(&remote, &image.manifest, "overlay");
    let client = world.client();
    let stopping = async {
        while remote.fetches() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        stop.cancel();
    };
    let (first, second, ()) = tokio::join!(client.pull(&stopped), client.pull(&going_on), stopping);
    assert_eq!(first.unwrap_err().kind(), Kind::Cancelled);
    assert_eq!(second.unwrap().target, image.manifest);
    assert_eq!(client.leases.list(&Filters::default()).await.unwrap(), []);
    assert_eq!(world.snapshots("overlay").await, (3, 0));
}
