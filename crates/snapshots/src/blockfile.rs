// SPDX-License-Identifier: Apache-2.0
use std::path::{Path, PathBuf};

use fs_err as fs;
use mount::Mount;
use sys::failpoint;
use types::{Context, Error, Result};

use crate::{Driver, Kind, Layered, Layers, Usage, tree};

/// Keeps each snapshot as a filesystem of its own, in a file.
///
/// ```text
/// <root>/scratch            an empty filesystem, which every snapshot without a parent begins as
/// <root>/snapshots/<id>     the filesystem of a snapshot
/// ```
///
/// A file is copied without its holes, and costs next to nothing where the filesystem below can share
/// data between files (btrfs, xfs). Its size is what all of a snapshot can take.
pub type Blockfile = Layered<BlockfileDriver>;

/// How a [`Blockfile`] is to behave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockfileOptions {
    /// The file that is copied to be the scratch file, when there is none yet.
    pub scratch_file: Option<PathBuf>,
    /// The type of filesystem that is in the files; `ext4` if none is given.
    pub fs_type: Option<String>,
    /// The options of every mount; `loop` is always among them.
    pub mount_options: Vec<String>,
    /// Copy the scratch file although there is one.
    pub recreate_scratch: bool,
}

/// What is particular to [`Blockfile`].
#[derive(Debug)]
pub struct BlockfileDriver {
    scratch: PathBuf,
    fs_type: String,
    options: Vec<String>,
}

impl Blockfile {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    ///
    /// `FailedPrecondition` when there is no scratch file and nothing to copy as one.
    pub fn open(root: impl AsRef<Path>, options: BlockfileOptions) -> Result<Self> {
        let root = std::path::absolute(root)?;
        let scratch = root.join("scratch");
        if options.recreate_scratch || !scratch.try_exists()? {
            let from = options.scratch_file.as_deref().ok_or_else(|| {
                Error::failed_precondition("no scratch file generator: scratch_file is not set")
            })?;
            fs::create_dir_all(&root)?;
            make_scratch(from, &scratch).context(|| "failed to generate scratch file")?;
        }
        let mut mount_options = options.mount_options;
        if !mount_options.iter().any(|option| option == "loop") {
            mount_options.push("loop".to_owned());
        }
        let fs_type = options.fs_type.filter(|name| !name.is_empty());
        let driver = BlockfileDriver {
            scratch,
            fs_type: fs_type.unwrap_or_else(|| "ext4".to_owned()),
            options: mount_options,
        };
        Self::with_driver(&root, driver, false)
    }
}

/// It has its name only once it is whole.
fn make_scratch(from: &Path, scratch: &Path) -> Result<()> {
    let new = scratch.with_extension("new");
    tree::remove(&new)?;
    tree::copy(from, &new)?;
    fs::File::open(&new)?.sync_all()?;
    failpoint::reach("blockfile.open.copied")?;
    Ok(fs::rename(&new, scratch)?)
}

impl Driver for BlockfileDriver {
    /// Whatever there is was made by one call to the end: a copy cut short has no record, and is
    /// removed. A power cut finds the file as it was copied.
    fn create(&self, layers: &Layers) -> Result<()> {
        let file = &layers.directory;
        if file.try_exists()? {
            return Ok(());
        }
        let (source, what) = match (layers.kind, layers.parents.first()) {
            (Kind::View, Some(_)) => return Ok(()),
            (_, Some(parent)) => (parent, "parent"),
            (_, None) => (&self.scratch, "scratch"),
        };
        tree::copy(source, file).context(|| format!("copying of {what} failed"))?;
        failpoint::reach("blockfile.create.copied")?;
        Ok(fs::File::open(file)?.sync_all()?)
    }

    fn plan(&self, layers: &Layers) -> Result<Vec<Mount>> {
        Ok(plan(layers, &self.fs_type, &self.options))
    }

    fn has_data(&self, kind: Kind, has_parent: bool) -> bool {
        kind != Kind::View || !has_parent
    }

    fn content(&self, layers: &Layers) -> PathBuf {
        layers.directory.clone()
    }

    /// The blocks of the file, and one inode: what is inside is a matter of the filesystem inside.
    fn measure(&self, layers: &Layers) -> Result<Usage> {
        Ok(tree::file_usage(&layers.directory)?)
    }

    fn seal(&self, layers: &Layers) -> Result<Usage> {
        fs::File::open(&layers.directory)?.sync_all()?;
        self.measure(layers)
    }
}

/// The options are in the order of containerd's (`plugins/snapshots/blockfile/blockfile.go`).
fn plan(layers: &Layers, fs_type: &str, options: &[String]) -> Vec<Mount> {
    let access = if layers.kind == Kind::View { "ro" } else { "rw" };
    let source = match (layers.kind, layers.parents.first()) {
        (Kind::View, Some(parent)) => parent,
        _ => &layers.directory,
    };
    vec![Mount {
        kind: fs_type.to_owned(),
        source: source.to_string_lossy().into_owned(),
        target: String::new(),
        options: options.iter().cloned().chain([access.to_owned()]).collect(),
    }]
}

#[cfg(test)]
mod tests {
    use types::Labels;

    use super::*;

    #[track_caller]
    fn check(kind: Kind, parents: &[&str], want: &str) {
        let parents = parents.iter().map(PathBuf::from).collect();
        let layers = Layers { kind, directory: "/s/9".into(), parents, labels: Labels::new() };
        let options = ["noatime".to_owned(), "loop".to_owned()];
        let planned: Vec<_> =
            plan(&layers, "ext4", &options).iter().map(ToString::to_string).collect();
        assert_eq!(planned, [want]);
    }

    #[test]
    fn a_snapshot_is_a_file_mounted_through_a_loop_device() {
        check(Kind::Active, &[], "ext4 /s/9 noatime,loop,rw");
        check(Kind::Active, &["/s/2", "/s/1"], "ext4 /s/9 noatime,loop,rw");
        check(Kind::View, &[], "ext4 /s/9 noatime,loop,ro");
        check(Kind::View, &["/s/2", "/s/1"], "ext4 /s/2 noatime,loop,ro");
    }

    #[test]
    fn without_a_scratch_file_there_is_nothing_to_begin_with() {
        let root = tempfile::tempdir().unwrap();
        let error = Blockfile::open(root.path(), BlockfileOptions::default()).err().unwrap();
        assert_eq!(error.kind(), types::Kind::FailedPrecondition);
        assert!(error.to_string().contains("no scratch file generator"), "{error}");
    }
}
