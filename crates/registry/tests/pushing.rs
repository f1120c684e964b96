// SPDX-License-Identifier: Apache-2.0
use bytes::Bytes;
use content::{Expected, Ingest};
use registry::{Options, Registry, Transfers};
use types::{Descriptor, Digest, Kind, Labels, Result, media_types};

use crate::{
    bytes, client, client_as,
    fake::{Fake, Reply, Seen},
    layer, options, reference,
};

/// An empty registry that takes whatever it is given.
fn taking(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", format!("{}up?_state=s", seen.path)),
        "PUT" => {
            Reply::new(201).header("docker-content-digest", Digest::of(&seen.body).to_string())
        }
        _ => Reply::new(400),
    }
}

/// Sends large blobs in one piece.
fn in_one_piece() -> Registry {
    let transfers = Transfers { upload_chunk: 0, ..Transfers::default() };
    Registry::new(Options { transfers, ..options() })
}

pub(crate) async fn open(
    registry: &Registry,
    name: &str,
    what: &Descriptor,
) -> Result<Box<dyn Ingest>> {
    registry.pusher(&reference(name))?.push(what).await
}

pub(crate) async fn write(ingest: &mut dyn Ingest, data: &[u8]) -> Result<()> {
    for chunk in data.chunks(50_000) {
        ingest.write(Bytes::copy_from_slice(chunk)).await?;
    }
    Ok(())
}

pub(crate) async fn push(
    registry: &Registry,
    name: &str,
    what: &Descriptor,
    data: &[u8],
) -> Result<Digest> {
    let mut ingest = open(registry, name, what).await?;
    write(&mut *ingest, data).await?;
    ingest.commit(Expected::from(what), Labels::new()).await
}

#[tokio::test]
async fn a_blob_is_uploaded_to_where_the_registry_says() {
    for length in [0, 1000, 1_000_000] {
        let fake = Fake::new(taking).await;
        let data = bytes(length);
        let what = layer(&data);
        let name = format!("{}/a/b:1", fake.host);
        assert_eq!(push(&in_one_piece(), &name, &what, &data).await.unwrap(), what.digest);
        let put = fake.seen().pop().unwrap();
        let query = format!("_state=s&digest=sha256%3A{}", what.digest.hex());
        assert_eq!(put.line(), format!("PUT /v2/a/b/blobs/uploads/up?{query}"));
        assert_eq!(put.header("content-type"), "application/octet-stream");
        assert_eq!(put.header("content-length"), length.to_string());
        assert_eq!(put.body, data);
    }
}

#[tokio::test]
async fn a_manifest_is_put_under_its_tag_and_others_under_their_digest() {
    let fake = Fake::new(taking).await;
    let data = b"{}";
    let what = Descriptor::new(media_types::MANIFEST, Digest::of(data), 2);
    push(&client(), &format!("{}/a:1", fake.host), &what, data).await.unwrap();
    let put = fake.seen().pop().unwrap();
    assert_eq!(put.line(), "PUT /v2/a/manifests/1");
    assert_eq!(put.header("content-type"), media_types::MANIFEST);

    let other = format!("{}/a:1@{}", fake.host, Digest::of("index"));
    push(&client(), &other, &what, data).await.unwrap();
    let put = fake.seen().pop().unwrap();
    assert_eq!(put.line(), format!("PUT /v2/a/manifests/{}", what.digest));
}

#[tokio::test]
async fn what_is_there_already_is_not_sent() {
    let data = bytes(10);
    let what = layer(&data);
    let fake = Fake::new(|_| Reply::ok("")).await;
    let error = open(&client(), &format!("{}/a:1", fake.host), &what).await.err().unwrap();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(error.to_string(), format!("content {} on remote: already exists", what.digest));
}

#[tokio::test]
async fn a_tag_of_something_else_is_moved() {
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "HEAD" => Reply::ok("").header("docker-content-digest", Digest::of("old").to_string()),
        _ => taking(seen),
    });
    let fake = fake.await;
    let what = Descriptor::new(media_types::MANIFEST, Digest::of("{}"), 2);
    push(&client(), &format!("{}/a:1", fake.host), &what, b"{}").await.unwrap();
    assert_eq!(fake.lines(), ["HEAD /v2/a/manifests/1", "PUT /v2/a/manifests/1"]);
}

#[tokio::test]
async fn a_blob_of_another_repository_is_mounted_from_there() {
    let data = bytes(10);
    let mut what = layer(&data);
    let fake =
        Fake::new(|seen| if seen.path.contains("mount=") { Reply::new(201) } else { taking(seen) });
    let fake = fake.await;
    let name = format!("{}/team/a:1", fake.host);
    let source = reference(&format!("{}/team/base:1", fake.host));
    what.annotations.extend([registry::distribution_source(&source, None)]);
    let error = open(&client(), &name, &what).await.err().unwrap();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    let query = format!("mount=sha256%3A{}&from=team%2Fbase", what.digest.hex());
    assert_eq!(fake.lines()[1], format!("POST /v2/team/a/blobs/uploads/?{query}"));
}

