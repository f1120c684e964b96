// SPDX-License-Identifier: Apache-2.0
use serde_json::{Value, json};
use types::{Error, Kind, Labels, Result};

use crate::{
    Device, DeviceRule, Host, IdMapping, ImageConfig, Mount, Namespace, Rlimit, Spec, User, Users,
    default::{RWM, default, default_devices},
    environment, seccomp,
};

/// The length of a period when processors are counted, in microseconds
/// (containerd `cmd/ctr/commands/run/run_unix.go`).
const PERIOD: u32 = 100_000;

/// What a container is made from.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// The namespace that it is in.
    pub namespace: &'a str,
    /// Its name.
    pub id: &'a str,
    /// The image whose filesystem it gets; none when it has a root filesystem of its own.
    pub image: Option<&'a ImageConfig>,
}

impl<'a> Container<'a> {
    /// A container without an image.
    pub fn new(namespace: &'a str, id: &'a str) -> Self {
        Self { namespace, id, image: None }
    }

    /// The same container, from an image.
    pub fn image(self, image: &'a ImageConfig) -> Self {
        Self { image: Some(image), ..self }
    }
}

/// What is wanted of a container, in the words of `ctr run`. What is not said is as containerd has it
/// by default, or as the image says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// The command line, in place of the image's entrypoint and command.
    pub args: Vec<String>,
    /// The directory to start in.
    pub cwd: Option<String>,
    /// Changes to the environment from a file, which come before the others: see [`crate::env_file`].
    pub env_file: Vec<String>,
    /// Changes to the environment: `KEY=value`, or `KEY` to remove it.
    pub env: Vec<String>,
    /// Who to run as: see [`Users::find`].
    pub user: Option<String>,
    /// Whether there is a terminal.
    pub tty: bool,
    /// The host name.
    pub hostname: Option<String>,
    /// Further mounts.
    pub mounts: Vec<Mount>,
    /// An absolute path to a root filesystem that is not containerd's.
    pub rootfs: Option<String>,
    /// Whether the root filesystem cannot be written to.
    pub read_only: bool,
    /// How mounts below the root propagate: `rshared`.
    pub rootfs_propagation: Option<String>,
    /// Whether to use the host's network, and its `/etc/hosts` and `/etc/resolv.conf`.
    pub net_host: bool,
    /// Namespaces to join.
    pub namespaces: Vec<Namespace>,
    /// Users of the container that are others on the host, in a user namespace.
    pub uid_mappings: Vec<IdMapping>,
    /// The same for groups.
    pub gid_mappings: Vec<IdMapping>,
    /// Whether it may do all that this process may, and use the devices of [`Host::devices`].
    pub privileged: bool,
    /// Whether a privileged container gets no devices for that.
    pub privileged_without_host_devices: bool,
    /// Further capabilities: `CAP_SYS_ADMIN`.
    pub cap_add: Vec<String>,
    /// Capabilities that it does not get.
    pub cap_drop: Vec<String>,
    /// Whether setuid programs work.
    pub allow_new_privileges: bool,
    /// Which system calls it may make.
    pub seccomp: Seccomp,
    /// An AppArmor profile that is loaded.
    pub apparmor_profile: Option<String>,
    /// An SELinux label for the process.
    pub selinux_label: Option<String>,
    /// Further devices: see [`crate::devices`].
    pub devices: Vec<Device>,
    /// Bytes of memory.
    pub memory_limit: Option<u64>,
    /// How many processors' worth of time, instead of quota and period.
    pub cpus: Option<f64>,
    /// The weight against other containers.
    pub cpu_shares: Option<u64>,
    /// Microseconds in each period.
    pub cpu_quota: Option<i64>,
    /// The length of a period in microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds that may be saved up.
    pub cpu_burst: Option<u64>,
    /// Which processors: `0-2,7`.
    pub cpuset_cpus: Option<String>,
    /// Which memory nodes.
    pub cpuset_mems: Option<String>,
    /// The limit of open files: see [`crate::rlimit_nofile`].
    pub rlimit_nofile: Option<Rlimit>,
    /// The control group; empty for none of its own.
    pub cgroup: Option<String>,
    /// Limits of block devices, as specs have them: see [`crate::blockio`].
    pub block_io: Option<Value>,
    /// A class of the processor's resource director.
    pub rdt_class: Option<String>,
    /// Anything for anyone.
    pub annotations: Labels,
}

