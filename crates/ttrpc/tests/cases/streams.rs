// SPDX-License-Identifier: Apache-2.0
//! Streams of all kinds.

use std::future::pending;
use std::time::Duration;

use prost::Message;
use ttrpc::{CallOptions, Code, Context, Incoming, Outgoing, Status};

use super::support::*;

#[tokio::test]
async fn many_requests_get_one_answer() {
    let (client, _serving) = connected(&server());
    let mut stream = client.stream::<_, Text>(SVC, "Join", &PLAIN).await.unwrap();
    for word in ["one", "two", "three"] {
        stream.send(&text(word)).await.unwrap();
    }
    assert_eq!(soon(stream.finish()).await.unwrap(), text("one two three"));

    let nothing = client.stream::<Text, Text>(SVC, "Join", &PLAIN).await.unwrap();
    assert_eq!(soon(nothing.finish()).await.unwrap(), text(""));
}

#[tokio::test]
async fn one_request_gets_many_answers() {
    let (client, _serving) = connected(&server());
    for all in ["one two three", "one", ""] {
        let words = client.server_stream(SVC, "Split", &text(all), &PLAIN).await;
        let mut words = words.unwrap();
        for word in all.split_whitespace() {
            assert_eq!(soon(words.recv()).await.unwrap(), Some(text(word)));
        }
        assert_eq!(soon(words.recv()).await.unwrap(), None);
        assert_eq!(words.recv().await.unwrap(), None, "and it stays at its end");
    }
}

#[tokio::test]
async fn both_sides_stream() {
    let (client, _serving) = connected(&server());
    let mut stream = client.stream::<_, Text>(SVC, "Chat", &PLAIN).await.unwrap();
    for word in ["one", "", "two"] {
        stream.send(&text(word)).await.unwrap();
        assert_eq!(soon(stream.recv()).await.unwrap(), Some(text(word)));
    }
    stream.close_send().await.unwrap();
    assert_eq!(soon(stream.recv()).await.unwrap(), Some(text("bye")));
    assert_eq!(soon(stream.recv()).await.unwrap(), None);
    let closed = stream.send(&text("late")).await.unwrap_err();
    assert_eq!(closed.message, "ttrpc: stream closed");
}

#[tokio::test]
async fn a_stream_carries_more_than_the_buffers_hold() {
    let (client, _serving) = connected(&server());
    let (mut outgoing, mut incoming) =
        client.stream::<_, Text>(SVC, "Chat", &PLAIN).await.unwrap().split();
    let sending = tokio::spawn(async move {
        for n in 0..2000 {
            outgoing.send(&text(format!("{n} {}", "x".repeat(300)))).await.unwrap();
        }
        outgoing.close().await.unwrap();
    });
    for n in 0..2000 {
        let word = soon(incoming.recv()).await.unwrap().unwrap();
        assert!(word.text.starts_with(&format!("{n} ")));
    }
    assert_eq!(soon(incoming.recv()).await.unwrap(), Some(text("bye")));
    assert_eq!(soon(incoming.recv()).await.unwrap(), None);
    sending.await.unwrap();
}

#[tokio::test]
async fn a_handler_that_fails_ends_both_directions() {
    let (client, _serving) = connected(&server());
    let mut stream = client.stream::<_, Text>(SVC, "Chat", &PLAIN).await.unwrap();
    stream.send(&text("fail")).await.unwrap();
    let failed = soon(stream.recv()).await.unwrap_err();
    assert_eq!(failed, Status::new(Code::Aborted, "as you wish"));
    assert_eq!(stream.send(&text("more")).await.unwrap_err().message, "ttrpc: stream closed");
    assert_eq!(stream.recv().await.unwrap(), None);
}

