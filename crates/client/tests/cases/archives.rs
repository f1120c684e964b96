// SPDX-License-Identifier: Apache-2.0
use std::sync::Arc;

use bytes::Bytes;
use client::{Client, Import, Silent, Unpack};
use diff::tar::{Archive, Entry, Kind as Node, Writer};
use futures_util::{StreamExt, stream};
use images::archive::{Export, IMAGE_NAME, NameRule, REF_NAME};
use serde_json::{Value, json};
use types::{Descriptor, Digest, Filters, Kind, Labels, Result, media_types};

use super::{
    image::{DOCKER, dir, file, image, image_of, index, layer, plain},
    remote::Remote,
    world::{Heard, NAME, World, amd64, pull},
};

/// Imports what has a full name under that, and unpacks it.
fn as_named() -> Import {
    let rule = NameRule {
        name: "import".into(),
        is_prefix: true,
        allow_overwrite: true,
        ..NameRule::default()
    };
    let unpack = Unpack {
        snapshotter: "overlay".into(),
        platform: amd64(),
        parallel: 2,
        ..Unpack::default()
    };
    Import {
        names: vec![rule],
        platforms: vec![amd64()],
        unpack: vec![unpack],
        manifest_limit: 0,
        discard_layers: false,
        skip_missing: false,
        compress: false,
        labels: Labels::new(),
        progress: Arc::new(Silent),
    }
}

async fn exported(client: &Client, export: &Export) -> Result<Bytes> {
    let (sender, mut receiver) = tokio::sync::mpsc::channel::<Bytes>(2);
    let collecting = tokio::spawn(async move {
        let mut whole = Vec::new();
        while let Some(piece) = receiver.recv().await {
            whole.extend_from_slice(&piece);
        }
        Bytes::from(whole)
    });
    client.export(export, sender).await?;
    Ok(collecting.await.unwrap())
}

async fn import(client: &Client, archive: &Bytes, how: &Import) -> Result<Vec<String>> {
    let pieces: Vec<_> = archive.chunks(777).map(|it| Ok(archive.slice_ref(it))).collect();
    let images = client.import(stream::iter(pieces).boxed(), how).await?;
    Ok(images.into_iter().map(|image| image.name).collect())
}

/// A world with an image in it, and the image.
async fn pulled(remote: &Remote, target: &Descriptor) -> World {
    let world = World::new().await;
    world.client().pull(&pull(remote, target, "overlay")).await.unwrap();
    world
}

fn one(name: &str, image: &Descriptor) -> Export {
    Export {
        images: vec![(Some(name.to_owned()), image.clone())],
        platforms: vec![amd64()],
        ..Export::default()
    }
}

