// SPDX-License-Identifier: Apache-2.0
//! A manifest whose layers are signatures: as cosign keeps them under a tag beside the image, and as
//! referrers of it (cosign `specs/SIGNATURE_SPEC.md`; OCI image spec, manifest.md, `subject`).
use bytes::{Bytes, BytesMut};
use content::Fetch;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use types::{Descriptor, Digest, Error, Hasher, Kind, Labels, Result, media_types};

use crate::{
    PrivateKey, PublicKey,
    bundle::{self, SIMPLE, Statement},
};

/// The longest that any part of a signature may be, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// How many manifests are looked at, and how many layers of each: a stranger may have put them there.
const MAX_COUNT: usize = 64;
/// Where the signature over a simple-signing layer is.
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// What a signature is as a referrer (cosign `pkg/oci/remote`, OCI 1.1).
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// The tag under which cosign keeps the signatures of `image`: `sha256-<hex>.sig`.
pub fn tag(image: &Digest) -> String {
    format!("{}.sig", image.as_str().replacen(':', "-", 1))
}

/// Signatures, with the manifest that lists them and all that it refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The manifest.
    pub manifest: Descriptor,
    /// Its bytes.
    pub data: Bytes,
    /// Its config and its layers, as far as they are signatures.
    pub parts: Vec<(Descriptor, Bytes)>,
    layers: Vec<Descriptor>,
    statements: Vec<Statement>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    config: Descriptor,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<Descriptor>,
}

impl Evidence {
    /// Signs `image`, which is called `reference`. That name is a remark: nothing is decided by it.
    pub fn sign(key: &PrivateKey, reference: &str, image: &Digest) -> Result<Self> {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let payload = bundle::payload(reference, image)?;
        let signature = STANDARD.encode(key.sign(&payload)?);
        let mut layer = describe(SIMPLE, &payload);
        layer.annotations = Labels::from([(SIGNATURE.to_owned(), signature)]);
        Self::build(vec![layer.clone()], vec![(layer, payload)], None)
    }

    /// These signatures and those of `older`, under one manifest, as a tag has only one.
    pub fn joined(&self, older: &Self) -> Result<Self> {
        let is_simple = |layer: &&Descriptor| layer.media_type == SIMPLE;
        let mut layers: Vec<_> = older.layers.iter().filter(is_simple).cloned().collect();
        layers.extend(self.layers.iter().filter(|it| !older.layers.contains(it)).cloned());
        let all = older.parts.iter().chain(&self.parts).cloned();
        let parts = all.filter(|(part, _)| part.media_type == SIMPLE).collect();
        Self::build(layers, parts, None)
    }

    /// The same signatures as a referrer of `image`.
    pub fn referring_to(&self, image: &Descriptor) -> Result<Self> {
        let Descriptor { media_type, digest, size, .. } = image;
        let subject = Descriptor::new(media_type.clone(), digest.clone(), *size);
        let simple = self.parts.iter().filter(|(part, _)| part.media_type == SIMPLE);
        Self::build(self.layers.clone(), simple.cloned().collect(), Some(subject))
    }

