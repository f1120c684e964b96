// SPDX-License-Identifier: Apache-2.0
//! All that one daemon (or registry) of a test owns on the machine, found again by two marks.
//!
//! ```text
//! home  /tmp/ctrd-e2e-<pid>-<mark>/   files, sockets, mounts; on the command line of every shim
//! tag   e2e-<pid>-<mark>              start of every namespace, and so of cgroups and runc's state
//! mark                                end of every container id, and so of fifos
//! ```
//!
//! So whatever is left can be found without having been written down, also by a later run: see
//! [`sweep`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;

use crate::process::{locked, send};
use crate::procfs::{Process, alive, cgroup_trees, directories, mount_points, processes};
use crate::wait::settled;
use crate::{Context, Outcome};

const PREFIX: &str = "ctrd-e2e-";

/// The length of a mark.
const MARK: usize = 8;

/// Where runc keeps its state, where Go's shims put their sockets and `ctr` its fifos
/// (containerd's `defaults/defaults_unix.go` and `cmd/ctr/commands/tasks`).
const RUN: &str = "/run/containerd";

/// A private place on the machine. Dropping it ends and removes all that belongs to it.
#[derive(Debug)]
pub struct Estate {
    home: PathBuf,
    mark: String,
    tag: String,
    sockets: Mutex<BTreeSet<PathBuf>>,
}

impl Estate {
    /// Makes a new, empty place.
    pub fn new() -> Outcome<Self> {
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let dir = tempfile::Builder::new().prefix(&prefix).rand_bytes(MARK).tempdir();
        let home = dir.context("make a private directory")?.keep();
        Self::at(&home).context("the directory was named here")
    }

    /// Finds the place whose home is `home`.
    fn at(home: &Path) -> Option<Self> {
        let name = home.file_name()?.to_str()?.strip_prefix(PREFIX)?;
        let (_, mark) = name.split_once('-')?;
        Some(Self {
            mark: mark.to_owned(),
            tag: format!("e2e-{name}"),
            home: home.to_owned(),
            sockets: Mutex::default(),
        })
    }

    /// Its directory.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// What its namespaces begin with.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// What its containers end with.
    pub fn mark(&self) -> &str {
        &self.mark
    }

