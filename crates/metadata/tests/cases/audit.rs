// SPDX-License-Identifier: Apache-2.0
use std::time::Duration;

use ::content::{Expected, blob};
use ::records::{
    State,
    audit::{Look, Thing},
};
use types::{Digest, Labels, labels::GC_ROOT};

use super::world::{World, image, labels, layer, put};

const SIZES: Look = Look { sizes: true, digests: false };

/// What is in a state, as `kind name`.
fn in_state(things: &[Thing], state: State) -> Vec<String> {
    let found = things.iter().filter(|thing| thing.state == state);
    let mut found: Vec<_> = found.map(|thing| format!("{} {}", thing.kind, thing.name)).collect();
    found.sort();
    found
}

/// An image `i` whose manifest refers to a layer, and to the snapshot of that.
async fn furnish(world: &World) -> [Digest; 2] {
    let scoped = world.at("n");
    layer(&scoped, "chain", None).await;
    let refs = labels([("containerd.io/gc.ref.snapshot.native", "chain")]);
    let bytes = put(&scoped, "layer", refs).await;
    let refs = labels([("containerd.io/gc.ref.content.0", bytes.as_str())]);
    let manifest = put(&scoped, "manifest", refs).await;
    scoped.images().create(image("i", &manifest, Labels::new())).await.unwrap();
    world.db.collect().await.unwrap();
    [bytes, manifest]
}

#[tokio::test]
async fn everything_is_kept_by_what_refers_to_it() {
    let world = World::new().await;
    let [bytes, manifest] = furnish(&world).await;
    let things = world.db.audit(SIZES).await.unwrap();
    let thing = |name: &str| things.iter().find(|thing| thing.name == name).unwrap();
    assert_eq!(thing(manifest.as_str()).owners, ["image i"]);
    let chain = [format!("blob {bytes}"), format!("blob {manifest}"), "image i".to_owned()];
    assert_eq!(thing("native/chain").owners, chain);
    let directory = things.iter().find(|thing| thing.kind == "directory").unwrap();
    assert_eq!(directory.owners[0], "snapshot native/chain");
    assert_eq!(directory.owners[1..], chain);
    assert_eq!((things.len(), in_state(&things, State::Kept).len()), (4, 4));
}

#[tokio::test]
async fn what_nothing_refers_to_is_garbage_and_what_is_a_root_is_not() {
    let world = World::new().await;
    furnish(&world).await;
    let garbage = put(&world.at("n"), "garbage", Labels::new()).await;
    let root = put(&world.at("n"), "root", labels([(GC_ROOT, "now")])).await;
    let things = world.db.audit(Look::default()).await.unwrap();
    assert_eq!(in_state(&things, State::Garbage), [format!("blob {garbage}")]);
    assert!(in_state(&things, State::Kept).contains(&format!("blob {root}")));
}

#[tokio::test]
async fn each_kind_of_orphan_is_found_and_pruned() {
    let world = World::new().await;
    furnish(&world).await;
    let store = &world.backends.content;
    let blob = blob::write(&**store, "b", Expected::default(), "stray", Labels::new()).await;
    let blob = blob.unwrap();
    let mut ingest = store.writer("stray", Expected::default()).await.unwrap();
    ingest.write("half".into()).await.unwrap();
    drop(ingest);
    let native = &world.backends.snapshotters["native"];
    native.prepare("stray", None, Labels::new()).await.unwrap();
    let directory = world.folder.path().join("native/snapshots/77");
    fs_err::create_dir_all(directory.join("fs")).unwrap();

    let things = world.db.audit(Look::default()).await.unwrap();
    let mut want = vec![
        format!("blob {blob}"),
        format!("directory {}", directory.display()),
        "ingest stray".to_owned(),
        "snapshot native/stray".to_owned(),
    ];
    want.sort();
    assert_eq!(in_state(&things, State::Orphan), want);

    let stats = world.db.prune().await.unwrap();
    assert_eq!(stats.failures, [""; 0]);
    let things = world.db.audit(Look::default()).await.unwrap();
    assert_eq!((things.len(), in_state(&things, State::Kept).len()), (4, 4));
    assert!(!directory.exists());
}

#[tokio::test]
async fn what_is_recorded_and_not_there_is_missing() {
    let world = World::new().await;
    let [bytes, _] = furnish(&world).await;
    world.backends.content.delete(&bytes).await.unwrap();
    let things = world.db.audit(Look::default()).await.unwrap();
    let directory = things.iter().find(|thing| thing.kind == "directory").unwrap();
    let path = directory.path.clone().unwrap();
    fs_err::remove_dir_all(&path).unwrap();
    let things = world.db.audit(Look::default()).await.unwrap();
    let want = [format!("blob {bytes}"), format!("directory {}", path.display())];
    assert_eq!(in_state(&things, State::Missing), want);
    world.backends.snapshotters["native"].remove(&key_of(&world).await).await.unwrap();
    let things = world.db.audit(Look::default()).await.unwrap();
    assert!(in_state(&things, State::Missing).contains(&"snapshot native/chain".to_owned()));
}

/// The one key that the backend knows.
async fn key_of(world: &World) -> String {
    world.stored_snapshots().await.remove(0)
}

/// Blobs, snapshots and images come and go all the time that the audit looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_busy_store_nothing_is_taken_for_an_orphan() {
    let world = World::new().await;
    furnish(&world).await;
    let (scoped, snapshots, db) = (world.at("busy"), world.snapshots("busy"), world.db.clone());
    let busy = tokio::spawn(async move {
        for round in 0_u32.. {
            let content = scoped.content();
            let text = round.to_string();
            let name = format!("w{round}");
            blob::write(&*content, &name, Expected::default(), text, Labels::new()).await.unwrap();
            // What no reference keeps may be collected under our hands.
            if snapshots.prepare(&name, None, Labels::new()).await.is_ok() {
                drop(snapshots.commit(&format!("{name}-done"), &name, Default::default()).await);
            }
            if round % 7 == 0 {
                db.collect().await.unwrap();
            }
        }
    });
    let began = std::time::Instant::now();
    let mut audits = 0;
    while began.elapsed() < Duration::from_millis(1500) {
        let things = world.db.audit(SIZES).await.unwrap();
        assert_eq!(in_state(&things, State::Orphan), [""; 0]);
        assert_eq!(in_state(&things, State::Missing), [""; 0]);
        audits += 1;
    }
    assert!(audits > 3 && !busy.is_finished());
    busy.abort();
}
