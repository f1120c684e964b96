// SPDX-License-Identifier: Apache-2.0
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use registry::{Host, Options, Registry, Scheme};
use types::{Digest, Kind, media_types};

use crate::{
    bytes, client,
    fake::{Fake, Reply, Seen},
    fetch, layer, options,
};

/// The part of `data` that was asked for, with or without regard for ranges.
fn ranged(seen: &Seen, data: &[u8]) -> Reply {
    match seen.header("range").strip_prefix("bytes=").and_then(|it| it.strip_suffix('-')) {
        None => Reply::ok(data),
        Some(from) => Reply::new(206)
            .body(&data[from.parse().unwrap()..])
            .header("content-range", format!("bytes {from}-{}/{}", data.len() - 1, data.len())),
    }
}

#[tokio::test]
async fn a_blob_is_fetched_from_any_offset() {
    let data = bytes(300_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| ranged(seen, &served)).await;
    let name = format!("{}/a:1", fake.host);
    assert_eq!(fetch(&client(), &name, &what, 0).await.unwrap(), data);
    assert_eq!(fetch(&client(), &name, &what, 299_999).await.unwrap(), data[299_999..]);
    assert!(fetch(&client(), &name, &what, 300_000).await.unwrap().is_empty());
    assert_eq!(fake.lines(), vec![format!("GET /v2/a/blobs/{}", what.digest); 2]);
}

#[tokio::test]
async fn a_manifest_is_fetched_among_manifests() {
    let fake = Fake::new(|_| Reply::ok("{}")).await;
    let mut what = layer(b"{}");
    what.media_type = media_types::INDEX.into();
    fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap();
    assert_eq!(fake.lines(), [format!("GET /v2/a/manifests/{}", what.digest)]);
    assert_eq!(fake.seen()[0].header("accept"), format!("{}, */*", media_types::INDEX));
}

#[tokio::test]
async fn a_cut_body_goes_on_where_it_was() {
    let data = bytes(100_000);
    let (what, served) = (layer(&data), data.clone());
    // Each connection gives 10 000 bytes more: ten are needed, though five tries are allowed.
    let fake = Fake::new(move |seen| ranged(seen, &served).cut(10_000)).await;
    let got = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap();
    assert_eq!(got, data);
    let ranges: Vec<_> = fake.seen().iter().map(|seen| seen.header("range").to_owned()).collect();
    assert_eq!(ranges.len(), 10);
    assert_eq!(ranges[9], "bytes=90000-");
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_past_what_is_known() {
    let data = bytes(100_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| match seen.before {
        0 => Reply::ok(served.clone()).cut(60_000),
        _ => Reply::ok(served.clone()),
    });
    let fake = fake.await;
    let got = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap();
    assert_eq!(got, data);
    assert_eq!(fake.seen()[1].header("range"), "bytes=60000-");
}

#[tokio::test]
async fn a_server_that_gives_another_range_is_refused() {
    let fake = Fake::new(|_| Reply::new(206).body("x").header("content-range", "bytes 0-1/9"));
    let fake = fake.await;
    let what = layer(&bytes(10));
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 5).await.unwrap_err();
    assert!(error.to_string().contains("unhandled content range in response"), "{error}");
}

#[tokio::test]
async fn a_body_that_never_gets_further_is_given_up_on() {
    let fake = Fake::new(|_| Reply::ok(bytes(10)).cut(0)).await;
    let what = layer(&bytes(10));
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
    assert_eq!(fake.lines().len(), 5);
}

#[tokio::test]
async fn a_body_that_dries_up_goes_on_elsewhere() {
    let data = bytes(50_000);
    let what = layer(&data);
    let mirror = Fake::new({
        let data = data.clone();
        move |seen| ranged(seen, &data).stall(if seen.before == 0 { 20_000 } else { 0 })
    });
    let upstream = Fake::new({
        let data = data.clone();
        move |seen| ranged(seen, &data)
    });
    let (mirror, upstream) = (mirror.await, upstream.await);
    let hosts = [&mirror.host, &upstream.host].map(|host| Host::new(Scheme::Http, host));
    let hosts = Arc::new(move |_: &str| Ok(hosts.to_vec()));
    let registry = Registry::new(Options { hosts, ..options() });
    assert_eq!(fetch(&registry, "r.io/a:1", &what, 0).await.unwrap(), data);
    assert_eq!(upstream.seen()[0].header("range"), "bytes=20000-");
}