/// Which system calls a container may make.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Seccomp {
    /// All.
    #[default]
    Unconfined,
    /// Those of containerd's own profile.
    Default,
    /// Those of a profile.
    Profile(seccomp::Seccomp),
}

impl Options {
    /// Plans the spec of `container` on `host`, in the order of `ctr run`, which decides where two
    /// wishes meet (containerd `cmd/ctr/commands/run/run_unix.go`). It touches nothing.
    ///
    /// Errors: `InvalidArgument` when wishes contradict each other, or name a user nobody knows.
    pub fn plan(&self, container: &Container<'_>, users: &Users, host: &Host) -> Result<Spec> {
        self.check()?;
        let mut spec = default(container.namespace, container.id, host);
        spec.linux.resources_mut().devices.extend(default_devices());
        spec.process.env = environment::merge(&environment::merge(&[], &self.env_file), &self.env);
        spec.mounts.extend(self.mounts.iter().cloned());
        if let Some(image) = container.image {
            use_image(&mut spec, image, users)?;
        }
        self.set_process(&mut spec, users)?;
        if self.privileged {
            self.lift_limits(&mut spec, host);
        }
        if self.net_host {
            share_network(&mut spec, host);
        }
        self.set_rights(&mut spec, host);
        self.set_resources(&mut spec);
        self.set_linux(&mut spec);
        let annotations = self.annotations.iter();
        spec.annotations.extend(annotations.map(|(k, v)| (k.clone(), Value::from(v.as_str()))));
        Ok(spec)
    }

