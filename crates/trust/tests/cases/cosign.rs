// SPDX-License-Identifier: Apache-2.0
//! What cosign 2.5 and 3.1 wrote: keys, a signature tag with a signature by each of two keys, and
//! bundles. All of it is of one image, but for the message, which is `hello`.
use std::path::Path;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use content::Fetch;
use futures_util::{StreamExt as _, stream::BoxStream};
use trust::{Evidence, PrivateKey, PublicKey, signers};
use types::{Descriptor, Digest, Error, Result, media_types};

const IMAGE: &str = "sha256:06264063f7b0a4987c389f6d2fdcd749a35ae57232e5dc4975dae316c0dccd65";

fn text(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cosign");
    fs_err::read_to_string(folder.join(name)).unwrap()
}

fn key(name: &str) -> PublicKey {
    PublicKey::from_pem(&text(name)).unwrap()
}

/// Files by what is in them.
struct Files(Vec<Bytes>);

#[async_trait]
impl Fetch for Files {
    async fn fetch(
        &self,
        descriptor: &Descriptor,
        _offset: u64,
    ) -> Result<BoxStream<'static, Result<Bytes>>> {
        let found = self.0.iter().find(|it| Digest::of(it) == descriptor.digest).cloned();
        let found = found.ok_or_else(|| Error::not_found(descriptor.digest.to_string()))?;
        Ok(futures_util::stream::iter([Ok(found)]).boxed())
    }
}

async fn read(manifest: &str, others: &[Bytes]) -> Evidence {
    let data = Bytes::from(manifest.to_owned());
    let described = Descriptor::new(media_types::MANIFEST, Digest::of(&data), data.len() as u64);
    let files = Files([&[data], others].concat());
    Evidence::read(&files, &described).await.unwrap().expect("signatures")
}

/// A manifest as cosign makes it around a bundle.
async fn bundle(data: &str) -> Evidence {
    let data = Bytes::from(data.to_owned());
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": Descriptor::new("application/vnd.oci.empty.v1+json", Digest::of("{}"), 2),
        "layers": [Descriptor::new(
            "application/vnd.dev.sigstore.bundle.v0.3+json", Digest::of(&data), data.len() as u64,
        )],
    });
    read(&manifest.to_string(), &[data, Bytes::from_static(b"{}")]).await
}

#[test]
fn a_private_key_is_opened_by_its_password_only() {
    for (sealed, public) in [("cosign.key", "cosign.pub"), ("ed.key", "ed.pub")] {
        assert!(PrivateKey::is_sealed(&text(sealed)));
        let opened = PrivateKey::from_pem(&text(sealed), b"secret").unwrap();
        assert_eq!(opened.public(), key(public));
        assert_eq!(opened.public().to_pem(), text(public));
        let signature = opened.sign(b"message").unwrap();
        assert!(key(public).verifies(b"message", &signature));
        assert!(!key(public).verifies(b"another", &signature));
    }
    let error = PrivateKey::from_pem(&text("cosign.key"), b"guess").unwrap_err();
    assert_eq!(error.kind(), types::Kind::PermissionDenied);
}

#[tokio::test]
async fn a_tag_holds_the_signatures_of_two_keys() {
    let parts = [Bytes::from(text("payload.json")), Bytes::from(text("config.json"))];
    let found = [read(&text("tag.json"), &parts).await];
    let (ecdsa, edwards) = (key("cosign.pub"), key("ed.pub"));
    let stranger = PrivateKey::generate().unwrap().public();
    let keys = [("ecdsa", &ecdsa), ("again", &ecdsa), ("stranger", &stranger), ("ed", &edwards)];
    let image: Digest = IMAGE.parse().unwrap();
    assert_eq!(signers(&found, &image, keys), ["ecdsa", "ed"]);
    assert_eq!(signers(&found, &Digest::of("another"), keys), [""; 0]);
}

#[tokio::test]
async fn a_bundle_is_believed_for_what_is_signed_in_it() {
    let image: Digest = IMAGE.parse().unwrap();
    let (ecdsa, edwards) = (key("cosign.pub"), key("ed.pub"));
    let one = bundle(&text("bundle-ecdsa.json")).await;
    let two = bundle(&text("bundle-ed25519.json")).await;
    assert!(one.is_by(&ecdsa, &image) && !one.is_by(&edwards, &image));
    assert!(two.is_by(&edwards, &image) && !two.is_by(&ecdsa, &image));
    let bundled: serde_json::Value = serde_json::from_str(&text("bundle-ecdsa.json")).unwrap();
    assert_eq!(bundled["verificationMaterial"]["publicKey"]["hint"], ecdsa.hint());
    // The signature is over all of the statement: another image in it is not signed.
    let payload = bundled["dsseEnvelope"]["payload"].as_str().unwrap();
    let said = String::from_utf8(STANDARD.decode(payload).unwrap()).unwrap();
    let other = Digest::of("another");
    let forged = STANDARD.encode(said.replace(image.hex(), other.hex()));
    let forged = bundle(&text("bundle-ecdsa.json").replace(payload, &forged)).await;
    assert!(!forged.is_by(&ecdsa, &other) && !forged.is_by(&ecdsa, &image));
}

#[tokio::test]
async fn a_bundle_may_sign_the_manifest_itself() {
    let message = bundle(&text("message.json")).await;
    assert!(message.is_by(&key("cosign.pub"), &Digest::of("hello")));
    assert!(!message.is_by(&key("cosign.pub"), &Digest::of("hullo")));
    assert!(!message.is_by(&key("ed.pub"), &Digest::of("hello")));
}

#[tokio::test]
async fn a_part_that_is_not_what_it_is_called_is_refused() {
    struct Liar;
    #[async_trait]
    impl Fetch for Liar {
        async fn fetch(
            &self,
            descriptor: &Descriptor,
            _offset: u64,
        ) -> Result<BoxStream<'static, Result<Bytes>>> {
            let data = vec![b' '; descriptor.size as usize];
            Ok(futures_util::stream::iter([Ok(Bytes::from(data))]).boxed())
        }
    }
    let wanted = Descriptor::new(media_types::MANIFEST, Digest::of("{}"), 2);
    let error = Evidence::read(&Liar, &wanted).await.unwrap_err();
    assert_eq!(error.kind(), types::Kind::DataLoss);
}
