// SPDX-License-Identifier: Apache-2.0
//! Uploads in one stream, and where they go on when they break.
use std::sync::Mutex;

use bytes::Bytes;
use content::Expected;
use registry::{Options, Registry, Transfers};
use types::{Descriptor, Digest, Kind, Labels, Result};

use crate::{
    bytes,
    chunks::cutting,
    docker::docker,
    fake::{Fake, Reply},
    fetch, layer, options,
    pushing::open,
};

fn streaming() -> Registry {
    let transfers = Transfers { upload_chunk: 400_000, ..Transfers::default() };
    let hosts = registry::standard(true, registry::Tls::default());
    Registry::new(Options { hosts, transfers, ..options() })
}

/// Pushes `data`, and goes on where the upload says so. Returns from where it went on.
async fn push(name: &str, what: &Descriptor, data: &[u8]) -> Result<Vec<u64>> {
    let mut upload = open(&streaming(), name, what).await?;
    let (mut offset, mut breaks) = (0, Vec::new());
    loop {
        let sent = match data[offset..].chunks(50_000).next() {
            Some(piece) => upload.write(Bytes::copy_from_slice(piece)).await.map(|()| piece.len()),
            None => match upload.commit(Expected::from(what), Labels::new()).await {
                Ok(digest) => {
                    assert_eq!(digest, what.digest);
                    return Ok(breaks);
                }
                Err(error) => Err(error),
            },
        };
        match sent {
            Ok(length) => offset += length,
            Err(error) if error.kind() == Kind::Aborted => {
                breaks.push(upload.status().offset);
                offset = upload.status().offset as usize;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A registry that loses the end of each stream that is longer than `most`, and says so by `status`.
async fn forgetful(most: usize, status: u16) -> Fake {
    let data = Mutex::new(Vec::new());
    Fake::new(move |seen| {
        let mut data = data.lock().unwrap();
        let at = |status: u16, length: usize| {
            let range = format!("0-{}", length.saturating_sub(1));
            Reply::new(status).header("range", range).header("location", "/upload?s=1")
        };
        match seen.method.as_str() {
            "HEAD" => Reply::new(404),
            "POST" => at(202, 0),
            "GET" => at(204, data.len()),
            "PATCH" => {
                let first = seen.header("content-range").split('-').next().unwrap();
                assert_eq!(first, data.len().to_string());
                data.extend_from_slice(&seen.body[..seen.body.len().min(most)]);
                at(if seen.body.len() > most { status } else { 202 }, data.len())
            }
            _ => Reply::new(201).header("docker-content-digest", Digest::of(&*data).to_string()),
        }
    })
    .await
}

fn methods(fake: &Fake) -> Vec<String> {
    fake.seen().into_iter().map(|seen| seen.method).collect()
}

#[tokio::test]
async fn a_large_blob_costs_as_many_requests_as_a_small_one() {
    for length in [1_000_000, 5_000_000] {
        let (fake, data) = (forgetful(usize::MAX, 202).await, bytes(length));
        let what = layer(&data);
        let breaks = push(&format!("{}/a:1", fake.host), &what, &data).await.unwrap();
        assert!(breaks.is_empty());
        assert_eq!(methods(&fake), ["HEAD", "POST", "PATCH", "PUT"]);
        let stream = &fake.seen()[2];
        assert_eq!(stream.header("content-length"), length.to_string());
        assert_eq!(stream.header("content-range"), format!("0-{}", length - 1));
    }
}

#[tokio::test]
async fn a_stream_that_broke_goes_on_where_the_registry_is() {
    // A registry may fail, or say of its own accord that it has less than it was sent.
    for status in [500, 202] {
        let (fake, data) = (forgetful(650_000, status).await, bytes(1_000_000));
        let what = layer(&data);
        let breaks = push(&format!("{}/a:1", fake.host), &what, &data).await.unwrap();
        assert_eq!(breaks, [650_000], "{status}");
        let ranges: Vec<_> =
            fake.seen().iter().map(|it| it.header("content-range").into()).collect();
        let patches: Vec<String> =
            ranges.into_iter().filter(|it: &String| !it.is_empty()).collect();
        assert_eq!(patches, ["0-999999", "650000-999999"]);
    }
}

#[tokio::test]
async fn a_registry_that_gets_nowhere_fails_the_upload() {
    let (fake, data) = (forgetful(0, 503).await, bytes(1_000_000));
    let what = layer(&data);
    let error = push(&format!("{}/a:1", fake.host), &what, &data).await.unwrap_err();
    assert!(error.to_string().contains("503"), "{error}");
    let streams = methods(&fake).iter().filter(|it| *it == "PATCH").count();
    assert!((2..20).contains(&streams), "{streams}");
}

#[tokio::test]
async fn a_registry_without_streams_gets_chunks_and_without_those_one_piece() {
    for (takes, want) in [
        (400_000, &["HEAD", "POST", "PATCH", "POST", "PATCH", "PATCH", "PATCH", "PUT"][..]),
        (0, &["HEAD", "POST", "PATCH", "POST", "PATCH", "POST", "PUT"]),
    ] {
        let data = Mutex::new(Vec::new());
        let fake = Fake::new(move |seen| {
            let mut data = data.lock().unwrap();
            match seen.method.as_str() {
                "HEAD" => Reply::new(404),
                "POST" => Reply::new(202).header("location", "/upload"),
                "PATCH" if seen.body.len() > takes => Reply::new(413),
                "PATCH" => {
                    data.extend_from_slice(&seen.body);
                    Reply::new(202)
                }
                _ => {
                    data.extend_from_slice(&seen.body);
                    let digest = Digest::of(&*data).to_string();
                    Reply::new(201).header("docker-content-digest", digest)
                }
            }
        });
        let (fake, data) = (fake.await, bytes(1_000_000));
        let what = layer(&data);
        let breaks = push(&format!("{}/a:1", fake.host), &what, &data).await.unwrap();
        assert_eq!(
            (breaks, methods(&fake)),
            (vec![0], want.iter().map(ToString::to_string).collect())
        );
    }
}

/// Debian's registry takes nothing more of an upload that was cut: it is begun anew, in chunks.
#[tokio::test]
async fn a_real_registry_gets_a_stream_that_was_cut() {
    let Some(docker) = docker(false) else { return };
    let data = bytes(8_000_000);
    let what = layer(&data);
    for (after, breaks) in [(u64::MAX, 0), (3_000_000, 1)] {
        let (relay, task) = cutting(docker.host.clone(), after).await;
        let name = format!("{relay}/a{breaks}:1");
        assert_eq!(push(&name, &what, &data).await.unwrap().len(), breaks);
        let name = format!("{}/a{breaks}:1", docker.host);
        assert_eq!(fetch(&streaming(), &name, &what, 0).await.unwrap(), data);
        task.abort();
    }
}
