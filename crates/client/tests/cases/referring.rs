// SPDX-License-Identifier: Apache-2.0
//! What refers to images: fetched on request, found in archives, and kept beside them.
use bytes::Bytes;
use client::{Import, Silent};
use diff::tar::{Entry, Writer};
use futures_util::{StreamExt, stream};
use images::archive::{NameRule, REF_NAME};
use records::Delete;
use serde_json::{Value, json};
use std::sync::Arc;
use types::{Descriptor, Digest, Kind, Labels, media_types};

use super::{
    image::{Image, image, index, plain},
    remote::Remote,
    world::{NAME, World, amd64, pull},
};

/// An artifact of one blob that is about `subject`.
fn artifact(remote: &Remote, subject: Option<&Descriptor>) -> Descriptor {
    let config = remote.add("application/vnd.oci.empty.v1+json", "{}");
    let text = subject.map_or_else(|| "nothing".to_owned(), |subject| subject.digest.to_string());
    let blob = remote.add("application/spdx+json", format!("materials of {text}"));
    let described = |it: &Descriptor| json!({ "mediaType": it.media_type, "digest": it.digest, "size": it.size });
    let mut manifest = json!({
        "schemaVersion": 2, "mediaType": media_types::MANIFEST,
        "artifactType": "application/spdx+json",
        "config": described(&config), "layers": [described(&blob)],
    });
    if let Some(subject) = subject {
        manifest["subject"] = described(subject);
    }
    remote.add(media_types::MANIFEST, manifest.to_string())
}

#[tokio::test]
async fn what_refers_to_an_image_is_kept_with_it_and_goes_with_it() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..1]);
    let materials = artifact(&remote, Some(&image.manifest));
    let (client, asked) = (world.client(), pull(&remote, &image.manifest, "overlay"));
    client.pull(&asked).await.unwrap();
    let subject = &image.manifest.digest;
    let found =
        client.pull_referrers(&asked, subject, std::slice::from_ref(&materials)).await.unwrap();
    assert_eq!(found[0].descriptor.artifact_type.as_deref(), Some("application/spdx+json"));
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 3 + 3, "the image, and all of the artifact");
    let kept = images::referrers(&*client.content, subject).await.unwrap();
    assert_eq!((kept.len(), &kept[0]), (1, &found[0]));
    assert_eq!(client.images.list(&types::Filters::default()).await.unwrap().len(), 1);
    client.images.delete(NAME, Delete { sync: true, target: None }).await.unwrap();
    assert_eq!(world.blobs().await, []);
}

#[tokio::test]
async fn what_refers_to_something_else_is_refused() {
    let (world, remote) = (World::new().await, Remote::default());
    let (image, other) = (image(&remote, &plain()[..1]), image(&remote, &plain()[..2]));
    let materials = artifact(&remote, Some(&other.manifest));
    let (client, asked) = (world.client(), pull(&remote, &image.manifest, "overlay"));
    client.pull(&asked).await.unwrap();
    let subject = &image.manifest.digest;
    let refused = client.pull_referrers(&asked, subject, &[materials]).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition, "{refused}");
    assert_eq!(images::referrers(&*client.content, subject).await.unwrap(), []);
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 3, "nothing of it is left");
}

/// An archive with an OCI layout of these entries and of everything that the registry has.
fn layout(entries: &[Value], remote: &Remote, blobs: &[Digest]) -> Bytes {
    let index = json!({ "schemaVersion": 2, "manifests": entries });
    let mut writer = Writer::new(Vec::new());
    let mut add = |name: String, data: &[u8]| {
        let size = data.len() as u64;
        writer.append(&Entry { name: name.into_bytes(), size, ..Entry::default() }).unwrap();
        writer.data(data).unwrap();
    };
    add("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json".into(), index.to_string().as_bytes());
    for digest in blobs {
        add(format!("blobs/sha256/{}", digest.hex()), &remote.get(digest));
    }
    writer.finish().unwrap().into()
}

fn entry(of: &Descriptor, name: Option<&str>) -> Value {
    let mut entry = json!({ "mediaType": of.media_type, "digest": of.digest, "size": of.size });
    if let Some(name) = name {
        entry["annotations"] = json!({ REF_NAME: name });
    }
    entry
}

fn parts(image: &Image) -> Vec<Digest> {
    let layers = image.layers.iter().map(|layer| layer.digest.clone());
    layers.chain([image.config.digest.clone(), image.manifest.digest.clone()]).collect()
}

