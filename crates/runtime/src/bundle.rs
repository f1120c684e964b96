// SPDX-License-Identifier: Apache-2.0
//! A task's directory: what the shim and the runtime are told on disk.
//!
//! ```text
//! <state>/<namespace>/<id>/      config.json  rootfs/  work -> <root>/<namespace>/<id>
//!                                log (fifo)  bootstrap.json  shim-binary-path  address  cgroup
//!                                sandbox
//! <state>/.boot-id               the boot that the bundles are of
//! ```
//!
//! The layout is that of containerd `core/runtime/v2/bundle.go`.
use std::{
    io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde::Deserialize;
use shim::bootstrap::Answer;
use types::{Context, Error, Result, identifiers};

/// A task's directory. It stays until [`Bundle::remove`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bundle {
    pub(crate) namespace: String,
    pub(crate) id: String,
    pub(crate) path: PathBuf,
    pub(crate) work: PathBuf,
}

impl Bundle {
    /// Where the bundle of a task is, whether it exists or not.
    pub(crate) fn at(root: &Path, state: &Path, namespace: &str, id: &str) -> Result<Self> {
        identifiers::validate(id).map_err(|e| e.context(format!("invalid task id {id}")))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            id: id.to_owned(),
            path: state.join(namespace).join(id),
            work: root.join(namespace).join(id),
        })
    }

    /// Makes the directory, with `spec` as its `config.json`.
    pub(crate) fn create(&self, spec: &[u8]) -> Result<()> {
        let made = self.fill(spec);
        if made.as_ref().is_err_and(|error| !error.is_already_exists()) {
            self.remove();
        }
        made
    }

    fn fill(&self, spec: &[u8]) -> Result<()> {
        make_parent(&self.path, 0o711)?;
        make_parent(&self.work, 0o711)?;
        match fs::create_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::already_exists(format!("bundle of task {}", self.id)));
            }
            made => made?,
        }
        set_mode(&self.path, 0o700)?;
        if let Some(gid) = remapped_root(spec) {
            // A root that is remapped has to pass through its bundle to its root filesystem.
            chown(&self.path, None, Some(gid))?;
            set_mode(&self.path, 0o710)?;
        }
        fs::create_dir(self.rootfs())?;
        set_mode(&self.rootfs(), 0o711)?;
        if let Err(e) = fs::create_dir(&self.work)
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(e.into());
        }
        set_mode(&self.work, 0o711)?;
        symlink(&self.work, self.path.join("work")).context(|| "link to the work directory")?;
        fs::write(self.path.join("config.json"), spec)?;
        Ok(())
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Remembers what a restarted daemon has to know to find the shim again.
    pub(crate) fn remember(&self, binary: &Path, answer: &Answer) -> Result<()> {
        let binary = binary.as_os_str().as_encoded_bytes();
        fs::write(self.path.join("shim-binary-path"), binary)?;
        self.remember_answer(answer)
    }

    /// Remembers where the shim listens and what it speaks, in place of what was known.
    pub(crate) fn remember_answer(&self, answer: &Answer) -> Result<()> {
        let temporary = self.path.join(".bootstrap.json");
        fs::write(&temporary, answer.to_json())?;
        fs::rename(temporary, self.path.join("bootstrap.json"))?;
        Ok(())
    }

    /// Whether [`remember_answer`](Self::remember_answer) was ever called for it.
    pub(crate) fn is_remembered(&self) -> bool {
        self.path.join("bootstrap.json").exists()
    }

    /// The shim's own pid, where its program has written it down (containerd `pkg/shim`).
    pub(crate) fn shim_pid(&self) -> Option<u32> {
        self.number("shim.pid")
    }

    /// The pid of the task's first process, where the runtime has written it down.
    pub(crate) fn init_pid(&self) -> Option<u32> {
        self.number("init.pid")
    }

    fn number(&self, name: &str) -> Option<u32> {
        fs::read_to_string(self.path.join(name)).ok()?.trim().parse().ok()
    }

    /// The control groups that the task was made in, as its `/proc/<pid>/cgroup` told then: its
    /// first process may move on.
    pub(crate) fn membership(&self) -> Option<String> {
        fs::read_to_string(self.path.join("cgroup")).ok()
    }

    pub(crate) fn remember_membership(&self, membership: &str) -> Result<()> {
        Ok(fs::write(self.path.join("cgroup"), membership)?)
    }

    /// Where the shim listens, if it ever started. Older daemons left its bare `address`.
    pub(crate) fn answer(&self) -> Option<Answer> {
        let text = ["bootstrap.json", "address"]
            .into_iter()
            .find_map(|name| fs::read_to_string(self.path.join(name)).ok())?;
        Answer::parse(&text).ok()
    }

    /// Remembers that the task's shim is a sandbox's, which does not end with the task.
    pub(crate) fn remember_sandboxed(&self) -> Result<()> {
        Ok(fs::write(self.path.join("sandbox"), "")?)
    }

    /// Whether the task's shim is a sandbox's.
    pub(crate) fn is_sandboxed(&self) -> bool {
        self.path.join("sandbox").exists()
    }

    /// The shim that was started for this bundle.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        let path = fs::read_to_string(self.path.join("shim-binary-path")).ok()?;
        Some(PathBuf::from(path)).filter(|path| path.is_absolute())
    }

    /// Unmounts what is left in the bundle and removes it with its work directory. What cannot be
    /// removed is logged and found again at the next start.
    pub(crate) fn remove(&self) {
        if let Err(error) = mount::unmount_all(&self.rootfs(), mount::UnmountFlags::DETACH) {
            tracing::warn!(id = self.id, %error, "failed to unmount a root filesystem");
        }
        for path in [&self.path, &self.work] {
            match fs::remove_dir_all(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(id = self.id, %error, "failed to remove a bundle");
                }
                _ => {}
            }
        }
    }
}