    /// A name for a container that no other test uses.
    pub fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.mark)
    }

    /// The processes that belong to it: by their command line or by their cgroup.
    pub fn processes(&self) -> Vec<Process> {
        let home = self.home.to_string_lossy();
        let cgroup = format!("/{}", self.tag);
        let ours = |process: &Process| {
            process.command.contains(&*home) || process.cgroups.contains(&cgroup)
        };
        processes().into_iter().filter(ours).collect()
    }

    /// The shims among its processes. Where they listen is remembered: a shim that is killed, and
    /// whose bundle is gone, leaves its socket to nobody.
    pub fn shims(&self) -> Vec<Process> {
        self.note_sockets();
        self.processes().into_iter().filter(Process::is_shim).collect()
    }

    /// The mounts at or below its home.
    pub fn mounts(&self) -> Vec<PathBuf> {
        mount_points().into_iter().filter(|point| point.starts_with(&self.home)).collect()
    }

    /// The cgroups of its containers. The empty parent that carries the namespace's name is not
    /// one: runc makes it and never takes it away.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        self.cgroup_parents().iter().flat_map(|parent| directories(parent, |_| true)).collect()
    }

    /// What is left over from containers and should not be, in words. Empty when all is well.
    pub fn remains(&self) -> Vec<String> {
        let processes = self.processes();
        let strays =
            processes.iter().filter(|process| process.is_shim() || self.contained(process));
        let strays = strays.map(|process| format!("process {} {}", process.pid, process.command));
        let paths = |kind: &'static str, paths: Vec<PathBuf>| {
            paths.into_iter().map(move |path| format!("{kind} {}", path.display()))
        };
        strays
            .chain(paths("mount", self.mounts()))
            .chain(paths("cgroup", self.cgroups()))
            .chain(paths("bundle", self.bundles()))
            .chain(paths("runc state", self.runc_states()))
            .chain(paths("fifos", self.fifo_dirs()))
            .collect()
    }

    /// Waits a little for everything to be gone: shims end by themselves, but not at once.
    pub fn assert_clean(&self) -> Outcome {
        if settled(Duration::from_secs(10), || self.remains().is_empty()) {
            return Ok(());
        }
        Err(crate::Failure::new(format!("left behind:\n  {}", self.remains().join("\n  "))))
    }

    /// Ends every process and removes every mount, cgroup and file. Says what would not go.
    pub fn clear(&self) -> Vec<String> {
        self.note_sockets();
        self.thaw();
        settled(Duration::from_secs(10), || {
            let processes = self.processes();
            for process in &processes {
                drop(send(process.pid, Signal::KILL));
            }
            processes.iter().all(|process| !alive(process.pid))
        });
        for point in self.mounts().iter().rev() {
            unmount(point, UnmountFlags::DETACH).ok();
        }
        settled(Duration::from_secs(5), || self.remove_cgroups());
        let owned =
            self.runc_parents().into_iter().chain(self.fifo_dirs()).chain([self.home.clone()]);
        owned.for_each(|dir| drop(fs_err::remove_dir_all(dir)));
        for socket in locked(&self.sockets).iter() {
            drop(fs_err::remove_file(socket));
        }
        self.leftovers()
    }

    fn leftovers(&self) -> Vec<String> {
        let mut left = self.remains();
        left.extend(self.cgroup_parents().iter().map(|dir| format!("cgroup {}", dir.display())));
        if self.home.exists() {
            left.push(format!("directory {}", self.home.display()));
        }
        left
    }

    fn contained(&self, process: &Process) -> bool {
        process.cgroups.contains(&format!("/{}", self.tag))
    }

    fn cgroup_parents(&self) -> Vec<PathBuf> {
        let named = |name: &str| name.starts_with(&self.tag);
        cgroup_trees().iter().flat_map(|tree| directories(tree, named)).collect()
    }

    fn bundles(&self) -> Vec<PathBuf> {
        let tasks = ["state", "root"]
            .map(|part| self.home.join(part).join("io.containerd.runtime.v2.task"));
        let namespaces = tasks.iter().flat_map(|dir| directories(dir, |_| true));
        namespaces.flat_map(|dir| directories(&dir, |_| true)).collect()
    }

    fn runc_parents(&self) -> Vec<PathBuf> {
        directories(&Path::new(RUN).join("runc"), |name| name.starts_with(&self.tag))
    }

    fn runc_states(&self) -> Vec<PathBuf> {
        self.runc_parents().iter().flat_map(|dir| directories(dir, |_| true)).collect()
    }

    fn fifo_dirs(&self) -> Vec<PathBuf> {
        let ours = |dir: &PathBuf| {
            let Ok(entries) = fs_err::read_dir(dir) else { return false };
            let mut entries = entries.filter_map(Result::ok);
            entries.any(|entry| entry.file_name().to_string_lossy().contains(&self.mark))
        };
        directories(&Path::new(RUN).join("fifo"), |_| true).into_iter().filter(ours).collect()
    }

    /// Notes the sockets that its shims listen on, as each bundle tells: containerd 1 writes a bare
    /// address, containerd 2 an object of JSON.
    pub fn note_sockets(&self) {
        let bundles = self.bundles();
        let files =
            bundles.iter().flat_map(|dir| ["address", "bootstrap.json"].map(|f| dir.join(f)));
        let texts = files.filter_map(|path| fs_err::read_to_string(path).ok());
        locked(&self.sockets).extend(texts.filter_map(|text| socket_in(&text)));
    }

    /// The sockets of shims that were noted so far, whether they are still there or not.
    pub fn sockets(&self) -> Vec<PathBuf> {
        locked(&self.sockets).iter().cloned().collect()
    }

    /// Lets frozen processes run again: in a v1 freezer even a killed one stays.
    fn thaw(&self) {
        for cgroup in self.cgroups() {
            drop(fs_err::write(cgroup.join("freezer.state"), "THAWED"));
            drop(fs_err::write(cgroup.join("cgroup.freeze"), "0"));
        }
    }

    fn remove_cgroups(&self) -> bool {
        self.cgroup_parents().iter().for_each(|dir| remove_cgroup(dir));
        self.cgroup_parents().is_empty()
    }
}

impl Drop for Estate {
    fn drop(&mut self) {
        let left = self.clear();
        if !left.is_empty() {
            eprintln!("could not clean up:\n  {}", left.join("\n  "));
        }
    }
}

fn socket_in(text: &str) -> Option<PathBuf> {
    let (_, rest) = text.split_once("unix://")?;
    rest.split(['"', '\n', ' ']).next().map(PathBuf::from)
}

fn remove_cgroup(dir: &Path) {
    for child in directories(dir, |_| true) {
        remove_cgroup(&child);
    }
    drop(fs_err::remove_dir(dir));
}

/// Cleans up after earlier runs that were killed before they could do it themselves. Gives the homes
/// of what was found: some are gone, and only a process, a cgroup or a mount still names them.
pub fn sweep() -> Vec<PathBuf> {
    let is_dead = |name: &String| {
        name.split('-').next().and_then(|pid| pid.parse().ok()).is_some_and(|pid| !alive(pid))
    };
    let home = |name| std::env::temp_dir().join(format!("{PREFIX}{name}"));
    let homes: Vec<PathBuf> = names().into_iter().filter(is_dead).map(home).collect();
    homes.iter().filter_map(|home| Estate::at(home)).for_each(drop);
    homes
}

