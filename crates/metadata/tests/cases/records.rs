// SPDX-License-Identifier: Apache-2.0
use ::records::{Delete, Namespace};
use metadata::{Db, Options};
use types::{Digest, FieldMask, Filters, Kind, Labels};

use super::world::{World, backends, container, image, labels, layer, put, refused};

#[tokio::test]
async fn namespaces_do_not_see_each_others_records() {
    let world = World::new().await;
    let (a, b) = (world.at("a"), world.at("b"));
    let digest = Digest::of("x");
    a.images().create(image("i", &digest, Labels::new())).await.unwrap();
    a.containers().create(container("c", "s")).await.unwrap();
    refused(b.images().get("i").await, Kind::NotFound);
    refused(b.containers().get("c").await, Kind::NotFound);
    b.images().create(image("i", &Digest::of("y"), Labels::new())).await.unwrap();
    assert_eq!(a.images().get("i").await.unwrap().target.digest, digest);
    a.images().delete("i", Delete::default()).await.unwrap();
    b.images().get("i").await.unwrap();
}

/// As in containerd, where a namespace is there as soon as something is in it.
#[tokio::test]
async fn a_namespace_comes_with_the_first_thing_in_it() {
    let world = World::new().await;
    let namespaces = world.db.namespaces();
    refused(namespaces.get("n").await, Kind::NotFound);
    put(&world.at("n"), "x", Labels::new()).await;
    assert_eq!(namespaces.get("n").await.unwrap().labels, Labels::new());
    let label = Namespace { name: "new".into(), labels: labels([("a", "1")]) };
    namespaces.update(label.clone(), &FieldMask::new(["labels.a"])).await.unwrap();
    assert_eq!(namespaces.get("new").await.unwrap(), label);
}

#[tokio::test]
async fn a_namespace_says_what_it_still_has() {
    let world = World::new().await;
    let scoped = world.at("n");
    let digest = put(&scoped, "x", Labels::new()).await;
    scoped.images().create(image("i", &digest, Labels::new())).await.unwrap();
    scoped.containers().create(container("c", "s")).await.unwrap();
    layer(&scoped, "s", None).await;
    let outcome = world.db.namespaces().delete("n", Delete::default()).await;
    let want = "namespace \"n\" must be empty, but it still has images, blobs, containers, \
        snapshots on \"native\" snapshotter: failed precondition";
    assert_eq!(refused(outcome, Kind::FailedPrecondition), want);
}

/// Leases and ingests do not keep a namespace, and neither do they outlive it.
#[tokio::test]
async fn an_empty_namespace_goes_with_its_leases_and_ingests() {
    let world = World::new().await;
    let scoped = world.at("n");
    scoped.leases().create(super::world::lease("l", Labels::new())).await.unwrap();
    let mut writer = scoped.content().writer("ref", Default::default()).await.unwrap();
    writer.write("half".into()).await.unwrap();
    drop(writer);
    let options = Delete { sync: true, target: None };
    world.db.namespaces().delete("n", options).await.unwrap();
    assert_eq!(scoped.leases().list(&Filters::default()).await.unwrap(), []);
    assert_eq!(world.backends.content.statuses(&Filters::default()).await.unwrap(), []);
}

#[tokio::test]
async fn the_texts_are_those_that_clients_know() {
    let world = World::new().await;
    let scoped = world.at("n");
    let images = scoped.images();
    let text = refused(images.get("i").await, Kind::NotFound);
    assert_eq!(text, "image \"i\": not found");
    let text = refused(scoped.containers().get("c").await, Kind::NotFound);
    assert_eq!(text, "container \"c\" in namespace \"n\": not found");
    let text = refused(scoped.content().info(&Digest::of("")).await, Kind::NotFound);
    assert_eq!(text, format!("content digest {}: not found", Digest::of("")));
    let text = refused(world.snapshots("n").stat("s").await, Kind::NotFound);
    assert_eq!(text, "snapshot s does not exist: not found");
    let mut bad = container("c", "s");
    bad.runtime.name.clear();
    let text = refused(scoped.containers().create(bad).await, Kind::InvalidArgument);
    let want =
        "create container failed validation: container.Runtime.Name must be set: invalid argument";
    assert_eq!(text, want);
    images.create(image("i", &Digest::of("a"), Labels::new())).await.unwrap();
    let options = Delete { target: Some(Digest::of("b")), sync: false };
    let text = refused(images.delete("i", options).await, Kind::NotFound);
    let want =
        format!("image \"i\" has target {}, not {}: not found", Digest::of("a"), Digest::of("b"));
    assert_eq!(text, want);
}

#[tokio::test]
async fn a_database_is_open_once_and_closed_by_dropping_it() {
    let World { db, folder, .. } = World::new().await;
    let path = folder.path().join("meta.sqlite");
    let scoped = db.scope(types::Scope::new("n").unwrap());
    let kept = scoped.containers().create(container("c", "s")).await.unwrap();
    let again = || Db::open(path.clone(), backends(&folder.path().join("2")), Options::default());
    let text = refused(again().await, Kind::Unavailable);
    assert!(text.contains("in use by another process"), "{text}");
    drop((db, scoped));
    let db = again().await.unwrap();
    let scoped = db.scope(types::Scope::new("n").unwrap());
    assert_eq!(scoped.containers().get("c").await.unwrap(), kept);
}

#[tokio::test]
async fn a_database_of_a_later_release_is_left_alone() {
    let World { db, folder, .. } = World::new().await;
    drop(db);
    let path = folder.path().join("meta.sqlite");
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let outcome = Db::open(path, backends(&folder.path().join("2")), Options::default()).await;
    let text = refused(outcome, Kind::FailedPrecondition);
    assert!(text.contains("schema 99, of a later release"), "{text}");
}

/// The first release kept no sandboxes: its database gets their tables when it is opened.
#[tokio::test]
async fn a_database_without_sandboxes_is_brought_up_to_date() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("meta.sqlite");
    let open = async || Db::open(&path, backends(folder.path()), Options::default()).await.unwrap();
    let scope = || types::Scope::new("n").unwrap();
    let db = open().await;
    db.scope(scope()).containers().create(container("c", "s")).await.unwrap();
    drop(db);
    // The writer ends in its own time, and the file is its alone until then.
    let old = "DROP TABLE sandbox_extensions; DROP TABLE sandboxes; DROP TABLE mounts;
        DELETE FROM state WHERE name = 'activation'; PRAGMA user_version = 1";
    rusqlite::Connection::open(&path).unwrap().execute_batch(old).unwrap();
    let db = open().await;
    db.scope(scope()).containers().get("c").await.unwrap();
    assert_eq!(db.scope(scope()).sandboxes().list(&Filters::default()).await.unwrap(), []);
}
