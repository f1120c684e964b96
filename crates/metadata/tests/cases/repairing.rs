// SPDX-License-Identifier: Apache-2.0
//! What a repair makes of real damage.
use ::content::{Expected, blob};
use ::records::{State, audit::Look};
use types::{Digest, Kind, Labels};

use super::world::{World, container, image, labels, layer, put, refused};

const DIGESTS: Look = Look { sizes: false, digests: true };

/// An image whose manifest refers to a blob and to the upper of two layers.
async fn furnish(world: &World) -> [Digest; 2] {
    let scoped = world.at("n");
    layer(&scoped, "base", None).await;
    layer(&scoped, "top", Some("base")).await;
    let bytes = put(&scoped, "layer", Labels::new()).await;
    let refs = labels([
        ("containerd.io/gc.ref.content.0", bytes.as_str()),
        ("containerd.io/gc.ref.snapshot.native", "top"),
    ]);
    let manifest = put(&scoped, "manifest", refs).await;
    scoped.images().create(image("i", &manifest, Labels::new())).await.unwrap();
    world.db.collect().await.unwrap();
    [bytes, manifest]
}

/// The states that are wrong, as `kind name: state`.
async fn wrong(world: &World) -> Vec<String> {
    let things = world.db.audit(DIGESTS).await.unwrap();
    let wrong = things.iter().filter(|thing| thing.state.is_wrong());
    let mut told: Vec<_> =
        wrong.map(|it| format!("{} {}: {}", it.kind, it.name, it.state.name())).collect();
    told.sort();
    told
}

/// The directory of the snapshot that the namespace `n` calls `name`.
async fn directory(world: &World, name: &str) -> std::path::PathBuf {
    let things = world.db.audit(Look::default()).await.unwrap();
    let owner = format!("snapshot native/{name}");
    let mut found = things.iter().filter(|it| it.kind == "directory" && it.owners[0] == owner);
    found.next().unwrap().path.clone().unwrap()
}

/// Flips one bit of the blob's file.
fn damage(world: &World, digest: &Digest) {
    use std::os::unix::fs::PermissionsExt;
    let path = world.folder.path().join("content/blobs/sha256").join(digest.hex());
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[1] ^= 4;
    fs_err::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    fs_err::write(path, bytes).unwrap();
}

#[tokio::test]
async fn a_blob_with_a_flipped_bit_is_put_aside_and_can_be_brought_again() {
    let world = World::new().await;
    let [bytes, manifest] = furnish(&world).await;
    damage(&world, &bytes);
    assert_eq!(wrong(&world).await, [format!("blob {bytes}: broken")]);
    let done = world.db.repair().await.unwrap();
    assert_eq!(done.failures, [""; 0]);
    assert_eq!(done.deeds, [format!("quarantined blob {bytes}: fetch it again")]);
    let aside = world.folder.path().join(format!("content/quarantine/sha256-{}", bytes.hex()));
    assert!(aside.exists());
    assert_eq!(wrong(&world).await, [format!("blob {bytes}: missing")]);
    let content = world.at("n").content();
    refused(content.reader(&bytes).await.map(drop), Kind::NotFound);
    let expected = Expected { digest: Some(bytes.clone()), size: Some(5) };
    blob::write(&*content, "again", expected, "layer", Labels::new()).await.unwrap();
    assert_eq!(wrong(&world).await, [""; 0]);
    assert_eq!(blob::read(&*content, &bytes, 99).await.unwrap(), "layer");
    assert!(content.info(&manifest).await.is_ok());
}

