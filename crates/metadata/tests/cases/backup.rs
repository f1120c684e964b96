// SPDX-License-Identifier: Apache-2.0
//! Copies of a database that is in use.
use metadata::{Db, Options};
use types::{Digest, Kind, Labels, Scope};

use super::world::{World, container, image, layer, put, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_a_database_as_of_one_moment() {
    let world = World::new().await;
    let scoped = world.at("n");
    let digest = put(&scoped, "x", Labels::new()).await;
    scoped.images().create(image("i", &digest, Labels::new())).await.unwrap();
    layer(&scoped, "base", None).await;

    // Each writer makes a container and then one that says so: a copy never has the second alone.
    let writing = world.at("n").containers();
    let writer = tokio::spawn(async move {
        for number in 0.. {
            writing.create(container(&format!("first-{number}"), "base")).await.unwrap();
            writing.create(container(&format!("second-{number}"), "base")).await.unwrap();
        }
    });
    for round in 0..5 {
        let path = world.folder.path().join(format!("backup-{round}")).join("meta.sqlite");
        fs_err::create_dir(path.parent().unwrap()).unwrap();
        world.db.back_up(&path).await.unwrap();
        let copy = Db::open(&path, world.backends.clone(), Options::default()).await.unwrap();
        let there = copy.scope(Scope::new("n").unwrap());
        assert_eq!(there.images().get("i").await.unwrap().target.digest, Digest::of("x"));
        let all = there.containers().list(&Default::default()).await.unwrap();
        let (first, second): (Vec<_>, Vec<_>) =
            all.iter().map(|container| &*container.id).partition(|id| id.starts_with("first"));
        assert!(first.len() == second.len() || first.len() == second.len() + 1, "{all:?}");
        refused(world.db.back_up(&path).await, Kind::AlreadyExists);
    }
    writer.abort();
}