#[tokio::test]
async fn a_blob_that_may_not_be_mounted_is_uploaded() {
    let data = bytes(10);
    let mut what = layer(&data);
    let fake =
        Fake::new(|seen| if seen.path.contains("mount=") { Reply::new(401) } else { taking(seen) });
    let fake = fake.await;
    let source = reference(&format!("{}/private:1", fake.host));
    what.annotations.extend([registry::distribution_source(&source, None)]);
    push(&client(), &format!("{}/a:1", fake.host), &what, &data).await.unwrap();
}

#[tokio::test]
async fn an_upload_that_broke_can_be_begun_anew() {
    let fake = Fake::new(|seen| match (seen.method.as_str(), seen.before) {
        ("PUT", 0) => Reply::new(500),
        _ => taking(seen),
    });
    let fake = fake.await;
    let data = bytes(1_000_000);
    let what = layer(&data);
    let mut ingest = open(&in_one_piece(), &format!("{}/a:1", fake.host), &what).await.unwrap();
    write(&mut *ingest, &data).await.unwrap();
    let error = ingest.commit(Expected::default(), Labels::new()).await.unwrap_err();
    assert!(error.to_string().contains("unexpected status from PUT request to http"), "{error}");
    ingest.truncate(0).await.unwrap();
    assert_eq!(ingest.status().offset, 0);
    write(&mut *ingest, &data).await.unwrap();
    assert_eq!(ingest.commit(Expected::default(), Labels::new()).await.unwrap(), what.digest);
    assert!(ingest.truncate(5).await.is_err());
}

#[tokio::test]
async fn a_small_upload_is_sent_again_by_itself() {
    let fake = Fake::new(|seen| match (seen.method.as_str(), seen.before) {
        ("PUT", 0) => Reply::new(503),
        _ => taking(seen),
    });
    let fake = fake.await;
    let data = bytes(1000);
    push(&client(), &format!("{}/a:1", fake.host), &layer(&data), &data).await.unwrap();
}

#[tokio::test]
async fn a_registry_that_hangs_up_breaks_the_upload_off() {
    // The fake reads only what is announced, and hangs up before it has all of it.
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "PUT" => Reply::new(201).cut(0),
        _ => taking(seen),
    });
    let fake = fake.await;
    let data = bytes(1_000_000);
    let what = layer(&data);
    let mut ingest = open(&in_one_piece(), &format!("{}/a:1", fake.host), &what).await.unwrap();
    let host = fake.host.clone();
    drop(fake);
    let error = loop {
        match write(&mut *ingest, &data[..100_000]).await {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    // Either the connection is refused, or the end of what was announced is reached first.
    assert!(
        matches!(error.kind(), Kind::Unavailable | Kind::FailedPrecondition),
        "{host}: {error}"
    );
}

#[tokio::test]
async fn too_little_and_too_much_are_refused_before_they_are_sent() {
    let fake = Fake::new(taking).await;
    let what = layer(&bytes(10));
    let mut ingest = open(&client(), &format!("{}/a:1", fake.host), &what).await.unwrap();
    write(&mut *ingest, &bytes(9)).await.unwrap();
    let error = ingest.commit(Expected::default(), Labels::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains("unexpected size 9, expected 10"), "{error}");
    assert_eq!(write(&mut *ingest, b"12").await.unwrap_err().kind(), Kind::FailedPrecondition);
    assert!(!fake.lines().iter().any(|line| line.starts_with("PUT")));
}

#[tokio::test]
async fn a_registry_that_took_something_else_is_not_believed() {
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "PUT" => Reply::new(201).header("docker-content-digest", Digest::of("x").to_string()),
        _ => taking(seen),
    });
    let fake = fake.await;
    let data = bytes(10);
    let error = push(&client(), &format!("{}/a:1", fake.host), &layer(&data), &data).await;
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with(&format!("got digest {}, expected", Digest::of("x"))), "{error}");
}

#[tokio::test]
async fn an_upload_elsewhere_carries_no_credentials() {
    let storage = Fake::new(taking).await;
    let location = format!("http://{}/upload?signature=s", storage.host);
    let fake = Fake::new(move |seen| match (seen.header("authorization"), &*seen.method) {
        ("", _) => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        (_, "POST") => Reply::new(202).header("location", location.clone()),
        _ => taking(seen),
    });
    let fake = fake.await;
    let data = bytes(1_000_000);
    let name = format!("{}/a:1", fake.host);
    push(&client_as("u", "p"), &name, &layer(&data), &data).await.unwrap();
    let put = storage.seen().pop().unwrap();
    assert_eq!((put.method.as_str(), put.header("authorization")), ("PUT", ""));
    assert!(put.path.starts_with("/upload?signature=s&digest=sha256"));
}

#[tokio::test]
async fn who_may_not_push_is_told_so() {
    let fake = Fake::new(|_| Reply::new(401).header("www-authenticate", "Basic realm=\"r\"")).await;
    let error = open(&client(), &format!("{}/a:1", fake.host), &layer(b"x")).await.err().unwrap();
    let start = "push access denied, repository does not exist or may require authorization: ";
    assert!(error.to_string().starts_with(start), "{error}");
}