    /// The texts are those of containerd's `cmd/ctr/commands/run/run_unix.go`.
    fn check(&self) -> Result<()> {
        let bad = |text: &'static str| Err(Error::said(Kind::InvalidArgument, text));
        if self.privileged_without_host_devices && !self.privileged {
            return bad(
                "can't use 'privileged-without-host-devices' without 'privileged' specified",
            );
        }
        if self.cpus.is_some() && (self.cpu_quota.is_some() || self.cpu_period.is_some()) {
            return bad("cpus and quota/period should be used separately");
        }
        if self.cap_add.iter().chain(&self.cap_drop).any(|name| !name.starts_with("CAP_")) {
            return bad("capabilities must be specified with 'CAP_' prefix");
        }
        if self.uid_mappings.is_empty() != self.gid_mappings.is_empty() {
            return bad("a user namespace needs both a uidmap and a gidmap");
        }
        if self.rootfs.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return bad("rootfs absolute path is required");
        }
        Ok(())
    }

    fn set_process(&self, spec: &mut Spec, users: &Users) -> Result<()> {
        let process = &mut spec.process;
        if !self.args.is_empty() {
            process.args.clone_from(&self.args);
        }
        if let Some(cwd) = &self.cwd {
            process.cwd.clone_from(cwd);
        }
        if let Some(user) = &self.user {
            process.user = users.find(user)?;
            process.user.additional_gids = users.groups(user, process.user.gid);
        }
        if self.tty {
            process.terminal = true;
            process.env.push("TERM=xterm".to_owned());
        }
        if let Some(limit) = &self.rlimit_nofile {
            process.rlimits.retain(|other| other.kind != limit.kind);
            process.rlimits.push(limit.clone());
        }
        Ok(())
    }

    /// Containerd `pkg/oci/spec_opts.go`, `WithPrivileged`.
    fn lift_limits(&self, spec: &mut Spec, host: &Host) {
        spec.process.capabilities.get_or_insert_default().set(&host.capabilities);
        spec.linux.masked_paths.clear();
        spec.linux.readonly_paths.clear();
        let system = spec.mounts.iter_mut().filter(|it| matches!(&*it.kind, "sysfs" | "cgroup"));
        for option in system.flat_map(|mount| &mut mount.options).filter(|it| *it == "ro") {
            "rw".clone_into(option);
        }
        if !self.privileged_without_host_devices {
            let all = DeviceRule { allow: true, access: RWM.to_owned(), ..DeviceRule::default() };
            spec.linux.resources_mut().devices = vec![all];
            spec.linux.devices.extend(host.devices.iter().cloned());
        }
    }

    fn set_rights(&self, spec: &mut Spec, host: &Host) {
        let capabilities = spec.process.capabilities.get_or_insert_default();
        capabilities.add(&self.cap_add);
        capabilities.drop(&self.cap_drop);
        let bounding = &capabilities.bounding;
        spec.linux.seccomp = match &self.seccomp {
            Seccomp::Unconfined => None,
            Seccomp::Default => Some(seccomp::default(bounding, &host.architecture)),
            Seccomp::Profile(profile) => Some(profile.clone()),
        };
        if let Some(profile) = &self.apparmor_profile {
            spec.process.apparmor_profile.clone_from(profile);
        }
        if let Some(label) = &self.selinux_label {
            spec.process.selinux_label.clone_from(label);
        }
        if self.allow_new_privileges {
            spec.process.no_new_privileges = false;
        }
    }

    fn set_resources(&self, spec: &mut Spec) {
        let resources = spec.linux.resources_mut();
        if let Some(limit) = self.memory_limit {
            resources.memory.get_or_insert_default().limit = Some(limit as i64);
        }
        let mut cpu = resources.cpu.take().unwrap_or_default();
        if let Some(cpus) = self.cpus {
            cpu.quota = Some((cpus * f64::from(PERIOD)) as i64);
            cpu.period = Some(u64::from(PERIOD));
        }
        if self.cpu_quota.is_some() || self.cpu_period.is_some() {
            cpu.quota = Some(self.cpu_quota.unwrap_or(-1));
            cpu.period = Some(self.cpu_period.unwrap_or(0));
        }
        cpu.shares = self.cpu_shares.or(cpu.shares);
        cpu.burst = self.cpu_burst.or(cpu.burst);
        cpu.cpus = self.cpuset_cpus.clone().unwrap_or(cpu.cpus);
        cpu.mems = self.cpuset_mems.clone().unwrap_or(cpu.mems);
        resources.cpu = (cpu != Default::default()).then_some(cpu);
        if let Some(limits) = &self.block_io {
            resources.other.insert("blockIO".to_owned(), limits.clone());
        }
        resources.devices.extend(self.devices.iter().map(|it| DeviceRule::allow(it, RWM)));
    }

    fn set_linux(&self, spec: &mut Spec) {
        let (linux, root) = (&mut spec.linux, &mut spec.root);
        root.readonly = self.read_only;
        root.path = self.rootfs.clone().unwrap_or_else(|| std::mem::take(&mut root.path));
        spec.hostname = self.hostname.clone().unwrap_or_default();
        if !self.uid_mappings.is_empty() {
            join(
                &mut linux.namespaces,
                &Namespace { kind: "user".to_owned(), ..Default::default() },
            );
        }
        self.namespaces.iter().for_each(|namespace| join(&mut linux.namespaces, namespace));
        linux.uid_mappings.clone_from(&self.uid_mappings);
        linux.gid_mappings.clone_from(&self.gid_mappings);
        linux.devices.extend(self.devices.iter().cloned());
        linux.rootfs_propagation = self.rootfs_propagation.clone().unwrap_or_default();
        if let Some(path) = &self.cgroup {
            linux.cgroups_path.clone_from(path);
        }
        if let Some(class) = &self.rdt_class {
            linux.other.insert("intelRdt".to_owned(), json!({ "closID": class }));
        }
    }
}

