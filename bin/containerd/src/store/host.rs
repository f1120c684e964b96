// SPDX-License-Identifier: Apache-2.0
//! What containers leave on the host when nobody looks after them: bundles, shims, mounts, loop
//! devices, control groups, network namespaces.
//!
//! ```text
//! look (reads /proc, /sys and the state directory) --> Host --judge, with the records--> things
//! ```
mod attached;
mod groups;
mod networks;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use fs_err as fs;
use records::{State, audit::Thing};

use self::{
    attached::{Device, Mounted},
    groups::Group,
};

/// Where bundles are, below the state directory (containerd `core/runtime/v2/task_manager.go`).
pub(super) const TASKS: &str = "io.containerd.runtime.v2.task";

/// For how long something may be in the making that has no record of itself.
const YOUNG: Duration = Duration::from_secs(5);

/// A container or a sandbox, by namespace and id.
pub(super) type Name = (String, String);

/// Where a daemon keeps what it has.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// What outlives a reboot.
    pub(crate) root: PathBuf,
    /// What does not.
    pub(crate) state: PathBuf,
    /// The socket that shims speak to.
    pub(crate) address: PathBuf,
}

/// What the metadata knows of that is on the host.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    /// All containers and sandboxes.
    pub(super) names: BTreeSet<Name>,
    /// The network namespaces that their specs name.
    pub(super) networks: BTreeMap<PathBuf, Vec<Name>>,
    /// The points of activated mounts, and the names of their activations with their namespaces.
    pub(super) activations: BTreeMap<PathBuf, Name>,
}

/// What there is on the host.
#[derive(Debug, Default)]
pub(super) struct Host {
    bundles: Vec<(Name, PathBuf)>,
    shims: Vec<(Name, u32)>,
    mounts: Vec<Mounted>,
    devices: Vec<Device>,
    groups: Vec<Group>,
    networks: Vec<PathBuf>,
}

impl Host {
    /// Looks for all of it. `namespaces` are those that may have control groups.
    ///
    /// The order matters: what is made later is looked for earlier, so that what it belongs to is
    /// found, too.
    pub(super) fn look(places: &Places, namespaces: &BTreeSet<String>) -> Self {
        let devices = attached::devices(places);
        let mounts = attached::mounts();
        let shims = shims(Path::new("/proc"), &places.address);
        let groups = groups::all(&mounts, namespaces);
        let bundles = bundles(&places.state.join(TASKS));
        let networks = networks::below(&mounts, places);
        let mounts = mounts.into_iter().filter(|mounted| mounted.is_of(places, &devices));
        Self { bundles, shims, mounts: mounts.collect(), devices, groups, networks }
    }

    /// What keeps the bundle of a container: its record, and the shim that works in it.
    fn owners_of(&self, name: &Name, recorded: &Recorded) -> Vec<String> {
        let record = recorded.names.contains(name).then(|| format!("container {}", name.1));
        let shim = self.shims.iter().find(|(of, _)| of == name);
        record.into_iter().chain(shim.map(|(_, pid)| format!("shim {pid}"))).collect()
    }

    fn has_bundle(&self, name: &Name) -> bool {
        self.bundles.iter().any(|(of, _)| of == name)
    }

    /// The bundle of a container, if there is one, and what keeps it.
    fn bundle_and_owners(&self, name: &Name, recorded: &Recorded) -> Vec<String> {
        if !self.has_bundle(name) {
            return Vec::new();
        }
        let owners = self.owners_of(name, recorded);
        if owners.is_empty() {
            return owners;
        }
        std::iter::once(format!("bundle {}", name.1)).chain(owners).collect()
    }
}

fn bundles(tasks: &Path) -> Vec<(Name, PathBuf)> {
    let namespaces = names(tasks).into_iter();
    let bundles = namespaces.flat_map(|namespace| {
        let dir = tasks.join(&namespace);
        names(&dir).into_iter().map(move |id| {
            let path = dir.join(&id);
            ((namespace.clone(), id), path)
        })
    });
    bundles.collect()
}

