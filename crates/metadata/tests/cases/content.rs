// SPDX-License-Identifier: Apache-2.0
use ::content::{Expected, blob};
use ::records::Namespace;
use metadata::{Scoped, Sharing};
use types::{Digest, Filters, Kind, Labels, labels::NAMESPACE_SHAREABLE};

use super::world::{World, blobs, labels, lease, put, refused};

fn expecting(data: &str) -> Expected {
    Expected { size: Some(data.len() as u64), digest: Some(Digest::of(data)) }
}

async fn read(scoped: &Scoped, digest: &Digest) -> bytes::Bytes {
    blob::read(&*scoped.content(), digest, 1 << 20).await.unwrap()
}

#[tokio::test]
async fn a_blob_is_seen_where_it_was_committed_alone() {
    let world = World::new().await;
    let (a, b) = (world.at("a"), world.at("b"));
    let digest = put(&a, "hello", labels([("x", "1")])).await;
    assert_eq!(read(&a, &digest).await, "hello");
    refused(b.content().info(&digest).await, Kind::NotFound);
    refused(b.content().reader(&digest).await.map(drop), Kind::NotFound);
    assert_eq!(blobs(&*b.content()).await, []);

    put(&b, "hello", labels([("y", "2")])).await;
    assert_eq!(a.content().info(&digest).await.unwrap().labels, labels([("x", "1")]));
    a.content().delete(&digest).await.unwrap();
    refused(a.content().info(&digest).await, Kind::NotFound);
    assert_eq!(read(&b, &digest).await, "hello");
}

#[tokio::test]
async fn a_namespace_that_knows_a_digest_gets_the_blob_of_another() {
    let world = World::new().await;
    let (a, b) = (world.at("a"), world.at("b"));
    let digest = put(&a, "hello", Labels::new()).await;
    let mut writer = b.content().writer("ref", expecting("hello")).await.unwrap();
    let status = writer.status();
    assert_eq!((&*status.reference, status.offset, status.total), ("ref", 5, 5));
    refused(b.content().info(&digest).await, Kind::NotFound);
    assert_eq!(writer.commit(expecting("hello"), Labels::new()).await.unwrap(), digest);
    assert_eq!(read(&b, &digest).await, "hello");
    assert_eq!(world.stored_blobs().await, [digest]);
}

#[tokio::test]
async fn a_promise_is_held_to_what_was_said() {
    let world = World::new().await;
    let (a, b) = (world.at("a"), world.at("b"));
    put(&a, "hello", Labels::new()).await;
    let wrong_size = Expected { size: Some(6), digest: Some(Digest::of("hello")) };
    let writer = b.content().writer("size", wrong_size).await.unwrap();
    assert_eq!(writer.status().offset, 0, "a blob of another size is not what was asked for");
    for wrong in [expecting("hellO"), Expected { size: Some(4), digest: None }] {
        let mut writer = b.content().writer("ref", expecting("hello")).await.unwrap();
        refused(writer.commit(wrong, Labels::new()).await, Kind::FailedPrecondition);
    }
}

#[tokio::test]
async fn a_promise_that_is_written_to_gets_its_own_bytes() {
    let world = World::new().await;
    let (a, b) = (world.at("a"), world.at("b"));
    put(&a, "hello", Labels::new()).await;
    for (cut, data) in [(None, "hello world"), (Some(4), "hell world"), (Some(0), " world")] {
        let mut writer = b.content().writer("ref", expecting("hello")).await.unwrap();
        if let Some(size) = cut {
            writer.truncate(size).await.unwrap();
        }
        writer.write(" world".into()).await.unwrap();
        let digest = writer.commit(expecting(data), Labels::new()).await.unwrap();
        assert_eq!(read(&b, &digest).await, data);
    }
}

