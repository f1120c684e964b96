// SPDX-License-Identifier: Apache-2.0
use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use types::{Context as _, Result};

use super::Policy;

/// A policy in a file, read again whenever it or a key that it names has changed.
#[derive(Debug)]
pub struct PolicyFile {
    path: PathBuf,
    read: Mutex<Option<(Vec<Stamp>, Arc<Policy>)>>,
}

/// By what a change is noticed: a file's inode, its size, and when it and its inode last changed.
type Stamp = (PathBuf, [i64; 6]);

impl PolicyFile {
    /// The policy at `path`, which need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: Mutex::default() }
    }

    /// What it says now. It touches the disk: not for an async thread.
    ///
    /// Errors: whatever is wrong with the file. What cannot be read is not passed over: nobody knows
    /// what it would refuse.
    pub fn current(&self) -> Result<Arc<Policy>> {
        self.read().context(|| format!("policy {}", self.path.display()))
    }

    fn read(&self) -> Result<Arc<Policy>> {
        // The lock is held over a few short reads of local files, and over no await.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((stamps, policy)) = &*read
            && stamps.iter().all(|known| stamp(&known.0).is_ok_and(|now| now == *known))
        {
            return Ok(Arc::clone(policy));
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let first = stamp(&self.path)?;
        let text = fs_err::read_to_string(&self.path)?;
        let keys = Policy::files(&text, folder)?;
        let mut stamps = vec![first];
        for key in &keys {
            stamps.push(stamp(key)?);
        }
        let policy = Arc::new(Policy::parse(&text, folder)?);
        *read = Some((stamps, Arc::clone(&policy)));
        Ok(policy)
    }
}

fn stamp(path: &Path) -> Result<Stamp> {
    let it = fs_err::metadata(path)?;
    let (inode, size) = (it.ino() as i64, it.size() as i64);
    let times = [inode, size, it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()];
    Ok((path.to_owned(), times))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Action, PrivateKey};

    #[test]
    fn a_change_holds_at_once_and_a_broken_one_refuses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let file = PolicyFile::new(&path);
        assert!(file.current().is_err());
        fs_err::write(&path, "default = \"accept\"").unwrap();
        let first = file.current().unwrap();
        assert_eq!(first.rule("x", "a/b").action, Action::Accept);
        assert!(Arc::ptr_eq(&first, &file.current().unwrap()), "read again for nothing");
        fs_err::write(&path, "default = \"reject\"").unwrap();
        assert_eq!(file.current().unwrap().rule("x", "a/b").action, Action::Reject);
        fs_err::write(&path, "default = \"rejct\"").unwrap();
        assert!(file.current().unwrap_err().to_string().contains("policy.toml"));
        fs_err::remove_file(&path).unwrap();
        assert!(file.current().is_err());
    }

    #[test]
    fn a_key_that_was_replaced_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, key) = (folder.path().join("policy.toml"), folder.path().join("k.pub"));
        let text = "[keys]\nk = \"k.pub\"\n[[rule]]\nprefix = \"r.io/\"\naction = \"require\"\nkeys = [\"k\"]";
        fs_err::write(&path, text).unwrap();
        let file = PolicyFile::new(&path);
        let mut seen = Vec::new();
        for _ in 0..2 {
            let public = PrivateKey::generate().unwrap().public();
            fs_err::write(&key, public.to_pem()).unwrap();
            let policy = file.current().unwrap();
            let keys = &policy.rule("x", "r.io/a").requirement.keys;
            assert_eq!(keys[0].1, public);
            seen.push(public);
        }
        assert_ne!(seen[0], seen[1]);
    }
}