/// Whose each thing is, by the records that there are.
pub(super) fn judge(host: &Host, places: &Places, recorded: &Recorded) -> Vec<Thing> {
    let bundles = host.bundles.iter().map(|(name, path)| {
        let owners = host.owners_of(name, recorded);
        thing("bundle", &name.0, name.1.clone(), Some(path.clone()), owners)
    });
    let shims = host.shims.iter().map(|(name, pid)| {
        let has_bundle = host.has_bundle(name);
        let owners = has_bundle.then(|| format!("bundle {}", name.1)).into_iter();
        let owners =
            owners.chain(recorded.names.contains(name).then(|| format!("container {}", name.1)));
        let owners = owners.filter(|_| has_bundle).collect();
        thing("shim", &name.0, format!("{pid} of {}", name.1), None, owners)
    });
    bundles
        .chain(shims)
        .chain(attached::judge(host, places, recorded))
        .chain(groups::judge(host, recorded))
        .chain(networks::judge(host, recorded))
        .collect()
}

/// Something on the host: an orphan if nothing keeps it.
fn thing(
    kind: &str,
    namespace: &str,
    name: String,
    path: Option<PathBuf>,
    owners: Vec<String>,
) -> Thing {
    Thing {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name,
        since: path.as_deref().and_then(changed_at),
        path,
        size: 0,
        state: if owners.is_empty() { State::Orphan } else { State::Kept },
        owners,
    }
}

/// The same of what says nowhere whose it is while it is made: what is young is its maker's.
fn unless_young(mut thing: Thing) -> Thing {
    let age = thing.since.and_then(|since| since.elapsed().ok());
    if thing.state == State::Orphan && age.is_some_and(|age| age < YOUNG) {
        thing.state = State::Kept;
        thing.owners = vec!["whoever is making it".to_owned()];
    }
    thing
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|about| about.modified()).ok()
}

/// The directories in a directory; hidden ones are what is being removed.
fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.path().is_dir());
    let names = dirs.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| !name.starts_with('.')).collect()
}

fn shims(proc: &Path, address: &Path) -> Vec<(Name, u32)> {
    let processes = names(proc).into_iter().filter_map(|name| name.parse::<u32>().ok());
    processes.filter_map(|pid| Some((shim_of(proc, pid, address)?, pid))).collect()
}

