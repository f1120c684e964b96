// SPDX-License-Identifier: Apache-2.0
use std::{sync::Arc, time::Duration};

use client::Unpack;
use futures_util::future::join_all;
use images::ref_key;
use records::Delete;
use types::{Filters, Labels};

use super::{
    image::{DOCKER, dir, file, image, image_of, layer, plain},
    remote::Remote,
    world::{Heard, NAME, World, amd64, pull},
};

#[tokio::test]
async fn an_image_is_fetched_unpacked_and_kept() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let client = world.client();
    let mut pull = pull(&remote, &image.manifest, "overlay");
    pull.labels.insert("mine".into(), "yes".into());
    let record = client.pull(&pull).await.unwrap();
    assert_eq!((record.name.as_str(), &record.target), (NAME, &image.manifest));
    assert_eq!(record.labels["mine"], "yes");
    assert_eq!(client.leases.list(&Filters::default()).await.unwrap(), [], "the lease has ended");

    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 5, "the image keeps its blobs");
    assert_eq!(world.snapshots("overlay").await, (3, 0), "and its snapshots");
    let files = world.files("overlay", &image.top()).await;
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["bin", "bin/sh", "data", "data/large", "top"]);
    assert_eq!(files["bin/sh"], "100644 0:0 1000000 shell bin/sh");

    client.images.delete(NAME, Delete { sync: true, target: None }).await.unwrap();
    assert_eq!(world.blobs().await, []);
    assert_eq!(world.snapshots("overlay").await, (0, 0));
}

#[tokio::test]
async fn blobs_have_the_labels_that_others_look_for() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..2]);
    world.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    let content = world.client().content;
    let labels = async |digest| content.info(digest).await.unwrap().labels;
    let source = ("containerd.io/distribution.source.registry.test".to_owned(), "team/app".into());
    let with = |more: &[(&str, String)]| {
        let more = more.iter().map(|(key, value)| (format!("containerd.io/{key}"), value.clone()));
        more.chain([source.clone()]).collect::<Labels>()
    };
    assert_eq!(
        labels(&image.manifest.digest).await,
        with(&[
            ("gc.ref.content.config", image.config.digest.to_string()),
            ("gc.ref.content.l.0", image.layers[0].digest.to_string()),
            ("gc.ref.content.l.1", image.layers[1].digest.to_string()),
        ])
    );
    assert_eq!(
        labels(&image.config.digest).await,
        with(&[("gc.ref.snapshot.overlay", image.top().to_string())])
    );
    assert_eq!(
        labels(&image.layers[1].digest).await,
        with(&[("uncompressed", image.diff_ids[1].to_string())])
    );
}

#[tokio::test]
async fn ten_pulls_at_once_fetch_and_unpack_everything_once() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image_of(&remote, &DOCKER, &amd64(), &plain());
    remote.pause(Duration::from_millis(2));
    let pulls = (0..10).map(|number| {
        let mut pull = pull(&remote, &image.manifest, "overlay");
        pull.name = format!("registry.test/app:{number}");
        let client = world.client();
        tokio::spawn(async move { client.pull(&pull).await })
    });
    for outcome in join_all(pulls).await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(remote.fetches(), 5, "a manifest, a config and three layers");
    assert_eq!(world.applied(), 3);
    assert_eq!(world.snapshots("overlay").await, (3, 0));
    let content = world.client().content;
    assert_eq!(content.statuses(&Filters::default()).await.unwrap(), []);
    assert_eq!(world.client().images.list(&Filters::default()).await.unwrap().len(), 10);
}

#[tokio::test]
async fn what_is_there_is_not_fetched_again() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let heard = Heard::default();
    let mut again = pull(&remote, &image.manifest, "overlay");
    world.client().pull(&again).await.unwrap();
    (again.progress, again.name) = (heard.ears(), "registry.test/other/app:2".into());
    again.unpack.push(Unpack { snapshotter: "native".into(), ..again.unpack[0].clone() });
    world.client().pull(&again).await.unwrap();
    assert_eq!(remote.fetches(), 5);
    assert_eq!((world.snapshots("native").await, world.applied()), ((3, 0), 6));
    let layer = ref_key(&image.layers[0]);
    assert!(heard.of(&layer).contains(&"already exists".to_owned()));
    let info = world.client().content.info(&image.layers[0].digest).await.unwrap();
    let source = &info.labels["containerd.io/distribution.source.registry.test"];
    assert_eq!(source, "other/app,team/app", "it is known to be in both repositories");
}

#[tokio::test]
async fn an_image_gets_another_target() {
    let (world, remote) = (World::new().await, Remote::default());
    let (first, second) = (image(&remote, &plain()[..1]), image(&remote, &plain()));
    world.client().pull(&pull(&remote, &first.manifest, "overlay")).await.unwrap();
    world.client().pull(&pull(&remote, &second.manifest, "overlay")).await.unwrap();
    let record = world.client().images.get(NAME).await.unwrap();
    assert_eq!(record.target, second.manifest);
    assert_eq!(world.applied(), 3, "the common layer is unpacked once");
}

#[tokio::test]
async fn the_same_layer_may_be_there_many_times() {
    let (world, remote) = (World::new().await, Remote::default());
    let empty = layer(&[]);
    let image = image(
        &remote,
        &[empty.clone(), layer(&[dir("a", 0o700)]), empty.clone(), layer(&[file("b", "b")]), empty],
    );
    world.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    assert_eq!(remote.offsets(&image.layers[0].digest), [0]);
    assert_eq!(world.snapshots("overlay").await, (5, 0));
    assert_eq!(world.files("overlay", &image.top()).await.len(), 2);
}