/// An archive of these files, in this order.
fn tar(files: &[(&str, Vec<u8>)]) -> Bytes {
    let mut writer = Writer::new(Vec::new());
    for (name, data) in files {
        let (name, size) = (name.as_bytes().to_vec(), data.len() as u64);
        writer.append(&Entry { name, size, ..Entry::default() }).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish().unwrap().into()
}

fn text(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The names and contents of an archive's small files.
fn listing(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    let mut archive = Archive::new(archive);
    let mut files = Vec::new();
    while let Some(entry) = archive.next_entry().unwrap() {
        let name = String::from_utf8(entry.name).unwrap();
        let name = if entry.kind == Node::Directory { name } else { name.trim_end().into() };
        files.push((name, entry.mode, archive.content(1 << 20).unwrap()));
    }
    files
}

#[tokio::test]
async fn what_is_exported_is_imported_bit_for_bit() {
    let remote = Remote::default();
    let image = image_of(&remote, &DOCKER, &amd64(), &plain());
    let there = pulled(&remote, &image.manifest).await;
    let archive = exported(&there.client(), &one(NAME, &image.manifest)).await.unwrap();

    let here = World::new().await;
    let heard = Heard::default();
    let how = Import { progress: heard.ears(), ..as_named() };
    assert_eq!(import(&here.client(), &archive, &how).await.unwrap(), [NAME]);
    here.db.collect().await.unwrap();
    let mut blobs = here.blobs().await;
    blobs.sort();
    let mut want = there.blobs().await;
    want.sort();
    assert_eq!(blobs, want, "the index of the archive has gone, and everything else is there");
    assert_eq!(here.snapshots("overlay").await, (3, 0));
    assert_eq!(here.files("overlay", &image.top()).await.len(), 5);
    assert_eq!(heard.of(""), ["Importing", "Completed import"]);
    assert_eq!(heard.of(NAME), ["saved"]);

    let again = exported(&here.client(), &one(NAME, &image.manifest)).await.unwrap();
    let without_sources = |archive: &[u8]| {
        listing(archive).into_iter().filter(|(name, ..)| name != "index.json").collect::<Vec<_>>()
    };
    assert_eq!(without_sources(&again), without_sources(&archive));
    assert_eq!(import(&here.client(), &again, &as_named()).await.unwrap(), [NAME]);
    assert_eq!(here.applied(), 3, "what is there is not unpacked again");
}

#[tokio::test]
async fn an_archive_is_a_layout_and_what_docker_reads() {
    let remote = Remote::default();
    let image = image(&remote, &plain()[..1]);
    let world = pulled(&remote, &image.manifest).await;
    let name = "docker.io/library/app:1";
    let archive = exported(&world.client(), &one(name, &image.manifest)).await.unwrap();
    let files = listing(&archive);
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let mut names = vec![
        blob(&image.manifest.digest),
        blob(&image.config.digest),
        blob(&image.layers[0].digest),
    ];
    names.sort();
    names.splice(0..0, ["blobs/".to_owned(), "blobs/sha256/".to_owned()]);
    names.extend(["index.json", "manifest.json", "oci-layout"].map(str::to_owned));
    let found: Vec<_> = files.iter().map(|(name, ..)| name.clone()).collect();
    assert_eq!(found, names);
    let content = |name: &str| {
        let (_, mode, data) = files.iter().find(|(it, ..)| it == name).unwrap();
        (*mode, serde_json::from_slice::<Value>(data).unwrap())
    };
    assert_eq!(content("oci-layout"), (0o444, json!({ "imageLayoutVersion": "1.0.0" })));
    let saved = json!([{
        "Config": blob(&image.config.digest),
        "RepoTags": ["app:1"],
        "Layers": [blob(&image.layers[0].digest)],
    }]);
    assert_eq!(content("manifest.json"), (0o644, saved));
    let (_, index) = content("index.json");
    let annotations = &index["manifests"][0]["annotations"];
    assert_eq!((&annotations[IMAGE_NAME], &annotations[REF_NAME]), (&json!(name), &json!("1")));
    let source = "containerd.io/distribution.source.registry.test";
    assert_eq!(annotations[source], "team/app");
    let plain = Export { skip_docker_manifest: true, ..one(name, &image.manifest) };
    let plain = listing(&exported(&world.client(), &plain).await.unwrap());
    assert!(plain.iter().all(|(name, ..)| name != "manifest.json"));
}

#[tokio::test]
async fn what_docker_saved_becomes_manifests_and_an_index() {
    let data = layer(&[dir("a", 0o755), file("a/b", "docker")]);
    let config = text(&json!({
        "os": "linux", "architecture": "amd64",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&data)] },
    }));
    let saved = text(&json!([
        { "Config": "c.json", "RepoTags": ["app:1", "r.io/app:2"], "Layers": ["1/layer.tar"] },
        { "Config": "c.json", "RepoTags": null, "Layers": ["2/layer.tar"] },
    ]));
    let mut writer = Writer::new(Vec::new());
    for (name, data) in [("1/layer.tar", &data), ("./c.json", &config), ("manifest.json", &saved)] {
        let (name, size) = (name.as_bytes().to_vec(), data.len() as u64);
        writer.append(&Entry { name, size, ..Entry::default() }).unwrap();
        writer.data(data).unwrap();
    }
    let link = Entry {
        name: b"2/layer.tar".to_vec(),
        kind: Node::Symlink,
        link: b"../1/layer.tar".to_vec(),
        ..Entry::default()
    };
    writer.append(&link).unwrap();
    let archive: Bytes = writer.finish().unwrap().into();

    let world = World::new().await;
    let names = import(&world.client(), &archive, &as_named()).await.unwrap();
    assert_eq!(names, ["docker.io/library/app:1", "r.io/app:2"]);
    let image = world.client().images.get("r.io/app:2").await.unwrap();
    assert_eq!(image.target.media_type, media_types::DOCKER_MANIFEST);
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 3, "a manifest, a config and a layer");
    assert_eq!(world.files("overlay", &Digest::of(&data)).await.len(), 2);

    let packed = World::new().await;
    let how = Import { compress: true, ..as_named() };
    import(&packed.client(), &archive, &how).await.unwrap();
    packed.db.collect().await.unwrap();
    assert!(!packed.blobs().await.contains(&Digest::of(&data)), "the plain layer is not kept");
    assert_eq!(packed.files("overlay", &Digest::of(&data)).await.len(), 2);
    // Now that there is a packed one, the same archive makes the same manifest without being told.
    let target = async || packed.client().images.get("r.io/app:2").await.unwrap().target;
    let before = target().await;
    import(&packed.client(), &archive, &as_named()).await.unwrap();
    assert_eq!(target().await, before);
}

