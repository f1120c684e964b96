// SPDX-License-Identifier: Apache-2.0
//! A blob changed by hand, and labels taken off all blobs.
use std::ffi::OsStr;

use ::content::{Info, Store};
use clap::Args;
use futures_util::TryStreamExt as _;
use records::Delete;
use types::{Context as _, Digest, Error, FieldMask, Filters, Kind, Labels, Result};

use crate::{connection::Connection, output::say};

/// The longest blob that is edited.
const MAX_SIZE: u64 = 64 << 20;

/// Edit a blob and store the outcome as another.
#[derive(Debug, Args)]
#[command(after_help = "The blob itself stays as it is: blobs are named by what they contain.")]
pub(crate) struct Edit {
    /// Fail unless the outcome is of this format
    #[arg(long, value_name = "FORMAT", value_parser = ["json"])]
    validate: Option<String>,
    /// What to edit with
    #[arg(long, value_name = "PROGRAM", env = "EDITOR", default_value = "vi")]
    editor: String,
    /// Its digest
    digest: Digest,
}

impl Edit {
    pub(crate) async fn run(self, store: &dyn Store) -> Result<()> {
        let data = ::content::blob::read(store, &self.digest, MAX_SIZE).await?;
        let file = Scratch::new(&data)?;
        self.call_editor(&file)?;
        let edited = fs_err::read(&file.0)?;
        if self.validate.is_some() {
            let checked: Result<serde_json::Value, _> = serde_json::from_slice(&edited);
            checked.map_err(|error| Error::caused(Kind::InvalidArgument, "not JSON", error))?;
        }
        let reference = format!("edit-{}", self.digest);
        let labels = Labels::new();
        let digest =
            ::content::blob::write(store, &reference, Default::default(), edited, labels).await?;
        say!("{digest}");
        Ok(())
    }

    /// The editor may come with flags, so a shell takes its line apart, as other programs do.
    fn call_editor(&self, file: &Scratch) -> Result<()> {
        let line = format!("{} \"$1\"", self.editor);
        let words: [&OsStr; 4] = ["-c".as_ref(), line.as_ref(), "sh".as_ref(), file.0.as_ref()];
        let status =
            sys::Command::new("/bin/sh").args(words).spawn().and_then(|mut editor| editor.wait());
        let status = status.map_err(Error::from).context(|| self.editor.clone())?;
        if !status.success() {
            let what = format!("{} ended with {status}: nothing was stored", self.editor);
            return Err(Error::said(Kind::Aborted, what));
        }
        Ok(())
    }
}

/// A file that only we may read, and that goes when we are done.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(data: &[u8]) -> Result<Self> {
        use fs_err::os::unix::fs::OpenOptionsExt as _;
        use std::{
            hash::{BuildHasher as _, Hasher as _, RandomState},
            io::Write as _,
        };
        let random = RandomState::new().build_hasher().finish();
        let path = std::env::temp_dir().join(format!("ctr-edit-{random:016x}"));
        let mut options = fs_err::OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = options.open(&path)?;
        let scratch = Self(path);
        file.write_all(data)?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is in a folder that is cleaned by others, too.
        drop(fs_err::remove_file(&self.0));
    }
}

/// Take off the labels by which manifests keep their layers.
#[derive(Debug, Args)]
#[command(
    after_help = "Layers that nothing else keeps are collected then. Images that are unpacked \
                        still run, but cannot be pushed any more."
)]
pub(crate) struct PruneReferences {
    /// Do not wait for the collection
    #[arg(long = "async")]
    is_async: bool,
    /// Only say what would be done
    #[arg(long)]
    dry: bool,
}

impl PruneReferences {
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.client().await?;
        let blobs: Vec<Info> = client.content.walk(Filters::default()).try_collect().await?;
        for info in blobs {
            let keys: Vec<_> = info.labels.keys().filter(|key| keeps_layer(key)).cloned().collect();
            for key in &keys {
                say!("{} {key}", info.digest);
            }
            if self.dry || keys.is_empty() {
                continue;
            }
            let mask = FieldMask::new(keys.iter().map(|key| format!("labels.{key}")));
            let mut labels = info.labels.clone();
            labels.retain(|key, _| !keys.contains(key));
            client.content.update(Info { labels, ..info }, &mask).await?;
        }
        if self.dry || self.is_async {
            return Ok(());
        }
        // Deleting a lease is the one request that does nothing but collect.
        let now = std::time::SystemTime::now();
        let id = format!("prune-{}", crate::units::time(now));
        let lease = records::Lease { id: id.clone(), created_at: now, labels: Labels::new() };
        client.leases.create(lease).await?;
        client.leases.delete(&id, Delete { sync: true, target: None }).await
    }
}

/// Whether this label keeps a layer. Old containerd counted all children, with the config being 0
/// (containerd `cmd/ctr/commands/content/prune.go`, `isLayerLabel`).
fn keeps_layer(key: &str) -> bool {
    let Some(rest) = key.strip_prefix("containerd.io/gc.ref.content.") else { return false };
    let is_number = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit());
    rest.starts_with("l.") || is_number && rest != "0"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_layers_are_let_go() {
        for (end, want) in [
            ("content.l.0", true),
            ("content.3", true),
            ("content.0", false),
            ("content.config", false),
            ("content.m.1", false),
            ("snapshot.overlayfs", false),
        ] {
            assert_eq!(keeps_layer(&format!("containerd.io/gc.ref.{end}")), want, "{end}");
        }
    }

    #[test]
    fn a_scratch_file_is_private_and_goes() {
        use std::os::unix::fs::PermissionsExt as _;
        let scratch = Scratch::new(b"x").unwrap();
        let path = scratch.0.clone();
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(scratch);
        assert!(!path.exists());
    }
}
