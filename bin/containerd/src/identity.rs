// SPDX-License-Identifier: Apache-2.0
//! Which daemon this is: one per root directory, with a name that stays.
use std::{fs::File, os::unix::fs::MetadataExt, path::Path};

use fs_err as fs;
use services::introspection::Identity;
use types::{Error, Kind, Result};

/// Keeps other daemons away from a root directory for as long as it is held.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
}

/// Takes `root` for this daemon.
///
/// Errors: `AlreadyExists` when another daemon has it.
pub(crate) fn claim(root: &Path) -> Result<Claim> {
    let path = root.join("containerd.lock");
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    let (lock, _) = lock.into_parts();
    let locked = sys::lock::exclusive(&lock);
    let failed = |e| Error::caused(Kind::Unknown, format!("lock {}", path.display()), e);
    if locked.map_err(failed)? {
        return Ok(Claim { _lock: lock });
    }
    let what = format!("another daemon is running on root {}", root.display());
    Err(Error::said(Kind::AlreadyExists, what))
}

/// The daemon's own name, kept beside the introspection plugin's data as Go does
/// (`plugins/services/introspection/local.go`), and where it runs.
pub(crate) fn identity(root: &Path) -> Result<Identity> {
    let path = root.join("io.containerd.grpc.v1.introspection").join("uuid");
    let kept = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
    let uuid: uuid::Uuid = match kept {
        Some(uuid) => uuid,
        None => name(&path)?,
    };
    let pidns = fs::metadata("/proc/self/ns/pid").map(|meta| meta.ino()).unwrap_or_default();
    let (pid, deprecations) = (u64::from(std::process::id()), Vec::new());
    Ok(Identity { uuid: uuid.to_string(), pid, pidns, deprecations })
}

fn name(path: &Path) -> Result<uuid::Uuid> {
    let uuid = uuid::Uuid::new_v4();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, uuid.to_string())?;
    Ok(uuid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_until_the_first_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let claimed = claim(root.path()).unwrap();
        assert!(claim(root.path()).unwrap_err().is_already_exists());
        drop(claimed);
        claim(root.path()).unwrap();
    }

    #[test]
    fn the_name_of_a_root_stays() {
        let root = tempfile::tempdir().unwrap();
        let first = identity(root.path()).unwrap();
        assert_eq!(identity(root.path()).unwrap().uuid, first.uuid);
    }
}
