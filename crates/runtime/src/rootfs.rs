// SPDX-License-Identifier: Apache-2.0
//! The root filesystem of a task, as far as its shim cannot mount it itself.
//!
//! The rules are those of containerd's `core/runtime/v2/task_manager.go`: an activation is called like
//! the task, and stays as long as the container unless the task is deleted first.
use std::{collections::HashMap, path::Path, path::PathBuf, sync::Mutex, sync::PoisonError};

use mount::{Activate, Manager, Mount};
use types::{Context, Kind, Result};

use crate::{Config, binary};

/// The label by which an activation stays with its container.
const CONTAINER: &str = "containerd.io/gc.bref.container";

/// The annotation by which a shim says what it mounts itself: `erofs,format/*`.
const ALLOWED: &str = "containerd.io/runtime-allow-mounts";

/// The runtime that is known to mount nothing of its own, and is not asked.
const RUNC: &str = "io.containerd.runc.v2";

/// What is left to the shim.
pub(crate) struct Activation {
    pub(crate) rootfs: Vec<Mount>,
    /// Whether it was made now, and goes if the task is not made.
    pub(crate) is_own: bool,
}

/// Performs what the shim cannot.
pub(crate) async fn activate(
    manager: &dyn Manager,
    id: &str,
    rootfs: Vec<Mount>,
    allow_mount_types: Vec<String>,
) -> Result<Activation> {
    let labels = [(CONTAINER.to_owned(), id.to_owned())].into();
    let options = Activate { labels, temporary: false, allow_mount_types };
    match manager.activate(id, &rootfs, options).await {
        Ok(info) => Ok(Activation { rootfs: info.system, is_own: true }),
        Err(error) if error.kind() == Kind::Unimplemented => {
            Ok(Activation { rootfs, is_own: false })
        }
        Err(error) if error.is_already_exists() => {
            // An earlier task of the container left it, and the container keeps it.
            let info = manager.info(id).await;
            let info = info.context(|| "failed to get info on already active mount")?;
            Ok(Activation { rootfs: info.system, is_own: false })
        }
        Err(error) => Err(error.context("failed to activate mounts")),
    }
}

/// Undoes what was activated for a task. What cannot be undone is left to the collector.
pub(crate) async fn deactivate(manager: &dyn Manager, id: &str) {
    match manager.deactivate(id).await {
        Err(error) if !error.is_not_found() => {
            tracing::warn!(id, %error, "failed to deactivate mounts");
        }
        _ => {}
    }
}

/// What each shim said that it mounts itself, by program.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    told: Mutex<HashMap<PathBuf, Vec<String>>>,
}

impl Allowed {
    /// The types that a shim mounts itself. One that cannot be asked mounts none: then we do.
    pub(crate) async fn of(&self, config: &Config, runtime: &str, program: &Path) -> Vec<String> {
        if runtime == RUNC {
            return Vec::new();
        }
        let told = || self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = told().get(program) {
            return known.clone();
        }
        let annotations = match binary::info(config, program, None).await {
            Ok(info) => info.annotations,
            Err(error) => {
                tracing::debug!(runtime, %error, "a shim does not tell what it mounts");
                return Vec::new();
            }
        };
        let types = split(annotations.get(ALLOWED).map(String::as_str).unwrap_or_default());
        told().insert(program.to_owned(), types.clone());
        types
    }
}

fn split(text: &str) -> Vec<String> {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use fs_err as fs;

    use super::*;

    fn shim(directory: &Path, script: &str) -> PathBuf {
        let path = directory.join("containerd-shim-other-v1");
        sys::program::install(&path, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        path
    }

    #[tokio::test]
    async fn a_shim_is_asked_once_what_it_mounts() {
        use prost::Message;
        let directory = tempfile::tempdir().unwrap();
        let info = api::containerd::types::RuntimeInfo {
            name: "io.containerd.other.v1".into(),
            annotations: [(ALLOWED.to_owned(), "erofs, format/*".to_owned())].into(),
            ..Default::default()
        };
        let (answer, asked) = (directory.path().join("answer"), directory.path().join("asked"));
        fs::write(&answer, info.encode_to_vec()).unwrap();
        let script = format!("test \"$1\" = -info && echo >> {asked:?} && cat {answer:?}");
        let program = shim(directory.path(), &script);
        let (allowed, config) = (Allowed::default(), Config::for_tests(directory.path()));
        for _ in 0..2 {
            let types = allowed.of(&config, "io.containerd.other.v1", &program).await;
            assert_eq!(types, ["erofs", "format/*"]);
        }
        assert_eq!(fs::read(&asked).unwrap(), b"\n");
        assert_eq!(allowed.of(&config, RUNC, Path::new("/none")).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_shim_that_does_not_say_mounts_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let program = shim(directory.path(), "exit 1");
        let (allowed, config) = (Allowed::default(), Config::for_tests(directory.path()));
        assert_eq!(allowed.of(&config, "io.containerd.other.v1", &program).await, [""; 0]);
    }
}
