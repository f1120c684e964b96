// SPDX-License-Identifier: Apache-2.0
//! What carries an activation out, and undoes it: below `targets/<id>/`, one number per mount,
//! counting down, so that taking them away in order takes the last first.
//!
//! ```text
//! targets/7/  3 3-type   the first mount and its type
//!             2 2-type
//!             1 1-type   the last
//! ```
//!
//! The types are on disk before the mounts are, so a manager that was killed at any point is cleaned
//! up after by looking at the directory alone (the layout is that of containerd's
//! `core/mount/manager/manager.go`).
use std::{
    collections::BTreeMap,
    fmt, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use fs_err as fs;
use rustix::mount::UnmountFlags;
use types::{Context, Error, Kind, Result};

use super::{
    Activate, ActiveMount, Handler, Transformer, in_go,
    mkdir::Mkdir,
    mkfs::Mkfs,
    plan::{self, Plan, Step, Transform},
    roots::Roots,
    template::Format,
};
use crate::{Mount, attach, mountinfo, unmount};

/// Performs activations, each below a directory of its own. It remembers nothing.
pub struct Activator {
    targets: PathBuf,
    handlers: BTreeMap<String, Arc<dyn Handler>>,
    mkdir: Mkdir,
    mkfs: Mkfs,
}

/// What an activation came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Performed {
    /// What was mounted, in order.
    pub active: Vec<ActiveMount>,
    /// What is left to the system.
    pub system: Vec<Mount>,
}

