// SPDX-License-Identifier: Apache-2.0
//! The flags that say what a container is to be, and the spec that they stand for.
use std::path::{Path, PathBuf};

use api::{containerd::runc::v1 as runc, runtimeoptions::v1 as other};
use clap::Args;
use spec::{
    Host, IdMapping, Mount, Namespace, Options, Seccomp, Spec,
    blockio::Classes,
    cdi::{self, Cdi},
};
use types::{Any, Context as _, Error, Labels, Platform, Result};

use crate::{labels, snapshots::Chosen};

/// The runtime where nothing else was said (containerd `defaults/defaults.go`).
const RUNC: &str = "io.containerd.runc.v2";

/// What a container is to be.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    pub(super) chosen: Chosen,
    /// Labels of the container's snapshot, key=value
    #[arg(long, value_name = "LABEL")]
    pub(super) snapshotter_label: Vec<String>,
    /// Labels of the container, key=value
    #[arg(long, value_name = "LABEL")]
    pub(super) label: Vec<String>,
    /// The sandbox to run in
    #[arg(long, value_name = "ID", default_value = "")]
    pub(super) sandbox: String,
    /// The platform of the image to run; this machine's, and what the snapshotter is able to besides
    #[arg(long)]
    pub(super) platform: Option<Platform>,
    /// A spec, as the runtime takes it, in place of what all other flags would make
    #[arg(long, short, value_name = "FILE", conflicts_with_all = ["rootfs", "snapshotter_label", "process", "isolation", "limits"])]
    pub(super) config: Option<PathBuf>,
    /// The directory IMAGE is the root filesystem
    #[arg(long)]
    pub(super) rootfs: bool,
    #[command(flatten)]
    runtime: RuntimeFlags,
    #[command(flatten)]
    pub(super) process: ProcessFlags,
    #[command(flatten)]
    pub(super) isolation: IsolationFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

/// What runs the container.
#[derive(Debug, Args)]
#[command(next_help_heading = "Runtime")]
pub(crate) struct RuntimeFlags {
    /// The runtime, or the path of a shim
    #[arg(long, value_name = "NAME", default_value = RUNC)]
    runtime: String,
    /// A configuration file for the runtime
    #[arg(long, value_name = "FILE")]
    runtime_config_path: Option<String>,
    /// A program that is used like runc
    #[arg(long, value_name = "PROGRAM")]
    runc_binary: Option<String>,
    /// Where runc keeps its state
    #[arg(long, value_name = "DIRECTORY")]
    runc_root: Option<String>,
    /// Let runc leave control groups to systemd
    #[arg(long)]
    runc_systemd_cgroup: bool,
}

/// What runs in the container.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
#[group(id = "process", multiple = true)]
pub(crate) struct ProcessFlags {
    /// The directory to start in
    #[arg(long, value_name = "DIRECTORY")]
    cwd: Option<String>,
    /// Environment variables, KEY=value, or KEY to remove one
    #[arg(long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// A file of environment variables, one on each line
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// Who to run as: a name or a number, and perhaps a group
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Let it gain privileges, by setuid programs or otherwise
    #[arg(long)]
    allow_new_privs: bool,
    /// Limit open files
    #[arg(long, value_name = "SOFT[:HARD]")]
    rlimit_nofile: Option<String>,
}

