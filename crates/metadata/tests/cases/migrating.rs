// SPDX-License-Identifier: Apache-2.0
//! A database of the first release, opened by this one.
use ::content::{Expected, blob};
use metadata::{Db, Options};
use types::{Digest, Filters, Labels, Scope};

use super::world::{backends, image, put};

#[tokio::test]
async fn a_database_of_the_first_schema_keeps_all_that_it_had() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("meta.sqlite");
    let raw = rusqlite::Connection::open(&file).unwrap();
    raw.execute_batch(include_str!("schema1.sql")).unwrap();
    drop(raw);
    let backends = backends(folder.path());
    let bytes = blob::write(&*backends.content, "r", Expected::default(), "hello", Labels::new());
    let hello = bytes.await.unwrap();
    assert_eq!(hello, Digest::of("hello"));
    let db = Db::open(&file, backends, Options::default()).await.unwrap();
    let namespaces = db.namespaces().list(&Filters::default()).await.unwrap();
    assert_eq!(namespaces[0].labels["color"], "green");
    let scoped = db.scope(Scope::new("n").unwrap());
    let kept = scoped.images().get("i").await.unwrap();
    assert_eq!((kept.target.digest, kept.labels["mine"].as_str()), (hello.clone(), "1"));
    let container = scoped.containers().get("c").await.unwrap();
    assert_eq!((container.snapshot_key.as_str(), container.extensions.len()), ("rw", 1));
    assert_eq!(scoped.leases().resources("l").await.unwrap().len(), 1);
    db.collect().await.unwrap();
    assert_eq!(blob::read(&*scoped.content(), &hello, 9).await.unwrap(), "hello");
    // And what came with later schemas works.
    assert!(scoped.sandboxes().list(&Filters::default()).await.unwrap().is_empty());
    let another = put(&scoped, "another", Labels::new()).await;
    scoped.images().create(image("j", &another, Labels::new())).await.unwrap();
    drop((db, scoped));
    let version = rusqlite::Connection::open(&file).unwrap();
    let version: i64 = version.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert!(version >= 3, "{version}");
}
