// SPDX-License-Identifier: Apache-2.0
//! What a signature says, in each of the forms that it comes in.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use types::{Digest, Error, Kind, Result};

use crate::PublicKey;

/// A payload of Red Hat's simple signing, as cosign fills it in.
pub(crate) const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// A bundle of sigstore's, of any version (sigstore protobuf-specs `sigstore_bundle.proto`).
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// What says that a statement signs an image, and does not only tell something of it.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// The only type of a simple-signing payload that is one (cosign `specs/SIGNATURE_SPEC.md`).
const CRITICAL: &str = "cosign container image signature";

/// Whether a layer of this type holds a signature.
pub(crate) fn is_signature(media_type: &str) -> bool {
    media_type == SIMPLE || media_type.starts_with(BUNDLE)
}

/// Something signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// Bytes that name an image, and a signature over them.
    Message { signed: Vec<u8>, about: Digest, signature: Vec<u8> },
    /// A signature over the image's manifest itself.
    Direct { about: Digest, signature: Vec<u8> },
}

impl Statement {
    /// A simple-signing payload and its signature, in base64.
    pub(crate) fn simple(payload: &Bytes, signature: &str) -> Result<Self> {
        let Payload { critical } = serde_json::from_slice(payload).map_err(malformed)?;
        if critical.kind != CRITICAL {
            return Err(Error::invalid(format!("a signature of type {:?}", critical.kind)));
        }
        let (signed, signature) = (payload.to_vec(), decode(signature)?);
        Ok(Self::Message { signed, about: critical.image.digest, signature })
    }

    /// What a bundle says. That it names a key is only a hint, and not looked at.
    pub(crate) fn bundle(data: &[u8]) -> Result<Vec<Self>> {
        let bundle: Bundle = serde_json::from_slice(data).map_err(malformed)?;
        if let Some(envelope) = bundle.dsse_envelope {
            return envelope.statements();
        }
        let message = bundle.message_signature;
        let message = message.ok_or_else(|| Error::invalid("a bundle without a signature"))?;
        if message.message_digest.algorithm != "SHA2_256" {
            let algorithm = message.message_digest.algorithm;
            return Err(Error::invalid(format!("a signature over a digest by {algorithm}")));
        }
        let hex = hex(&decode(&message.message_digest.digest)?);
        let about = format!("sha256:{hex}").parse()?;
        Ok(vec![Self::Direct { about, signature: decode(&message.signature)? }])
    }

    /// Whether `key` says this of the image called `digest`.
    pub(crate) fn is_by(&self, key: &PublicKey, digest: &Digest) -> bool {
        match self {
            Self::Message { signed, about, signature } => {
                about == digest && key.verifies(signed, signature)
            }
            Self::Direct { about, signature } => {
                about == digest
                    && sha256(digest).is_some_and(|it| key.verifies_digest(&it, signature))
            }
        }
    }
}

/// The payload that signs an image (cosign `specs/SIGNATURE_SPEC.md`).
pub(crate) fn payload(reference: &str, image: &Digest) -> Result<Bytes> {
    let payload = serde_json::json!({
        "critical": {
            "identity": { "docker-reference": reference },
            "image": { "docker-manifest-digest": image.as_str() },
            "type": CRITICAL,
        },
        "optional": null,
    });
    let data = serde_json::to_vec(&payload);
    Ok(data.map_err(|e| Error::caused(Kind::Internal, "signature payload", e))?.into())
}

#[derive(Serialize, Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Serialize, Deserialize)]
struct Critical {
    image: Named,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Serialize, Deserialize)]
struct Named {
    #[serde(rename = "docker-manifest-digest")]
    digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Option<Envelope>,
    message_signature: Option<MessageSignature>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageSignature {
    message_digest: MessageDigest,
    signature: String,
}

#[derive(Deserialize)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Deserialize)]
struct EnvelopeSignature {
    sig: String,
}

/// An in-toto statement (in-toto attestation `spec/v1/statement.md`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InToto {
    subject: Vec<Subject>,
    predicate_type: String,
}

#[derive(Deserialize)]
struct Subject {
    digest: std::collections::BTreeMap<String, String>,
}

impl Envelope {
    fn statements(&self) -> Result<Vec<Statement>> {
        let payload = decode(&self.payload)?;
        let said: InToto = serde_json::from_slice(&payload).map_err(malformed)?;
        if self.payload_type != "application/vnd.in-toto+json" || said.predicate_type != SIGNED {
            let what = format!("a statement of type {:?} signs no image", said.predicate_type);
            return Err(Error::invalid(what));
        }
        let signed = encoded(&self.payload_type, &payload);
        let mut statements = Vec::new();
        for subject in &said.subject {
            let Some(hex) = subject.digest.get("sha256") else { continue };
            let about: Digest = format!("sha256:{hex}").parse()?;
            for EnvelopeSignature { sig } in &self.signatures {
                let (signed, about) = (signed.clone(), about.clone());
                statements.push(Statement::Message { signed, about, signature: decode(sig)? });
            }
        }
        Ok(statements)
    }
}

/// What an envelope's signature is over: type and payload with their lengths (DSSE `protocol.md`).
fn encoded(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut text = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    text.extend_from_slice(payload);
    text
}

fn sha256(digest: &Digest) -> Option<[u8; 32]> {
    let hex = digest.as_str().strip_prefix("sha256:")?;
    let mut bytes = [0; 32];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok()?;
    }
    Some(bytes)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all that is written");
        text
    })
}

fn decode(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(malformed)
}

fn malformed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::caused(Kind::InvalidArgument, "malformed signature", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_signed_with_its_lengths() {
        // The example of DSSE's `protocol.md`.
        let want = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world";
        assert_eq!(encoded("http://example.com/HelloWorld", b"hello world"), want);
    }

    #[test]
    fn what_only_tells_something_of_an_image_does_not_sign_it() {
        let text = r#"{"subject":[],"predicateType":"https://slsa.dev/provenance/v1"}"#;
        let bundle = serde_json::json!({"dsseEnvelope": {
            "payload": STANDARD.encode(text),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": "AAAA"}],
        }});
        let error = Statement::bundle(bundle.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains("signs no image"), "{error}");
    }

    #[test]
    fn a_payload_of_another_type_is_none() {
        let image = Digest::of("image");
        let good = payload("r.io/a", &image).unwrap();
        assert!(Statement::simple(&good, "AAAA").is_ok());
        let other = String::from_utf8_lossy(&good).replace(CRITICAL, "atomic container signature");
        assert!(Statement::simple(&Bytes::from(other.into_bytes()), "AAAA").is_err());
    }
}
