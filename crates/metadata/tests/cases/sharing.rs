// SPDX-License-Identifier: Apache-2.0
//! What one namespace may see, read and delete of another's, as a table.
//!
//! Namespace `a` has a blob, a snapshot and an image; namespace `b` asks for them by name. Whether `b`
//! gets the blob without bringing its bytes is the one thing that the policy and the label decide.
use std::fmt::Write as _;

use ::content::Expected;
use ::records::{Namespace, Records};
use metadata::Sharing;
use types::{Digest, FieldMask, Labels, Result, labels::NAMESPACE_SHAREABLE};

use super::world::{World, blobs, image, labels, layer, names, put};

const TABLE: &str = "\
                                     shared  shared+label  isolated  isolated+label
lists it among its blobs             no      no            no        no
is told of the blob                  no      no            no        no
reads the blob                       no      no            no        no
labels the blob                      no      no            no        no
deletes the blob                     no      no            no        no
brings it with the name alone        yes     yes           no        yes
brings it with its bytes             yes     yes           yes       yes
lists it among its snapshots         no      no            no        no
is told of the snapshot              no      no            no        no
makes a layer over the snapshot      no      no            no        no
removes the snapshot                 no      no            no        no
has a snapshot of the same name      yes     yes           yes       yes
is told of the image                 no      no            no        no
deletes the image                    no      no            no        no
takes its own blob away, leaves a's  yes     yes           yes       yes
";

const KEY: &str = "layer";

async fn world(sharing: Sharing, is_labelled: bool) -> (World, Digest) {
    let world = World::with(sharing, |native| native).await;
    let a = world.at("a");
    if is_labelled {
        let labels = labels([(NAMESPACE_SHAREABLE, "true")]);
        let namespace = Namespace { name: "a".into(), labels };
        world.db.namespaces().create(namespace).await.unwrap();
    }
    layer(&a, KEY, None).await;
    let digest = put(&a, "hello", labels([("containerd.io/gc.ref.snapshot.native", KEY)])).await;
    a.images().create(image("i", &digest, Labels::new())).await.unwrap();
    (world, digest)
}

/// What `b` can do, in the order of the table.
async fn answers(sharing: Sharing, is_labelled: bool) -> Vec<bool> {
    let (world, digest) = world(sharing, is_labelled).await;
    let (a, b) = (world.at("a"), world.at("b"));
    let (content, snapshots) = (b.content(), world.snapshots("b"));
    let expected = || Expected { digest: Some(digest.clone()), size: Some(5) };
    let info = a.content().info(&digest).await.unwrap();
    let listed = blobs(&*content).await.contains(&digest);
    let mut told = vec![
        listed,
        content.info(&digest).await.is_ok(),
        content.reader(&digest).await.is_ok(),
        content.update(info, &FieldMask::default()).await.is_ok(),
        content.delete(&digest).await.is_ok(),
    ];
    let mut ingest = content.writer("r", expected()).await.unwrap();
    let is_free = ingest.status().offset == 5;
    if !is_free {
        ingest.write("hello".into()).await.unwrap();
    }
    let brought = ingest.commit(expected(), Labels::new()).await;
    told.extend([is_free, brought.is_ok()]);
    told.extend([
        names(&*snapshots).await.contains(&KEY.to_owned()),
        snapshots.stat(KEY).await.is_ok(),
        snapshots.prepare("over", Some(KEY), Labels::new()).await.is_ok(),
        snapshots.remove(KEY).await.is_ok(),
    ]);
    layer(&b, KEY, None).await;
    told.push(snapshots.stat(KEY).await.is_ok());
    let images = b.images();
    told.push(images.get("i").await.is_ok());
    told.push(images.delete("i", Default::default()).await.is_ok());
    told.push(leaves(&world, &digest).await.is_ok());
    told
}

/// Whether `b` can remove what it brought, so that `a` keeps all it has.
async fn leaves(world: &World, digest: &Digest) -> Result<()> {
    let (a, b) = (world.at("a"), world.at("b"));
    b.content().delete(digest).await?;
    world.db.collect().await?;
    a.content().reader(digest).await?;
    world.snapshots("a").stat(KEY).await?;
    let images: std::sync::Arc<dyn Records<_>> = a.images();
    images.get("i").await.map(drop)
}

#[tokio::test]
async fn what_a_namespace_may_do_with_anothers_things() {
    let columns = [
        answers(Sharing::Shared, false).await,
        answers(Sharing::Shared, true).await,
        answers(Sharing::Isolated, false).await,
        answers(Sharing::Isolated, true).await,
    ];
    let mut lines = TABLE.lines();
    let mut found = format!("{}\n", lines.next().unwrap());
    for (row, line) in lines.enumerate() {
        let cells = columns.each_ref().map(|column| if column[row] { "yes" } else { "no" });
        let [one, two, three, four] = cells;
        _ = writeln!(found, "{}{one:<8}{two:<14}{three:<10}{four}", &line[..37]);
    }
    assert_eq!(found, TABLE);
}