/// The places, each as `<pid>-<mark>`, that anything on the machine still speaks of.
fn names() -> BTreeSet<String> {
    let below = |parents: Vec<PathBuf>| {
        let found = parents.into_iter().flat_map(|dir| directories(&dir, |_| true));
        found.filter_map(|dir| Some(dir.file_name()?.to_str()?.to_owned()))
    };
    let mut parents = cgroup_trees();
    parents.extend([std::env::temp_dir(), Path::new(RUN).join("runc")]);
    let mounts = mount_points().into_iter().map(|point| point.display().to_string());
    let told = processes().into_iter().flat_map(|process| [process.command, process.cgroups]);
    below(parents).chain(mounts).chain(told).flat_map(|text| names_in(&text)).collect()
}

/// What a text says of places: a home and a tag both have `e2e-` before the name.
fn names_in(text: &str) -> Vec<String> {
    let name = |rest: &str| {
        let (pid, rest) = rest.split_once('-')?;
        let mark: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
        let is_pid = !pid.is_empty() && pid.chars().all(|c| c.is_ascii_digit());
        (is_pid && mark.len() == MARK).then(|| format!("{pid}-{mark}"))
    };
    text.split("e2e-").skip(1).filter_map(name).collect()
}

/// What is on the machine by the hand of this process: empty once everything was dropped.
pub fn traces() -> Vec<String> {
    let pid = std::process::id();
    let (home, tag) = (format!("{PREFIX}{pid}-"), format!("e2e-{pid}-"));
    let belongs = |process: &Process| {
        process.command.contains(&home) || process.cgroups.contains(&format!("/{tag}"))
    };
    let named = |path: PathBuf, kind: &str| format!("{kind} {}", path.display());
    let processes = processes().into_iter().filter(belongs);
    let mounts = mount_points().into_iter().filter(|path| path.to_string_lossy().contains(&home));
    let trees = cgroup_trees();
    let cgroups = trees.iter().flat_map(|tree| directories(tree, |name| name.starts_with(&tag)));
    let homes = directories(&std::env::temp_dir(), |name| name.starts_with(&home));
    let states = directories(&Path::new(RUN).join("runc"), |name| name.starts_with(&tag));
    processes
        .map(|process| format!("process {} {}", process.pid, process.command))
        .chain(mounts.map(|path| named(path, "mount")))
        .chain(cgroups.map(|path| named(path, "cgroup")))
        .chain(homes.into_iter().chain(states).map(|path| named(path, "directory")))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::process::Running;

    use super::*;

    #[test]
    fn a_process_that_names_the_home_is_found_and_ended() -> Outcome {
        let estate = Estate::new()?;
        // Two commands, because a shell becomes the last one, which does not name the home.
        let script = format!("sleep 60; true # {}", estate.home().display());
        let stray = Running::start(Command::new("sh").args(["-c", &script]))?;
        // For a moment after the start its command line is still that of whoever started it.
        let found = || estate.processes().iter().any(|process| process.pid == stray.pid());
        assert!(settled(Duration::from_secs(5), found));
        assert_eq!(estate.clear(), Vec::<String>::new());
        assert!(!alive(stray.pid()) && !estate.home().exists());
        Ok(())
    }

    #[test]
    fn a_shims_socket_is_told_in_either_form() {
        let want = Some(PathBuf::from("/run/containerd/s/1234"));
        assert_eq!(socket_in("unix:///run/containerd/s/1234"), want);
        assert_eq!(socket_in(r#"{"version":2,"address":"unix:///run/containerd/s/1234"}"#), want);
    }

    /// A run was killed whose harness had just removed the home: its container stayed for days,
    /// because only homes were looked for.
    #[test]
    fn what_a_dead_run_left_is_swept_whether_its_home_is_there_or_not() -> Outcome {
        // The largest process id is one below the limit, so nobody ever has the limit itself.
        let limit: i32 = fs_err::read_to_string("/proc/sys/kernel/pid_max")?.trim().parse()?;
        let place = |mark| std::env::temp_dir().join(format!("{PREFIX}{limit}-{mark}"));
        let (there, gone) = (place("abcdefgh"), place("hgfedcba"));
        fs_err::create_dir_all(there.join("state"))?;
        let tree = cgroup_trees().pop().context("a hierarchy of control groups")?;
        let cgroup = tree.join(format!("e2e-{limit}-hgfedcba")).join("runs");
        fs_err::create_dir_all(&cgroup)?;
        let stray = Running::start(Command::new("sleep").arg("60"))?;
        fs_err::write(cgroup.join("cgroup.procs"), stray.pid().to_string())?;

        let swept = sweep();
        assert!(swept.contains(&there) && swept.contains(&gone), "{swept:?}");
        assert!(!there.exists() && !cgroup.exists() && !alive(stray.pid()));
        Ok(())
    }

    #[test]
    fn a_place_is_found_in_what_speaks_of_it() {
        let found = |text| names_in(text).join(" ");
        assert_eq!(found("shim -address /tmp/ctrd-e2e-12-abcdEF12/c.sock"), "12-abcdEF12");
        assert_eq!(found("3:pids:/e2e-7-abcdefgh-side/web-abcdefgh"), "7-abcdefgh");
        assert_eq!(found("e2e-x-abcdefgh e2e-1-short e2e- e2e"), "");
    }
}