/// What the process is the shim of, if it is one of the daemon with the socket `address`.
pub(super) fn shim_of(proc: &Path, pid: u32, address: &Path) -> Option<Name> {
    let line = fs::read(proc.join(pid.to_string()).join("cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let words: Vec<&str> = line.split('\0').collect();
    shim(&words, &address.to_string_lossy())
}

/// What a process is the shim of, by its command line (containerd `pkg/shim/util.go`, `Command`).
/// One that is only starting or cleaning up has a further word.
fn shim(words: &[&str], address: &str) -> Option<Name> {
    let program = words.first()?.rsplit('/').next()?;
    let after = |flag: &str| {
        let at = words.iter().position(|word| word.trim_start_matches('-') == flag)?;
        words.get(at + 1).map(|word| (*word).to_owned())
    };
    let is_short_lived = words.iter().any(|word| matches!(*word, "start" | "delete"));
    let is_ours = program.starts_with("containerd-shim") && after("address")? == address;
    (is_ours && !is_short_lived).then_some((after("namespace")?, after("id")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> Name {
        ("n".to_owned(), id.to_owned())
    }

    #[test]
    fn a_shim_is_known_by_its_command_line() {
        let line = "/usr/bin/containerd-shim-runc-v2 -namespace n -id a -address /run/c.sock";
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(shim(&words, "/run/c.sock"), Some(name("a")));
        assert_eq!(shim(&words, "/run/other.sock"), None);
        assert_eq!(shim(&[words.as_slice(), &["start"]].concat(), "/run/c.sock"), None);
        assert_eq!(shim(&["sleep", "1"], "/run/c.sock"), None);
    }

    fn places() -> Places {
        let [root, state, address] = ["/r", "/s", "/s/c.sock"].map(PathBuf::from);
        Places { root, state, address }
    }

    fn told(host: &Host, recorded: &Recorded) -> Vec<String> {
        let things = judge(host, &places(), recorded);
        let told = things.iter().map(|it| {
            assert_eq!(it.state == State::Orphan, it.owners.is_empty());
            format!("{} {}: {}", it.kind, it.name, it.owners.join(", "))
        });
        told.collect()
    }

    fn bundle(id: &str) -> (Name, PathBuf) {
        (name(id), Path::new("/s").join(TASKS).join("n").join(id))
    }

    fn mounted(point: &Path, source: &str) -> Mounted {
        let source = source.to_owned();
        Mounted { point: point.to_owned(), source, ..Mounted::default() }
    }

    #[test]
    fn a_bundle_is_kept_by_a_record_or_a_shim_and_a_shim_by_its_bundle() {
        let host = Host {
            bundles: vec![bundle("both"), bundle("shim"), bundle("neither")],
            shims: vec![(name("both"), 1), (name("shim"), 2), (name("lonely"), 3)],
            ..Host::default()
        };
        let recorded = Recorded { names: [name("both")].into(), ..Recorded::default() };
        let want = [
            "bundle both: container both, shim 1",
            "bundle shim: shim 2",
            "bundle neither: ",
            "shim 1 of both: bundle both, container both",
            "shim 2 of shim: bundle shim",
            "shim 3 of lonely: ",
        ];
        assert_eq!(told(&host, &recorded), want);
    }

    #[test]
    fn a_mount_is_kept_by_its_bundle_or_its_activation_and_a_device_by_its_mount() {
        let rootfs = bundle("c").1.join("rootfs");
        let stray = bundle("gone").1.join("rootfs");
        let point = Path::new("/s").join(crate::plugins::MOUNT_MANAGER).join("t/7/1");
        let device = |number: u32, file: &str| Device {
            path: format!("/dev/loop{number}").into(),
            file: file.into(),
        };
        let host = Host {
            bundles: vec![bundle("c"), bundle("gone")],
            mounts: vec![
                mounted(&rootfs, "/dev/loop1"),
                mounted(&stray, "overlay"),
                mounted(&point, "/dev/loop2"),
                mounted(Path::new("/s"), "tmpfs"),
            ],
            devices: vec![device(1, "/r/a"), device(2, "/r/b"), device(3, "/r/c")],
            ..Host::default()
        };
        let recorded = Recorded {
            names: [name("c")].into(),
            activations: [(point.clone(), ("n".into(), "act".into()))].into(),
            ..Recorded::default()
        };
        let want = [
            "bundle c: container c".to_owned(),
            "bundle gone: ".to_owned(),
            format!("mount {}: bundle c, container c", rootfs.display()),
            format!("mount {}: ", stray.display()),
            format!("mount {}: activation act", point.display()),
            "mount /s: the host".to_owned(),
            format!("loop /dev/loop1: mount {}, bundle c, container c", rootfs.display()),
            format!("loop /dev/loop2: mount {}, activation act", point.display()),
            "loop /dev/loop3: ".to_owned(),
        ];
        assert_eq!(told(&host, &recorded), want);
    }

    #[test]
    fn a_group_is_kept_by_its_bundle_or_by_those_in_it_and_a_network_by_whose_spec_names_it() {
        let group = |id: &str, processes: &[u32]| Group {
            name: name(id),
            paths: vec![],
            processes: processes.to_vec(),
        };
        let host = Host {
            bundles: vec![bundle("c")],
            groups: vec![group("c", &[]), group("foreign", &[4, 5]), group("empty", &[])],
            networks: vec!["/s/net/stray".into()],
            ..Host::default()
        };
        let recorded = Recorded {
            names: [name("c")].into(),
            networks: [("/proc/self/ns/net".into(), vec![name("c")])].into(),
            ..Recorded::default()
        };
        let want = [
            "bundle c: container c",
            "cgroup /n/c: bundle c, container c",
            "cgroup /n/foreign: processes 4, 5",
            "cgroup /n/empty: ",
            "netns /proc/self/ns/net: container c",
            "netns /s/net/stray: ",
        ];
        assert_eq!(told(&host, &recorded), want);
    }
}