/// An index with a manifest for this machine, one for another and one that was never fetched.
fn of_three(remote: &Remote) -> (Descriptor, Descriptor, Descriptor) {
    let mine = image(remote, &plain()).manifest;
    let arm = types::Platform::new("linux", "arm64", "");
    let other = image_of(remote, &DOCKER, &arm, &plain()).manifest;
    let both = [(&mine, Some("linux/amd64")), (&other, Some("linux/arm64"))];
    (index(remote, &both), mine, other)
}

#[tokio::test]
async fn of_an_index_only_what_is_wanted_travels() {
    let remote = Remote::default();
    let (whole, _, other) = of_three(&remote);
    let world = pulled(&remote, &whole).await;
    let client = world.client();
    let archive = exported(&client, &one(NAME, &whole)).await.unwrap();
    let digest = |archive: &[u8], it: &Descriptor| {
        let name = format!("blobs/sha256/{}", it.digest.hex());
        listing(archive).iter().any(|(found, ..)| *found == name)
    };
    assert!(digest(&archive, &whole) && !digest(&archive, &other));
    let everything = Export { all_platforms: true, ..one(NAME, &whole) };
    let error = exported(&client, &everything).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let what_is_there = Export { skip_missing: true, ..everything };
    exported(&client, &what_is_there).await.unwrap();
    let arm = types::Platform::new("linux", "riscv64", "");
    let none = Export { platforms: vec![arm], ..one(NAME, &whole) };
    let error = exported(&client, &none).await.unwrap_err();
    assert_eq!(error.to_string(), "no manifest found for platform: not found");

    let here = World::new().await;
    assert_eq!(import(&here.client(), &archive, &as_named()).await.unwrap(), [NAME]);
    assert_eq!(here.snapshots("overlay").await, (3, 0));
    let all = Import { platforms: Vec::new(), ..as_named() };
    let error = import(&here.client(), &archive, &all).await.unwrap_err();
    assert!(error.is_not_found(), "the archive lacks a manifest: {error}");
    let all = Import { skip_missing: true, ..all };
    assert_eq!(import(&here.client(), &archive, &all).await.unwrap(), [NAME]);
}

#[tokio::test]
async fn layers_of_an_archive_may_go_once_they_are_unpacked() {
    let remote = Remote::default();
    let image = image(&remote, &plain());
    let there = pulled(&remote, &image.manifest).await;
    let archive = exported(&there.client(), &one(NAME, &image.manifest)).await.unwrap();
    let here = World::new().await;
    let how = Import { discard_layers: true, ..as_named() };
    import(&here.client(), &archive, &how).await.unwrap();
    here.db.collect().await.unwrap();
    assert_eq!(here.blobs().await.len(), 2, "the manifest and the config");
    assert_eq!(here.snapshots("overlay").await, (3, 0));
}

/// Imports what must be refused, and looks for what it left.
async fn refused(archive: Bytes, kind: Kind, why: &str) {
    let world = World::new().await;
    let error = import(&world.client(), &archive, &as_named()).await.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(why), "{why} in {error}");
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await, []);
    let client = world.client();
    assert_eq!(client.content.statuses(&Filters::default()).await.unwrap(), []);
    assert_eq!(client.images.list(&Filters::default()).await.unwrap(), []);
    assert_eq!(client.leases.list(&Filters::default()).await.unwrap(), []);
    assert_eq!(world.snapshots("overlay").await, (0, 0));
}

#[tokio::test]
async fn an_archive_that_is_none_is_refused_and_leaves_nothing() {
    let invalid = Kind::InvalidArgument;
    refused(Bytes::new(), invalid, "unrecognized image format").await;
    refused(tar(&[("a", b"x".to_vec())]), invalid, "unrecognized image format").await;
    refused(Bytes::from_static(&[7; 2000]), invalid, "invalid tar header").await;
    let layout = ("oci-layout", LAYOUT.to_vec());
    refused(tar(std::slice::from_ref(&layout)), invalid, "missing index.json").await;
    let other = ("oci-layout", br#"{"imageLayoutVersion":"9"}"#.to_vec());
    refused(tar(&[other]), invalid, "unsupported OCI version 9").await;
    let no_index = ("index.json", text(&json!({ "config": {}, "layers": [] })));
    refused(tar(&[layout.clone(), no_index]), invalid, "expected index but found manifest").await;
    let climbing = text(&json!([{ "Config": "../../etc/passwd", "Layers": [] }]));
    refused(tar(&[("manifest.json", climbing)]), invalid, "image config").await;
    let whole = tar(&[layout, ("index.json", text(&json!({ "manifests": [] })))]);
    let cut = whole.slice(..512 + 20);
    refused(cut, invalid, "unexpected EOF").await;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &whole).unwrap();
    let mut gzip = gzip.finish().unwrap();
    gzip.truncate(gzip.len() / 2);
    refused(gzip.into(), invalid, "gzip").await;
}