#[tokio::test]
async fn an_isolated_namespace_has_to_bring_every_byte() {
    let world = World::with(Sharing::Isolated, |native| native).await;
    let (a, b) = (world.at("a"), world.at("b"));
    let digest = put(&a, "hello", Labels::new()).await;
    let mut writer = b.content().writer("ref", expecting("hello")).await.unwrap();
    assert_eq!(writer.status().offset, 0);
    writer.write("hello".into()).await.unwrap();
    writer.commit(expecting("hello"), Labels::new()).await.unwrap();
    assert_eq!(read(&b, &digest).await, "hello");

    let shareable = labels([(NAMESPACE_SHAREABLE, "true")]);
    let namespace = Namespace { name: "b".into(), labels: shareable };
    world.db.namespaces().update(namespace, &Default::default()).await.unwrap();
    let writer = world.at("c").content().writer("ref", expecting("hello")).await.unwrap();
    assert_eq!(writer.status().offset, 5, "a namespace may share by its label");
}

/// containerd answers for ever that the content exists, so that pulling again heals nothing.
#[tokio::test]
async fn bytes_that_were_lost_can_be_brought_again() {
    let world = World::new().await;
    let scoped = world.at("n");
    let digest = put(&scoped, "hello", Labels::new()).await;
    world.backends.content.delete(&digest).await.unwrap();
    let mut writer = scoped.content().writer("ref", expecting("hello")).await.unwrap();
    writer.write("hello".into()).await.unwrap();
    refused(writer.commit(expecting("hello"), Labels::new()).await, Kind::AlreadyExists);
    assert_eq!(read(&scoped, &digest).await, "hello");
}

#[tokio::test]
async fn ingests_of_one_name_stand_apart() {
    let world = World::new().await;
    let (a, b) = (world.at("a").content(), world.at("b").content());
    let mut one = a.writer("ref", Expected::default()).await.unwrap();
    let mut two = b.writer("ref", Expected::default()).await.unwrap();
    one.write("one".into()).await.unwrap();
    two.write("second".into()).await.unwrap();
    assert_eq!(a.status("ref").await.unwrap().offset, 3);
    assert_eq!(b.statuses(&Filters::default()).await.unwrap()[0].offset, 6);
    drop(two);
    b.abort("ref").await.unwrap();
    let text = refused(b.status("ref").await, Kind::NotFound);
    assert_eq!(text, "reference ref: not found");
    refused(b.abort("ref").await, Kind::NotFound);
    assert_eq!(one.commit(Expected::default(), Labels::new()).await.unwrap(), Digest::of("one"));
}

#[tokio::test]
async fn a_writer_in_use_is_spared_by_the_collector() {
    let world = World::new().await;
    let scoped = world.at("n");
    scoped.leases().create(lease("l", Labels::new())).await.unwrap();
    let content = world.under("n", "l").content();
    let mut writer = content.writer("ref", Expected::default()).await.unwrap();
    writer.write("hel".into()).await.unwrap();
    scoped.leases().delete("l", Default::default()).await.unwrap();
    assert_eq!(world.db.collect().await.unwrap().removed.ingests, 1);
    writer.write("lo".into()).await.unwrap();
    let outcome = writer.commit(Expected::default(), Labels::new()).await;
    assert_eq!(refused(outcome, Kind::NotFound), "lease does not exist: not found");
    drop(writer);
    put(&scoped, "other", Labels::new()).await;
    world.db.collect().await.unwrap();
    assert_eq!(world.stored_blobs().await, [], "what could not be recorded is an orphan");
}

/// Two clients pulled an image at once, and one of them asked for a blob anew in the moment in which
/// the other's ingest had ended and its blob was not yet recorded. It got the ingest, and fetched the
/// blob a second time.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_becomes_a_blob_is_not_begun_anew() {
    async fn bring(scoped: Scoped, data: String) -> usize {
        let content = scoped.content();
        loop {
            match content.writer("ref", expecting(&data)).await {
                Ok(mut ingest) => {
                    ingest.write(data.clone().into()).await.unwrap();
                    ingest.commit(expecting(&data), Labels::new()).await.unwrap();
                    return 1;
                }
                Err(error) if error.is_already_exists() => return 0,
                Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error}"),
            }
            tokio::task::yield_now().await;
        }
    }
    let world = World::new().await;
    for round in 0..30 {
        let one = || tokio::spawn(bring(world.at("a"), format!("blob {round}")));
        let all = [one(), one(), one(), one()];
        let mut brought = 0;
        for one in all {
            brought += one.await.unwrap();
        }
        assert_eq!(brought, 1, "in round {round}");
    }
}
