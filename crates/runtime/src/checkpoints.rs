// SPDX-License-Identifier: Apache-2.0
//! Where checkpoints come from and go to: a directory for the runtime, blobs for everybody else.
use std::path::{Path, PathBuf};

use api::containerd::runc::v1::{CheckpointOptions, Options};
use async_trait::async_trait;
use bytes::Bytes;
use prost::{Message, Name};
use types::{Any, Descriptor, Error, Kind, Result};

/// Keeps checkpoints as content. Runtimes know of no content: somebody above brings the two together.
#[async_trait]
pub trait Checkpoints: Send + Sync + 'static {
    /// Keeps what a runtime has written to `directory`, and the spec of the container that it was,
    /// an encoded `google.protobuf.Any`; returns how to find them again: the image first.
    async fn keep(&self, directory: &Path, spec: Bytes) -> Result<Vec<Descriptor>>;

    /// Unpacks a kept image to an empty `directory`.
    ///
    /// Errors: `InvalidArgument` when it is no checkpoint.
    async fn unpack(&self, checkpoint: &Descriptor, directory: &Path) -> Result<()>;
}

/// No place for checkpoints: what stands for a sandbox is never written down by itself.
pub(crate) struct Nowhere;

#[async_trait]
impl Checkpoints for Nowhere {
    async fn keep(&self, _: &Path, _: Bytes) -> Result<Vec<Descriptor>> {
        Err(Error::unimplemented("checkpoint of a sandbox"))
    }

    async fn unpack(&self, _: &Descriptor, _: &Path) -> Result<()> {
        Err(Error::unimplemented("restore of a sandbox"))
    }
}

/// A directory for one checkpoint, which goes when this does.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes one in the work directory of `bundle`, which is on a disk and not in memory.
    pub(crate) fn make(work: &Path) -> Result<Self> {
        let path = work.join("checkpoint");
        match fs_err::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => fs_err::create_dir_all(&path)?,
        }
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs_err::remove_dir_all(&self.0) {
            tracing::warn!(%error, "failed to remove a checkpoint");
        }
    }
}

/// The directory that options of runc's checkpoint name, if they name one: then nothing is kept as
/// content (containerd `plugins/services/tasks/local.go`, `getCheckpointPath`).
///
/// Errors: `Unknown`, as in Go, for options of another type.
pub(crate) fn given_path(runtime: &str, options: Option<&Any>) -> Result<Option<PathBuf>> {
    let Some(any) = options else { return Ok(None) };
    if !any.is(&CheckpointOptions::full_name()) {
        let message = format!("invalid task checkpoint option for {runtime}");
        return Err(Error::said(Kind::Unknown, message));
    }
    let options = CheckpointOptions::decode(any.value.clone())
        .map_err(|e| Error::caused(Kind::InvalidArgument, "checkpoint options", e))?;
    Ok(Some(options.image_path).filter(|path| !path.is_empty()).map(PathBuf::from))
}

/// The directory to restore from that options of runc name, if they name one.
pub(crate) fn restored_path(options: Option<&Any>) -> Option<PathBuf> {
    let any = options.filter(|any| any.is(&Options::full_name()))?;
    let path = Options::decode(any.value.clone()).ok()?.criu_image_path;
    Some(path).filter(|path| !path.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any<M: Message + Name>(message: &M) -> Any {
        let packed = api::pack(message);
        Any::new(packed.type_url, packed.value)
    }

    #[test]
    fn a_path_in_the_options_is_where_a_checkpoint_goes() {
        let options = CheckpointOptions { image_path: "/c".into(), ..Default::default() };
        let given = given_path("r", Some(&any(&options))).unwrap();
        assert_eq!(given.as_deref(), Some(Path::new("/c")));
        let none = any(&CheckpointOptions::default());
        assert_eq!(given_path("r", Some(&none)).unwrap(), None);
        assert_eq!(given_path("r", None).unwrap(), None);
    }

    #[test]
    fn options_of_another_type_are_refused() {
        let refused = given_path("io.x.v1", Some(&any(&Options::default()))).unwrap_err();
        assert_eq!(refused.to_string(), "invalid task checkpoint option for io.x.v1");
    }

    #[test]
    fn a_path_in_the_options_is_where_a_task_is_restored_from() {
        let options = Options { criu_image_path: "/c".into(), ..Default::default() };
        assert_eq!(restored_path(Some(&any(&options))).as_deref(), Some(Path::new("/c")));
        assert_eq!(restored_path(Some(&any(&Options::default()))), None);
        assert_eq!(restored_path(Some(&any(&CheckpointOptions::default()))), None);
    }

    #[test]
    fn a_scratch_is_empty_and_goes() {
        let work = tempfile::tempdir().unwrap();
        fs_err::create_dir(work.path().join("checkpoint")).unwrap();
        fs_err::write(work.path().join("checkpoint/old"), "x").unwrap();
        let scratch = Scratch::make(work.path()).unwrap();
        assert_eq!(fs_err::read_dir(scratch.path()).unwrap().count(), 0);
        drop(scratch);
        assert!(!work.path().join("checkpoint").exists());
    }
}
