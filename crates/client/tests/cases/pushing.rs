// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use client::{Push, Silent};
use types::{Descriptor, Digest, Kind, media_types};

use super::{
    image::{OCI, Types, image, image_of, index, plain},
    remote::Remote,
    world::{Heard, NAME, World, amd64, pull},
};

fn push(to: &Remote, target: &Descriptor) -> Push {
    Push {
        turns: None,
        name: NAME.into(),
        target: target.clone(),
        to: Arc::new(to.clone()),
        platforms: Vec::new(),
        non_distributable: false,
        concurrency: 0,
        progress: Arc::new(Silent),
    }
}

fn order(remote: &Remote) -> Vec<Digest> {
    remote.pushed().into_iter().map(|(digest, _)| digest).collect()
}

#[tokio::test]
async fn children_come_before_their_parents() {
    let (world, from, to) = (World::new().await, Remote::default(), Remote::default());
    let image = image(&from, &plain());
    let inner = index(&from, &[(&image.manifest, Some("linux/amd64"))]);
    let outer = index(&from, &[(&image.manifest, Some("linux/amd64")), (&inner, None)]);
    world.client().pull(&pull(&from, &outer, "overlay")).await.unwrap();
    let heard = Heard::default();
    let push = Push { progress: heard.ears(), ..push(&to, &outer) };
    world.client().push(&push).await.unwrap();
    let pushed = order(&to);
    assert_eq!(pushed.len(), 7);
    assert_eq!(pushed[4..], [image.manifest.digest, inner.digest, outer.digest]);
    assert_eq!(heard.of(NAME), ["pushing content", "pushed content"]);
    let layer = images::ref_key(&image.layers[1]);
    assert_eq!(heard.of(&layer), ["waiting", "uploading", "complete"]);
}

#[tokio::test]
async fn only_so_many_layers_are_uploaded_at_once() {
    for (concurrency, turns, limit) in [(1, None, 1), (2, None, 2), (3, Some(1), 1)] {
        let (world, from, to) = (World::new().await, Remote::default(), Remote::default());
        let image = image(&from, &plain());
        world.client().pull(&pull(&from, &image.manifest, "overlay")).await.unwrap();
        // Long enough for others to begin, if they may.
        to.pause(std::time::Duration::from_millis(50));
        let turns = turns.map(|turns| Arc::new(tokio::sync::Semaphore::new(turns)));
        let push = Push { concurrency, turns, ..push(&to, &image.manifest) };
        world.client().push(&push).await.unwrap();
        assert_eq!(to.pushed().len(), 5);
        let most = to.most_uploads_at_once();
        assert!(most <= limit, "{most} at once, and not {limit}");
    }
}

#[tokio::test]
async fn what_the_registry_has_is_not_sent_and_what_it_could_have_is_said() {
    let (world, from, to) = (World::new().await, Remote::default(), Remote::default());
    let image = image(&from, &plain());
    world.client().pull(&pull(&from, &image.manifest, "overlay")).await.unwrap();
    to.add(media_types::LAYER, from.get(&image.layers[0].digest));
    to.cut(&image.layers[1].digest, &[1, 1]);
    world.client().push(&push(&to, &image.manifest)).await.unwrap();
    assert_eq!(order(&to).len(), 4);
    for (digest, annotations) in to.pushed() {
        let source = annotations.get("containerd.io/distribution.source.registry.test");
        let want = (digest != image.manifest.digest).then_some("team/app");
        assert_eq!(source.map(String::as_str), want);
    }
}

#[tokio::test]
async fn an_upload_that_lost_its_end_is_gone_on_with() {
    let (world, from, to) = (World::new().await, Remote::default(), Remote::default());
    let image = image(&from, &plain());
    world.client().pull(&pull(&from, &image.manifest, "overlay")).await.unwrap();
    let lossy = &image.layers[1].digest;
    to.lose(lossy, &[50, 0, 20]);
    world.client().push(&push(&to, &image.manifest)).await.unwrap();
    assert_eq!(to.get(lossy), from.get(lossy));
    assert_eq!(to.begun().iter().filter(|it| *it == lossy).count(), 1, "one upload did it");
}

#[tokio::test]
async fn layers_that_are_not_to_be_handed_on_are_not() {
    let (world, from, to) = (World::new().await, Remote::default(), Remote::default());
    let foreign = Types { layer: "application/vnd.oci.image.layer.nondistributable.v1.tar", ..OCI };
    let image = image_of(&from, &foreign, &amd64(), &plain()[..1]);
    let mut pulled = pull(&from, &image.manifest, "overlay");
    pulled.unpack.clear();
    world.client().pull(&pulled).await.unwrap();
    world.client().push(&push(&to, &image.manifest)).await.unwrap();
    assert_eq!(order(&to), [image.config.digest.clone(), image.manifest.digest.clone()]);
    let all = Remote::default();
    let push = Push { non_distributable: true, ..push(&all, &image.manifest) };
    world.client().push(&push).await.unwrap();
    assert_eq!(order(&all).len(), 3);
}

#[tokio::test]
async fn an_image_with_a_part_missing_cannot_be_pushed_whole() {
    let (world, from, to) = (World::new().await, Remote::default(), Remote::default());
    let [arm, intel] = ["arm64", "amd64"].map(|architecture| {
        let platform = types::Platform::new("linux", architecture, "");
        image_of(&from, &OCI, &platform, &plain())
    });
    let index = index(
        &from,
        &[(&arm.manifest, Some("linux/arm64")), (&intel.manifest, Some("linux/amd64"))],
    );
    world.client().pull(&pull(&from, &index, "overlay")).await.unwrap();
    let error = world.client().push(&push(&to, &index)).await.unwrap_err();
    assert_eq!((error.kind(), order(&to).len()), (Kind::NotFound, 0));
    let push = Push { platforms: vec![amd64()], ..push(&to, &index) };
    world.client().push(&push).await.unwrap();
    assert_eq!(order(&to).len(), 6);
}
