// SPDX-License-Identifier: Apache-2.0
//! How connections end, and what becomes of the calls on them.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::sync::mpsc;
use ttrpc::Code;

use super::support::*;

#[tokio::test]
async fn a_peer_that_leaves_fails_all_calls_at_once() {
    let (client, mut raw) = raw_server();
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { say(&client, "Never", "").await })
        })
        .collect();
    for _ in 0..10 {
        read_frame(&mut raw).await.unwrap();
    }
    drop(raw);
    for call in calls {
        let status = soon(call).await.unwrap().unwrap_err();
        assert!(status.is_closed());
        assert_eq!((status.code, status.message.as_str()), (Code::Unavailable, "ttrpc: closed"));
    }
    soon(client.closed()).await;
    assert!(client.is_closed());
    assert!(say(&client, "Echo", "").await.unwrap_err().is_closed(), "and so do later calls");
}

#[tokio::test]
async fn a_peer_that_dies_inside_a_message_is_gone_too() {
    for cut in [1, 9, 10, 15] {
        let (client, mut raw) = raw_server();
        let call = tokio::spawn(async move { say(&client, "Never", "").await });
        read_frame(&mut raw).await.unwrap();
        write(&mut raw, &frame(1, RESPONSE, 0, &[0; 100])[..cut]).await;
        drop(raw);
        let status = soon(call).await.unwrap().unwrap_err();
        assert!(status.is_closed());
        let want = "ttrpc: closed: the connection ended inside a message";
        assert_eq!(status.message, want, "after {cut} bytes");
    }
}

#[tokio::test]
async fn an_answer_sent_before_the_end_still_counts() {
    let (client, mut raw) = raw_server();
    let call = tokio::spawn(async move { say(&client, "Echo", "").await });
    read_frame(&mut raw).await.unwrap();
    write(&mut raw, &frame(1, RESPONSE, 0, b"\x12\x05\x0a\x03yes")).await;
    drop(raw);
    assert_eq!(soon(call).await.unwrap().unwrap(), "yes");
}

#[tokio::test]
async fn handlers_are_dropped_when_the_client_leaves() {
    let (witness, mut seen) = mpsc::unbounded_channel();
    let (client, serving) = connected(&with_witness(server(), witness));
    let call = tokio::spawn(async move { say(&client, "Watch", "").await });
    assert_eq!(seen.recv().await, Some("begun"));
    call.abort();
    assert_eq!(soon(seen.recv()).await, Some("dropped"));
    soon(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_is_dropped_takes_its_handlers_along() {
    let (witness, mut seen) = mpsc::unbounded_channel();
    let (client, serving) = connected(&with_witness(server(), witness));
    let call = tokio::spawn(async move { say(&client, "Watch", "").await });
    assert_eq!(seen.recv().await, Some("begun"));
    serving.abort();
    assert_eq!(soon(seen.recv()).await, Some("dropped"));
    assert!(soon(call).await.unwrap().unwrap_err().is_closed());
}

#[tokio::test]
async fn a_connection_ends_with_its_last_user() {
    let (client, serving) = connected(&server());
    let other = client.clone();
    let stream = client.stream::<Text, Text>(SVC, "Chat", &PLAIN).await.unwrap();
    drop(client);
    assert_eq!(say(&other, "Echo", "still here").await.unwrap(), "still here");
    drop(other);
    let (mut outgoing, mut incoming) = stream.split();
    outgoing.send(&text("still here")).await.unwrap();
    assert_eq!(incoming.recv().await.unwrap(), Some(text("still here")));
    drop(incoming);
    assert!(!serving.is_finished());
    drop(outgoing);
    soon(serving).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_users_does_not_wait_for_a_peer_that_does_not_read() {
    let (client, raw) = raw_server();
    let long = "x".repeat(1 << 20);
    let call = tokio::time::timeout(Duration::from_millis(1), say(&client, "Echo", &long)).await;
    assert!(call.is_err());
    drop(client);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut raw = raw;
    let left = read_frame(&mut raw).await.unwrap_err();
    assert_eq!(left.kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn a_client_that_dies_inside_a_message_is_an_error_of_the_connection() {
    let (mut raw, serving) = raw_client(&server());
    write(&mut raw, &frame(1, REQUEST, 0, &[0; 100])[..50]).await;
    drop(raw);
    let error = soon(serving).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}
