// SPDX-License-Identifier: Apache-2.0
//! Mirrors that are dead, and what registries say beside the matter.
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use http::HeaderMap;
use registry::{Behalf, Heard, Host, Options, Registry, Retry, Scheme, Timeouts, standard};

use crate::{
    bytes,
    fake::{Fake, Reply, Seen},
    fetch, layer, options, reference,
};

/// A host that takes connections and never answers.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    (listener, host)
}

fn mirrored(mirror: &str, upstream: &str) -> Options {
    let hosts = [mirror, upstream].map(|host| Host::new(Scheme::Https, host));
    let hosts = hosts.map(|host| Host { scheme: Scheme::Http, ..host });
    let reply = Duration::from_millis(400);
    Options {
        hosts: Arc::new(move |_| Ok(hosts.to_vec())),
        timeouts: Timeouts { reply, detour: reply, ..options().timeouts },
        ..options()
    }
}

#[tokio::test]
async fn a_dead_mirror_costs_the_first_request_only() {
    let data = bytes(1000);
    let (what, served) = (layer(&data), data.clone());
    let upstream = Fake::new(move |_| Reply::ok(&*served)).await;
    let (_dead, mirror) = silent();
    let registry = Registry::new(mirrored(&mirror, &upstream.host));
    let begun = Instant::now();
    assert_eq!(fetch(&registry, "r.io/a:1", &what, 0).await.unwrap(), data);
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let begun = Instant::now();
    for _ in 0..20 {
        fetch(&registry, "r.io/a:1", &what, 0).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_millis(400), "{:?}", begun.elapsed());
    // Whoever pulls on another's behalf knows it as well.
    let other = registry.on_behalf(Behalf {
        hosts: mirrored(&mirror, &upstream.host).hosts,
        credentials: Arc::new(|_: &str| None),
        headers: HeaderMap::new(),
        listener: None,
    });
    let begun = Instant::now();
    fetch(&other, "r.io/a:1", &what, 0).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(400));
}

#[tokio::test]
async fn a_dead_mirror_is_asked_if_there_is_nothing_better() {
    let (_dead, mirror) = silent();
    let (_also, upstream) = silent();
    let registry = Registry::new(mirrored(&mirror, &upstream));
    for _ in 0..2 {
        let error = registry.resolve(&reference("r.io/a:1")).await.unwrap_err();
        assert!(error.to_string().contains("no reply within"), "{error}");
    }
}

/// A registry that is tried in this order, where the next one is asked as well after `hedge`.
fn hedged(hosts: &[&str], hedge: Duration) -> Registry {
    let hosts: Vec<_> = hosts.iter().map(|host| Host::new(Scheme::Http, *host)).collect();
    let retry = Retry { attempts: 1, ..options().retry };
    let timeouts = Timeouts { reply: LONG, hedge, ..options().timeouts };
    Registry::new(Options {
        hosts: Arc::new(move |_| Ok(hosts.clone())),
        retry,
        timeouts,
        ..options()
    })
}

/// Longer than any test waits.
const LONG: Duration = Duration::from_mins(2);

fn manifest(_: &Seen) -> Reply {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    Reply::ok("{}").header("content-type", kind)
}