/// All that an artifact consists of.
fn parts_of(remote: &Remote, artifact: &Descriptor) -> Vec<Digest> {
    let text: Value = serde_json::from_slice(&remote.get(&artifact.digest)).unwrap();
    let part = |value: &Value| value["digest"].as_str().unwrap().parse().unwrap();
    vec![artifact.digest.clone(), part(&text["config"]), part(&text["layers"][0])]
}

fn how(manifest_limit: usize) -> Import {
    let rule = NameRule {
        name: "r.test/import".into(),
        is_prefix: true,
        allow_overwrite: true,
        ..NameRule::default()
    };
    Import {
        names: vec![rule],
        platforms: vec![amd64()],
        unpack: Vec::new(),
        manifest_limit,
        discard_layers: false,
        skip_missing: false,
        compress: false,
        labels: Labels::new(),
        progress: Arc::new(Silent),
    }
}

async fn import(world: &World, archive: Bytes, how: &Import) -> types::Result<Vec<String>> {
    let source = stream::iter([Ok(archive)]).boxed();
    let images = world.client().import(source, how).await?;
    Ok(images.into_iter().map(|image| image.name).collect())
}

#[tokio::test]
async fn signatures_in_an_archive_are_kept_beside_their_images() {
    let (world, remote) = (World::new().await, Remote::default());
    let image = image(&remote, &plain()[..1]);
    let (referring, tagged) = (artifact(&remote, Some(&image.manifest)), artifact(&remote, None));
    let tag = format!("sha256-{}.sig", image.manifest.digest.hex());
    let entries =
        [entry(&tagged, Some(&tag)), entry(&image.manifest, Some("1")), entry(&referring, None)];
    let all = [parts(&image), parts_of(&remote, &tagged), parts_of(&remote, &referring)].concat();
    let names = import(&world, layout(&entries, &remote, &all), &how(0)).await.unwrap();
    assert!(names.contains(&"r.test/import:1".to_owned()), "{names:?}");
    let client = world.client();
    let kept = images::referrers(&*client.content, &image.manifest.digest).await.unwrap();
    let mut found: Vec<_> = kept.into_iter().map(|it| it.descriptor.digest).collect();
    found.sort();
    let mut want = [tagged.digest, referring.digest];
    want.sort();
    assert_eq!(found, want);
    for name in names.iter().filter(|name| !name.ends_with(":1")) {
        client.images.delete(name, Delete { sync: true, target: None }).await.unwrap();
    }
    world.db.collect().await.unwrap();
    let referrers = images::referrers(&*client.content, &image.manifest.digest).await.unwrap();
    assert_eq!(referrers.len(), 2, "they need no name of their own");
}

#[tokio::test]
async fn an_import_keeps_no_more_manifests_than_it_may() {
    let (world, remote) = (World::new().await, Remote::default());
    let (one, two) = (image(&remote, &plain()[..1]), image(&remote, &plain()[..2]));
    let both = index(&remote, &[(&one.manifest, None), (&two.manifest, None)]);
    let all = [parts(&one), parts(&two), vec![both.digest.clone()]].concat();
    let archive = layout(&[entry(&both, Some("both"))], &remote, &all);
    assert_eq!(import(&world, archive, &how(1)).await.unwrap(), ["r.test/import:both"]);
    world.db.collect().await.unwrap();
    let blobs = world.blobs().await;
    assert!(blobs.contains(&one.config.digest) && !blobs.contains(&two.config.digest));

    let entries = [entry(&one.manifest, Some("1")), entry(&two.manifest, Some("2"))];
    let archive = layout(&entries, &remote, &[parts(&one), parts(&two)].concat());
    let other = World::new().await;
    assert_eq!(import(&other, archive, &how(1)).await.unwrap(), ["r.test/import:1"]);
}

#[tokio::test]
async fn an_archive_that_lists_itself_to_death_is_refused_and_leaves_nothing() {
    let (world, remote) = (World::new().await, Remote::default());
    let mut nested = image(&remote, &plain()[..1]).manifest;
    let mut all = vec![nested.digest.clone()];
    for _ in 0..20 {
        nested = index(&remote, &[(&nested, None)]);
        all.push(nested.digest.clone());
    }
    let archive = layout(&[entry(&nested, Some("deep"))], &remote, &all);
    let refused = import(&world, archive, &how(0)).await.unwrap_err();
    assert!(refused.to_string().contains("nested too deep"), "{refused}");

    let many: Vec<Value> = (0..70_000)
        .map(|number| entry(&Descriptor::new("a/b", Digest::of(format!("{number}")), 1), None))
        .collect();
    let refused = import(&world, layout(&many, &remote, &[]), &how(0)).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::ResourceExhausted | Kind::InvalidArgument), "{refused}");
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await, []);
    assert_eq!(world.client().images.list(&types::Filters::default()).await.unwrap(), []);
}
