// SPDX-License-Identifier: Apache-2.0
//! Images made on the spot, the same bytes every time.
//!
//! ```text
//! Image --pack--> Packed --push--> a registry
//!   layers: Tar     root: manifest or index     `--write_layout--> an OCI layout
//! ```

use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::tar::Tar;
use crate::{Context, Outcome};

/// The commands that the base image offers, as links to busybox.
const APPLETS: [&str; 26] = [
    "sh", "cat", "chmod", "cp", "dd", "df", "echo", "env", "false", "grep", "head", "hostname",
    "id", "ls", "mkdir", "mount", "ps", "rm", "seq", "sleep", "stat", "stty", "test", "touch",
    "true", "yes",
];

/// Bytes with their name.
#[derive(Debug, Clone)]
pub struct Blob {
    /// What they are.
    pub media_type: String,
    /// `sha256:<hex>` of the bytes.
    pub digest: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Names bytes by their digest.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        Self { media_type: media_type.to_owned(), digest: digest(&bytes), bytes }
    }

    /// Names a document by the digest of its text.
    pub fn json(media_type: &str, value: &Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    /// What refers to it.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.bytes.len() })
    }
}

/// The name of bytes in a content store.
pub fn digest(bytes: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{}", hex.concat())
}

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// What nearly every image has.
    Gzip,
    /// What newer ones have.
    Zstd,
}

/// The family of media types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OCI image spec 1.
    Oci,
    /// Docker's image manifest version 2, schema 2.
    Docker,
}

/// One layer of an image.
#[derive(Debug, Clone)]
pub struct Layer {
    tar: Vec<u8>,
    compression: Compression,
    cut: bool,
}

impl Layer {
    /// A layer of this archive, with gzip.
    pub fn new(tar: Tar) -> Self {
        Self { tar: tar.finish(), compression: Compression::Gzip, cut: false }
    }

    /// Compresses it otherwise.
    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Cuts the compressed bytes in half. Their digest is that of the half, so only whoever
    /// decompresses it can notice.
    #[must_use]
    pub fn truncated(mut self) -> Self {
        self.cut = true;
        self
    }

    /// One file of `size` bytes that no compressor makes smaller; `seed` makes it different.
    pub fn noise(path: &str, size: usize, seed: u64) -> Self {
        Self::new(Tar::new().file(path, 0o644, &noise(size, seed)))
    }

    /// One file of `size` bytes of text, which compresses as programs and documents do.
    pub fn text(path: &str, size: usize, seed: u64) -> Self {
        let mut text = Vec::with_capacity(size + 64);
        let mut state = seed | 1;
        while text.len() < size {
            state = step(state);
            let line = format!(
                "{:08x} the quick brown fox jumps over {:04x}\n",
                state as u32,
                state >> 48
            );
            text.extend_from_slice(line.as_bytes());
        }
        text.truncate(size);
        Self::new(Tar::new().file(path, 0o644, &text))
    }

    fn blob(&self, dialect: Dialect) -> Outcome<Blob> {
        let (bytes, suffix) = match self.compression {
            Compression::None => (self.tar.clone(), ""),
            Compression::Gzip => (gzip(&self.tar)?, "gzip"),
            Compression::Zstd => (zstd::encode_all(self.tar.as_slice(), 1)?, "zstd"),
        };
        let keep = if self.cut { bytes.len() / 2 } else { bytes.len() };
        Ok(Blob::new(&layer_type(dialect, suffix), bytes[..keep].to_vec()))
    }
}

fn layer_type(dialect: Dialect, suffix: &str) -> String {
    let (base, joint) = match dialect {
        Dialect::Oci => ("application/vnd.oci.image.layer.v1.tar", "+"),
        Dialect::Docker => ("application/vnd.docker.image.rootfs.diff.tar", "."),
    };
    if suffix.is_empty() { base.to_owned() } else { format!("{base}{joint}{suffix}") }
}

fn gzip(bytes: &[u8]) -> Outcome<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

pub(crate) fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = step(state);
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Marsaglia's xorshift64: enough for bytes that look random to a compressor.
pub(crate) fn step(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ (state << 17)
}

/// An image to be packed.
#[derive(Debug, Clone)]
pub struct Image {
    layers: Vec<Layer>,
    architecture: String,
    command: Vec<String>,
    dialect: Dialect,
}