#[tokio::test]
async fn a_slow_mirror_does_not_hold_up_what_a_name_stands_for() {
    let upstream = Fake::new(manifest).await;
    let (_slow, mirror) = silent();
    let registry = hedged(&[&mirror, &upstream.host], Duration::from_millis(20));
    let begun = Instant::now();
    registry.resolve(&reference("r.io/a:1")).await.unwrap();
    assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_mirror_that_answers_in_time_is_the_only_one_that_is_asked() {
    let (mirror, upstream) = (Fake::new(manifest).await, Fake::new(manifest).await);
    let registry = hedged(&[&mirror.host, &upstream.host], LONG);
    registry.resolve(&reference("r.io/a:1")).await.unwrap();
    assert!(!mirror.seen().is_empty());
    assert!(upstream.seen().is_empty());
}

#[tokio::test]
async fn a_mirror_that_does_not_know_is_not_waited_for() {
    let (mirror, upstream) = (Fake::new(|_| Reply::new(404)).await, Fake::new(manifest).await);
    let registry = hedged(&[&mirror.host, &upstream.host], LONG);
    let begun = Instant::now();
    registry.resolve(&reference("r.io/a:1")).await.unwrap();
    assert!(begun.elapsed() < LONG / 2);
}

/// Who we are to one host is told to no other, whoever is asked at the same time.
#[tokio::test]
async fn hosts_that_are_asked_at_once_are_each_told_their_own_credentials() {
    let upstream = Fake::new(|seen| match seen.header("authorization") {
        "" => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
        _ => manifest(seen),
    });
    let upstream = upstream.await;
    let mirror = Fake::new(|_| Reply::ok("").header("content-length", "9").stall(0)).await;
    let hosts: Vec<_> = [&mirror, &upstream].map(|fake| Host::new(Scheme::Http, &fake.host)).into();
    let ours = upstream.host.clone();
    let timeouts = Timeouts { idle: LONG, hedge: Duration::from_millis(20), ..options().timeouts };
    let registry = Registry::new(Options {
        hosts: Arc::new(move |_| Ok(hosts.clone())),
        credentials: Arc::new(move |host: &str| {
            (host == ours).then(|| registry::Credential::new("u", "p"))
        }),
        timeouts,
        ..options()
    });
    registry.resolve(&reference("r.io/a:1")).await.unwrap();
    assert!(upstream.seen().iter().any(|seen| seen.header("authorization") == "Basic dTpw"));
    assert!(mirror.seen().iter().all(|seen| seen.header("authorization").is_empty()));
}

#[tokio::test]
async fn no_more_than_three_hosts_are_asked_at_once() {
    let silents = [silent(), silent(), silent()];
    let upstream = Fake::new(manifest).await;
    let hosts: Vec<_> = silents.iter().map(|it| &*it.1).chain([&*upstream.host]).collect();
    let hosts: Vec<_> = hosts.into_iter().map(|host| Host::new(Scheme::Http, host)).collect();
    let reply = Duration::from_millis(300);
    let timeouts = Timeouts { reply, hedge: Duration::ZERO, ..options().timeouts };
    let registry = Registry::new(Options {
        hosts: Arc::new(move |_| Ok(hosts.clone())),
        timeouts,
        ..options()
    });
    let begun = Instant::now();
    registry.resolve(&reference("r.io/a:1")).await.unwrap();
    assert!(begun.elapsed() >= reply, "the fourth was asked before one of three had failed");
}

#[tokio::test]
async fn what_a_registry_warns_of_and_who_was_asked_is_heard() {
    let fake = Fake::new(|seen| {
        let reply = match seen.header("authorization") {
            "" => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
            _ => Reply::ok("hi"),
        };
        reply.header("warning", "299 - \"gone by spring\"")
    });
    let fake = fake.await;
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let notes = Arc::clone(&heard);
    let listener = move |heard: &Heard<'_>| {
        let note = match heard {
            Heard::Request { method, .. } => format!("asked {method}"),
            Heard::Answer { status, .. } => format!("{status}"),
            Heard::Credential { credential, .. } => {
                credential.map_or("nobody".to_owned(), |it| it.source.clone())
            }
            Heard::Warning { text, .. } => format!("warned: {text}"),
            _ => "silence".to_owned(),
        };
        notes.lock().unwrap().push(note);
    };
    let credential = registry::Credential::new("u", "p").from_source("--user");
    let registry = Registry::new(Options {
        hosts: standard(true, registry::Tls::default()),
        credentials: Arc::new(move |_: &str| Some(credential.clone())),
        listener: Some(Arc::new(listener)),
        ..options()
    });
    fetch(&registry, &format!("{}/a:1", fake.host), &layer(b"hi"), 0).await.unwrap();
    let want = [
        "asked GET",
        "401 Unauthorized",
        "warned: gone by spring",
        "--user",
        "asked GET",
        "200 OK",
        "warned: gone by spring",
    ];
    assert_eq!(*heard.lock().unwrap(), want);
}

#[tokio::test]
async fn a_host_may_listen_on_a_socket_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let fake = Fake::new(|_| Reply::ok("hi")).await;
    let behind = fake.host.clone();
    let relay = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut far = tokio::net::TcpStream::connect(behind).await.unwrap();
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    let host = Host { socket: Some(path), ..Host::new(Scheme::Http, "cache.example") };
    let hosts = Arc::new(move |_: &str| Ok(vec![host.clone()]));
    let registry = Registry::new(Options { hosts, ..options() });
    assert_eq!(fetch(&registry, "r.io/a:1", &layer(b"hi"), 0).await.unwrap(), b"hi");
    assert_eq!(fake.seen()[0].header("host"), "cache.example");
    assert!(fake.lines()[0].ends_with("?ns=r.io"));
    relay.abort();
}