#[tokio::test]
async fn a_blob_that_is_not_what_it_is_called_is_refused() {
    let claimed = format!("blobs/sha256/{}", Digest::of("said").hex());
    let archive = tar(&[("oci-layout", LAYOUT.to_vec()), (&claimed, b"done".to_vec())]);
    refused(archive, Kind::FailedPrecondition, "unexpected commit digest").await;
    let archive = tar(&[("blobs/sha256/short", b"x".to_vec())]);
    refused(archive, Kind::InvalidArgument, "blobs/sha256/short").await;
}

#[tokio::test]
async fn a_blob_that_is_there_is_still_compared() {
    let remote = Remote::default();
    let image = image(&remote, &plain());
    let world = pulled(&remote, &image.manifest).await;
    let config = format!("blobs/sha256/{}", image.config.digest.hex());
    let wrong = vec![b'x'; image.config.size as usize];
    let archive = tar(&[("oci-layout", LAYOUT.to_vec()), (&config, wrong)]);
    let error = import(&world.client(), &archive, &as_named()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error}");
}

#[tokio::test]
async fn a_bomb_of_nested_indexes_is_refused() {
    let mut files = vec![("oci-layout".to_owned(), LAYOUT.to_vec())];
    let mut inner = json!({ "manifests": [] });
    for _ in 0..20 {
        let data = text(&inner);
        let descriptor = Descriptor::new(media_types::INDEX, Digest::of(&data), data.len() as u64);
        files.push((format!("blobs/sha256/{}", descriptor.digest.hex()), data));
        inner = json!({ "manifests": vec![descriptor; 50] });
    }
    files.push(("index.json".into(), text(&inner)));
    let files: Vec<_> = files.iter().map(|(name, data)| (name.as_str(), data.clone())).collect();
    refused(tar(&files), Kind::InvalidArgument, "nested too deep").await;
}

fn package(name: &str) -> client::Package {
    let run = json!({ "Cmd": ["sh"], "Env": ["A=b"] });
    client::Package {
        name: name.into(),
        platform: amd64(),
        run: run.as_object().cloned().unwrap_or_default(),
        epoch: Some(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000)),
        labels: Labels::new(),
    }
}

#[tokio::test]
async fn the_same_files_make_the_same_image_of_a_directory_and_unpack_to_it() {
    let world = World::new().await;
    let client = world.client();
    let files = world.folder.path().join("files");
    fs_err::create_dir_all(files.join("bin")).unwrap();
    fs_err::write(files.join("bin/sh"), "shell").unwrap();
    let make = async |name: &str| {
        let from = client::Files::Directory(files.clone());
        client.package(from, &package(name)).await.unwrap().target
    };
    let image = make("r.io/made:1").await;
    assert_eq!(make("r.io/made:2").await, image);
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 3);
    let unpack = as_named().unpack.remove(0);
    let top = client.unpack(&image, &unpack).await.unwrap().unwrap();
    let files = world.files("overlay", &top).await;
    assert_eq!(files.keys().collect::<Vec<_>>(), ["bin", "bin/sh"]);
    assert!(files["bin/sh"].starts_with("100644 0:0 1000000 shell"), "{}", files["bin/sh"]);
    let record = client.images.get("r.io/made:1").await.unwrap();
    let config = client.image_config(&record, &amd64()).await.unwrap();
    assert_eq!((config.run.cmd, config.run.env), (vec!["sh".into()], vec!["A=b".into()]));
    assert_eq!(config.created.as_deref(), Some("1970-01-12T13:46:40Z"));
}

#[tokio::test]
async fn an_archive_becomes_the_layer_of_an_image() {
    let world = World::new().await;
    let client = world.client();
    let data = layer(&[dir("a", 0o755), file("a/b", "packed")]);
    let source = || stream::iter([Ok(Bytes::from(data.clone()))]).boxed();
    let image = client.package(client::Files::Archive(source()), &package("r.io/a:1")).await;
    let image = image.unwrap();
    let config = client.image_config(&image, &amd64()).await.unwrap();
    assert_eq!(config.root_fs.diff_ids, [Digest::of(&data)]);
    world.db.collect().await.unwrap();
    assert_eq!(world.blobs().await.len(), 3, "the plain archive is not kept");
    let unpack = as_named().unpack.remove(0);
    client.unpack(&image.target, &unpack).await.unwrap();
    assert_eq!(world.files("overlay", &Digest::of(&data)).await.len(), 2);
    let broken = stream::iter([Err(types::Error::unavailable("cut"))]).boxed();
    let error = client.package(client::Files::Archive(broken), &package("r.io/b:1")).await;
    assert_eq!(error.unwrap_err().kind(), Kind::Unavailable);
    assert!(client.images.get("r.io/b:1").await.unwrap_err().is_not_found());
}