/// The bundles of all namespaces, as a daemon that went down left them.
pub(crate) fn existing(root: &Path, state: &Path) -> Vec<Bundle> {
    let mut bundles = Vec::new();
    for namespace in visible(state) {
        for id in visible(&state.join(&namespace)) {
            bundles.extend(Bundle::at(root, state, &namespace, &id));
        }
    }
    bundles
}

/// Removes the work directories that have no bundle: a reboot takes bundles away and leaves these.
pub(crate) fn remove_stray_work(root: &Path, state: &Path) {
    for namespace in visible(root) {
        let strays = visible(&root.join(&namespace)).into_iter();
        for id in strays.filter(|id| !state.join(&namespace).join(id).exists()) {
            if let Err(error) = fs::remove_dir_all(root.join(&namespace).join(&id)) {
                tracing::warn!(id, %error, "failed to remove a work directory");
            }
        }
    }
}

/// Notes that what is in `state` from now on is of `boot`. False when what is there is of another,
/// so that no process that it speaks of can still be there.
pub(crate) fn note_boot(state: &Path, boot: &str) -> Result<bool> {
    let path = state.join(".boot-id");
    let noted = fs::read_to_string(&path).ok();
    let is_same = noted.as_deref().is_none_or(|noted| noted == boot);
    if noted.as_deref() != Some(boot) {
        fs::create_dir_all(state)?;
        fs::write(path, boot)?;
    }
    Ok(is_same)
}

fn visible(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    directories
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect()
}

fn make_parent(path: &Path, mode: u32) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
        set_mode(parent, mode)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, PermissionsExt::from_mode(mode))?)
}

/// The host's gid that is root's in a spec with a user namespace.
fn remapped_root(spec: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    #[derive(Deserialize)]
    struct Linux {
        #[serde(default, rename = "gidMappings")]
        mappings: Vec<Mapping>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Mapping {
        #[serde(default, rename = "containerID")]
        container: u32,
        #[serde(default, rename = "hostID")]
        host: u32,
    }
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    let root = spec.linux?.mappings.into_iter().find(|mapping| mapping.container == 0)?;
    Some(root.host).filter(|&gid| gid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(directory: &Path) -> Bundle {
        Bundle::at(&directory.join("root"), &directory.join("state"), "ns", "id").unwrap()
    }

    #[test]
    fn a_bundle_is_made_found_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        bundle.create(b"{}").unwrap();
        assert_eq!(fs::read(bundle.path.join("work/../ns/id/config.json")).ok(), None);
        assert_eq!(fs::read(bundle.path.join("config.json")).unwrap(), b"{}");
        let found = existing(&directory.path().join("root"), &directory.path().join("state"));
        assert_eq!(found, std::slice::from_ref(&bundle));
        assert!(bundle.create(b"{}").unwrap_err().is_already_exists());
        bundle.remove();
        assert!(!bundle.path.exists() && !bundle.work.exists());
    }

    #[test]
    fn what_a_shim_answered_is_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        bundle.create(b"{}").unwrap();
        assert_eq!((bundle.answer(), bundle.binary()), (None, None));
        let answer = Answer::ttrpc(3, "unix:///s");
        bundle.remember(Path::new("/bin/shim"), &answer).unwrap();
        assert_eq!(bundle.answer(), Some(answer));
        assert_eq!(bundle.binary(), Some(PathBuf::from("/bin/shim")));
    }

    #[test]
    fn what_is_of_another_boot_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        for (boot, is_same) in [("one", true), ("one", true), ("two", false), ("two", true)] {
            assert_eq!(note_boot(&state, boot).unwrap(), is_same, "{boot}");
        }
        assert_eq!(existing(directory.path(), &state), []);
    }

    #[test]
    fn only_work_without_a_bundle_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = bundle(directory.path());
        bundle.create(b"{}").unwrap();
        let (root, state) = (directory.path().join("root"), directory.path().join("state"));
        fs::create_dir_all(root.join("ns/stray/deep")).unwrap();
        remove_stray_work(&root, &state);
        assert!(bundle.work.exists() && !root.join("ns/stray").exists());
    }

    #[test]
    fn an_id_that_leaves_the_directory_is_refused() {
        assert!(Bundle::at(Path::new("/r"), Path::new("/s"), "ns", "../x").is_err());
    }

    #[test]
    fn a_remapped_root_may_enter_its_bundle() {
        let spec = br#"{"linux":{"gidMappings":[{"containerID":0,"hostID":1000,"size":1}]}}"#;
        assert_eq!(remapped_root(spec), Some(1000));
        assert_eq!(remapped_root(b"{}"), None);
        assert_eq!(remapped_root(b"not json"), None);
    }
}
