// SPDX-License-Identifier: Apache-2.0
//! What refers to an image, at registries that list it and at those that do not.
use registry::{Capabilities, Host, Options, Registry, Scheme};
use types::{Descriptor, Digest, media_types};

use crate::{
    client,
    docker::{docker, push_image},
    fake::{Fake, Reply, Seen},
    options,
    pushing::push,
    reference,
};

fn entry(kind: &str, text: &str) -> String {
    format!(
        r#"{{"mediaType":"{}","digest":"{}","size":{},"artifactType":"{kind}"}}"#,
        media_types::MANIFEST,
        Digest::of(text),
        text.len()
    )
}

fn index(entries: &[String]) -> Reply {
    let manifests = entries.join(",");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{manifests}]}}"#,
        media_types::INDEX
    );
    Reply::ok(text).header("content-type", media_types::INDEX)
}

fn digests(found: &[Descriptor]) -> Vec<Digest> {
    found.iter().map(|descriptor| descriptor.digest.clone()).collect()
}

#[tokio::test]
async fn a_registry_that_lists_referrers_is_asked_page_by_page() {
    let subject = Digest::of("subject");
    let fake = Fake::new(|seen| {
        if seen.path.contains("page=2") {
            return index(&[entry("sig", "b"), entry("sig", "a")]);
        }
        index(&[entry("sig", "a"), entry("sbom", "c")])
            .header("link", "</v2/a/referrers/x?page=2>; rel=\"next\"")
    });
    let (fake, registry) = (fake.await, client());
    let name = reference(&format!("{}/a:1", fake.host));
    let all = registry.referrers(&name, &subject, None).await.unwrap();
    assert_eq!(digests(&all), ["a", "c", "b"].map(Digest::of));
    let signatures = registry.referrers(&name, &subject, Some("sig")).await.unwrap();
    assert_eq!(digests(&signatures), ["a", "b"].map(Digest::of));
    let want = format!("GET /v2/a/referrers/{subject}?artifactType=sig");
    assert!(fake.lines().contains(&want), "{:?}", fake.lines());
}

#[tokio::test]
async fn a_registry_that_does_not_is_asked_for_the_tag() {
    let subject = Digest::of("subject");
    let tag = format!("/v2/a/manifests/sha256-{}", &subject.as_str()[7..]);
    for refusal in [Reply::new(404), Reply::new(405), Reply::ok("<html>")] {
        let tag = tag.clone();
        let fake =
            Fake::new(
                move |seen: &Seen| {
                    if seen.path == tag { index(&[entry("sig", "a")]) } else { refusal.clone() }
                },
            );
        let fake = fake.await;
        let name = reference(&format!("{}/a:1", fake.host));
        let found = client().referrers(&name, &subject, None).await.unwrap();
        assert_eq!(digests(&found), [Digest::of("a")]);
    }
}

#[tokio::test]
async fn a_mirror_that_may_not_list_referrers_is_asked_for_the_tag_only() {
    let fake = Fake::new(|_| Reply::new(404)).await;
    let mut host = Host::new(Scheme::Http, &fake.host);
    host.capabilities = Capabilities { referrers: false, ..Capabilities::ALL };
    let hosts = std::sync::Arc::new(move |_: &str| Ok(vec![host.clone()]));
    let registry = Registry::new(Options { hosts, ..options() });
    let found = registry.referrers(&reference("r.io/a:1"), &Digest::of("x"), None).await.unwrap();
    assert!(found.is_empty());
    assert!(fake.lines()[0].starts_with("GET /v2/a/manifests/sha256-"), "{:?}", fake.lines());
    assert_eq!(fake.lines().len(), 1);
}

fn signature(subject: &Descriptor, text: &str) -> String {
    let config = "{}";
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"sig","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[],"subject":{{"mediaType":"{}","digest":"{}","size":{}}},"annotations":{{"says":"{text}"}}}}"#,
        media_types::MANIFEST,
        Digest::of(config),
        subject.media_type,
        subject.digest,
        subject.size
    )
}

/// Debian's registry lists no referrers.
#[tokio::test]
async fn what_is_pushed_to_a_registry_without_referrers_is_listed_under_the_tag() {
    let Some(docker) = docker(false) else { return };
    let name = format!("{}/some/image:1", docker.host);
    let (subject, _) = push_image(&client(), &name, b"layer").await;
    let place = format!("{}/some/image", docker.host);
    let mut pushed = Vec::new();
    for text in ["one", "two"] {
        let manifest = signature(&subject, text);
        let size = manifest.len() as u64;
        let what = Descriptor::new(media_types::MANIFEST, Digest::of(&manifest), size);
        push(&client(), &place, &what, manifest.as_bytes()).await.unwrap();
        pushed.push(what.digest);
    }
    let found = client().referrers(&reference(&name), &subject.digest, Some("sig")).await.unwrap();
    assert_eq!(digests(&found), pushed);
    assert_eq!(found[0].annotations["says"], "one");
    assert_eq!(client().referrers(&reference(&name), &pushed[0], None).await.unwrap(), []);
}

#[tokio::test]
async fn a_registry_that_lists_a_manifest_itself_is_not_helped() {
    let fake = Fake::new(|seen| match seen.method.as_str() {
        "PUT" => Reply::new(201).header("oci-subject", Digest::of("subject").to_string()),
        _ => Reply::new(404),
    });
    let fake = fake.await;
    let subject = Descriptor::new(media_types::MANIFEST, Digest::of("subject"), 7);
    let manifest = signature(&subject, "x");
    let what = Descriptor::new(media_types::MANIFEST, Digest::of(&manifest), manifest.len() as u64);
    push(&client(), &format!("{}/a", fake.host), &what, manifest.as_bytes()).await.unwrap();
    let methods: Vec<_> = fake.seen().into_iter().map(|seen| seen.method).collect();
    assert_eq!(methods, ["HEAD", "PUT"]);
}
