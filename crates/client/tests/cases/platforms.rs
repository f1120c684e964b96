// SPDX-License-Identifier: Apache-2.0
//! Which parts of an index are taken.
use serde_json::json;
use types::{Descriptor, Digest, Kind, Platform, media_types, platform::Matcher};

use super::{
    image::{DOCKER, Image, OCI, add, file, image, image_of, index, layer, plain},
    remote::Remote,
    world::{World, amd64, pull},
};

fn built_for(remote: &Remote, architecture: &str) -> Image {
    let platform = Platform::new("linux", architecture, "");
    image_of(remote, &OCI, &platform, &[layer(&[file("arch", architecture)])])
}

/// An index of an image for arm64 and one for amd64, and those two.
fn for_both(remote: &Remote) -> (Descriptor, [Image; 2]) {
    let images = ["arm64", "amd64"].map(|it| built_for(remote, it));
    let [arm, intel] = &images;
    let both = [(&arm.manifest, Some("linux/arm64")), (&intel.manifest, Some("linux/amd64"))];
    (index(remote, &both), images)
}

#[tokio::test]
async fn of_an_index_only_what_is_wanted_is_fetched() {
    let (world, remote) = (World::new().await, Remote::default());
    let [arm, intel, old] = ["arm64", "amd64", "386"].map(|it| built_for(&remote, it));
    let index = index(
        &remote,
        &[
            (&arm.manifest, Some("linux/arm64")),
            (&old.manifest, Some("linux/386")),
            (&intel.manifest, Some("linux/amd64")),
        ],
    );
    world.client().pull(&pull(&remote, &index, "overlay")).await.unwrap();
    assert_eq!(remote.fetches(), 4, "the index, and a manifest, a config and a layer");
    assert_eq!(world.files("overlay", &intel.top()).await.len(), 1);
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 4);
    let content = world.client().content;
    let choose = async |text: &str| {
        let wanted = Matcher::only(&text.parse().unwrap());
        images::choose(&*content, &index, &wanted).await
    };
    assert_eq!(choose("linux/amd64").await.unwrap().descriptor.digest, intel.manifest.digest);
    let error = choose("linux/s390x").await.unwrap_err();
    let want = format!("no match for platform in manifest {}: not found", index.digest);
    assert_eq!(error.to_string(), want);
}

#[tokio::test]
async fn a_platform_that_is_missing_makes_no_image() {
    let (world, remote) = (World::new().await, Remote::default());
    let arm = built_for(&remote, "arm64");
    let inner = index(&remote, &[(&arm.manifest, Some("linux/arm64"))]);
    for index in [index(&remote, &[(&inner, None)]), inner] {
        let error = world.client().pull(&pull(&remote, &index, "overlay")).await.unwrap_err();
        let want = format!("no match for platform in manifest {}: not found", index.digest);
        assert_eq!((error.kind(), error.to_string()), (Kind::NotFound, want));
    }
    assert!(world.client().images.list(&types::Filters::default()).await.unwrap().is_empty());
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await, []);
}

#[tokio::test]
async fn an_index_may_be_nested() {
    let (world, remote) = (World::new().await, Remote::default());
    let (inner, [_, intel]) = for_both(&remote);
    let outer = index(&remote, &[(&inner, None)]);
    let client = world.client();
    client.pull(&pull(&remote, &outer, "overlay")).await.unwrap();
    assert_eq!(world.files("overlay", &intel.top()).await.len(), 1);
    let check = images::check(&*client.content, &outer, &Matcher::only(&amd64())).await.unwrap();
    assert!(check.available && check.missing.is_empty());
    assert_eq!(check.required.len(), 2);
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 5);
}

#[tokio::test]
async fn the_metadata_of_other_platforms_comes_without_their_layers() {
    let (world, remote) = (World::new().await, Remote::default());
    let [arm, intel] = ["arm64", "amd64"].map(|it| built_for(&remote, it));
    let attestation = attestation(&remote);
    let index = index(
        &remote,
        &[
            (&arm.manifest, Some("linux/arm64")),
            (&intel.manifest, Some("linux/amd64")),
            (&attestation, Some("unknown/unknown")),
        ],
    );
    let mut pull = pull(&remote, &index, "overlay");
    pull.all_metadata = true;
    let client = world.client();
    client.pull(&pull).await.unwrap();
    let has = async |digest: &Digest| client.content.info(digest).await.is_ok();
    assert!(has(&arm.manifest.digest).await && has(&arm.config.digest).await);
    assert!(!has(&arm.layers[0].digest).await && has(&attestation.digest).await);
    assert_eq!(remote.fetches(), 8);
    let platforms = images::platforms(&*client.content, &index).await.unwrap();
    assert_eq!(platforms, [Platform::new("linux", "arm64", ""), amd64()]);
}

/// What `BuildKit` puts beside an image: a manifest whose layer is no filesystem.
fn attestation(remote: &Remote) -> Descriptor {
    let statement = remote.add("application/vnd.in-toto+json", "{}statement");
    let config = json!({ "os": "unknown", "architecture": "unknown",
                         "rootfs": { "type": "layers", "diff_ids": [statement.digest] } });
    let config = add(remote, media_types::CONFIG, &config);
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [statement] });
    add(remote, media_types::MANIFEST, &manifest)
}