#[tokio::test]
async fn a_handler_that_returns_early_ends_both_directions() {
    let (client, _serving) = connected(&server());
    let mut stream = client.stream::<_, Text>(SVC, "Chat", &PLAIN).await.unwrap();
    stream.send(&text("stop")).await.unwrap();
    assert_eq!(soon(stream.recv()).await.unwrap(), None);
    assert_eq!(stream.send(&text("more")).await.unwrap_err().message, "ttrpc: stream closed");
    // Without a look at the stream, the failure to send is all there is to see.
    assert_eq!(say(&client, "Echo", "on").await.unwrap(), "on");
}

#[tokio::test]
async fn the_answer_of_a_server_that_stopped_listening_is_what_finish_says() {
    let deaf = |_: Context, _: Incoming<Text>| async {
        Err::<Text, _>(Status::new(Code::PermissionDenied, "not you"))
    };
    let (client, _serving) = connected(&server().client_stream(SVC, "Deaf", deaf));
    let mut stream = client.stream::<Text, Text>(SVC, "Deaf", &PLAIN).await.unwrap();
    soon(async { while stream.send(&text("x")).await.is_ok() {} }).await;
    let failed = stream.finish().await.unwrap_err();
    assert_eq!(failed, Status::new(Code::PermissionDenied, "not you"));
}

#[tokio::test]
async fn a_handler_may_stop_listening_and_go_on_sending() {
    let mute = |_: Context, words: Incoming<Text>, mut out: Outgoing<Text>| async move {
        drop(words);
        for n in 0..5 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            out.send(&text(n.to_string())).await?;
        }
        Ok(())
    };
    let (client, _serving) = connected(&server().stream(SVC, "Mute", mute));
    let mut stream = client.stream::<_, Text>(SVC, "Mute", &PLAIN).await.unwrap();
    for n in 0..5 {
        stream.send(&text("unheard")).await.unwrap();
        assert_eq!(soon(stream.recv()).await.unwrap(), Some(text(n.to_string())));
    }
    assert_eq!(soon(stream.recv()).await.unwrap(), None);
}

