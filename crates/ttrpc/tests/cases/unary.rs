// SPDX-License-Identifier: Apache-2.0
//! One request, one answer.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use ttrpc::{CallOptions, Code, Context, Detail, Server, Service, Status};

use super::support::*;

#[tokio::test]
async fn an_answer_comes_back() {
    let (client, _serving) = connected(&server());
    assert_eq!(say(&client, "Echo", "hello").await.unwrap(), "hello");
    assert_eq!(say(&client, "Later", "hello").await.unwrap(), "hello");
    assert_eq!(say(&client, "Echo", "").await.unwrap(), "");
}

#[tokio::test]
async fn a_failure_comes_back_whole() {
    let details = vec![Detail {
        type_url: "example.com/thing".into(),
        value: Bytes::from_static(b"\x08\x01"),
    }];
    let status = Status::new(Code::FailedPrecondition, "task a: not ready").with_details(details);
    let sent = status.clone();
    let server = server().method(SVC, "Detail", move |_, _: Text| {
        let status = sent.clone();
        async move { Err::<Text, _>(status) }
    });
    let (client, _serving) = connected(&server);
    assert_eq!(say(&client, "Detail", "").await.unwrap_err(), status);
    let missing = say(&client, "Fail", "container a: not found").await.unwrap_err();
    assert_eq!(missing, Status::new(Code::NotFound, "container a: not found"));
}

#[tokio::test]
async fn what_is_not_registered_is_unimplemented() {
    let (client, _serving) = connected(&server());
    let method = say(&client, "Missing", "").await.unwrap_err();
    assert_eq!(method, Status::new(Code::Unimplemented, "method Missing"));
    let service = client.call::<_, Text>("no.Service", "Echo", &text(""), &PLAIN).await;
    assert_eq!(service.unwrap_err(), Status::new(Code::Unimplemented, "service no.Service"));
}

#[tokio::test]
async fn a_payload_that_is_no_message_fails_the_call_alone() {
    let (client, _serving) = connected(&server());
    let garbage = Bytes::from_static(b"\xff\xff\xff");
    let failed = client.call_raw(SVC, "Echo", garbage, &PLAIN).await.unwrap_err();
    assert_eq!(failed.code, Code::Internal);
    assert!(failed.message.starts_with("ttrpc: error unmarshalling payload: "), "{failed}");
    assert_eq!(say(&client, "Echo", "on").await.unwrap(), "on");
}

#[tokio::test]
async fn metadata_and_deadline_reach_the_handler() {
    let server = Server::new().method(SVC, "Look", |ctx: Context, _: Text| async move {
        let left = ctx.deadline.map(|at| at - tokio::time::Instant::now());
        assert!(left.is_some_and(|left| left <= Duration::from_secs(9)));
        let pairs = ctx.metadata.iter().map(|(key, value)| format!("{key}={value}"));
        Ok(text(pairs.collect::<Vec<_>>().join(",")))
    });
    let (client, _serving) = connected(&server);
    let options = CallOptions::new()
        .timeout(Duration::from_secs(9))
        .metadata("Containerd-Namespace-Ttrpc", "k8s.io")
        .metadata("x", "1")
        .metadata("x", "2");
    let seen = say_with(&client, "Look", "", &options).await.unwrap();
    assert_eq!(seen, "containerd-namespace-ttrpc=k8s.io,x=1,x=2");
}

#[tokio::test]
async fn a_whole_service_finds_its_methods_itself() {
    struct Upper;
    #[async_trait]
    impl Service for Upper {
        async fn call(&self, _: Context, method: &str, payload: Bytes) -> Result<Bytes, Status> {
            match method {
                "Upper" => Ok(payload.to_ascii_uppercase().into()),
                other => Err(Status::unknown_method(other)),
            }
        }
    }
    let (client, _serving) = connected(&server().service(SVC, Arc::new(Upper)));
    let shout = client.call_raw(SVC, "Upper", Bytes::from_static(b"abc"), &PLAIN).await;
    assert_eq!(shout.unwrap(), "ABC");
    let missing = say(&client, "Lower", "").await.unwrap_err();
    assert_eq!(missing, Status::new(Code::Unimplemented, "method Lower"));
    assert_eq!(say(&client, "Echo", "named methods stay").await.unwrap(), "named methods stay");
}