impl Image {
    /// An image of these layers for the machine's own kind, in the OCI dialect.
    pub fn new(layers: Vec<Layer>) -> Self {
        let command = vec!["/bin/sh".to_owned()];
        Self { layers, architecture: host().to_owned(), command, dialect: Dialect::Oci }
    }

    /// One layer: busybox, the links to it and the two files that users are looked up in.
    pub fn busybox() -> Outcome<Self> {
        Ok(Self::new(vec![base()?.clone()]))
    }

    /// Three layers: busybox, files over it, and changes to those: one removed, one replaced, one
    /// linked, and a directory made opaque.
    pub fn three_layers() -> Outcome<Self> {
        let second = Tar::new()
            .dir("srv", 0o755)
            .file("srv/kept", 0o644, b"from the second layer\n")
            .file("srv/removed", 0o644, b"never to be seen\n")
            .file("srv/replaced", 0o644, b"old\n")
            .dir("srv/hidden", 0o755)
            .file("srv/hidden/old", 0o644, b"never to be seen\n");
        let third = Tar::new()
            .dir("srv", 0o755)
            .whiteout("srv/removed")
            .file("srv/replaced", 0o600, b"new\n")
            .dir("srv/hidden", 0o755)
            .opaque("srv/hidden")
            .file("srv/hidden/new", 0o644, b"from the third layer\n")
            .hardlink("srv/twin", "srv/replaced", 0o600)
            .symlink("srv/link", "kept");
        Ok(Self::busybox()?.with(Layer::new(second)).with(Layer::new(third)))
    }

    /// Puts a layer on top.
    #[must_use]
    pub fn with(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    /// Compresses every layer otherwise.
    #[must_use]
    pub fn compressed(mut self, compression: Compression) -> Self {
        self.layers = self.layers.into_iter().map(|layer| layer.compressed(compression)).collect();
        self
    }

    /// Says that it is for another kind of machine.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Names what runs when nobody says what to run.
    #[must_use]
    pub fn command(mut self, words: &[&str]) -> Self {
        self.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Writes it in another family of media types.
    #[must_use]
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// The archive of one layer, as it is before compression.
    pub fn archive(&self, layer: usize) -> Outcome<&[u8]> {
        Ok(&self.layers.get(layer).context("a layer of that number")?.tar)
    }

    /// Makes the blobs: layers, config and manifest.
    pub fn pack(&self) -> Outcome<Packed> {
        let (manifest_type, config_type, _) = types(self.dialect);
        let layers: Vec<Blob> =
            self.layers.iter().map(|layer| layer.blob(self.dialect)).collect::<Outcome<_>>()?;
        let config = Blob::json(config_type, &self.config());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": manifest_type,
            "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        let root = Blob::json(manifest_type, &manifest);
        let architecture = self.architecture.clone();
        let (manifests, configs) = (Vec::new(), Vec::new());
        Ok(Packed { root, manifests, config, layers, configs, architecture })
    }

    fn config(&self) -> Value {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(&layer.tar)).collect();
        json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": self.command,
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
    }
}

/// Media types of a manifest, a config and an index.
fn types(dialect: Dialect) -> (&'static str, &'static str, &'static str) {
    match dialect {
        Dialect::Oci => (
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.index.v1+json",
        ),
        Dialect::Docker => (
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.distribution.manifest.list.v2+json",
        ),
    }
}

/// The machine's architecture in the words of Go, which OCI took over.
pub fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn base() -> Outcome<&'static Layer> {
    static BASE: OnceLock<Layer> = OnceLock::new();
    if let Some(layer) = BASE.get() {
        return Ok(layer);
    }
    let busybox =
        fs_err::read("/bin/busybox").context("the base image is made of busybox-static")?;
    let mut tar = ["bin", "dev", "etc", "proc", "root", "sys", "var"]
        .into_iter()
        .fold(Tar::new(), |tar, dir| tar.dir(dir, 0o755))
        .dir("tmp", 0o1777)
        .file("bin/busybox", 0o755, &busybox)
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nweb:x:33:\n");
    for applet in APPLETS {
        tar = tar.symlink(&format!("bin/{applet}"), "busybox");
    }
    Ok(BASE.get_or_init(|| Layer::new(tar)))
}