#[tokio::test]
async fn a_method_that_does_not_exist_fails_when_received_from() {
    let (client, _serving) = connected(&server());
    let mut stream = client.stream::<Text, Text>(SVC, "Missing", &PLAIN).await.unwrap();
    assert_eq!(soon(stream.recv()).await.unwrap_err().message, "method Missing");
    let mut words = client.server_stream::<_, Text>("no", "M", &text(""), &PLAIN).await.unwrap();
    assert_eq!(soon(words.recv()).await.unwrap_err().message, "service no");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_for_the_whole_stream() {
    let forever = |_: Context, _: Text, mut out: Outgoing<Text>| async move {
        out.send(&text("first")).await?;
        pending().await
    };
    let (client, _serving) = connected(&server().server_stream(SVC, "Forever", forever));
    let options = CallOptions::new().timeout(Duration::from_secs(3));
    let words = client.server_stream::<_, Text>(SVC, "Forever", &text(""), &options).await;
    let mut words = words.unwrap();
    assert_eq!(words.recv().await.unwrap(), Some(text("first")));
    assert_eq!(words.recv().await.unwrap_err().code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_peer_that_leaves_ends_streams_with_an_error() {
    let (client, mut raw) = raw_server();
    let mut stream = client.stream::<Text, Text>(SVC, "Chat", &PLAIN).await.unwrap();
    let (id, kind, flags, _) = read_frame(&mut raw).await.unwrap();
    assert_eq!((id, kind, flags), (1, REQUEST, OPEN));
    write(&mut raw, &frame(1, DATA, 0, &text("last").encode_to_vec())).await;
    drop(raw);
    assert_eq!(soon(stream.recv()).await.unwrap(), Some(text("last")), "what came still counts");
    assert!(soon(stream.recv()).await.unwrap_err().is_closed(), "an end would be a lie");
    assert!(stream.send(&text("")).await.unwrap_err().is_closed());
}

/// The frames that Go's server sends, which differ a little from ours.
#[tokio::test]
async fn an_end_may_come_alone_with_a_message_or_as_a_response() {
    let word = text("word").encode_to_vec();
    let response = WireResponse { status: None, payload: word.clone().into() }.encode_to_vec();
    let data_then = |last: Vec<u8>| [frame(1, DATA, 0, &word), last].concat();
    for (frames, words) in [
        (data_then(frame(1, DATA, CLOSED | NO_DATA, b"")), 1),
        (data_then(frame(1, DATA, CLOSED, &word)), 2),
        (data_then(frame(1, RESPONSE, 0, b"")), 1),
        (data_then(frame(1, RESPONSE, 0, &response)), 2),
    ] {
        let (client, mut raw) = raw_server();
        let mut stream =
            client.server_stream::<_, Text>(SVC, "Split", &text(""), &PLAIN).await.unwrap();
        let (.., flags, _) = read_frame(&mut raw).await.unwrap();
        assert_eq!(flags, CLOSED);
        write(&mut raw, &frames).await;
        for _ in 0..words {
            assert_eq!(soon(stream.recv()).await.unwrap(), Some(text("word")));
        }
        assert_eq!(soon(stream.recv()).await.unwrap(), None);
    }
}

/// The frames that Go's client sends: an empty message is sent as a payload that is not there.
#[tokio::test]
async fn what_the_request_says_about_the_stream_counts() {
    let open = request("Join", &text("first"), 0);
    let empty = request("Join", &text(""), 0);
    let word = text("second").encode_to_vec();
    let end = frame(1, DATA, CLOSED | NO_DATA, b"");
    for (frames, want) in [
        (vec![frame(1, REQUEST, OPEN, &empty), frame(1, DATA, 0, &word), end.clone()], "second"),
        (vec![frame(1, REQUEST, OPEN, &open), frame(1, DATA, CLOSED, &word)], "first second"),
        (vec![frame(1, REQUEST, CLOSED, &open)], "first"),
        (vec![frame(1, REQUEST, 0, &open)], "first"),
    ] {
        let (mut raw, _serving) = raw_client(&server());
        write(&mut raw, &frames.concat()).await;
        assert_eq!(soon(read_answer(&mut raw)).await, (1, Ok(text(want))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_nobody_reads_is_given_up_before_it_stops_the_others() {
    let (client, mut raw) = raw_server();
    let mut unread = client.stream::<Text, Text>(SVC, "Chat", &PLAIN).await.unwrap();
    let other = tokio::spawn(async move { say(&client, "Echo", "").await });
    read_frame(&mut raw).await.unwrap();
    read_frame(&mut raw).await.unwrap();
    let word = frame(1, DATA, 0, &text("word").encode_to_vec());
    write(&mut raw, &word.repeat(100)).await;
    write(&mut raw, &frame(3, RESPONSE, 0, b"")).await;
    assert_eq!(other.await.unwrap().unwrap(), "");

    for _ in 0..64 {
        assert_eq!(unread.recv().await.unwrap(), Some(text("word")));
    }
    let full = unread.recv().await.unwrap_err();
    assert_eq!(full, Status::new(Code::ResourceExhausted, "ttrpc: stream buffer full"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_does_not_listen_cannot_stop_the_others() {
    let lazy = |_: Context, mut words: Incoming<Text>| async move {
        tokio::time::sleep(Duration::from_mins(1)).await;
        while words.recv().await?.is_some() {}
        Ok(text("all read"))
    };
    let (client, _serving) = connected(&server().client_stream(SVC, "Lazy", lazy));
    let mut stream = client.stream::<_, Text>(SVC, "Lazy", &PLAIN).await.unwrap();
    for _ in 0..100 {
        stream.send(&text("x")).await.unwrap();
    }
    assert_eq!(say(&client, "Echo", "on").await.unwrap(), "on");
    assert_eq!(stream.finish().await.unwrap_err().code, Code::InvalidArgument);
}
