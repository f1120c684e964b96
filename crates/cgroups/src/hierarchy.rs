// SPDX-License-Identifier: Apache-2.0
//! Where the hierarchies of cgroups are mounted, and where in them a process is.
use std::{
    collections::BTreeMap,
    path::{Component, Path, PathBuf},
};

use fs_err as fs;
use rustix::fs::statfs;
use types::{Error, Result};

/// Where systemd and everybody else mounts cgroups.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";
/// The name of the version 2 tree among the controllers of a hybrid host.
pub(crate) const UNIFIED: &str = "unified";
/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2_MAGIC: u32 = 0x6367_7270;

/// Which versions of cgroups a host has (containerd/cgroups `utils.go`, `Mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// None.
    Unavailable,
    /// Version 1: a tree per controller.
    Legacy,
    /// Version 1, and a version 2 tree beside it, which has few controllers or none.
    Hybrid,
    /// Version 2: one tree.
    Unified,
}

impl Mode {
    /// The mode of this host, as seen in the mount namespace of the calling thread.
    pub fn detect() -> Self {
        Self::of(Path::new(ROOT))
    }

    fn of(root: &Path) -> Self {
        let kind = |path: &Path| statfs(path).map(|found| found.f_type as u32);
        match kind(root) {
            Err(_) => Self::Unavailable,
            Ok(CGROUP2_MAGIC) => Self::Unified,
            Ok(_) if kind(&root.join(UNIFIED)) == Ok(CGROUP2_MAGIC) => Self::Hybrid,
            Ok(_) => Self::Legacy,
        }
    }
}

/// A mounted tree of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// The cgroup that is seen there. Not the root in a container without a cgroup namespace.
    pub(crate) root: String,
}

impl Hierarchy {
    /// The directory of a cgroup, if it is below what is mounted.
    fn dir(&self, cgroup: &str) -> Option<PathBuf> {
        let below = Path::new(cgroup).strip_prefix(&self.root).ok()?;
        let escapes = below.components().any(|component| component == Component::ParentDir);
        (!escapes).then(|| {
            if below == Path::new("") { self.mount.clone() } else { self.mount.join(below) }
        })
    }
}

/// Where a cgroup is in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) mount: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Place {
    /// Whether this is the top of the tree, which belongs to nobody.
    pub(crate) fn is_top(&self) -> bool {
        self.dir == self.mount
    }
}

/// The hierarchies by controller: those of version 1 by name, that of version 2 as [`UNIFIED`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hierarchies(BTreeMap<String, Hierarchy>);

impl Hierarchies {
    pub(crate) fn read(mode: Mode) -> Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/thread-self/mountinfo")?, mode))
    }

    /// Finds them in a mountinfo file. Of several mounts of one hierarchy, the usual place counts.
    /// What a unified host has mounted below its root cannot be seen, and is passed over.
    fn parse(mountinfo: &str, mode: Mode) -> Self {
        let mut found = BTreeMap::<String, Hierarchy>::new();
        for (controllers, hierarchy) in mountinfo.lines().filter_map(parse_mount) {
            let unified = controllers == [UNIFIED];
            if unified != (mode == Mode::Unified) && mode != Mode::Hybrid {
                continue;
            }
            for controller in controllers {
                let known =
                    found.get(&controller).is_some_and(|known| known.mount.starts_with(ROOT));
                if !known || hierarchy.mount == Path::new(ROOT) {
                    found.insert(controller, hierarchy.clone());
                }
            }
        }
        Self(found)
    }

    /// The places of one cgroup, by its path in all hierarchies.
    pub(crate) fn places_at(&self, path: &str) -> Result<BTreeMap<String, Place>> {
        let below = path.trim_start_matches('/');
        if below.is_empty() || Path::new(below).components().any(|c| c == Component::ParentDir) {
            return Err(Error::invalid(format!("cgroup path {path:?}")));
        }
        let place = |hierarchy: &Hierarchy| Place {
            mount: hierarchy.mount.clone(),
            dir: hierarchy.mount.join(below),
        };
        Ok(self.0.iter().map(|(name, hierarchy)| (name.clone(), place(hierarchy))).collect())
    }

    /// The places of a process, from its `/proc/<pid>/cgroup`.
    pub(crate) fn places_of(&self, membership: &str) -> BTreeMap<String, Place> {
        let mut places = BTreeMap::new();
        for (controllers, path) in membership.lines().filter_map(parse_membership) {
            for controller in controllers {
                let Some(hierarchy) = self.0.get(controller) else { continue };
                let Some(dir) = hierarchy.dir(path) else { continue };
                let mount = hierarchy.mount.clone();
                places.insert(controller.to_owned(), Place { mount, dir });
            }
        }
        places
    }
}