/// An image as blobs, ready to be stored somewhere.
#[derive(Debug, Clone)]
pub struct Packed {
    /// What a tag points to: a manifest, or an index of manifests.
    pub root: Blob,
    /// The manifests of an index.
    pub manifests: Vec<Blob>,
    /// The config of the (first) image.
    pub config: Blob,
    /// Every layer.
    pub layers: Vec<Blob>,
    /// The configs of the other images of an index.
    configs: Vec<Blob>,
    architecture: String,
}

impl Packed {
    /// Joins images for several kinds of machines under one index.
    pub fn index(images: &[Image]) -> Outcome<(Self, Vec<Self>)> {
        let packed: Vec<Self> = images.iter().map(Image::pack).collect::<Outcome<_>>()?;
        let (_, _, index_type) = types(images.first().context("an index of nothing")?.dialect);
        let entries: Vec<Value> = packed.iter().map(Self::index_entry).collect();
        let value = json!({ "schemaVersion": 2, "mediaType": index_type, "manifests": entries });
        let first = packed.first().context("an index of nothing")?;
        let joined = Self {
            root: Blob::json(index_type, &value),
            manifests: packed.iter().map(|image| image.root.clone()).collect(),
            config: first.config.clone(),
            layers: packed.iter().flat_map(|image| image.layers.clone()).collect(),
            configs: packed.iter().skip(1).map(|image| image.config.clone()).collect(),
            architecture: first.architecture.clone(),
        };
        Ok((joined, packed))
    }

    fn index_entry(&self) -> Value {
        let mut entry = self.root.descriptor();
        entry["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        entry
    }

    /// Configs and layers: what a registry takes as blobs.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.configs).chain(&self.layers)
    }

    /// Bytes that travel when all of it is pulled.
    pub fn size(&self) -> usize {
        let manifests = std::iter::once(&self.root).chain(&self.manifests);
        manifests.chain(self.blobs()).map(|blob| blob.bytes.len()).sum()
    }

    /// Writes it as an OCI image layout (image-layout.md of the OCI image spec), named `tag`.
    pub fn write_layout(&self, dir: &Path, tag: &str) -> Outcome {
        let blobs = dir.join("blobs/sha256");
        fs_err::create_dir_all(&blobs)?;
        let manifests = std::iter::once(&self.root).chain(&self.manifests);
        for blob in manifests.chain(self.blobs()) {
            fs_err::write(blobs.join(blob.digest.trim_start_matches("sha256:")), &blob.bytes)?;
        }
        let mut entry = self.root.descriptor();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs_err::write(dir.join("index.json"), index.to_string())?;
        fs_err::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_image_has_the_same_digest_twice() -> Outcome {
        let image = Image::new(vec![Layer::text("a", 4096, 7), Layer::noise("b", 4096, 7)]);
        assert_eq!(image.pack()?.root.digest, image.pack()?.root.digest);
        Ok(())
    }

    #[test]
    fn noise_does_not_compress_and_text_does() -> Outcome {
        let size = 1 << 20;
        let travels = |layer: Layer| Ok::<_, crate::Failure>(layer.blob(Dialect::Oci)?.bytes.len());
        assert!(travels(Layer::noise("n", size, 1))? > size);
        assert!(travels(Layer::text("t", size, 1))? < size / 2);
        Ok(())
    }

    #[test]
    fn a_layout_names_its_image() -> Outcome {
        let dir = tempfile::tempdir()?;
        let packed = Image::new(vec![Layer::text("a", 10, 1)]).pack()?;
        packed.write_layout(dir.path(), "latest")?;
        let index = fs_err::read_to_string(dir.path().join("index.json"))?;
        assert!(index.contains(&packed.root.digest) && index.contains("latest"), "{index}");
        let blobs = fs_err::read_dir(dir.path().join("blobs/sha256"))?.count();
        assert_eq!(blobs, 3);
        Ok(())
    }

    #[test]
    fn each_dialect_names_its_own_layers() {
        assert_eq!(
            layer_type(Dialect::Docker, "gzip"),
            "application/vnd.docker.image.rootfs.diff.tar.gzip"
        );
        assert_eq!(layer_type(Dialect::Oci, "zstd"), "application/vnd.oci.image.layer.v1.tar+zstd");
    }
}
