// SPDX-License-Identifier: Apache-2.0
use registry::{Capabilities, Host, Options, Registry, Scheme};
use types::{Digest, Kind, media_types};

use crate::{
    client,
    fake::{Fake, Reply, Seen},
    options, reference,
};

const MANIFEST: &str = r#"{"schemaVersion":2}"#;

fn manifest() -> Reply {
    Reply::ok(MANIFEST)
        .header("content-type", media_types::MANIFEST)
        .header("docker-content-digest", Digest::of(MANIFEST).to_string())
}

fn options_with(hosts: Vec<Host>) -> Options {
    Options { hosts: std::sync::Arc::new(move |_| Ok(hosts.clone())), ..options() }
}

#[tokio::test]
async fn a_tag_is_resolved_by_its_headers_alone() {
    let fake = Fake::new(|_| manifest()).await;
    let name = reference(&format!("{}/a/b:1", fake.host));
    let found = client().resolve(&name).await.unwrap();
    assert_eq!(found.digest, Digest::of(MANIFEST));
    assert_eq!((found.size, found.media_type.as_str()), (19, media_types::MANIFEST));
    assert_eq!(fake.lines(), ["HEAD /v2/a/b/manifests/1"]);
    let seen = &fake.seen()[0];
    assert!(seen.header("accept").starts_with(media_types::DOCKER_MANIFEST));
    assert!(seen.header("user-agent").starts_with("containerd/"));
}

#[tokio::test]
async fn a_registry_that_says_no_digest_is_read() {
    let fake = Fake::new(|_| Reply::ok(MANIFEST).header("content-type", "x/y; charset=z")).await;
    let name = reference(&format!("{}/a:1", fake.host));
    let found = client().resolve(&name).await.unwrap();
    assert_eq!((found.digest, found.size), (Digest::of(MANIFEST), 19));
    assert_eq!(found.media_type, "x/y");
    assert_eq!(fake.lines(), ["HEAD /v2/a/manifests/1", "GET /v2/a/manifests/1"]);
}

#[tokio::test]
async fn a_registry_without_head_is_asked_with_get() {
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "HEAD" => Reply::new(405),
        _ => manifest(),
    });
    let fake = fake.await;
    let name = reference(&format!("{}/a:1", fake.host));
    assert_eq!(client().resolve(&name).await.unwrap().size, 19);
}

#[tokio::test]
async fn a_digest_is_looked_for_among_manifests_and_then_blobs() {
    let blob = |seen: &Seen| {
        if seen.path.contains("/manifests/") {
            return Reply::new(404);
        }
        Reply::ok("hi").header("content-type", "application/octet-stream")
    };
    let fake = Fake::new(blob).await;
    let name = reference(&format!("{}/a@{}", fake.host, Digest::of("hi")));
    let found = client().resolve(&name).await.unwrap();
    assert_eq!((found.digest, found.size), (Digest::of("hi"), 2));
}

#[tokio::test]
async fn a_host_that_has_another_digest_is_not_believed() {
    let fake = Fake::new(|_| manifest()).await;
    let name = reference(&format!("{}/a:1@{}", fake.host, Digest::of("other")));
    let error = client().resolve(&name).await.unwrap_err();
    let text = format!("got digest {}, expected {}", Digest::of(MANIFEST), Digest::of("other"));
    assert_eq!((error.kind(), error.to_string()), (Kind::FailedPrecondition, text));

    let nonsense = Fake::new(|_| Reply::ok("x").header("docker-content-digest", "md5:x")).await;
    let name = reference(&format!("{}/a:1", nonsense.host));
    let error = client().resolve(&name).await.unwrap_err().to_string();
    assert!(error.starts_with("\"md5:x\" in header not a valid digest"), "{error}");
}

#[tokio::test]
async fn what_is_not_there_is_not_found_under_its_name() {
    let fake = Fake::new(|_| Reply::new(404)).await;
    let name = reference(&format!("{}/a:1", fake.host));
    let error = client().resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert_eq!(error.to_string(), format!("{}/a:1: not found", fake.host));
}