async fn a_thousand_calls() {
    let (client, _serving) = connected(&server());
    let mut calls = JoinSet::new();
    for n in 0..1000 {
        let client = client.clone();
        let method = if n % 2 == 0 { "Echo" } else { "Later" };
        calls.spawn(async move {
            let sent = format!("{n} {}", "x".repeat(n * 7));
            assert_eq!(say(&client, method, &sent).await.unwrap(), sent);
        });
    }
    soon(calls.join_all()).await;
}

#[tokio::test]
async fn a_thousand_calls_share_a_connection_on_one_thread() {
    a_thousand_calls().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_calls_share_a_connection_on_many_threads() {
    a_thousand_calls().await;
}

#[tokio::test]
async fn a_call_that_waits_holds_up_no_other() {
    let (client, _serving) = connected(&server());
    let never = say(&client, "Never", "");
    tokio::select! {
        _ = never => unreachable!("it never answers"),
        answer = say(&client, "Echo", "quick") => assert_eq!(answer.unwrap(), "quick"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_whatever_the_server_does() {
    let (client, mut silent) = raw_server();
    let options = CallOptions::new().timeout(Duration::from_secs(3));
    let begin = tokio::time::Instant::now();
    let late = say_with(&client, "Echo", "", &options).await.unwrap_err();
    assert_eq!(late, Status::new(Code::DeadlineExceeded, "context deadline exceeded"));
    assert_eq!(begin.elapsed().as_secs(), 3);

    // The answer, when it comes after all, is not taken for that of a later call.
    write(&mut silent, &frame(1, RESPONSE, 0, &[])).await;
    let (stream, ..) = read_frame(&mut silent).await.unwrap();
    assert_eq!(stream, 1);
    let next = tokio::spawn(async move { say(&client, "Echo", "").await });
    let (stream, ..) = read_frame(&mut silent).await.unwrap();
    assert_eq!(stream, 3);
    write(&mut silent, &frame(3, RESPONSE, 0, &[])).await;
    assert_eq!(next.await.unwrap().unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn a_handler_is_dropped_at_the_deadline() {
    let (witness, mut seen) = mpsc::unbounded_channel();
    let (mut raw, _serving) = raw_client(&with_witness(server(), witness));
    write(&mut raw, &frame(1, REQUEST, 0, &request("Watch", &text(""), 5_000_000))).await;
    let (stream, answer) = read_answer(&mut raw).await;
    assert_eq!(stream, 1);
    assert_eq!(answer, Err((Code::DeadlineExceeded, "context deadline exceeded".to_owned())));
    assert_eq!((seen.recv().await, seen.recv().await), (Some("begun"), Some("dropped")));
}

#[tokio::test]
async fn a_deadline_in_the_past_has_passed() {
    let (mut raw, _serving) = raw_client(&server());
    write(&mut raw, &frame(1, REQUEST, 0, &request("Never", &text(""), -1))).await;
    let (_, answer) = soon(read_answer(&mut raw)).await;
    assert_eq!(answer.unwrap_err().0, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let (client, mut raw) = raw_server();
    for _ in 0..3 {
        let call = say(&client, "Echo", "");
        assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
    }
    // The answers to all three arrive, and are of no interest to the fourth.
    for stream in [1, 3, 5] {
        assert_eq!(read_frame(&mut raw).await.unwrap().0, stream);
        write(&mut raw, &frame(stream, RESPONSE, 0, b"\x12\x04\x0a\x02no")).await;
    }
    let fourth = tokio::spawn(async move { say(&client, "Echo", "").await });
    assert_eq!(read_frame(&mut raw).await.unwrap().0, 7);
    write(&mut raw, &frame(7, RESPONSE, 0, b"\x12\x05\x0a\x03yes")).await;
    assert_eq!(fourth.await.unwrap().unwrap(), "yes");
}