/// What the container sees, and what it may do.
#[derive(Debug, Args)]
#[command(next_help_heading = "Isolation")]
#[group(id = "isolation", multiple = true)]
pub(crate) struct IsolationFlags {
    /// The host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Further mounts, such as type=bind,src=/tmp,dst=/host,options=rbind:ro
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<Mount>,
    /// Let nobody write to the root filesystem
    #[arg(long)]
    read_only: bool,
    /// How mounts below the root propagate, such as rshared
    #[arg(long, value_name = "MODE")]
    rootfs_propagation: Option<String>,
    /// Use this machine's network
    #[arg(long)]
    net_host: bool,
    /// Join namespaces
    #[arg(long, value_name = "KIND:PATH")]
    with_ns: Vec<Namespace>,
    /// Users of the container that are others on the host, in a user namespace
    #[arg(long, value_name = "ID:HOST:LENGTH", requires = "gidmap")]
    pub(super) uidmap: Vec<IdMapping>,
    /// Groups of the container that are others on the host
    #[arg(long, value_name = "ID:HOST:LENGTH", requires = "uidmap")]
    pub(super) gidmap: Vec<IdMapping>,
    /// Let the snapshotter map the owners of files, which it has to be able to
    #[arg(long, requires = "uidmap")]
    pub(super) remap_labels: bool,
    /// Let it do all that we may
    #[arg(long)]
    privileged: bool,
    /// Give a privileged container no devices for that
    #[arg(long, requires = "privileged")]
    privileged_without_host_devices: bool,
    #[arg(long, value_name = "CAPABILITY", help = "Further capabilities, such as CAP_SYS_ADMIN")]
    cap_add: Vec<String>,
    /// Capabilities that it does not get
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// A device, a directory of devices, or the CDI name of one, such as vendor.com/class=name
    #[arg(long, value_name = "PATH|NAME")]
    device: Vec<String>,
    /// GPUs by number, as the CDI names nvidia.com/gpu=NUMBER
    #[arg(long, value_name = "NUMBER", value_delimiter = ',')]
    gpus: Vec<u32>,
    /// Connect it to the network that is configured for CNI
    #[arg(long, conflicts_with = "net_host")]
    pub(super) cni: bool,
    /// Allow only system calls that are thought to be safe
    #[arg(long)]
    seccomp: bool,
    /// Which system calls are allowed, in place of the default
    #[arg(long, value_name = "FILE", requires = "seccomp")]
    seccomp_profile: Option<PathBuf>,
    /// Confine it by containerd's own AppArmor profile, loaded under this name
    #[arg(long, value_name = "NAME", conflicts_with = "apparmor_profile")]
    pub(super) apparmor_default_profile: Option<String>,
    /// An AppArmor profile that is loaded
    #[arg(long, value_name = "NAME")]
    apparmor_profile: Option<String>,
    /// Annotations of the spec, key=value
    #[arg(long, value_name = "ANNOTATION")]
    annotation: Vec<String>,
}

/// How much the container gets.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
#[group(id = "limits", multiple = true)]
struct LimitFlags {
    /// The control group; an empty one is none of its own
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
    /// Bytes of memory
    #[arg(long, value_name = "BYTES")]
    memory_limit: Option<u64>,
    /// How many processors' worth of time, such as 1.5
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<f64>,
    /// The weight against other containers
    #[arg(long, value_name = "WEIGHT")]
    cpu_shares: Option<u64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", allow_negative_numbers = true)]
    cpu_quota: Option<i64>,
    /// The length of a period
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<u64>,
    /// Microseconds of processor time that may be saved up
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<u64>,
    /// Which processors, such as 0-2,7
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Which memory nodes
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// A file of classes of block devices' input and output, in YAML
    #[arg(long, value_name = "FILE")]
    blockio_config_file: Option<PathBuf>,
    /// A class of that file
    #[arg(long, value_name = "NAME")]
    blockio_class: Option<String>,
    /// A class of the processor's resource director
    #[arg(long, value_name = "NAME")]
    rdt_class: Option<String>,
}

