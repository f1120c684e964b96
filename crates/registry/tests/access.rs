// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use registry::{Host, Options, Registry, Scheme};
use types::{Digest, Kind};

use crate::{
    bytes, client, client_as,
    fake::{Fake, Reply, Seen},
    fetch, layer, options, reference,
};

/// `Basic u:p`.
const BASIC: &str = "Basic dTpw";

fn only_basic(seen: &Seen) -> Reply {
    match seen.header("authorization") {
        BASIC => Reply::ok("hi").header("docker-content-digest", Digest::of("hi").to_string()),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
    }
}

#[tokio::test]
async fn a_name_and_password_are_shown_when_asked_for_and_then_remembered() {
    let fake = Fake::new(only_basic).await;
    let registry = client_as("u", "p");
    let name = format!("{}/a:1", fake.host);
    registry.resolve(&reference(&name)).await.unwrap();
    fetch(&registry, &name, &layer(b"hi"), 0).await.unwrap();
    let shown: Vec<_> =
        fake.seen().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(shown, ["", BASIC, BASIC]);
}

#[tokio::test]
async fn without_credentials_access_is_denied_in_gos_words() {
    let fake = Fake::new(only_basic).await;
    let name = reference(&format!("{}/a:1", fake.host));
    let error = client().resolve(&name).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pull access denied, repository does not exist or may require authorization: \
         authorization failed: no basic auth credentials"
    );
    assert_eq!(error.kind(), Kind::Unknown);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once() {
    let fake = Fake::new(only_basic).await;
    let name = reference(&format!("{}/a:1", fake.host));
    let error = client_as("u", "wrong").resolve(&name).await.unwrap_err();
    let url = format!("http://{}/v2/a/manifests/1", fake.host);
    let want = format!("unexpected status from HEAD request to {url}: 401 Unauthorized");
    assert_eq!(error.to_string(), want);
    assert_eq!(fake.lines().len(), 2);
}

/// A registry and its token server. Tokens are numbers; those in the set are good.
struct Guarded {
    registry: Fake,
    tokens: Fake,
    good: Arc<Mutex<HashSet<String>>>,
}

