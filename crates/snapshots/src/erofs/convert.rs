// SPDX-License-Identifier: Apache-2.0
//! From what was written to an image that cannot change, by `mkfs.erofs`.
use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Stdio,
    time::Duration,
};

use fs_err as fs;
use mount::{Mount, Temporary};
use sys::Command;
use types::{Context, Error, Kind, Result};

use super::{image, upper};
use crate::tree;

/// The program, and how long it may take.
const PROGRAM: &str = "mkfs.erofs";
const PATIENCE: Duration = Duration::from_mins(10);

/// Whether the program is there.
pub(super) fn check_program() -> Result<()> {
    if sys::program::find(PROGRAM, None).is_some() {
        return Ok(());
    }
    let text = format!("{PROGRAM} is not installed: it is part of erofs-utils");
    Err(Error::failed_precondition(text))
}

/// Makes the image `made` of what the snapshot in `directory` has written, and makes it durable.
pub(super) fn convert(directory: &Path, made: &Path, scratch: &Path) -> Result<()> {
    tree::remove(made)?;
    if image(directory).try_exists()? {
        convert_image(directory, made, scratch)
            .context(|| "failed to convert upper block to erofs layer")?;
    } else {
        make(&upper(directory), made).context(|| "failed to convert upper to erofs layer")?;
    }
    Ok(fs::File::open(made)?.sync_all()?)
}

/// What is in the image is behind a filesystem: it is mounted for as long as it is read. Children
/// take after the directory beside it, which gets the owner and mode of what was the root.
fn convert_image(directory: &Path, made: &Path, scratch: &Path) -> Result<()> {
    let options = ["ro", "loop", "noload"].map(str::to_owned).to_vec();
    let source = image(directory).to_string_lossy().into_owned();
    let written = Mount { kind: "ext4".to_owned(), source, target: String::new(), options };
    let mounted = Temporary::mount(&[written], scratch)?;
    let from = mounted.path().join("upper");
    if from.try_exists()? {
        let root = fs::metadata(&from)?;
        let own = upper(directory);
        fs::os::unix::fs::lchown(&own, Some(root.uid()), Some(root.gid()))?;
        fs::set_permissions(&own, PermissionsExt::from_mode(root.mode() & 0o7777))?;
        make(&from, made)?;
    } else {
        // Formatted, and never written to.
        make(&upper(directory), made)?;
    }
    mounted.close()
}

/// Without tails in the inodes, so that a file can be mapped page by page.
fn make(from: &Path, made: &Path) -> Result<()> {
    let output = Command::new(PROGRAM)
        .args(["--quiet", "-Enoinline_data"])
        .arg(made)
        .arg(from)
        .stdin(Stdio::null())
        .parent_death_signal(rustix::process::Signal::KILL)
        .output_within(PATIENCE)
        .context(|| format!("failed to run {PROGRAM}"))?;
    if output.exit.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let text = format!("erofs apply failed: {}: {PROGRAM}: {}", output.exit, said.trim());
    Err(Error::said(Kind::Unknown, text))
}