impl Flags {
    /// What is wanted, in the words of specs. Files that the flags name are read.
    pub(super) fn options(&self, args: &[String], rootfs: Option<String>) -> Result<Options> {
        let Self { process, isolation, limits, .. } = self;
        let env_file = process.env_file.as_ref().map(fs_err::read_to_string).transpose()?;
        let paths = isolation.device.iter().filter(|device| !cdi::is_name(device));
        let devices = paths.map(|path| spec::devices(path.as_ref()));
        let devices = devices.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        Ok(Options {
            args: args.to_vec(),
            cwd: process.cwd.clone(),
            env_file: env_file.as_deref().map(spec::env_file).unwrap_or_default(),
            env: process.env.clone(),
            user: process.user.clone(),
            tty: process.tty,
            rlimit_nofile: process.rlimit_nofile.as_deref().map(spec::rlimit_nofile).transpose()?,
            allow_new_privileges: process.allow_new_privs,
            hostname: isolation.hostname.clone(),
            mounts: isolation.mount.clone(),
            rootfs,
            read_only: isolation.read_only,
            rootfs_propagation: isolation.rootfs_propagation.clone(),
            net_host: isolation.net_host,
            namespaces: isolation.with_ns.clone(),
            uid_mappings: isolation.uidmap.clone(),
            gid_mappings: isolation.gidmap.clone(),
            privileged: isolation.privileged,
            privileged_without_host_devices: isolation.privileged_without_host_devices,
            cap_add: isolation.cap_add.clone(),
            cap_drop: isolation.cap_drop.clone(),
            devices,
            seccomp: isolation.seccomp()?,
            apparmor_profile: isolation.apparmor(),
            selinux_label: None,
            annotations: annotations(&isolation.annotation)?,
            cgroup: limits.cgroup.clone(),
            memory_limit: limits.memory_limit.filter(|&limit| limit > 0),
            cpus: limits.cpus.filter(|&cpus| cpus > 0.0),
            cpu_shares: limits.cpu_shares.filter(|&shares| shares > 0),
            cpu_quota: limits.cpu_quota,
            cpu_period: limits.cpu_period,
            cpu_burst: limits.cpu_burst,
            cpuset_cpus: limits.cpuset_cpus.clone(),
            cpuset_mems: limits.cpuset_mems.clone(),
            block_io: limits.block_io()?,
            rdt_class: limits.rdt_class.clone(),
        })
    }

    /// This machine, as far as the flags ask for it.
    pub(super) fn host(&self) -> Result<Host> {
        let Self { isolation, .. } = self;
        let host = Host::read()?;
        let wants_devices = isolation.privileged && !isolation.privileged_without_host_devices;
        if wants_devices { host.with_devices() } else { Ok(host) }
    }

    /// Gives the container the devices that are known by CDI names.
    pub(super) fn inject(&self, spec: &mut Spec) -> Result<()> {
        let IsolationFlags { device, gpus, .. } = &self.isolation;
        let named = device.iter().filter(|device| cdi::is_name(device)).cloned();
        let gpus = gpus.iter().map(|number| format!("nvidia.com/gpu={number}"));
        let names: Vec<_> = named.chain(gpus).collect();
        if names.is_empty() {
            return Ok(());
        }
        Cdi::read(&cdi::FOLDERS).inject(spec, &names)
    }

    /// The spec in the file, if one was given.
    pub(super) fn spec(&self) -> Result<Option<Spec>> {
        let Some(path) = &self.config else { return Ok(None) };
        let spec = Spec::from_json(&fs_err::read(path)?);
        spec.context(|| path.display().to_string()).map(Some)
    }

    /// The runtime and what it is told.
    pub(super) fn runtime(&self, no_pivot: bool) -> Result<records::Runtime> {
        let options = self.runtime.told(no_pivot)?;
        Ok(records::Runtime { name: self.runtime.runtime.clone(), options })
    }

    /// What the runtime is told of a task that is to do without `pivot_root(2)`. It stands in place of
    /// what the container's record says, and so says all of that too.
    pub(super) fn without_pivot(&self) -> Result<Option<Any>> {
        self.runtime.told(true)
    }

    /// The container's labels.
    pub(super) fn labels(&self) -> Labels {
        labels::parse(&self.label)
    }
}

impl RuntimeFlags {
    /// The runtime's name, or the path of its shim.
    pub(crate) fn name(&self) -> &str {
        &self.runtime
    }

