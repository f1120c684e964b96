// SPDX-License-Identifier: Apache-2.0
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use fs_err as fs;
use types::{Error, Result};

use crate::{
    Mode, OomWatch,
    hierarchy::{Hierarchies, Place, UNIFIED},
    oom, processes, v1, v2,
};

/// Where the processes of a cgroup of version 1 are looked for: those that a runtime always joins.
const BEST_FOR_PROCESSES: [&str; 5] = ["devices", "pids", "freezer", "memory", "cpu"];

/// A control group: one directory, or with version 1 one for each controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    unified: bool,
    places: BTreeMap<String, Place>,
}

/// What a cgroup uses.
#[derive(Clone, Debug, PartialEq)]
pub enum Metrics {
    /// On a legacy or hybrid host.
    V1(Box<v1::Metrics>),
    /// On a unified host.
    V2(Box<v2::Metrics>),
}

impl Cgroup {
    /// The cgroup that a process is in.
    pub fn of_pid(pid: u32) -> Result<Self> {
        let gone = |_| Error::not_found(format!("process {pid}"));
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(gone)?;
        Self::of_membership(&membership).map_err(|error| error.context(format!("process {pid}")))
    }

    /// The cgroup that a process was in when its `/proc/<pid>/cgroup` told this.
    pub fn of_membership(membership: &str) -> Result<Self> {
        let mode = Mode::detect();
        let places = Hierarchies::read(mode)?.places_of(membership);
        Self::existing(mode, places, || "cgroup".to_owned())
    }

    /// The cgroup with this path, which is the same in all hierarchies: `/default/id`.
    pub fn at(path: &str) -> Result<Self> {
        let mode = Mode::detect();
        let places = Hierarchies::read(mode)?.places_at(path)?;
        Self::existing(mode, places, || format!("cgroup {path}"))
    }

    /// Makes a cgroup with this path in all hierarchies, or takes what is there.
    pub fn create(path: &str) -> Result<Self> {
        let mode = Mode::detect();
        let places = Hierarchies::read(mode)?.places_at(path)?;
        for place in places.values() {
            fs::create_dir_all(&place.dir)?;
        }
        if let Some(place) = places.get("cpuset") {
            inherit_cpuset(place)?;
        }
        Self::existing(mode, places, || format!("cgroup {path}"))
    }

    /// Keeps the places that exist: a runtime does not join every controller.
    fn existing(
        mode: Mode,
        mut places: BTreeMap<String, Place>,
        name: impl Fn() -> String,
    ) -> Result<Self> {
        places.retain(|_, place| place.dir.is_dir());
        if places.is_empty() {
            return Err(Error::not_found(name()));
        }
        Ok(Self { unified: mode == Mode::Unified, places })
    }

    /// Whether it still exists anywhere.
    pub fn exists(&self) -> bool {
        self.places.values().any(|place| place.dir.is_dir())
    }

    /// Its directory for a controller of version 1, or on a unified host for any.
    pub fn dir(&self, controller: &str) -> Option<&Path> {
        let name = if self.unified { UNIFIED } else { controller };
        self.places.get(name).map(|place| place.dir.as_path())
    }

    /// What it uses.
    pub fn metrics(&self) -> Result<Metrics> {
        self.check()?;
        Ok(match self.dir(UNIFIED) {
            Some(dir) if self.unified => Metrics::V2(Box::new(v2::read(dir))),
            _ => Metrics::V1(Box::new(v1::read(|controller| self.dir(controller)))),
        })
    }

    /// The processes in it and below it.
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.check()?;
        processes::list(&self.for_processes().dir)
    }

    /// Moves a process into it.
    pub fn add(&self, pid: u32) -> Result<()> {
        for place in self.places.values() {
            fs::write(place.dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }

    /// Ends all processes in it and below it, and waits until they are gone. It is an error to ask
    /// this of the top of a tree, where everybody is.
    pub fn kill(&self) -> Result<()> {
        let place = self.for_processes();
        if place.is_top() {
            return Err(refused("kill", place));
        }
        let freezer = self.places.get(if self.unified { UNIFIED } else { "freezer" });
        let freezer =
            freezer.filter(|freezer| !freezer.is_top()).map(|freezer| freezer.dir.as_path());
        processes::kill(&place.dir, freezer)
    }

    /// Removes it and those below it, from all hierarchies. Its processes must have ended: while
    /// there are some it is `FailedPrecondition`. What is gone already is no error.
    pub fn delete(&self) -> Result<()> {
        if let Some(top) = self.places.values().next().filter(|_| self.is_all_top()) {
            return Err(refused("delete", top));
        }
        let places = self.places.values().filter(|place| !place.is_top());
        let removed: Vec<_> = places.map(|place| processes::remove(&place.dir)).collect();
        removed.into_iter().collect()
    }

    /// Starts to watch for it to run out of memory.
    pub fn watch_oom(&self) -> Result<OomWatch> {
        OomWatch::start(self.memory_dir()?, self.unified)
    }

    /// How many processes the kernel has ended so far because memory ran out. None if it does not
    /// count.
    pub fn oom_kills(&self) -> Option<u64> {
        oom::kills(self.memory_dir().ok()?, self.unified)
    }

    fn memory_dir(&self) -> Result<&Path> {
        self.dir("memory")
            .ok_or_else(|| Error::failed_precondition("memory cgroup not supported on this system"))
    }

    fn check(&self) -> Result<()> {
        if self.exists() {
            return Ok(());
        }
        Err(Error::not_found(format!("cgroup {}", self.for_processes().dir.display())))
    }

    /// The place whose processes are ours and nobody else's, if there is one.
    fn for_processes(&self) -> &Place {
        let best = BEST_FOR_PROCESSES.iter().filter_map(|name| self.places.get(*name));
        let mut candidates = best.chain(self.places.values());
        let own = candidates.clone().find(|place| !place.is_top());
        own.or_else(|| candidates.next()).expect("a cgroup without any place is never made")
    }

    fn is_all_top(&self) -> bool {
        self.places.values().all(Place::is_top)
    }
}

fn refused(what: &str, place: &Place) -> Error {
    let path = place.dir.display();
    Error::failed_precondition(format!("refusing to {what} the cgroup at the top of {path}"))
}

/// A new cpuset of version 1 is empty, and nobody can join it before it has what its parent has.
fn inherit_cpuset(place: &Place) -> Result<()> {
    let below = place.dir.strip_prefix(&place.mount).unwrap_or(&place.dir);
    let mut parent: PathBuf = place.mount.clone();
    for name in below {
        let dir = parent.join(name);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if fs::read_to_string(dir.join(file))?.trim().is_empty() {
                let inherited = fs::read_to_string(parent.join(file))?;
                fs::write(dir.join(file), inherited.trim())?;
            }
        }
        parent = dir;
    }
    Ok(())
}
