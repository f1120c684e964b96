// SPDX-License-Identifier: Apache-2.0
//! What is too long, too much, or not allowed.

use std::time::Duration;

use prost::Message;
use ttrpc::{CallOptions, Code, MAX_MESSAGE, Status};

use super::support::*;

fn oversized(length: usize) -> String {
    format!("message length {length} exceed maximum message size of {MAX_MESSAGE}")
}

#[tokio::test]
async fn a_request_that_is_too_long_is_not_sent() {
    let (client, _serving) = connected(&server());
    let refused = say(&client, "Echo", &"x".repeat(MAX_MESSAGE)).await.unwrap_err();
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(refused.message.contains("exceed maximum message size of 4194304"), "{refused}");
    assert_eq!(say(&client, "Echo", "on").await.unwrap(), "on");
}

#[tokio::test]
async fn a_long_request_and_a_long_answer_pass() {
    let (client, _serving) = connected(&server());
    let long = "x".repeat(MAX_MESSAGE - 100);
    assert_eq!(soon(say(&client, "Echo", &long)).await.unwrap(), long);
}

#[tokio::test]
async fn an_answer_that_is_too_long_fails_its_call_alone() {
    let (client, _serving) = connected(&server());
    let failed = say(&client, "Long", &MAX_MESSAGE.to_string()).await.unwrap_err();
    assert_eq!(failed.code, Code::ResourceExhausted);
    assert_eq!(say(&client, "Echo", "on").await.unwrap(), "on");
}

#[tokio::test]
async fn a_server_throws_away_a_request_that_is_too_long_and_says_so() {
    let (mut raw, _serving) = raw_client(&server());
    let length = MAX_MESSAGE + 1;
    write(&mut raw, &frame(1, REQUEST, 0, &vec![0; length])).await;
    let (stream, answer) = soon(read_answer(&mut raw)).await;
    assert_eq!((stream, answer), (1, Err((Code::ResourceExhausted, oversized(length)))));
    write(&mut raw, &frame(3, REQUEST, 0, &request("Echo", &text("on"), 0))).await;
    assert_eq!(soon(read_answer(&mut raw)).await, (3, Ok(text("on"))));
}

#[tokio::test]
async fn a_client_throws_away_an_answer_that_is_too_long_and_says_so() {
    let (client, mut raw) = raw_server();
    let call = tokio::spawn({
        let client = client.clone();
        async move { say(&client, "Echo", "").await }
    });
    read_frame(&mut raw).await.unwrap();
    let length = 5 * MAX_MESSAGE; // so that the reserved byte of the length is not zero
    write(&mut raw, &frame(1, RESPONSE, 0, &vec![0; length])).await;
    let failed = soon(call).await.unwrap().unwrap_err();
    assert_eq!(failed, Status::new(Code::ResourceExhausted, oversized(length)));
    assert!(!client.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_cannot_stop_a_deadline() {
    let (client, _silent) = raw_server();
    let options = CallOptions::new().timeout(Duration::from_secs(2));
    let long = "x".repeat(50_000);
    // More than the pipe and the queue hold, so that the last ones are never queued.
    let calls = (0..100).map(|_| {
        let (client, options, long) = (client.clone(), options.clone(), long.clone());
        tokio::spawn(async move { say_with(&client, "Echo", &long, &options).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap().unwrap_err().code, Code::DeadlineExceeded);
    }
}

/// Sends frames, and expects the same refusal for the last of them as Go gives (`server.go`).
async fn check_refused(frames: &[Vec<u8>], stream: u32, want: &str) {
    let (mut raw, _serving) = raw_client(&server());
    write(&mut raw, &frames.concat()).await;
    let want = (stream, Err((Code::InvalidArgument, want.to_owned())));
    assert_eq!(soon(read_answer(&mut raw)).await, want);
    // And the connection lives on.
    write(&mut raw, &frame(99, REQUEST, 0, &request("Echo", &text("on"), 0))).await;
    assert_eq!(soon(read_answer(&mut raw)).await, (99, Ok(text("on"))));
}

#[tokio::test]
async fn mistakes_are_answered_where_they_were_made() {
    let never = request("Never", &text(""), 0);
    let odd = "StreamID must be odd for client initiated streams";
    check_refused(&[frame(2, REQUEST, 0, &never)], 2, odd).await;
    let reused = "StreamID cannot be re-used and must increment";
    let twice = [frame(5, REQUEST, 0, &never), frame(5, REQUEST, 0, &never)];
    check_refused(&twice, 5, reused).await;
    let back = [frame(5, REQUEST, 0, &never), frame(3, REQUEST, 0, &never)];
    check_refused(&back, 3, reused).await;
    check_refused(&[frame(7, DATA, 0, b"")], 7, "StreamID is no longer active").await;
}

#[tokio::test]
async fn a_request_that_is_no_request_is_refused() {
    let (mut raw, _serving) = raw_client(&server());
    write(&mut raw, &frame(1, REQUEST, 0, b"\xff")).await;
    let (_, answer) = soon(read_answer(&mut raw)).await;
    let (code, text) = answer.unwrap_err();
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.starts_with("unmarshal request error: "), "{text}");
}

#[tokio::test]
async fn types_to_come_are_ignored() {
    let (mut raw, _serving) = raw_client(&server());
    write(&mut raw, &frame(1, 9, 0, b"?")).await;
    write(&mut raw, &frame(1, RESPONSE, 0, b"?")).await;
    write(&mut raw, &frame(1, REQUEST, 0, &request("Echo", &text("on"), 0))).await;
    assert_eq!(soon(read_answer(&mut raw)).await, (1, Ok(text("on"))));
}

#[tokio::test]
async fn an_answer_of_another_kind_fails_the_call() {
    let (client, mut raw) = raw_server();
    let call = tokio::spawn(async move { say(&client, "Echo", "").await });
    read_frame(&mut raw).await.unwrap();
    write(&mut raw, &frame(1, DATA, 0, &text("no").encode_to_vec())).await;
    let failed = soon(call).await.unwrap().unwrap_err();
    assert_eq!(failed.message, "unexpected \"data\" message received: protocol error");
}