#[tokio::test]
async fn a_name_without_object_and_a_manifest_too_long_are_refused() {
    let fake = Fake::new(|_| manifest().header("content-length", "5000000")).await;
    let error = client().resolve(&reference(&format!("{}/a", fake.host))).await.unwrap_err();
    assert!(error.to_string().ends_with("object required"), "{error}");
    let error = client().resolve(&reference(&format!("{}/a:1", fake.host))).await.unwrap_err();
    assert!(error.to_string().starts_with("rejecting 5000000 byte manifest for"), "{error}");
}

#[tokio::test]
async fn the_oldest_manifests_are_refused_by_name() {
    let fake = Fake::new(|_| Reply::ok(MANIFEST).header("content-type", "text/plain")).await;
    let error = client().resolve(&reference(&format!("{}/a:1", fake.host))).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unimplemented);
    assert!(error.to_string().contains("no longer supported since containerd v2.0"), "{error}");
}

#[tokio::test]
async fn a_mirror_is_asked_first_and_told_whose_content_is_meant() {
    let mirror = Fake::new(|_| Reply::new(500)).await;
    let upstream = Fake::new(|_| manifest()).await;
    let hosts = vec![
        Host { path: "/mirror/v2".into(), ..Host::new(Scheme::Http, &mirror.host) },
        Host::new(Scheme::Http, &upstream.host),
    ];
    let registry = Registry::new(options_with(hosts));
    let found = registry.resolve(&reference("docker.io/library/a:1")).await.unwrap();
    assert_eq!(found.digest, Digest::of(MANIFEST));
    // A broken host is not asked again while there is another.
    assert_eq!(mirror.lines(), ["HEAD /mirror/v2/library/a/manifests/1?ns=docker.io"]);
    assert_eq!(upstream.lines(), ["HEAD /v2/library/a/manifests/1?ns=docker.io"]);
}

#[tokio::test]
async fn a_mirror_that_may_not_resolve_is_only_asked_for_digests() {
    let mirror = Fake::new(|_| manifest()).await;
    let capabilities = Capabilities { resolve: false, ..Capabilities::ALL };
    let hosts = vec![Host { capabilities, ..Host::new(Scheme::Http, &mirror.host) }];
    let registry = Registry::new(options_with(hosts));
    let error = registry.resolve(&reference("r.io/a:1")).await.unwrap_err();
    assert_eq!(error.to_string(), "no resolve hosts: not found");
    let pinned = format!("r.io/a@{}", Digest::of(MANIFEST));
    assert!(registry.resolve(&reference(&pinned)).await.is_ok());
}

#[tokio::test]
async fn a_dead_mirror_costs_no_more_than_its_own_deadline() {
    let upstream = Fake::new(|_| manifest()).await;
    let silent = Fake::new(|_| Reply::ok("").header("content-length", "9").stall(0)).await;
    let hosts = vec![
        Host::new(Scheme::Http, "127.0.0.1:1"),
        Host::new(Scheme::Http, &silent.host),
        Host::new(Scheme::Http, &upstream.host),
    ];
    let registry = Registry::new(options_with(hosts));
    // One refuses, one gives headers without a digest and then not the body that they announce.
    registry.resolve(&reference("r.io/a:1")).await.unwrap();
}

#[tokio::test]
async fn a_host_that_never_answers_is_named_with_the_deadline_that_it_missed() {
    // Connections are made by the kernel, and nobody ever reads from them.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|address| (silent, address.to_string())).unwrap();
    let short = std::time::Duration::from_millis(200);
    for (scheme, why) in [
        (Scheme::Http, "no reply within 400ms: context deadline exceeded".to_owned()),
        (Scheme::Https, format!("dial {}: no connection within 200ms", silent.1)),
    ] {
        let timeouts = registry::Timeouts { connect: short, reply: short, ..options().timeouts };
        let options = options_with(vec![Host::new(scheme, &silent.1)]);
        let registry = Registry::new(Options { timeouts, ..options });
        let error = registry.resolve(&reference("r.io/a:1")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded, "{error}");
        assert!(error.to_string().contains(&why), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_named() {
    let error = client().resolve(&reference("127.0.0.1:1/a:1")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = error.to_string();
    let start = "failed to do request: Head \"https://127.0.0.1:1/v2/a/manifests/1\": ";
    let why = "dial tcp 127.0.0.1:1: connect: connection refused";
    assert!(text.starts_with(start) && text.contains(why), "{text}");
}