    /// Options of runc, or of a runtime with a configuration file; none if nothing was said.
    pub(crate) fn told(&self, no_pivot_root: bool) -> Result<Option<Any>> {
        let flags = self;
        let options = runc::Options {
            no_pivot_root,
            binary_name: flags.runc_binary.clone().unwrap_or_default(),
            root: flags.runc_root.clone().unwrap_or_default(),
            systemd_cgroup: flags.runc_systemd_cgroup,
            ..runc::Options::default()
        };
        let is_said = options != runc::Options::default();
        if is_said && flags.runtime != RUNC {
            let what = format!("--runc-* and --no-pivot are only for the runtime {RUNC}");
            return Err(Error::invalid(what));
        }
        let packed = match &flags.runtime_config_path {
            Some(_) if is_said => {
                return Err(Error::invalid("--runtime-config-path goes without --runc-*"));
            }
            Some(path) => api::pack(&other::Options {
                config_path: path.clone(),
                ..other::Options::default()
            }),
            None if is_said => api::pack(&options),
            None => return Ok(None),
        };
        Ok(Some(Any::new(packed.type_url, packed.value)))
    }
}

/// What runc is told of a task that is to do without `pivot_root(2)`: all that the container's record
/// says, and that.
pub(crate) fn without_pivot(runtime: &records::Runtime) -> Result<Any> {
    let kept = runtime.options.as_ref().map(|kept| prost_types::Any {
        type_url: kept.type_url.clone(),
        value: kept.value.to_vec(),
    });
    let options = match kept.as_ref().map(api::unpack::<runc::Options>) {
        None => runc::Options::default(),
        Some(Some(Ok(options))) => options,
        Some(_) => {
            return Err(Error::invalid(format!("--no-pivot is only for the runtime {RUNC}")));
        }
    };
    let packed = api::pack(&runc::Options { no_pivot_root: true, ..options });
    Ok(Any::new(packed.type_url, packed.value))
}

impl IsolationFlags {
    fn apparmor(&self) -> Option<String> {
        let named = [&self.apparmor_default_profile, &self.apparmor_profile];
        // Compat: an empty name is none (containerd `cmd/ctr/commands/run/run_unix.go`).
        named.into_iter().flatten().find(|name| !name.is_empty()).cloned()
    }

    fn seccomp(&self) -> Result<Seccomp> {
        match (&self.seccomp_profile, self.seccomp) {
            (_, false) => Ok(Seccomp::Unconfined),
            (None, true) => Ok(Seccomp::Default),
            (Some(path), true) => {
                let profile = spec::seccomp::Seccomp::from_json(&fs_err::read(path)?);
                Ok(Seccomp::Profile(profile.context(|| path.display().to_string())?))
            }
        }
    }
}

impl LimitFlags {
    /// What the class of block devices means here (the words of errors are those of containerd
    /// `cmd/ctr/commands/run/run_unix.go`, as 2.1.9 says them).
    fn block_io(&self) -> Result<Option<serde_json::Value>> {
        let classes = match self.blockio_config_file.as_deref().filter(|it| *it != Path::new("")) {
            None => Classes::default(),
            Some(path) => Classes::read(path).context(|| "blockio-config-file error")?,
        };
        let Some(name) = self.blockio_class.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let class = classes.find(name).context(|| "blockio-class error")?;
        class.warnings.iter().for_each(|warning| eprintln!("ctr: {warning}"));
        Ok(Some(class.limits))
    }
}