#[tokio::test]
async fn without_platforms_everything_comes_and_what_fits_is_unpacked() {
    let (world, remote) = (World::new().await, Remote::default());
    let [arm, intel] = ["arm64", "amd64"].map(|it| built_for(&remote, it));
    let attestation = attestation(&remote);
    let index = index(
        &remote,
        &[
            (&arm.manifest, Some("linux/arm64")),
            (&intel.manifest, None),
            (&attestation, Some("unknown/unknown")),
        ],
    );
    let mut pull = pull(&remote, &index, "overlay");
    pull.platforms.clear();
    world.client().pull(&pull).await.unwrap();
    assert_eq!(remote.fetches(), 10);
    assert_eq!(world.snapshots("overlay").await, (1, 0));
}

#[tokio::test]
async fn docker_images_are_images() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image_of(&remote, &DOCKER, &amd64(), &plain());
    let list = json!({ "schemaVersion": 2, "mediaType": media_types::DOCKER_LIST, "manifests": [
        { "mediaType": media_types::DOCKER_MANIFEST, "digest": image.manifest.digest,
          "size": image.manifest.size, "platform": { "os": "linux", "architecture": "amd64" } } ] });
    let list = add(&remote, media_types::DOCKER_LIST, &list);
    world.client().pull(&pull(&remote, &list, "overlay")).await.unwrap();
    assert_eq!(world.files("overlay", &image.top()).await.len(), 5);
    let client = world.client();
    let (blobs, wanted) = (&*client.content, Matcher::only(&amd64()));
    let size = images::size(blobs, &list, &wanted).await.unwrap();
    assert_eq!(images::usage(blobs, &list, None).await.unwrap(), size);
    let with_snapshots = images::usage(blobs, &list, Some(&*client.snapshotters)).await.unwrap();
    assert!(with_snapshots > size + (64 << 10), "{with_snapshots} {size}");
}

#[tokio::test]
async fn schema_1_is_refused() {
    let (world, remote) = (World::new().await, Remote::default());
    let old = json!({ "schemaVersion": 1, "fsLayers": [] });
    let by_type = add(&remote, media_types::DOCKER_SCHEMA1, &old);
    let error = world.client().pull(&pull(&remote, &by_type, "overlay")).await.unwrap_err();
    let want = "schema 1 image manifests are no longer supported: invalid argument";
    assert_eq!(error.to_string(), want);
    let by_content = add(&remote, media_types::DOCKER_MANIFEST, &old);
    let error = world.client().pull(&pull(&remote, &by_content, "overlay")).await.unwrap_err();
    assert!(error.to_string().ends_with("media-type: schema 1 not supported"), "{error}");
    assert_eq!((world.blobs().await.len(), error.kind()), (0, Kind::InvalidArgument));
}

#[tokio::test]
async fn a_manifest_by_itself_is_taken_whatever_it_is_for() {
    let (world, remote) = (World::new().await, Remote::default());
    let arm = built_for(&remote, "arm64");
    world.client().pull(&pull(&remote, &arm.manifest, "overlay")).await.unwrap();
    assert_eq!((world.blobs().await.len(), world.applied()), (3, 0), "but not unpacked");
}

#[tokio::test]
async fn an_index_of_itself_ends() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain());
    let mut nest = index(&remote, &[(&image.manifest, Some("linux/amd64"))]);
    for _ in 0..6 {
        nest = index(&remote, &[(&nest, None), (&nest, None), (&nest, None)]);
    }
    world.client().pull(&pull(&remote, &nest, "overlay")).await.unwrap();
    assert_eq!(remote.fetches(), 12, "each document once");
    for _ in 0..3 {
        nest = index(&remote, &[(&nest, None)]);
    }
    let error = world.client().pull(&pull(&remote, &nest, "overlay")).await.unwrap_err();
    assert!(error.to_string().contains("nested too deep"), "{error}");
}

#[tokio::test]
async fn only_so_many_manifests_are_fetched_as_were_asked_for() {
    let (world, remote) = (World::new().await, Remote::default());
    let (index, [arm, intel]) = for_both(&remote);
    let mut pull = pull(&remote, &index, "overlay");
    pull.platforms = vec![amd64(), Platform::new("linux", "arm64", "")];
    (pull.manifest_limit, pull.all_metadata) = (1, true);
    world.client().pull(&pull).await.unwrap();
    world.db.collect().await.unwrap();
    let blobs = world.blobs().await;
    assert!(blobs.contains(&intel.manifest.digest) && !blobs.contains(&arm.manifest.digest));
    assert_eq!(blobs.len(), 4);
}

#[tokio::test]
async fn metadata_alone_has_no_layers() {
    let (world, remote) = (World::new().await, Remote::default());
    let (index, _images) = for_both(&remote);
    let mut pull = pull(&remote, &index, "overlay");
    (pull.metadata_only, pull.all_metadata) = (true, true);
    pull.unpack.clear();
    world.client().pull(&pull).await.unwrap();
    assert_eq!(remote.fetches(), 5, "the index, two manifests and two configs");
}

#[tokio::test]
async fn an_image_may_be_kept_under_several_names() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..1]);
    let mut pull = pull(&remote, &image.manifest, "overlay");
    pull.kept_as = vec!["registry.test/one:1".into(), "registry.test/two:2".into()];
    world.client().pull(&pull).await.unwrap();
    let images = world.client().images.list(&types::Filters::default()).await.unwrap();
    let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["registry.test/one:1", "registry.test/two:2"]);
}