/// Reads `4:memory:/ns/id`, `1:name=systemd:/`, `0::/ns/id` (`cgroups(7)`).
fn parse_membership(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut fields = line.splitn(3, ':');
    let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let controllers = match controllers {
        "" => vec![UNIFIED],
        names => names.split(',').map(plain_name).collect(),
    };
    Some((controllers, path))
}

/// Reads a line of mountinfo (`proc_pid_mountinfo(5)`), if it is of cgroups. Paths of cgroup mounts
/// have nothing to escape.
fn parse_mount(line: &str) -> Option<(Vec<String>, Hierarchy)> {
    let (of_mount, of_filesystem) = line.split_once(" - ")?;
    let mut of_mount = of_mount.split(' ').skip(3);
    let (root, mount) = (of_mount.next()?.to_owned(), PathBuf::from(of_mount.next()?));
    let mut of_filesystem = of_filesystem.split(' ');
    let kind = of_filesystem.next()?;
    let options = of_filesystem.nth(1)?;
    let controllers = match kind {
        "cgroup2" => vec![UNIFIED.to_owned()],
        "cgroup" => {
            options.split(',').filter(is_controller).map(|o| plain_name(o).to_owned()).collect()
        }
        _ => return None,
    };
    Some((controllers, Hierarchy { mount, root }))
}

fn plain_name(controller: &str) -> &str {
    controller.strip_prefix("name=").unwrap_or(controller)
}

fn is_controller(option: &&str) -> bool {
    let flags =
        ["rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "favordynmods"];
    !flags.contains(option) && !option.starts_with("release_agent=")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /mnt/elsewhere rw,relatime - cgroup cgroup rw,memory
36 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    fn dirs(places: &BTreeMap<String, Place>) -> Vec<String> {
        places.iter().map(|(name, place)| format!("{name} {}", place.dir.display())).collect()
    }

    #[test]
    fn a_process_of_a_hybrid_host_has_a_place_per_controller() {
        let hierarchies = Hierarchies::parse(HYBRID, Mode::Hybrid);
        let places =
            hierarchies.places_of("4:memory:/a/b\n3:cpu,cpuacct:/\n2:name=systemd:/c\n0::/d\n");
        let want = [
            "cpu /sys/fs/cgroup/cpu,cpuacct",
            "cpuacct /sys/fs/cgroup/cpu,cpuacct",
            "memory /sys/fs/cgroup/memory/a/b",
            "systemd /sys/fs/cgroup/systemd/c",
            "unified /sys/fs/cgroup/unified/d",
        ];
        assert_eq!(dirs(&places), want);
        assert!(places["cpu"].is_top() && !places["memory"].is_top());
    }

    #[test]
    fn a_unified_host_may_hide_version_1_below() {
        let text = format!("{HYBRID}50 31 0:50 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let hierarchies = Hierarchies::parse(&text, Mode::Unified);
        let places = hierarchies.places_of("4:memory:/a\n0::/b\n");
        assert_eq!(dirs(&places), ["unified /sys/fs/cgroup/b"]);
    }

    #[test]
    fn what_is_mounted_may_be_a_part_of_the_tree() {
        let text = "36 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        let hierarchies = Hierarchies::parse(text, Mode::Legacy);
        let of = |path: &str| dirs(&hierarchies.places_of(&format!("4:memory:{path}\n")));
        assert_eq!(of("/docker/x/y"), ["memory /sys/fs/cgroup/memory/y"]);
        assert_eq!(of("/docker/x"), ["memory /sys/fs/cgroup/memory"]);
        assert!(of("/docker/other").is_empty());
        assert!(of("/docker/x/../../y").is_empty());
    }

    #[test]
    fn a_path_does_not_lead_out_of_the_tree() {
        let hierarchies = Hierarchies::parse(HYBRID, Mode::Hybrid);
        assert_eq!(hierarchies.places_at("/a").unwrap().len(), 5);
        for path in ["", "/", "/a/../b"] {
            hierarchies.places_at(path).unwrap_err();
        }
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_legacy_and_none_is_unavailable() {
        assert_eq!(Mode::of(Path::new("/proc")), Mode::Legacy);
        assert_eq!(Mode::of(Path::new("/no/such")), Mode::Unavailable);
    }
}