#[tokio::test]
async fn layers_may_go_once_they_are_unpacked() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let mut pull = pull(&remote, &image.manifest, "overlay");
    pull.discard_layers = true;
    world.client().pull(&pull).await.unwrap();
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 2, "the manifest and the config");
    assert_eq!(world.snapshots("overlay").await, (3, 0));
}

#[tokio::test]
async fn it_is_told_how_far_each_blob_is_and_what_it_belongs_to() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let heard = Heard::default();
    let mut pull = pull(&remote, &image.manifest, "overlay");
    pull.progress = heard.ears();
    world.client().pull(&pull).await.unwrap();
    let manifest = ref_key(&image.manifest);
    assert_eq!(heard.of(NAME), ["fetching image content", "saved"]);
    assert_eq!(heard.of(&manifest), ["waiting", "complete"]);
    assert_eq!(heard.of(&ref_key(&image.config)), ["waiting", "downloading", "complete"]);
    let steps = ["waiting", "downloading", "complete", "extracting", "extracted"];
    for layer in &image.layers {
        assert_eq!(heard.of(&ref_key(layer)), steps);
    }
    for event in heard.all().iter().filter(|event| event.name != NAME) {
        let parent = if event.name == manifest { NAME } else { &manifest };
        assert_eq!(event.parents, [parent]);
    }
}

#[tokio::test]
async fn a_pull_under_a_lease_leaves_the_lease_alone() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let held = world.client().hold().await.unwrap();
    held.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    let sync = Delete { sync: true, target: None };
    world.client().images.delete(NAME, sync).await.unwrap();
    assert_eq!(world.blobs().await.len(), 5, "the lease holds them");
    let leases = world.client().leases.list(&Filters::default()).await.unwrap();
    assert!(leases[0].labels["containerd.io/gc.expire"].ends_with('Z'));
    held.release().await;
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await, []);
}

#[tokio::test]
async fn a_pull_need_not_unpack() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let mut pull = pull(&remote, &image.manifest, "overlay");
    pull.unpack.clear();
    let record = world.client().pull(&pull).await.unwrap();
    assert_eq!(world.applied(), 0);
    let client = Arc::new(world.client());
    let unpack = Unpack { snapshotter: "native".into(), platform: amd64(), ..Unpack::default() };
    assert!(!client.is_unpacked(&record.target, "native", &amd64()).await.unwrap());
    let top = client.unpack(&record.target, &unpack).await.unwrap();
    assert_eq!(top, Some(image.top()));
    assert!(client.is_unpacked(&record.target, "native", &amd64()).await.unwrap());
    world.db.collect().await.unwrap();
    assert_eq!(world.snapshots("native").await, (3, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_are_unpacked_while_they_arrive() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image_of(&remote, &DOCKER, &amd64(), &plain());
    remote.pause(Duration::from_millis(1));
    world.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    let seen = || world.seen.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((seen(), world.applied()), (3, 3));
    assert_eq!(world.files("overlay", &image.top()).await.len(), 5);
    for layer in &image.layers {
        assert_eq!(remote.offsets(&layer.digest), [0]);
    }
    let again = World::new().await;
    again.client().pull(&pull(&remote, &image.manifest, "native")).await.unwrap();
    let seen = again.seen.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((seen, again.applied()), (0, 3), "a snapshotter that chains nothing later waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_whose_transfer_breaks_is_unpacked_all_the_same() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    remote.pause(Duration::from_millis(1));
    remote.cut(&image.layers[1].digest, &[1500, 40_000]);
    world.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    assert_eq!(remote.offsets(&image.layers[1].digest), [0, 1500, 40_000]);
    let seen = world.seen.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((seen, world.applied()), (3, 3), "what goes on where it broke is seen whole");
    assert_eq!(world.files("overlay", &image.top()).await.len(), 5);
}

/// A daemon that was killed in the middle of a pull left the beginnings of layers behind. The next pull
/// fetched the rest, and then unpacked those layers in a second pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_pull_left_is_unpacked_in_the_same_pass() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let held = world.client().hold().await.unwrap();
    let halves = image.layers.iter().zip([2, 1, 2]);
    for (layer, divided_by) in halves.clone() {
        let content = &held.client().content;
        let mut ingest = content.writer(&ref_key(layer), layer.into()).await.unwrap();
        let whole = remote.get(&layer.digest);
        ingest.write(whole.slice(..whole.len() / divided_by)).await.unwrap();
    }
    held.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    held.release().await;
    for (layer, divided_by) in halves {
        let want = if divided_by == 1 { vec![] } else { vec![layer.size / divided_by as u64] };
        assert_eq!(remote.offsets(&layer.digest), want);
    }
    let seen = world.seen.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((seen, world.applied()), (3, 3), "each layer is read once");
    assert_eq!(world.files("overlay", &image.top()).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_pull_left_spoiled_does_not_spoil_what_is_unpacked() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let held = world.client().hold().await.unwrap();
    let layer = &image.layers[1];
    let mut ingest = held.client().content.writer(&ref_key(layer), layer.into()).await.unwrap();
    ingest.write(vec![7; 4000].into()).await.unwrap();
    drop(ingest);
    held.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    held.release().await;
    assert_eq!(remote.offsets(&layer.digest), [4000, 0]);
    let files = world.files("overlay", &image.top()).await;
    let clean = World::new().await;
    clean.client().pull(&pull(&remote, &image.manifest, "overlay")).await.unwrap();
    assert_eq!(files, clean.files("overlay", &image.top()).await);
}