impl Activator {
    /// Mounts below `targets`, which is made if it does not exist. `mkdir/` and `mkfs/` work there and
    /// below `roots`; `handlers` are by type.
    pub fn open(
        targets: impl Into<PathBuf>,
        roots: impl IntoIterator<Item = PathBuf>,
        handlers: BTreeMap<String, Arc<dyn Handler>>,
    ) -> Result<Self> {
        let targets = targets.into();
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&targets);
        made.context(|| format!("create {}", targets.display()))?;
        // What is mounted is listed by its real path.
        let targets = fs::canonicalize(targets)?;
        let roots = Roots(std::iter::once(targets.clone()).chain(roots).collect());
        Ok(Self { targets, handlers, mkdir: Mkdir(roots.clone()), mkfs: Mkfs(roots) })
    }

    /// What activating `mounts` will do.
    ///
    /// Errors: `Unimplemented` when there is nothing to do.
    pub fn plan(&self, mounts: &[Mount], options: &Activate) -> Result<Plan> {
        plan::plan(mounts, options, |kind| self.handlers.contains_key(kind))
    }

    /// Carries a plan out under a number that nothing else has. What fails leaves nothing behind, if
    /// it can be helped: [`Activator::undo`] is for the rest.
    pub fn perform(
        &self,
        id: u64,
        plan: &Plan,
        mounts: &[Mount],
        options: &Activate,
    ) -> Result<Performed> {
        let performed = self.mount_all(id, plan, mounts, options);
        if performed.is_err() {
            drop(self.undo(id));
        }
        performed
    }

    fn mount_all(
        &self,
        id: u64,
        plan: &Plan,
        mounts: &[Mount],
        options: &Activate,
    ) -> Result<Performed> {
        let directory = self.directory(id);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .context(|| format!("create {}", directory.display()))?;
        let mut active = Vec::with_capacity(plan.performed);
        for (at, (mount, step)) in mounts.iter().zip(&plan.steps).enumerate().take(plan.performed) {
            let mount = self.transformed(mount, step, &active)?;
            let point = directory.join((plan.performed - at).to_string());
            active.push(self.mount(&mount, &point, &active)?);
        }
        let mut system = mounts[plan.performed..].to_vec();
        if let (Some(first), Some(step)) = (system.first_mut(), plan.steps.get(plan.performed))
            && step.is_ours
        {
            *first = self.transformed(first, step, &active)?;
        }
        if let (true, Some(last)) = (options.temporary, active.last()) {
            system.push(Mount::bind(&last.mount_point, ["rbind"]));
        }
        Ok(Performed { active, system })
    }

    fn transformed(&self, mount: &Mount, step: &Step, before: &[ActiveMount]) -> Result<Mount> {
        step.transforms.iter().try_fold(mount.clone(), |mount, (transform, kind)| {
            let transformer: &dyn Transformer = match transform {
                Transform::Format => &Format,
                Transform::Mkdir => &self.mkdir,
                Transform::Mkfs => &self.mkfs,
            };
            transformer.transform(Mount { kind: kind.clone(), ..mount }, before)
        })
    }

    fn mount(&self, mount: &Mount, point: &Path, before: &[ActiveMount]) -> Result<ActiveMount> {
        let at = point.to_str().ok_or_else(|| Error::invalid("mount point is not UTF-8"))?;
        fs::write(format!("{at}-type"), &mount.kind)?;
        if let Some(handler) = self.handlers.get(&mount.kind) {
            let mounted = handler.mount(mount, at, before);
            return mounted.context(|| format!("mount handler failed {}", in_go(mount)));
        }
        fs::create_dir(point)?;
        attach::one(mount, point).context(|| format!("mount failed {}", in_go(mount)))?;
        Ok(ActiveMount {
            mount: mount.clone(),
            mounted_at: Some(SystemTime::now()),
            mount_point: at.to_owned(),
            data: [].into(),
        })
    }

    /// Takes away all that was mounted under a number, and its directory. What is not there is no
    /// error; what is in use is, and stays to be tried again.
    pub fn undo(&self, id: u64) -> Result<()> {
        let directory = self.directory(id);
        let Some(numbers) = numbers(&directory)? else { return Ok(()) };
        let mut failures = Vec::new();
        for number in numbers {
            if let Err(error) = self.unmount(&directory.join(number.to_string())) {
                failures.push(error.to_string());
            }
        }
        if !failures.is_empty() {
            return Err(Error::said(Kind::Unknown, failures.join("\n")));
        }
        Ok(fs::remove_dir(&directory)?)
    }

    /// Never removes anything but empty directories and what is this crate's own: if something were
    /// still mounted there would be real data below.
    fn unmount(&self, point: &Path) -> Result<()> {
        let at = point.display().to_string();
        let note = format!("{at}-type");
        let kind = fs::read_to_string(&note).unwrap_or_default();
        if let Some(handler) = self.handlers.get(&kind) {
            handler.unmount(&at)?;
        } else {
            unmount::unmount_all(point, UnmountFlags::empty())?;
            present(fs::remove_dir(point))?;
        }
        present(fs::remove_file(note)).map(|_was_there| ())
    }

    /// The numbers under which something may be mounted.
    pub fn ids(&self) -> Result<Vec<u64>> {
        Ok(numbers(&self.targets)?.unwrap_or_default())
    }

    /// Which of these activations are no longer mounted, all of them: after a reboot, or because
    /// somebody else unmounted.
    pub fn dead<'a>(
        &self,
        activations: impl IntoIterator<Item = (u64, &'a [ActiveMount])>,
    ) -> Result<Vec<u64>> {
        let mounted = mountinfo::below(&self.targets)?;
        let is_mounted = |active: &ActiveMount| match self.handlers.get(&active.mount.kind) {
            Some(handler) => handler.is_mounted(&active.mount_point),
            None => Ok(mounted.iter().any(|it| it.mount_point == Path::new(&active.mount_point))),
        };
        let mut dead = Vec::new();
        for (id, active) in activations {
            for mount in active {
                if !is_mounted(mount)? {
                    dead.push(id);
                    break;
                }
            }
        }
        Ok(dead)
    }

    fn directory(&self, id: u64) -> PathBuf {
        self.targets.join(id.to_string())
    }
}

impl fmt::Debug for Activator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let handlers: Vec<_> = self.handlers.keys().collect();
        f.debug_struct("Activator")
            .field("targets", &self.targets)
            .field("handlers", &handlers)
            .finish_non_exhaustive()
    }
}

/// The numbers that entries of a directory are called by or begin with, ascending; `None` if there is
/// no directory.
fn numbers(directory: &Path) -> Result<Option<Vec<u64>>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        numbers.extend(name.split('-').next().and_then(|number| number.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(Some(numbers))
}

/// Whether something was there to be removed.
fn present(removed: io::Result<()>) -> Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}
