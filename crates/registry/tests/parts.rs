// SPDX-License-Identifier: Apache-2.0
//! Large blobs in parts, and what all downloads share.
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, future};
use registry::{Options, Registry, Transfers};
use types::Kind;

use crate::{
    bytes, client,
    fake::{Fake, Reply, Seen},
    fetch, layer, options, reference,
};

fn client_with(transfers: Transfers) -> Registry {
    Registry::new(Options { transfers, ..options() })
}

fn in_parts(part: u64, parts: usize) -> Registry {
    client_with(Transfers { part, parts, ..Transfers::default() })
}

/// The range that was asked for, first and last byte.
fn range(seen: &Seen, length: usize) -> Option<(usize, usize)> {
    let (first, last) = seen.header("range").strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().unwrap(), last.parse().unwrap_or(length - 1)))
}

fn ranged(seen: &Seen, data: &[u8]) -> Reply {
    let Some((first, last)) = range(seen, data.len()) else { return Reply::ok(data) };
    Reply::new(206)
        .body(&data[first..=last])
        .header("content-range", format!("bytes {first}-{last}/{}", data.len()))
}

#[tokio::test]
async fn parts_are_under_way_at_once_and_come_in_order() {
    let data = bytes(1_000_000);
    let (what, served) = (layer(&data), data.clone());
    let pause = Duration::from_millis(100);
    let fake = Fake::new(move |seen| ranged(seen, &served).drip(100_000, pause)).await;
    let (name, begun) = (format!("{}/a:1", fake.host), Instant::now());
    assert_eq!(fetch(&in_parts(100_000, 5), &name, &what, 0).await.unwrap(), data);
    // Ten pauses one after the other would be a second.
    assert!(begun.elapsed() < Duration::from_millis(700), "{:?}", begun.elapsed());
    let asked: HashSet<_> = fake.seen().iter().map(|seen| range(seen, 1_000_000)).collect();
    let want: HashSet<_> =
        (0..10).map(|part| Some((part * 100_000, part * 100_000 + 99_999))).collect();
    assert_eq!(asked, want);
}

#[tokio::test]
async fn parts_begin_where_the_download_goes_on() {
    let data = bytes(300_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| ranged(seen, &served)).await;
    let name = format!("{}/a:1", fake.host);
    let rest = fetch(&in_parts(100_000, 3), &name, &what, 50_000).await.unwrap();
    assert_eq!(rest, data[50_000..]);
    let first = fake.seen().iter().filter_map(|seen| range(seen, 300_000)).map(|it| it.0).min();
    assert_eq!(first, Some(50_000));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_is_read_once() {
    let data = bytes(500_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |_| Reply::ok(&*served)).await;
    let name = format!("{}/a:1", fake.host);
    assert_eq!(fetch(&in_parts(100_000, 3), &name, &what, 0).await.unwrap(), data);
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn a_part_that_is_cut_goes_on_where_it_was() {
    let data = bytes(400_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| ranged(seen, &served).cut(60_000)).await;
    let name = format!("{}/a:1", fake.host);
    assert_eq!(fetch(&in_parts(100_000, 2), &name, &what, 0).await.unwrap(), data);
    assert!(fake.seen().iter().any(|seen| seen.header("range") == "bytes=160000-199999"));
}

#[tokio::test]
async fn a_part_that_cannot_be_had_fails_the_download() {
    let data = bytes(400_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| match range(seen, 400_000) {
        Some((200_000, _)) => Reply::new(403),
        _ => ranged(seen, &served),
    });
    let fake = fake.await;
    let error = fetch(&in_parts(100_000, 2), &format!("{}/a:1", fake.host), &what, 0).await;
    assert!(error.unwrap_err().to_string().contains("403 Forbidden"));
}

#[tokio::test]
async fn no_more_parts_are_held_than_may_be_under_way() {
    let data = bytes(1_000_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| ranged(seen, &served)).await;
    let registry = in_parts(100_000, 3);
    let fetcher = registry.fetcher(&reference(&format!("{}/a:1", fake.host))).unwrap();
    let mut stream = fetcher.fetch(&what, 0).await.unwrap();
    stream.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fake.lines().len(), 3);
    let rest: Vec<_> = stream.try_collect().await.unwrap();
    assert_eq!(fake.lines().len(), 10);
    drop(rest);
}

#[tokio::test]
async fn all_pulls_together_have_so_many_downloads() {
    let data = bytes(400_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |seen| ranged(seen, &served)).await;
    let transfers = Transfers { downloads: 2, part: 100_000, parts: 4, ..Transfers::default() };
    let registry = client_with(transfers);
    let fetcher = registry.fetcher(&reference(&format!("{}/a:1", fake.host))).unwrap();
    let mut first = fetcher.fetch(&what, 0).await.unwrap();
    first.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // One slot is its own, one was to spare.
    assert_eq!(fake.lines().len(), 2);
    let second = fetcher.fetch(&what, 0);
    assert!(tokio::time::timeout(Duration::from_millis(100), second).await.is_err());
    drop(first);
    let fetches = (0..4).map(|_| async {
        let stream = fetcher.fetch(&what, 0).await.unwrap();
        stream.map_ok(|piece| piece.to_vec()).try_concat().await.unwrap()
    });
    assert!(future::join_all(fetches).await.iter().all(|got| *got == data));
}

#[tokio::test]
async fn all_pulls_together_keep_to_the_bandwidth() {
    let data = bytes(100_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |_| Reply::ok(&*served)).await;
    let registry = client_with(Transfers { bandwidth: 400_000, ..Transfers::default() });
    let (name, begun) = (format!("{}/a:1", fake.host), Instant::now());
    let fetches = (0..2).map(|_| fetch(&registry, &name, &what, 0));
    for got in future::join_all(fetches).await {
        assert_eq!(got.unwrap(), data);
    }
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_trickle_is_no_progress() {
    let data = bytes(50_000);
    let (what, served) = (layer(&data), Arc::new(data));
    // A byte comes often enough, but that would take twenty minutes.
    let pause = Duration::from_millis(25);
    let fake = Fake::new(move |seen| {
        let from: usize = range(seen, 50_000).map_or(0, |range| range.0);
        ranged(seen, &served).drip(1, pause).header("x-from", from.to_string())
    });
    let fake = fake.await;
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded, "{error}");
    assert!(error.to_string().contains("less than 1024 bytes a second"), "{error}");
    assert_eq!(fake.lines().len(), 5);
}

#[tokio::test]
async fn whoever_takes_their_time_is_no_trickle() {
    let data = bytes(2_000_000);
    let (what, served) = (layer(&data), data.clone());
    let fake = Fake::new(move |_| Reply::ok(&*served)).await;
    let fetcher = client().fetcher(&reference(&format!("{}/a:1", fake.host))).unwrap();
    let mut stream = fetcher.fetch(&what, 0).await.unwrap();
    stream.next().await.unwrap().unwrap();
    tokio::time::sleep(options().timeouts.idle * 3).await;
    stream.try_for_each(|_| future::ready(Ok(()))).await.unwrap();
    assert_eq!(fake.lines().len(), 1);
}

#[tokio::test]
async fn more_than_was_announced_is_refused_before_it_is_read() {
    let fake = Fake::new(|_| Reply::ok(bytes(101))).await;
    let what = layer(&bytes(100));
    let error = fetch(&client(), &format!("{}/a:1", fake.host), &what, 0).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert!(error.to_string().contains("101 bytes, where 100 were announced"), "{error}");
    assert_eq!(fake.lines().len(), 1);
}
