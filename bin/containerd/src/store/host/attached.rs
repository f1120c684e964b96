// SPDX-License-Identifier: Apache-2.0
//! Mounts, and the loop devices behind some of them.
use std::path::{Path, PathBuf};

use fs_err as fs;
use mount::mountinfo;
use records::audit::Thing;

use super::{Host, Name, Places, Recorded, TASKS, thing, unless_young};
use crate::plugins;

/// A mount on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mounted {
    pub(super) point: PathBuf,
    pub(super) kind: String,
    pub(super) source: String,
    /// The directory of its filesystem that is its root.
    pub(super) root: PathBuf,
}

/// A loop device over a file of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) path: PathBuf,
    pub(super) file: PathBuf,
}

/// All mounts, in order.
pub(super) fn mounts() -> Vec<Mounted> {
    let entries = mountinfo::read().unwrap_or_default();
    let mounted = entries.into_iter().map(|entry| Mounted {
        source: entry.source.to_string_lossy().into_owned(),
        point: entry.mount_point,
        kind: entry.kind,
        root: entry.root,
    });
    mounted.collect()
}

impl Mounted {
    /// Whether it is in one of our places, or of one of our devices.
    pub(super) fn is_of(&self, places: &Places, devices: &[Device]) -> bool {
        let has_device = || devices.iter().any(|device| device.path == Path::new(&self.source));
        self.point.starts_with(&places.root)
            || self.point.starts_with(&places.state)
            || has_device()
    }
}

/// The devices over files in our places, as the kernel lists them (`Documentation/ABI/testing/sysfs-block`).
pub(super) fn devices(places: &Places) -> Vec<Device> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let devices = names.filter(|name| name.starts_with("loop")).filter_map(|name| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        let file = file.trim_end().trim_end_matches(" (deleted)");
        Some(Device { path: Path::new("/dev").join(name), file: file.into() })
    });
    let is_ours = |device: &Device| {
        device.file.starts_with(&places.root) || device.file.starts_with(&places.state)
    };
    devices.filter(is_ours).collect()
}

pub(super) fn judge(host: &Host, places: &Places, recorded: &Recorded) -> Vec<Thing> {
    let mounts = host.mounts.iter().map(|mounted| {
        let point = &mounted.point;
        let (namespace, owners) = whose(host, places, recorded, point);
        let name = point.display().to_string();
        unless_young(thing("mount", &namespace, name, Some(point.clone()), owners))
    });
    let devices = host.devices.iter().map(|device| {
        let (namespace, owners) = users(host, places, recorded, device);
        let name = device.path.display().to_string();
        let mut thing = thing("loop", &namespace, name, None, owners);
        thing.path = Some(device.path.clone());
        thing
    });
    mounts.chain(devices).collect()
}

/// What keeps a mount, and whose it is. What is not in a place where daemons mount is the host's own.
fn whose(host: &Host, places: &Places, recorded: &Recorded, point: &Path) -> (String, Vec<String>) {
    let managed = places.state.join(plugins::MOUNT_MANAGER).join("t");
    if let Some(name) = container_of(&places.state, point) {
        return (name.0.clone(), host.bundle_and_owners(&name, recorded));
    }
    if point.starts_with(managed) {
        let Some((namespace, name)) = recorded.activations.get(point) else {
            return Default::default();
        };
        return (namespace.clone(), vec![format!("activation {name}")]);
    }
    (String::new(), vec!["the host".to_owned()])
}

/// The container in whose bundle a path is.
fn container_of(state: &Path, path: &Path) -> Option<Name> {
    let mut words = path.strip_prefix(state.join(TASKS)).ok()?.iter();
    let mut word = || Some(words.next()?.to_string_lossy().into_owned());
    Some((word()?, word()?))
}

/// What a device is mounted as or activated for, and what keeps that.
fn users(
    host: &Host,
    places: &Places,
    recorded: &Recorded,
    device: &Device,
) -> (String, Vec<String>) {
    let mut mounts = host.mounts.iter();
    if let Some(mounted) = mounts.find(|it| Path::new(&it.source) == device.path) {
        let (namespace, owners) = whose(host, places, recorded, &mounted.point);
        let first = format!("mount {}", mounted.point.display());
        return (namespace, std::iter::once(first).chain(owners).collect());
    }
    let is_link = |point: &&PathBuf| fs::read_link(point).is_ok_and(|to| to == device.path);
    let link = recorded.activations.keys().find(is_link);
    let Some((namespace, name)) = link.and_then(|link| recorded.activations.get(link)) else {
        return Default::default();
    };
    (namespace.clone(), vec![format!("activation {name}")])
}
