// SPDX-License-Identifier: Apache-2.0
use crate::{
    Capabilities, DeviceRule, Host, Linux, Mount, Namespace, Process, Resources, Rlimit, Root,
    Spec, capability,
};

/// The version that containerd 2.1 writes.
const OCI_VERSION: &str = "1.2.1";
/// What a container can do to the device nodes that it may use: read, write, make.
pub(crate) const RWM: &str = "rwm";
/// What containers must not see (containerd `pkg/oci/spec.go`). Some would let one container watch
/// another: interrupts by their timing, powercap by the energy that is used; see also
/// [`Host::thermal_paths`].
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];
/// What containers must not change.
const READONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// What containers do not share with the host.
const NAMESPACES: [&str; 5] = ["pid", "ipc", "uts", "mount", "network"];

/// The spec that containerd gives to a container `id` of which nothing else is known
/// (containerd `pkg/oci/spec.go`, `populateDefaultUnixSpec`).
pub fn default(namespace: &str, id: &str, host: &Host) -> Spec {
    Spec {
        oci_version: OCI_VERSION.to_owned(),
        process: process(),
        root: Root { path: "rootfs".to_owned(), ..Root::default() },
        mounts: mounts(),
        linux: linux(format!("/{namespace}/{id}"), host),
        ..Spec::default()
    }
}

fn process() -> Process {
    let capabilities: Vec<_> = capability::DEFAULT.iter().map(|&name| name.to_owned()).collect();
    Process {
        cwd: "/".to_owned(),
        no_new_privileges: true,
        capabilities: Some(Capabilities {
            bounding: capabilities.clone(),
            effective: capabilities.clone(),
            permitted: capabilities,
            ..Capabilities::default()
        }),
        rlimits: vec![Rlimit { kind: "RLIMIT_NOFILE".to_owned(), hard: 1024, soft: 1024 }],
        ..Process::default()
    }
}

/// Containerd `pkg/oci/mounts.go`.
fn mounts() -> Vec<Mount> {
    let sealed = ["nosuid", "noexec", "nodev"];
    let small = ["nosuid", "strictatime", "mode=755", "size=65536k"];
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let shm = ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"];
    vec![
        Mount::new("/proc", "proc", "proc", &sealed),
        Mount::new("/dev", "tmpfs", "tmpfs", &small),
        Mount::new("/dev/pts", "devpts", "devpts", &pts),
        Mount::new("/dev/shm", "tmpfs", "shm", &shm),
        Mount::new("/dev/mqueue", "mqueue", "mqueue", &sealed),
        Mount::new("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        Mount::new("/run", "tmpfs", "tmpfs", &small),
    ]
}

fn linux(cgroups_path: String, host: &Host) -> Linux {
    let own = |&text: &&str| text.to_owned();
    let nothing = DeviceRule { access: RWM.to_owned(), ..DeviceRule::default() };
    Linux {
        masked_paths: MASKED.iter().map(own).chain(host.thermal_paths.iter().cloned()).collect(),
        readonly_paths: READONLY.iter().map(own).collect(),
        cgroups_path,
        resources: Some(Resources { devices: vec![nothing], ..Resources::default() }),
        namespaces: NAMESPACES
            .iter()
            .map(|kind| Namespace { kind: own(kind), path: String::new() })
            .collect(),
        ..Linux::default()
    }
}

/// The rules for the devices that every container has: null, random, full, tty, zero, urandom,
/// console, all of devpts, ptmx (containerd `pkg/oci/spec_opts.go`, `WithDefaultUnixDevices`).
pub fn default_devices() -> Vec<DeviceRule> {
    let numbers = [
        (1, Some(3)),
        (1, Some(8)),
        (1, Some(7)),
        (5, Some(0)),
        (1, Some(5)),
        (1, Some(9)),
        (5, Some(1)),
        (136, None),
        (5, Some(2)),
    ];
    let rule = |(major, minor)| DeviceRule {
        allow: true,
        kind: "c".to_owned(),
        major: Some(major),
        minor,
        access: RWM.to_owned(),
    };
    numbers.into_iter().map(rule).collect()
}