#[tokio::test]
async fn silence_is_named_when_there_is_nowhere_else() {
    let fake = Fake::new(|_| Reply::ok(bytes(10)).stall(5)).await;
    let what = layer(&bytes(10));
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(error.to_string().contains("no byte within 300ms"), "{error}");
}

#[tokio::test]
async fn more_than_was_announced_is_not_read_for_ever() {
    let fake = Fake::new(|_| Reply::ok(bytes(100_000))).await;
    let what = layer(&bytes(10));
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error}");
}

#[tokio::test]
async fn an_encoded_body_is_refused() {
    let fake = Fake::new(|_| Reply::ok("x").header("content-encoding", "gzip")).await;
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &layer(b"x"), 0).await.unwrap_err();
    assert!(error.to_string().contains("unsupported Content-Encoding algorithm: gzip"), "{error}");
}

#[tokio::test]
async fn a_burst_of_server_errors_passes() {
    let fake = Fake::new(|seen| match seen.before {
        0 => Reply::new(500),
        1 => Reply::new(503),
        2 => Reply::new(429).header("retry-after", "0"),
        3 => Reply::ok("").cut(0),
        _ => Reply::ok("hi"),
    });
    let fake = fake.await;
    let got = fetch(&client(), &format!("{}/a:1", fake.host), &layer(b"hi"), 0).await.unwrap();
    assert_eq!(got, b"hi");
    assert_eq!(fake.lines().len(), 5);
}

#[tokio::test]
async fn a_registry_is_left_alone_for_as_long_as_it_asks() {
    let fake = Fake::new(|seen| match seen.before {
        0 => Reply::new(429).header("retry-after", "1"),
        _ => Reply::ok("hi"),
    });
    let fake = fake.await;
    let begun = Instant::now();
    fetch(&client(), &format!("{}/a:1", fake.host), &layer(b"hi"), 0).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_registry_that_asks_for_an_hour_is_given_up_on_with_its_own_words() {
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
    let fake = Fake::new(move |_| Reply::new(429).header("retry-after", "3600").body(body)).await;
    let error =
        fetch(&client(), &format!("{}/a:1", fake.host), &layer(b"hi"), 0).await.unwrap_err();
    let text = error.to_string();
    let url = format!("http://{}/v2/a/blobs/{}", fake.host, Digest::of("hi"));
    let start = format!(
        "unexpected status from GET request to {url}: 429 Too Many Requests (Retry-After: "
    );
    assert!(text.starts_with(&start), "{text}");
    assert!(text.ends_with("Z)\ntoomanyrequests: slow down"), "{text}");
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn an_error_that_stays_is_shown_as_go_shows_it() {
    let fake = Fake::new(|_| Reply::new(500)).await;
    let error =
        fetch(&client(), &format!("{}/a:1", fake.host), &layer(b"hi"), 0).await.unwrap_err();
    let url = format!("http://{}/v2/a/blobs/{}", fake.host, Digest::of("hi"));
    let want = format!("unexpected status from GET request to {url}: 500 Internal Server Error");
    assert_eq!((error.kind(), error.to_string()), (Kind::Unknown, want));
}

#[tokio::test]
async fn content_that_nobody_has_is_not_found() {
    let fake = Fake::new(|_| Reply::new(404)).await;
    let what = layer(b"hi");
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap_err();
    let want = format!(
        "could not fetch content descriptor {} ({}) from remote: not found",
        what.digest, what.media_type
    );
    assert_eq!((error.kind(), error.to_string()), (Kind::NotFound, want));
}

#[tokio::test]
async fn a_foreign_layer_is_fetched_from_where_it_says_or_else_here() {
    let data = bytes(1000);
    let served = data.clone();
    let cdn = Fake::new(move |_| Reply::ok(served.clone())).await;
    let registry = Fake::new(|_| Reply::new(404)).await;
    let mut what = layer(&data);
    what.urls = vec![format!("http://{}/some/layer?x=y", cdn.host)];
    let name = format!("{}/a:1", registry.host);
    assert_eq!(fetch(&client(), &name, &what, 0).await.unwrap(), data);
    assert_eq!(cdn.lines(), ["GET /some/layer?x=y"]);
    assert!(registry.lines().is_empty());
}

#[tokio::test]
async fn redirects_that_go_in_circles_end() {
    let fake = Fake::new(|_| Reply::new(302).header("location", "/again")).await;
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &layer(b"x"), 0).await.unwrap_err();
    assert!(error.to_string().contains("stopped after 10 redirects"), "{error}");
}
