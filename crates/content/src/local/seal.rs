// SPDX-License-Identifier: Apache-2.0
//! Blobs that cannot change: where the filesystem has fs-verity, the kernel compares what is read with
//! what was committed, and fails the read when the disk has changed it. It is asked for once, when the
//! store is opened, and its failure is no reason to refuse a blob (containerd
//! `plugins/content/local/store.go` and `internal/fsverity`).
use std::path::Path;

use fs_err as fs;

/// Whether files below `root` can be sealed.
pub(super) fn is_possible(root: &Path) -> bool {
    let probe = root.join(format!(".fsverity-check-{}", std::process::id()));
    let made = fs::write(&probe, "supported");
    let sealed = made.and_then(|()| file(&probe));
    if let Err(error) = &sealed {
        tracing::debug!(%error, "blobs are not sealed by fs-verity");
    }
    // One that was not made need not be removed.
    drop(fs::remove_file(&probe));
    sealed.is_ok()
}

/// Seals a file, which nobody may have open for writing.
pub(super) fn file(path: &Path) -> std::io::Result<()> {
    sys::verity::enable(fs::File::open(path)?.file())
}
