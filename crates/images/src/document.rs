// SPDX-License-Identifier: Apache-2.0
use std::collections::BTreeMap;

use content::{Store, blob};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value;
use types::{Context, Descriptor, Digest, Error, Kind, Labels, Platform, Result, media_types};

/// The longest that an index, a manifest or a config may be, in bytes. Registries take manifests of up
/// to 4 MiB (OCI distribution spec, "Pushing Manifests").
pub const MAX_SIZE: u64 = 8 << 20;

/// A list of manifests, one for each platform (OCI image spec, image-index.md), or Docker's manifest
/// list, which is the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    #[serde(default)]
    pub schema_version: u32,
    /// What it says that it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The type of the artifact, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Manifests, and further indexes.
    #[serde(default, deserialize_with = "nullable")]
    pub manifests: Vec<Descriptor>,
    /// What it is about, when it was added to another manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// What its maker says of it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
}

/// What one image is made of (OCI image spec, manifest.md; Docker image manifest v2.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    #[serde(default)]
    pub schema_version: u32,
    /// What it says that it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The type of the artifact, when it is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// How it is run.
    pub config: Descriptor,
    /// Its filesystem, lowest layer first.
    #[serde(default, deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    /// What it is about, when it was added to another manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// What its maker says of it.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Labels::is_empty")]
    pub annotations: Labels,
}

/// How an image is run (OCI image spec, config.md).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Config {
    /// What it runs on, as written: not normalised.
    #[serde(flatten)]
    pub platform: Platform,
    /// When it was made, in RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// What its containers are to be like.
    #[serde(default, rename = "config", deserialize_with = "nullable")]
    pub run: Run,
    /// Its root filesystem.
    #[serde(default, rename = "rootfs", deserialize_with = "nullable")]
    pub root_fs: RootFs,
}

/// What an image asks of its containers (OCI image spec, config.md, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Run {
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(default, deserialize_with = "nullable")]
    pub user: String,
    /// `port/protocol`, with empty values.
    #[serde(default, deserialize_with = "names")]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The command's fixed part.
    #[serde(default, deserialize_with = "nullable")]
    pub entrypoint: Vec<String>,
    /// The command's part that a user replaces.
    #[serde(default, deserialize_with = "nullable")]
    pub cmd: Vec<String>,
    /// Directories that want to be volumes.
    #[serde(default, deserialize_with = "names")]
    pub volumes: Vec<String>,
    /// Where the command starts.
    #[serde(default, deserialize_with = "nullable")]
    pub working_dir: String,
    /// What its maker says of it. They come from a stranger: see [`crate::labels::of_container`].
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
    /// The signal that ends it: `SIGTERM`.
    #[serde(default, deserialize_with = "nullable")]
    pub stop_signal: String,
}

/// Which layers a root filesystem consists of (OCI image spec, config.md, `rootfs`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// `layers`.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// The digests of the layers' uncompressed archives, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// A document with children.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An index or a manifest list.
    Index(Box<Index>),
    /// A manifest.
    Manifest(Box<Manifest>),
}

impl Document {
    /// Reads `data` as what `descriptor` says it is; `None` for what has no children that we know of.
    ///
    /// Errors: `InvalidArgument` when it is no such document, or could be taken for another one.
    pub fn parse(descriptor: &Descriptor, data: &[u8]) -> Result<Option<Self>> {
        let media_type = descriptor.media_type.as_str();
        let is_manifest = media_types::is_manifest(media_type);
        if !is_manifest && !media_types::is_index(media_type) {
            return Ok(None);
        }
        let invalid = || format!("invalid desc {}", descriptor.digest);
        Shape::read(data).and_then(|shape| shape.check(media_type)).context(invalid)?;
        Ok(Some(if is_manifest {
            Self::Manifest(json(data).context(invalid)?)
        } else {
            Self::Index(json(data).context(invalid)?)
        }))
    }

    /// What it refers to: a config first, then layers in their order; or manifests in theirs.
    pub fn children(&self) -> Vec<Descriptor> {
        match self {
            Self::Index(index) => index.manifests.clone(),
            Self::Manifest(manifest) => {
                [std::slice::from_ref(&manifest.config), &manifest.layers].concat()
            }
        }
    }
}

/// Reads the config that a manifest names.
pub async fn read_config(store: &(impl Store + ?Sized), config: &Descriptor) -> Result<Config> {
    let data = blob::read(store, &config.digest, MAX_SIZE).await?;
    json(&data).context(|| format!("config {}", config.digest))
}

/// The parts that tell documents apart (containerd `core/images/image.go`, `validateMediaType`).
///
/// A document with the parts of both a manifest and an index would be one thing to whoever checked it
/// and another to us (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    #[serde(default, deserialize_with = "nullable")]
    media_type: String,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

impl Shape {
    fn read(data: &[u8]) -> Result<Self> {
        json(data)
    }