async fn guarded(life: usize, refusal: &'static str) -> Guarded {
    let good = Arc::<Mutex<HashSet<String>>>::default();
    let issued = Arc::clone(&good);
    let count = AtomicUsize::new(0);
    let tokens = Fake::new(move |_| {
        let token = format!("t{}", count.fetch_add(1, Ordering::SeqCst));
        if refusal.is_empty() {
            issued.lock().unwrap().insert(format!("Bearer {token}"));
        }
        Reply::ok(format!(r#"{{"token":"{token}","expires_in":{life}}}"#))
    });
    let tokens = tokens.await;
    let realm = format!("http://{}/token", tokens.host);
    let valid = Arc::clone(&good);
    let registry = Fake::new(move |seen| {
        let sent = seen.header("authorization");
        if valid.lock().unwrap().contains(sent) {
            return Reply::ok("hi").header("docker-content-digest", Digest::of("hi").to_string());
        }
        let error = if sent.is_empty() { "" } else { refusal };
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",error=\"{error}\"");
        Reply::new(401).header("www-authenticate", challenge)
    });
    Guarded { registry: registry.await, tokens, good }
}

#[tokio::test]
async fn a_token_is_fetched_once_per_scope() {
    let guarded = guarded(300, "").await;
    let (registry, name) = (client(), format!("{}/a:1", guarded.registry.host));
    registry.resolve(&reference(&name)).await.unwrap();
    let fetches = (0..8).map(|_| async { fetch(&registry, &name, &layer(b"hi"), 0).await });
    for fetched in futures_util::future::join_all(fetches).await {
        fetched.unwrap();
    }
    assert_eq!(guarded.tokens.lines(), ["GET /token?service=s&scope=repository%3Aa%3Apull"]);
    assert_eq!(guarded.tokens.seen()[0].header("authorization"), "");
}

#[tokio::test]
async fn many_at_once_who_know_nothing_learn_it_together() {
    let guarded = guarded(300, "").await;
    let (registry, name) = (client(), format!("{}/a:1", guarded.registry.host));
    let fetches = (0..8).map(|_| async { fetch(&registry, &name, &layer(b"hi"), 0).await });
    for fetched in futures_util::future::join_all(fetches).await {
        fetched.unwrap();
    }
    assert_eq!(guarded.tokens.lines().len(), 1);
}

#[tokio::test]
async fn a_token_that_was_revoked_is_replaced() {
    let guarded = guarded(300, "").await;
    let (registry, name) = (client(), format!("{}/a:1", guarded.registry.host));
    registry.resolve(&reference(&name)).await.unwrap();
    guarded.good.lock().unwrap().clear();
    registry.resolve(&reference(&name)).await.unwrap();
    assert_eq!(guarded.tokens.lines().len(), 2);
}

#[tokio::test]
async fn a_token_that_grew_old_is_not_used() {
    let guarded = guarded(1, "").await;
    let (registry, name) = (client(), format!("{}/a:1", guarded.registry.host));
    registry.resolve(&reference(&name)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(950)).await;
    registry.resolve(&reference(&name)).await.unwrap();
    assert_eq!(guarded.tokens.lines().len(), 2);
    // It was replaced before it was refused.
    assert_eq!(guarded.registry.lines().len(), 3);
}

#[tokio::test]
async fn a_token_that_does_not_suffice_denies_access_in_gos_words() {
    let guarded = guarded(300, "insufficient_scope").await;
    let name = reference(&format!("{}/a:1", guarded.registry.host));
    let error = client().resolve(&name).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pull access denied, repository does not exist or may require authorization: \
         server message: insufficient_scope: authorization failed"
    );
}

/// A registry that trusts `Bearer good`, which its token server gives to whom `issues` says.
async fn with_server(issues: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> (Fake, Fake) {
    let tokens = Fake::new(issues).await;
    let realm = format!("http://{}/token", tokens.host);
    let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:a:pull\"");
    let registry = Fake::new(move |seen| {
        if seen.header("authorization") == "Bearer good" {
            return Reply::ok("hi");
        }
        Reply::new(401).header("www-authenticate", challenge.clone())
    });
    (registry.await, tokens)
}