/// Containerd `pkg/oci/spec_opts.go`, `WithImageConfigArgs`.
fn use_image(spec: &mut Spec, image: &ImageConfig, users: &Users) -> Result<()> {
    let process = &mut spec.process;
    process.env = environment::merge(&image.environment(), &process.env);
    process.args = image.command(&[]);
    process.cwd = image.directory();
    let (user, name) = match image.user.as_str() {
        "" => (User::default(), "root".to_owned()),
        user => {
            let user = users.find(user)?;
            let name = user.uid.to_string();
            (user, name)
        }
    };
    process.user = user;
    process.user.additional_gids = users.groups(&name, process.user.gid);
    Ok(())
}

fn share_network(spec: &mut Spec, host: &Host) {
    spec.linux.namespaces.retain(|namespace| namespace.kind != "network");
    for file in ["/etc/hosts", "/etc/resolv.conf"] {
        spec.mounts.push(Mount::new(file, "bind", file, &["rbind", "ro"]));
    }
    let name = format!("HOSTNAME={}", host.hostname);
    spec.process.env = environment::merge(&spec.process.env, &[name]);
}

/// Joins a namespace in place of the one of its kind that there would be.
fn join(namespaces: &mut Vec<Namespace>, namespace: &Namespace) {
    match namespaces.iter_mut().find(|other| other.kind == namespace.kind) {
        Some(other) => other.clone_from(namespace),
        None => namespaces.push(namespace.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(options: &Options) -> Result<Spec> {
        options.plan(&Container::new("ns", "id"), &Users::default(), &Host::default())
    }

    #[test]
    fn wishes_that_contradict_are_refused_in_gos_words() {
        let bare = || vec!["SYS_ADMIN".to_owned()];
        for (options, why) in [
            (
                Options { privileged_without_host_devices: true, ..Options::default() },
                "can't use 'privileged-without-host-devices' without 'privileged' specified",
            ),
            (
                Options { cpus: Some(1.0), cpu_quota: Some(1), ..Options::default() },
                "cpus and quota/period should be used separately",
            ),
            (
                Options { cap_add: bare(), ..Options::default() },
                "capabilities must be specified with 'CAP_' prefix",
            ),
            (
                Options { cap_drop: bare(), ..Options::default() },
                "capabilities must be specified with 'CAP_' prefix",
            ),
            (
                Options { rootfs: Some("here".into()), ..Options::default() },
                "rootfs absolute path is required",
            ),
        ] {
            assert_eq!(plan(&options).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn what_go_of_1_6_does_not_know_is_set_too() {
        let spec = plan(&Options {
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            cpu_burst: Some(5),
            rlimit_nofile: Some(crate::rlimit_nofile("5:6").unwrap()),
            hostname: Some("h".into()),
            rdt_class: Some("c".into()),
            block_io: Some(json!({"weight": 20})),
            apparmor_profile: Some("p".into()),
            selinux_label: Some("s".into()),
            ..Options::default()
        });
        let spec = serde_json::to_value(spec.unwrap()).unwrap();
        let cpu = json!({"burst": 5, "cpus": "0-1", "mems": "0"});
        assert_eq!(spec["linux"]["resources"]["cpu"], cpu);
        let limits = json!([{"type": "RLIMIT_NOFILE", "hard": 6, "soft": 5}]);
        assert_eq!(spec["process"]["rlimits"], limits);
        assert_eq!(spec["hostname"], "h");
        assert_eq!(spec["linux"]["intelRdt"], json!({"closID": "c"}));
        assert_eq!(spec["linux"]["resources"]["blockIO"], json!({"weight": 20}));
        assert_eq!(spec["process"]["apparmorProfile"], "p");
        assert_eq!(spec["process"]["selinuxLabel"], "s");
    }

    #[test]
    fn a_privileged_container_without_host_devices_keeps_the_rules() {
        let options = Options {
            privileged: true,
            privileged_without_host_devices: true,
            ..Options::default()
        };
        let spec = plan(&options).unwrap();
        assert_eq!(spec.linux.resources.unwrap().devices.len(), 1 + default_devices().len());
        assert!(spec.linux.masked_paths.is_empty());
    }
}