    fn check(&self, media_type: &str) -> Result<()> {
        let refused = |why: String| Err(Error::said(Kind::InvalidArgument, why));
        let is_index = self.manifests.is_some() || media_types::is_index(&self.media_type);
        let is_manifest = self.config.is_some()
            || self.layers.is_some()
            || media_types::is_manifest(&self.media_type);
        if self.fs_layers.is_some() {
            return refused("media-type: schema 1 not supported".to_owned());
        }
        let (wanted, found, is_wrong) = if media_types::is_manifest(media_type) {
            ("manifest", "index", is_index)
        } else {
            ("index", "manifest", is_manifest)
        };
        if is_wrong {
            return refused(format!(
                "media-type: expected {wanted} but found {found} ({media_type})"
            ));
        }
        Ok(())
    }
}

/// Writes a document as Go does, byte for byte: documents are named by their digests.
///
/// Go escapes what could be taken for HTML (`encoding/json`, `Marshal`). These characters are only
/// found in texts, and so may be replaced wherever they are.
pub(crate) fn to_json(document: &impl Serialize) -> Result<Vec<u8>> {
    let text = serde_json::to_string(document)
        .map_err(|error| Error::caused(Kind::Internal, "write JSON", error))?;
    let pairs = [
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("&", "\\u0026"),
        ("\u{2028}", "\\u2028"),
        ("\u{2029}", "\\u2029"),
    ];
    let text = pairs.into_iter().fold(text, |text, (plain, escaped)| text.replace(plain, escaped));
    Ok(text.into_bytes())
}

fn json<T: DeserializeOwned>(data: &[u8]) -> Result<T> {
    serde_json::from_slice(data).map_err(|error| Error::caused(Kind::InvalidArgument, "", error))
}

/// Reads `null` as nothing: Go writes it for empty lists and maps.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads the keys of a map whose values say nothing.
fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, Value>> = Option::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(media_type: &str, document: &Value) -> Result<Option<Document>> {
        let data = document.to_string();
        let descriptor = Descriptor::new(media_type, Digest::of(&data), data.len() as u64);
        Document::parse(&descriptor, data.as_bytes())
    }

    fn a_descriptor(media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": Digest::of(media_type), "size": 3 })
    }

    #[track_caller]
    fn refused(media_type: &str, document: &Value, why: &str) {
        let error = parse(media_type, document).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().ends_with(why), "{error}");
    }

    #[test]
    fn a_document_is_what_its_descriptor_says() {
        let config = a_descriptor(media_types::DOCKER_CONFIG);
        let layer = a_descriptor(media_types::DOCKER_LAYER_GZIP);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
        let Some(Document::Manifest(read)) =
            parse(media_types::DOCKER_MANIFEST, &manifest).unwrap()
        else {
            panic!("a manifest")
        };
        assert_eq!(read.layers.len(), 1);
        assert!(parse(media_types::LAYER, &manifest).unwrap().is_none());
        let index = json!({ "manifests": [a_descriptor(media_types::MANIFEST)] });
        let index = parse(media_types::DOCKER_LIST, &index).unwrap().unwrap();
        assert_eq!(index.children()[0].media_type, media_types::MANIFEST);
    }

    #[test]
    fn a_document_that_could_be_another_is_refused() {
        let config = a_descriptor(media_types::CONFIG);
        let both = json!({ "config": config, "layers": [], "manifests": [] });
        let why =
            format!("media-type: expected manifest but found index ({})", media_types::MANIFEST);
        refused(media_types::MANIFEST, &both, &why);
        let why = format!("media-type: expected index but found manifest ({})", media_types::INDEX);
        refused(media_types::INDEX, &both, &why);
        let liar = json!({ "mediaType": media_types::INDEX, "config": config });
        refused(media_types::MANIFEST, &liar, "(application/vnd.oci.image.manifest.v1+json)");
    }

    #[test]
    fn schema_1_is_refused_by_name() {
        let old = json!({ "schemaVersion": 1, "fsLayers": [{ "blobSum": "x" }] });
        refused(media_types::DOCKER_MANIFEST, &old, "media-type: schema 1 not supported");
    }

    #[test]
    fn null_is_nothing_as_go_writes_it() {
        let config: Config = serde_json::from_value(json!({
            "architecture": "amd64", "os": "linux",
            "config": { "Env": null, "Volumes": null, "Labels": null, "Cmd": ["sh"],
                        "ExposedPorts": { "80/tcp": {} } },
            "rootfs": { "type": "layers", "diff_ids": null },
        }))
        .unwrap();
        assert_eq!(config.platform, Platform::new("linux", "amd64", ""));
        assert_eq!((config.run.cmd.len(), config.run.exposed_ports.len()), (1, 1));
        assert!(config.run.env.is_empty() && config.root_fs.diff_ids.is_empty());
        assert_eq!(json::<Config>(b"{}").unwrap(), Config::default());
    }
}