#[tokio::test]
async fn a_password_is_exchanged_by_post() {
    let issue = |_: &Seen| Reply::ok(r#"{"access_token":"good"}"#);
    let (registry, tokens) = with_server(issue).await;
    let name = format!("{}/a:1", registry.host);
    fetch(&client_as("u", "p"), &name, &layer(b"hi"), 0).await.unwrap();
    let seen = &tokens.seen()[0];
    assert_eq!(seen.line(), "POST /token");
    let want = "service=s&client_id=containerd-client&scope=repository%3Aa%3Apull\
                &grant_type=password&username=u&password=p";
    assert_eq!(String::from_utf8_lossy(&seen.body), want);
}

#[tokio::test]
async fn a_token_server_without_oauth_is_asked_by_get() {
    let issue = |seen: &Seen| match (seen.method.as_str(), seen.header("authorization")) {
        ("GET", BASIC) => Reply::ok(r#"{"token":"good"}"#),
        _ => Reply::new(404),
    };
    let (registry, tokens) = with_server(issue).await;
    let name = format!("{}/a:1", registry.host);
    fetch(&client_as("u", "p"), &name, &layer(b"hi"), 0).await.unwrap();
    assert_eq!(tokens.lines(), ["POST /token", "GET /token?service=s&scope=repository%3Aa%3Apull"]);
}

#[tokio::test]
async fn a_token_server_that_refuses_is_named() {
    let (registry, tokens) = with_server(|_| Reply::new(403)).await;
    let name = reference(&format!("{}/a:1", registry.host));
    let error = client().resolve(&name).await.unwrap_err().to_string();
    let start = format!(
        "failed to authorize: failed to fetch anonymous token: \
         unexpected status from GET request to http://{}/token?",
        tokens.host
    );
    assert!(error.starts_with(&start) && error.ends_with(": 403 Forbidden"), "{error}");
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect_to_another_host() {
    let data = bytes(1000);
    let served = data.clone();
    let elsewhere = Fake::new(move |_| Reply::ok(served.clone())).await;
    let location = format!("http://{}/signed?secret=s", elsewhere.host);
    let fake = Fake::new(move |seen| match seen.header("authorization") {
        BASIC => Reply::new(307).header("location", location.clone()),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
    });
    let fake = fake.await;
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", "k".parse().unwrap());
    let host = Host { headers, ..Host::new(Scheme::Http, &fake.host) };
    let credential = registry::Credential::new("u", "p");
    let registry = Registry::new(Options {
        hosts: Arc::new(move |_: &str| Ok(vec![host.clone()])),
        credentials: Arc::new(move |_: &str| Some(credential.clone())),
        ..options()
    });
    assert_eq!(fetch(&registry, "r.io/a:1", &layer(&data), 0).await.unwrap(), data);
    let here = fake.seen().pop().unwrap();
    assert_eq!((here.header("authorization"), here.header("x-api-key")), (BASIC, "k"));
    let there = elsewhere.seen().pop().unwrap();
    assert_eq!((there.header("authorization"), there.header("x-api-key")), ("", ""));
    assert_eq!(there.header("accept"), here.header("accept"));
}

#[tokio::test]
async fn a_redirect_cannot_ask_for_credentials_nor_show_its_secrets() {
    let asked = Arc::new(AtomicUsize::new(0));
    let elsewhere =
        Fake::new(|_| Reply::new(401).header("www-authenticate", "Basic realm=\"phish\"")).await;
    let location = format!("http://{}/x?signature=hidden", elsewhere.host);
    let fake = Fake::new(move |_| Reply::new(302).header("location", location.clone())).await;
    let counter = Arc::clone(&asked);
    let registry = Registry::new(Options {
        credentials: Arc::new(move |_: &str| {
            counter.fetch_add(1, Ordering::SeqCst);
            Some(registry::Credential::new("u", "p"))
        }),
        ..options()
    });
    let name = format!("{}/a:1", fake.host);
    let error = fetch(&registry, &name, &layer(b"hi"), 0).await.unwrap_err().to_string();
    let want = format!(
        "unexpected status from GET request to http://{}/x?...: 401 Unauthorized",
        elsewhere.host
    );
    assert_eq!(error, want);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_header_that_is_ready_is_used_as_it_is() {
    let fake = Fake::new(|seen| match seen.header("authorization") {
        "Bearer given" => Reply::ok("hi"),
        _ => Reply::new(401).header("www-authenticate", "Bearer realm=\"http://nowhere.test/\""),
    });
    let fake = fake.await;
    let credentials = Arc::new(|_: &str| Some(registry::Credential::header("Bearer given")));
    let registry = Registry::new(Options { credentials, ..options() });
    fetch(&registry, &format!("{}/a:1", fake.host), &layer(b"hi"), 0).await.unwrap();
    assert_eq!(fake.lines().len(), 2);
}

#[tokio::test]
async fn a_registry_over_tls_gets_no_credentials_sent_in_plain_text() {
    // The registry answers over TLS by way of Debian's, which names the realm that it is told to.
    let sections = "auth:\n  token:\n    realm: http://tokens.example/token\n    service: r\n    \
                    issuer: i\n    rootcertbundle: FOLDER/cert.pem\n";
    let Some(docker) = crate::docker::docker_with(true, sections) else { return };
    let name = reference(&format!("{}/a:1", docker.host));
    let error = client_as("u", "p").resolve(&name).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    let want = "refusing to send credentials in plain text to http://tokens.example";
    assert!(error.to_string().contains(want), "{error}");
}
