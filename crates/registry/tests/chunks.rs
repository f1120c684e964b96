// SPDX-License-Identifier: Apache-2.0
//! Uploads in chunks, and what becomes of them when they break.
use std::sync::{Arc, Mutex};

use content::Expected;
use registry::{Options, Registry, Transfers};
use tokio::net::{TcpListener, TcpStream};
use types::{Digest, Labels};

use crate::{
    bytes,
    docker::docker,
    fake::{Fake, Reply, Seen},
    fetch, layer, options,
    pushing::{open, push, write},
};

fn client_with(upload_chunk: u64) -> Registry {
    let transfers = Transfers { upload_chunk, upload_stream: false, ..Transfers::default() };
    Registry::new(Options { transfers, ..options() })
}

/// A registry that puts chunks together, of which it may lose a part.
struct Heap {
    data: Mutex<Vec<u8>>,
    /// How much of the second chunk is lost before the registry fails.
    lost: usize,
}

impl Heap {
    fn answer(&self, seen: &Seen) -> Reply {
        let mut data = self.data.lock().unwrap();
        let at = |reply: Reply, length: usize| {
            let last = length.saturating_sub(1);
            reply.header("range", format!("0-{last}")).header("location", "/upload?s=1")
        };
        match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" => at(Reply::new(202), 0),
            "GET" => at(Reply::new(204), data.len()),
            "PATCH" => {
                let first = seen.header("content-range").split('-').next().unwrap();
                if first != data.len().to_string() {
                    return at(Reply::new(416), data.len());
                }
                let is_second = first != "0" && seen.before == 1;
                let taken = seen.body.len() - if is_second { self.lost } else { 0 };
                data.extend_from_slice(&seen.body[..taken]);
                at(Reply::new(if taken < seen.body.len() { 500 } else { 202 }), data.len())
            }
            "PUT" => Reply::new(201)
                .header("docker-content-digest", Digest::of(&*data).to_string())
                .header("x-length", seen.body.len().to_string()),
            _ => Reply::new(400),
        }
    }
}

async fn heap(lost: usize) -> Fake {
    let heap = Heap { data: Mutex::default(), lost };
    Fake::new(move |seen| heap.answer(seen)).await
}

fn methods(fake: &Fake) -> Vec<String> {
    fake.seen().into_iter().map(|seen| seen.method).collect()
}

#[tokio::test]
async fn a_large_blob_is_sent_in_chunks() {
    let (fake, data) = (heap(0).await, bytes(1_000_000));
    let what = layer(&data);
    push(&client_with(400_000), &format!("{}/a:1", fake.host), &what, &data).await.unwrap();
    assert_eq!(methods(&fake), ["HEAD", "POST", "PATCH", "PATCH", "PATCH", "PUT"]);
    let ranges: Vec<_> =
        fake.seen().iter().map(|seen| seen.header("content-range").to_owned()).collect();
    assert_eq!(ranges[2..5], ["0-399999", "400000-799999", "800000-999999"]);
    let put = &fake.lines()[5];
    assert!(put.starts_with("PUT /upload?s=1&digest=sha256%3A"), "{put}");
}

#[tokio::test]
async fn a_chunk_of_which_half_arrived_goes_on_from_there() {
    let (fake, data) = (heap(150_000).await, bytes(1_000_000));
    let what = layer(&data);
    push(&client_with(400_000), &format!("{}/a:1", fake.host), &what, &data).await.unwrap();
    // The failed chunk is sent again, is refused, and the registry is asked how far it is.
    let asked = methods(&fake);
    assert!(asked.contains(&"GET".to_owned()), "{asked:?}");
    let ranges: Vec<_> =
        fake.seen().iter().map(|seen| seen.header("content-range").to_owned()).collect();
    assert!(ranges.contains(&"650000-799999".to_owned()), "{ranges:?}");
}

#[tokio::test]
async fn a_registry_without_chunks_gets_all_in_one_piece() {
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(404),
        "POST" => Reply::new(202).header("location", "/upload"),
        "PUT" => {
            Reply::new(201).header("docker-content-digest", Digest::of(&seen.body).to_string())
        }
        _ => Reply::new(405),
    });
    let (fake, data) = (fake.await, bytes(1_000_000));
    let what = layer(&data);
    push(&client_with(400_000), &format!("{}/a:1", fake.host), &what, &data).await.unwrap();
    assert_eq!(methods(&fake), ["HEAD", "POST", "PATCH", "POST", "PUT"]);
}

#[tokio::test]
async fn a_registry_that_forgot_an_upload_fails_it() {
    let fake = Fake::new(|seen| match (seen.method.as_str(), seen.before) {
        ("POST", _) => Reply::new(202).header("location", "/upload"),
        ("PATCH", 0) => Reply::new(202),
        _ => Reply::new(404),
    });
    let (fake, data) = (fake.await, bytes(1_000_000));
    let what = layer(&data);
    let error = push(&client_with(400_000), &format!("{}/a:1", fake.host), &what, &data).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("unexpected status from PATCH request"), "{error}");
}

/// Relays connections to `target`, the first of them only for so many bytes from the client.
pub(crate) async fn cutting(target: String, after: u64) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let left = Arc::new(Mutex::new(Some(after)));
    let task = tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (target, left) = (target.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                let mut far = TcpStream::connect(target).await.unwrap();
                let limit = left.lock().unwrap().take();
                let Some(limit) = limit else {
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                    return;
                };
                let (from, mut to) = near.split();
                let (mut back, mut forth) = far.split();
                let mut from = tokio::io::AsyncReadExt::take(from, limit);
                tokio::select! {
                    _ = tokio::io::copy(&mut from, &mut forth) => {}
                    _ = tokio::io::copy(&mut back, &mut to) => {}
                }
            });
        }
    });
    (host, task)
}

/// Debian's registry has a part of the chunk that was cut, and then takes nothing more of that
/// upload: its state no longer fits its length.
#[tokio::test]
async fn an_upload_that_a_real_registry_lost_is_begun_anew() {
    let Some(docker) = docker(false) else { return };
    let (relay, task) = cutting(docker.host.clone(), 3_000_000).await;
    let data = bytes(8_000_000);
    let what = layer(&data);
    let registry = Registry::new(Options {
        hosts: registry::standard(true, registry::Tls::default()),
        transfers: Transfers {
            upload_chunk: 2_000_000,
            upload_stream: false,
            ..Transfers::default()
        },
        ..options()
    });
    let mut upload = open(&registry, &format!("{relay}/a:1"), &what).await.unwrap();
    let error = write(&mut *upload, &data).await.unwrap_err();
    assert_eq!(error.kind(), types::Kind::Unavailable, "{error}");
    upload.truncate(0).await.unwrap();
    write(&mut *upload, &data).await.unwrap();
    upload.commit(Expected::from(&what), Labels::new()).await.unwrap();
    let got = fetch(&registry, &format!("{}/a:1", docker.host), &what, 0).await.unwrap();
    assert_eq!(Digest::of(&got), what.digest);
    task.abort();
}