/// Reads annotations, which need a value (containerd `cmd/ctr/commands/commands.go`).
fn annotations(pairs: &[String]) -> Result<Labels> {
    let pair = |pair: &String| match pair.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Error::invalid(format!("invalid key=value format annotation: {pair}"))),
    };
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(words: &str) -> Result<Flags, clap::Error> {
        Line::try_parse_from(["ctr"].into_iter().chain(words.split(' '))).map(|line| line.flags)
    }

    fn options(words: &str) -> Result<Options> {
        parse(words).unwrap().options(&[], None)
    }

    #[test]
    fn flags_become_wishes() {
        let it = options(
            "--env A=1 --env B --mount type=bind,src=/a,dst=/b,options=rbind:ro --user 1:2 \
             --with-ns network:/n --memory-limit 5 --cpu-quota -1 --rlimit-nofile 7 \
             --annotation a=b=c --cgroup= --device /dev/null --apparmor-default-profile p",
        )
        .unwrap();
        assert_eq!(it.env, ["A=1", "B"]);
        assert_eq!(it.mounts, [Mount::new("/b", "bind", "/a", &["rbind", "ro"])]);
        assert_eq!(it.user.as_deref(), Some("1:2"));
        assert_eq!(it.namespaces[0].path, "/n");
        assert_eq!((it.memory_limit, it.cpu_quota), (Some(5), Some(-1)));
        assert_eq!(it.rlimit_nofile.unwrap().hard, 7);
        assert_eq!(it.annotations["a"], "b=c");
        assert_eq!(it.cgroup.as_deref(), Some(""));
        assert_eq!(it.apparmor_profile.as_deref(), Some("p"));
        assert_eq!(it.devices[0].path, "/dev/null");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "--mount nonsense",
            "--with-ns dream:/x",
            "--uidmap 0:1:2",
            "--seccomp-profile /x",
            "--cpus 1 --cpu-quota 5",
            "--config /x --env A=1",
            "--config /x --privileged",
            "--gpus all",
            "--cni --net-host",
            "--apparmor-profile a --apparmor-default-profile b",
        ] {
            assert!(parse(words).is_err(), "{words}");
        }
        assert!(options("--annotation x").is_err());
        assert!(options("--env-file /nowhere/env").is_err());
    }

    #[test]
    fn files_of_variables_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "A=1\nB=x y\n").unwrap();
        let it = options(&format!("--env-file {}", file.path().display())).unwrap();
        assert_eq!(it.env_file, ["A=1", "B=x y"]);
    }

    #[test]
    fn a_class_of_block_devices_is_looked_up() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), "Classes: {slow: [{Weight: 80}]}").unwrap();
        let words = format!("--blockio-config-file {} --blockio-class", file.path().display());
        let it = options(&format!("{words} slow")).unwrap();
        assert_eq!(it.block_io, Some(serde_json::json!({"weight": 80})));
        let error = options(&format!("{words} fast")).unwrap_err().to_string();
        let want = "blockio-class error: no OCI BlockIO parameters for class \"fast\"";
        assert_eq!(error, want);
        assert_eq!(options("--blockio-class fast").unwrap_err().to_string(), want);
        let error = options("--blockio-config-file /nowhere").unwrap_err().to_string();
        let want = "blockio-config-file error: failed to read config file";
        assert!(error.starts_with(want), "{error}");
    }

    #[test]
    fn only_runc_is_told_what_is_for_runc() {
        assert_eq!(parse("--tty").unwrap().runtime(false).unwrap().options, None);
        let told = parse("--runc-binary crun").unwrap().runtime(false).unwrap().options.unwrap();
        assert_eq!(told.type_url, "containerd.runc.v1.Options");
        let told =
            parse("--runtime-config-path /c").unwrap().runtime(false).unwrap().options.unwrap();
        assert_eq!(told.type_url, "runtimeoptions.v1.Options");
        assert!(parse("--runtime x --runc-binary crun").unwrap().runtime(false).is_err());
        assert!(parse("--tty").unwrap().without_pivot().unwrap().is_some());
    }

    #[test]
    fn a_task_without_pivot_keeps_what_its_container_says() {
        let runtime = parse("--runc-binary crun").unwrap().runtime(false).unwrap();
        let told = without_pivot(&runtime).unwrap();
        let told = prost_types::Any { type_url: told.type_url, value: told.value.to_vec() };
        let told = api::unpack::<runc::Options>(&told).unwrap().unwrap();
        assert!(told.no_pivot_root && told.binary_name == "crun");
        let other = parse("--runtime-config-path /c").unwrap().runtime(false).unwrap();
        assert!(without_pivot(&other).is_err());
    }
}
