// SPDX-License-Identifier: Apache-2.0
//! Peers that send anything at all: nothing panics, and nothing waits for ever.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, Runtime};

use super::support::*;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

/// Bytes that are sometimes frames: right or wrong in type, flags, stream and content.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof!["Echo", "Later", "Fail", "Never", "Join", "Split", "Chat", "None"];
    let body = prop_oneof![
        vec(any::<u8>(), 0..40),
        (method, "[a-z ]{0,20}", prop_oneof![Just(0), Just(-1), 1..50_000_000_i64])
            .prop_map(|(method, words, timeout)| request(&method, &text(words), timeout)),
        Just(b"\x12\x05\x0a\x03yes".to_vec()),
        Just(b"\x0a\x04\x08\x05\x12\x00".to_vec()),
    ];
    let one = (0..12_u32, 0..5_u8, 0..8_u8, body)
        .prop_map(|(stream, kind, flags, body)| frame(stream, kind, flags, &body));
    let piece = prop_oneof![9 => one, 1 => vec(any::<u8>(), 0..30)];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

/// Writes everything and leaves, reading all that comes meanwhile.
async fn throw(raw: DuplexStream, bytes: &[u8]) {
    let (mut input, mut output) = tokio::io::split(raw);
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        input.read_to_end(&mut all).await.ok();
    });
    for piece in bytes.chunks(37) {
        if output.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    output.shutdown().await.ok();
    drop(output);
    soon(reading).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_server_survives_any_client(bytes in bytes()) {
        runtime().block_on(async {
            let (raw, serving) = raw_client(&server());
            throw(raw, &bytes).await;
            // It may be an error, but it is an end, and no panic.
            drop(soon(serving).await.expect("no panic"));
        });
    }

    #[test]
    fn a_client_survives_any_server(bytes in bytes()) {
        runtime().block_on(async {
            let (client, raw) = raw_server();
            let call = tokio::spawn({
                let client = client.clone();
                async move { say(&client, "Echo", "").await }
            });
            let mut stream = client.stream::<Text, Text>(SVC, "Chat", &PLAIN).await.unwrap();
            let mut words = client.server_stream::<_, Text>(SVC, "Split", &text(""), &PLAIN)
                .await
                .unwrap();
            throw(raw, &bytes).await;
            drop(soon(call).await.expect("no panic"));
            soon(async { while let Ok(Some(_)) = stream.recv().await {} }).await;
            soon(async { while let Ok(Some(_)) = words.recv().await {} }).await;
            soon(client.closed()).await;
        });
    }
}