#[tokio::test]
async fn a_layer_without_its_directory_is_unpacked_again_under_the_same_name() {
    let world = World::new().await;
    furnish(&world).await;
    let lost = directory(&world, "base").await;
    fs_err::remove_dir_all(&lost).unwrap();
    assert_eq!(wrong(&world).await, [format!("directory {}: missing", lost.display())]);
    let done = world.db.repair().await.unwrap();
    assert_eq!(done.failures, [""; 0]);
    let want = [
        "put snapshot native/base in n aside: unpack its image again",
        "put snapshot native/top in n aside: unpack its image again",
    ];
    assert_eq!(done.deeds, want);
    assert_eq!(wrong(&world).await, [""; 0]);
    refused(world.snapshots("n").stat("top").await, Kind::NotFound);
    // Nothing was over them, so nothing is left of them.
    assert_eq!(world.stored_snapshots().await, [""; 0]);
    layer(&world.at("n"), "base", None).await;
    layer(&world.at("n"), "top", Some("base")).await;
    assert!(world.snapshots("n").stat("top").await.is_ok());
    assert_eq!(wrong(&world).await, [""; 0]);
}

#[tokio::test]
async fn what_a_container_wrote_stays_when_the_layers_below_are_lost() {
    let world = World::new().await;
    furnish(&world).await;
    let snapshots = world.snapshots("n");
    snapshots.prepare("rw", Some("top"), Labels::new()).await.unwrap();
    world.at("n").containers().create(container("c", "rw")).await.unwrap();
    let written = directory(&world, "rw").await;
    fs_err::write(written.join("mine"), "precious").unwrap();
    fs_err::remove_dir_all(directory(&world, "base").await).unwrap();
    let done = world.db.repair().await.unwrap();
    let bereft = "snapshot native/rw in n is over layers that are lost";
    assert!(done.deeds.iter().any(|deed| deed == bereft), "{:?}", done.deeds);
    assert_eq!(fs_err::read_to_string(written.join("mine")).unwrap(), "precious");
    let parent = snapshots.stat("rw").await.unwrap().parent.unwrap();
    assert!(parent.starts_with("broken-") && parent.ends_with("/top"), "{parent}");
    // Another container gets whole layers, and what was put aside goes with the first.
    layer(&world.at("n"), "base", None).await;
    layer(&world.at("n"), "top", Some("base")).await;
    world.at("n").containers().delete("c", Default::default()).await.unwrap();
    snapshots.remove("rw").await.unwrap();
    world.db.collect().await.unwrap();
    assert_eq!(world.stored_snapshots().await.len(), 2);
    assert_eq!(wrong(&world).await, [""; 0]);
}

#[tokio::test]
async fn a_writable_layer_without_its_directory_is_made_anew() {
    let world = World::new().await;
    furnish(&world).await;
    world.snapshots("n").prepare("rw", None, Labels::new()).await.unwrap();
    world.at("n").containers().create(container("c", "rw")).await.unwrap();
    let lost = directory(&world, "rw").await;
    fs_err::remove_dir_all(&lost).unwrap();
    let done = world.db.repair().await.unwrap();
    assert_eq!(done.deeds.len(), 1, "{done:?}");
    assert!(lost.exists() && wrong(&world).await.is_empty());
}

#[tokio::test]
async fn a_snapshot_that_its_snapshotter_lost_is_forgotten() {
    let world = World::new().await;
    let native = world.backends.snapshotters["native"].clone();
    world
        .snapshots("n")
        .prepare("rw", None, labels([(types::labels::GC_ROOT, "1")]))
        .await
        .unwrap();
    native.remove(&world.stored_snapshots().await[0]).await.unwrap();
    assert_eq!(wrong(&world).await, ["snapshot native/rw: missing"]);
    let done = world.db.repair().await.unwrap();
    assert_eq!(done.deeds, ["forgot snapshot native/rw in n, of which nothing is left"]);
    assert_eq!(wrong(&world).await, [""; 0]);
}

#[tokio::test]
async fn what_is_whole_is_left_alone() {
    let world = World::new().await;
    furnish(&world).await;
    let all = || async { world.db.audit(DIGESTS).await.unwrap() };
    let states = |things: Vec<records::audit::Thing>| {
        assert!(things.iter().all(|thing| thing.state == State::Kept));
        things.len()
    };
    let before = states(all().await);
    assert_eq!(world.db.repair().await.unwrap(), Default::default());
    assert_eq!(states(all().await), before);
}