    fn build(
        layers: Vec<Descriptor>,
        mut parts: Vec<(Descriptor, Bytes)>,
        subject: Option<Descriptor>,
    ) -> Result<Self> {
        let config = encode(&serde_json::json!({
            "architecture": "", "os": "", "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|it| it.digest.as_str()).collect::<Vec<_>>(),
            },
        }))?;
        let artifact_type = subject.as_ref().map(|_| ARTIFACT.to_owned());
        let kind = artifact_type.as_deref().unwrap_or(media_types::CONFIG);
        let (schema_version, media_type) = (2, media_types::MANIFEST.to_owned());
        let described = describe(kind, &config);
        parts.push((described.clone(), config));
        let manifest = Manifest {
            schema_version,
            media_type,
            artifact_type,
            config: described,
            layers,
            subject,
        };
        let data = encode(&manifest)?;
        Self::of(describe(media_types::MANIFEST, &data), data, parts)
    }

    /// What a manifest and its parts say.
    fn of(manifest: Descriptor, data: Bytes, parts: Vec<(Descriptor, Bytes)>) -> Result<Self> {
        let layers = parse(&data)?.layers;
        let mut statements = Vec::new();
        for layer in &layers {
            let found = parts.iter().find(|(part, _)| part.digest == layer.digest);
            let Some((_, data)) = found else { continue };
            // One that makes no sense does not spoil the others.
            match said(layer, data) {
                Ok(more) => statements.extend(more),
                Err(error) => tracing::debug!(digest = %layer.digest, %error, "no signature"),
            }
        }
        Ok(Self { manifest, data, parts, layers, statements })
    }

    /// Reads what `manifest` lists, from a store or a registry. What holds no signature is `None`.
    ///
    /// Errors: those of `fetch`; `DataLoss` when something is not what it is called.
    pub async fn read(fetch: &dyn Fetch, manifest: &Descriptor) -> Result<Option<Self>> {
        if !media_types::is_manifest(&manifest.media_type) {
            return Ok(None);
        }
        let data = whole(fetch, manifest).await?;
        let Manifest { config, layers, .. } = parse(&data)?;
        let layers: Vec<_> =
            layers.into_iter().filter(|it| bundle::is_signature(&it.media_type)).collect();
        if layers.is_empty() {
            return Ok(None);
        }
        let mut parts: Vec<(Descriptor, Bytes)> = Vec::new();
        for part in layers.into_iter().take(MAX_COUNT).chain([config]) {
            if parts.iter().all(|(known, _)| known.digest != part.digest) {
                let data = whole(fetch, &part).await?;
                parts.push((part, data));
            }
        }
        Self::of(manifest.clone(), data, parts).map(Some)
    }

    /// Whether one of these is `key`'s signature of `image`.
    pub fn is_by(&self, key: &PublicKey, image: &Digest) -> bool {
        self.statements.iter().any(|statement| statement.is_by(key, image))
    }

    /// How many signatures there are, whosever.
    pub fn count(&self) -> usize {
        self.statements.len()
    }
}

/// Reads the signatures that `candidates` may be. One that cannot be read is passed over: whoever can
/// put something beside an image must not be able to hide the rest.
pub async fn gather(fetch: &dyn Fetch, candidates: &[Descriptor]) -> Vec<Evidence> {
    let mut found = Vec::new();
    for candidate in candidates.iter().take(MAX_COUNT) {
        match Evidence::read(fetch, candidate).await {
            Ok(evidence) => found.extend(evidence),
            Err(error) => {
                tracing::debug!(digest = %candidate.digest, %error, "a signature cannot be read");
            }
        }
    }
    found
}

fn said(layer: &Descriptor, data: &Bytes) -> Result<Vec<Statement>> {
    if layer.media_type != SIMPLE {
        return Statement::bundle(data);
    }
    let signature = layer.annotations.get(SIGNATURE);
    let signature = signature.ok_or_else(|| Error::invalid("a payload without a signature"))?;
    Ok(vec![Statement::simple(data, signature)?])
}

/// All of a small blob, which is what it is called.
async fn whole(fetch: &dyn Fetch, wanted: &Descriptor) -> Result<Bytes> {
    let Descriptor { digest, size, .. } = wanted;
    let too_long = || Error::invalid(format!("{digest} is too long for a signature"));
    if *size > MAX_SIZE {
        return Err(too_long());
    }
    let mut data = BytesMut::new();
    let mut pieces = fetch.fetch(wanted, 0).await?;
    while let Some(piece) = pieces.next().await {
        data.extend_from_slice(&piece?);
        if data.len() as u64 > MAX_SIZE {
            return Err(too_long());
        }
    }
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&data);
    match hasher.finish() {
        actual if actual == *digest => Ok(data.freeze()),
        actual => Err(Error::new(Kind::DataLoss, format!("{digest} came as {actual}"))),
    }
}

fn parse(data: &[u8]) -> Result<Manifest> {
    serde_json::from_slice(data)
        .map_err(|e| Error::caused(Kind::InvalidArgument, "malformed signature manifest", e))
}

fn encode(value: &impl Serialize) -> Result<Bytes> {
    let data = serde_json::to_vec(value);
    Ok(data.map_err(|e| Error::caused(Kind::Internal, "signature manifest", e))?.into())
}

fn describe(media_type: &str, data: &Bytes) -> Descriptor {
    Descriptor::new(media_type, Digest::of(data), data.len() as u64)
}
