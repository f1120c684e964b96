// SPDX-License-Identifier: Apache-2.0
//! What a client is answered that asks for the wrong thing.
use std::{sync::Arc, time::Duration};

use ::content::{Expected, Memory, Store};
use api::containerd::services::content::v1::{
    InfoRequest, WriteAction, WriteContentRequest, content_client::ContentClient,
};
use bytes::Bytes;
use services::{Limits, content};
use tokio_stream::iter;
use tonic::{Code, Request, service::Routes};
use types::{Digest, Kind, Labels};

use super::world::Served;

fn serve() -> Served {
    let store: Arc<dyn Store> = Arc::<Memory>::default();
    Served::new(Routes::new(content::serve(move |_| Ok(store.clone()), Limits::default())))
}

#[tokio::test]
async fn a_blob_that_is_not_there_is_not_found_and_named() {
    let served = serve();
    let store = content::connect(served.peer().await);
    let error = store.info(&Digest::of("x")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.to_string().contains(Digest::of("x").as_str()), "{error}");
}

#[tokio::test]
async fn a_digest_that_is_none_is_an_invalid_argument() {
    let served = serve();
    let mut client = ContentClient::new(served.peer().await);
    let refused = client.info(InfoRequest { digest: "sha256:beef".into() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("sha256:beef"), "{refused}");
}

#[tokio::test]
async fn a_request_without_a_namespace_is_a_failed_precondition() {
    let served = serve();
    let mut client = ContentClient::new(served.channel().await);
    let refused = client.info(InfoRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(refused.message(), "namespace is required: failed precondition");
}

#[tokio::test]
async fn a_commit_of_something_else_is_a_failed_precondition_and_can_go_on() {
    let served = serve();
    let store = content::connect(served.peer().await);
    let mut ingest = store.writer("r", Expected::default()).await.unwrap();
    ingest.write(Bytes::from_static(b"hello")).await.unwrap();
    let wrong = Expected { digest: Some(Digest::of("other")), size: None };
    let error = ingest.commit(wrong, Labels::new()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    drop(ingest);
    assert_eq!(store.status("r").await.unwrap().offset, 5);
}

async fn written(served: &Served, requests: Vec<WriteContentRequest>) -> Result<(), tonic::Status> {
    let mut client = ContentClient::new(served.peer().await);
    let mut answers = client.write(Request::new(iter(requests))).await?.into_inner();
    let all = async {
        while answers.message().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), all).await.unwrap()
}

fn write(reference: &str, offset: i64, data: &'static [u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Write.into(),
        r#ref: reference.into(),
        offset,
        data: Bytes::from_static(data),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_write_without_a_reference_is_an_invalid_argument() {
    let refused = written(&serve(), vec![write("", 0, b"x")]).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "first message must have a reference");
}

#[tokio::test]
async fn a_write_elsewhere_than_at_the_end_is_out_of_range() {
    let requests = vec![write("r", 0, b"hello"), write("r", 3, b"x")];
    let refused = written(&serve(), requests).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(refused.message(), "write @3 must occur at current offset 5");
}

fn commit(reference: &str, offset: i64) -> WriteContentRequest {
    WriteContentRequest { action: WriteAction::Commit.into(), ..write(reference, offset, b"") }
}

#[tokio::test]
async fn a_write_that_was_left_is_written_over_and_committed() {
    let folder = tempfile::tempdir().unwrap();
    let backends = metadata::Backends {
        content: Arc::new(::content::Local::open(folder.path().join("content")).unwrap()),
        snapshotters: [].into(),
    };
    let path = folder.path().join("meta.sqlite");
    let db = metadata::Db::open(path, backends, Default::default()).await.unwrap();
    let store = db.scope(super::world::scope()).content();
    let served =
        Served::new(Routes::new(content::serve(move |_| Ok(store.clone()), Limits::default())));
    written(&served, vec![write("r", 0, b"hello"), write("r", 100, b"x")]).await.unwrap_err();
    written(&served, vec![write("r", 0, b"hello"), commit("r", 5)]).await.unwrap();
    let store = content::connect(served.peer().await);
    assert_eq!(store.info(&Digest::of("hello")).await.unwrap().size, 5);
}

#[tokio::test]
async fn a_write_at_the_start_begins_anew() {
    let served = serve();
    written(&served, vec![write("r", 0, b"hello"), write("r", 0, b"ab")]).await.unwrap();
    let store = content::connect(served.peer().await);
    assert_eq!(store.status("r").await.unwrap().offset, 2);
}
