// SPDX-License-Identifier: Apache-2.0
//! A database that was damaged on purpose, and what is made of it.
use std::path::{Path, PathBuf};

use ::records::audit::Look;
use metadata::{Db, Options, copy_of, salvage};
use types::{Filters, Kind, Labels, Scope, labels::GC_ROOT};

use super::world::{backends, container, image, labels, layer, put};

async fn open(folder: &Path) -> Db {
    Db::open(file(folder), backends(folder), Options::default()).await.unwrap()
}

fn file(folder: &Path) -> PathBuf {
    folder.join("meta.sqlite")
}

/// Images, a container over two layers, and a lease.
async fn furnish(db: &Db) {
    let scoped = db.scope(Scope::new("n").unwrap());
    layer(&scoped, "base", None).await;
    layer(&scoped, "top", Some("base")).await;
    let snapshots = scoped.snapshotter("native").unwrap();
    snapshots.prepare("rw", Some("top"), Labels::new()).await.unwrap();
    for number in 0..200 {
        let refs = labels([("containerd.io/gc.ref.snapshot.native", "top")]);
        let manifest = put(&scoped, &format!("manifest {number}"), refs).await;
        scoped
            .images()
            .create(image(&format!("i{number}"), &manifest, Labels::new()))
            .await
            .unwrap();
    }
    scoped.containers().create(container("c", "rw")).await.unwrap();
}

async fn images(db: &Db) -> usize {
    let scoped = db.scope(Scope::new("n").unwrap());
    scoped.images().list(&Filters::default()).await.unwrap().len()
}

async fn is_clean(db: &Db) -> bool {
    db.collect().await.unwrap();
    let things = db.audit(Look { sizes: false, digests: true }).await.unwrap();
    things.iter().all(|thing| !thing.state.is_wrong())
}

#[tokio::test]
async fn a_whole_database_is_salvaged_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    furnish(&db).await;
    assert_eq!(salvage(file(folder.path()), "1").await.unwrap_err().kind(), Kind::Unavailable);
    drop(db);
    let salvaged = salvage(file(folder.path()), "1").await.unwrap();
    assert_eq!((salvaged.rows["images"], salvaged.rows["containers"]), (200, 1));
    assert!(salvaged.kept.unwrap().exists());
    let db = open(folder.path()).await;
    assert_eq!(db.match_backends().await.unwrap(), Default::default());
    assert!(images(&db).await == 200 && is_clean(&db).await);
}

#[tokio::test]
async fn what_is_cut_off_comes_from_the_copy_and_what_is_gone_since_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    furnish(&db).await;
    db.keep_copy(&file(folder.path())).await.unwrap();
    let scoped = db.scope(Scope::new("n").unwrap());
    scoped.images().delete("i7", Default::default()).await.unwrap();
    db.collect().await.unwrap();
    drop((db, scoped));
    fs_err::write(file(folder.path()), [0_u8; 512]).unwrap();
    let salvaged = salvage(file(folder.path()), "1").await.unwrap();
    assert_eq!(salvaged.rows["images"], 200);
    let db = open(folder.path()).await;
    // Its blob is gone, and so is its name.
    assert_eq!(db.match_backends().await.unwrap().forgotten, 2);
    assert!(images(&db).await == 199 && is_clean(&db).await);
}

#[tokio::test]
async fn of_a_database_with_a_hole_the_rows_on_both_sides_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    furnish(&db).await;
    drop(db);
    let path = file(folder.path());
    let mut bytes = fs_err::read(&path).unwrap();
    // A page of the table of images, somewhere in its middle.
    let names = |page: &[u8]| {
        let page = String::from_utf8_lossy(page).into_owned();
        page.matches("application/vnd.oci.image.manifest").count()
    };
    let pages: Vec<_> = bytes.chunks(4096).map(names).collect();
    let full: Vec<_> = (0..pages.len()).filter(|&at| pages[at] > 5).collect();
    let hole = full[full.len() / 2];
    bytes[hole * 4096..(hole + 1) * 4096].fill(0xff);
    fs_err::write(&path, bytes).unwrap();
    let salvaged = salvage(&path, "1").await.unwrap();
    let found = salvaged.rows["images"];
    println!("{found} of 200 images, {} lost", pages[hole]);
    assert!(found >= 200 - 2 * pages[hole] && found < 200, "{found}");
    assert_eq!(salvaged.rows["containers"], 1);
}

#[tokio::test]
async fn without_any_record_snapshots_come_back_by_their_keys() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    furnish(&db).await;
    drop(db);
    fs_err::remove_file(file(folder.path())).unwrap();
    assert!(!copy_of(&file(folder.path())).exists());
    assert_eq!(salvage(file(folder.path()), "1").await.unwrap().kept, None);
    let db = open(folder.path()).await;
    let matched = db.match_backends().await.unwrap();
    assert_eq!((matched.forgotten, matched.adopted, matched.writable), (0, 3, 1));
    let scoped = db.scope(Scope::new("n").unwrap());
    let snapshots = scoped.snapshotter("native").unwrap();
    let top = snapshots.stat("top").await.unwrap();
    assert_eq!(top.parent.as_deref(), Some("base"));
    let writable = snapshots.stat("rw").await.unwrap();
    assert!(writable.labels.contains_key(GC_ROOT) && writable.parent.as_deref() == Some("top"));
    // New keys are new, also in the backend.
    snapshots.prepare("another", Some("top"), Labels::new()).await.unwrap();
    db.collect().await.unwrap();
    assert!(snapshots.stat("rw").await.is_ok() && snapshots.stat("base").await.is_ok());
}
