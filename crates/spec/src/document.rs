// SPDX-License-Identifier: Apache-2.0
//! The document itself (OCI runtime spec, config.md and config-linux.md).
//!
//! The fields that this project reads or writes have types. All others are kept as they are in
//! `other`, so that a spec written by someone else, for a later version or another system, comes out
//! as it went in. Empty is the same as absent, as in Go.
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use types::{Any, Error, Kind, Result};

use crate::seccomp::Seccomp;

/// The name of a spec's type on the wire (github.com/containerd/typeurl, for `specs-go.Spec`).
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// The name of a process's type on the wire.
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";

/// A container, as its runtime is told.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// The version of the specification that this follows.
    pub oci_version: String,
    /// What runs first.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub process: Process,
    /// Its root filesystem.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub root: Root,
    /// Its host name; empty for the host's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// What is mounted beside the root, in this order.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Anything for anyone.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Map::is_empty")]
    pub annotations: Map<String, Value>,
    /// What only Linux has.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_default")]
    pub linux: Linux,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A process in a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Process {
    /// Whether it has a terminal.
    #[serde(skip_serializing_if = "is_false")]
    pub terminal: bool,
    /// Who it runs as.
    #[serde(deserialize_with = "nullable")]
    pub user: User,
    /// The program and its arguments.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// The environment, `KEY=value`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The directory that it starts in.
    pub cwd: String,
    /// What it may do beyond what its user may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// How much of what it may use.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// Whether it can never gain privileges, by setuid programs or otherwise.
    #[serde(skip_serializing_if = "is_false")]
    pub no_new_privileges: bool,
    /// The AppArmor profile; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    /// The SELinux label; empty for none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A user, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// All groups, as far as known the primary one included.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The sets of capabilities, by name: `CAP_KILL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Capabilities {
    /// The most that can ever be had.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    /// What is checked.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    /// What survives the execution of a program that inherits.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    /// What may become effective.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    /// What survives the execution of any program.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// A limit on a resource (`setrlimit(2)`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rlimit {
    /// The resource: `RLIMIT_NOFILE`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The most that the limit can be raised to.
    pub hard: u64,
    /// The limit.
    pub soft: u64,
}

/// The root filesystem.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Where it is, from the bundle.
    pub path: String,
    /// Whether it cannot be written to.
    #[serde(skip_serializing_if = "is_false")]
    pub readonly: bool,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Something mounted in a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    /// The type of the filesystem: `bind`, `tmpfs`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// What, on the host.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Options as in `fstab(5)`.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Mount {
    /// A mount of `source`, a filesystem of type `kind`.
    pub fn new(destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        Self {
            destination: destination.to_owned(),
            kind: kind.to_owned(),
            source: source.to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            other: Map::new(),
        }
    }
}

/// What only Linux has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Linux {
    /// Which users of the container are which of the host.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// Which groups of the container are which of the host.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
    /// How much of what it may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Its control group; empty to leave it to the runtime.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cgroups_path: String,
    /// What it does not share with the host.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
    /// Device nodes to be made.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Device>,
    /// Which system calls it may make; none is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Seccomp>,
    /// How mounts below the root propagate: `rshared`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub rootfs_propagation: String,
    /// What it cannot see.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub masked_paths: Vec<String>,
    /// What it cannot change.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub readonly_paths: Vec<String>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Linux {
    /// The resources, there from now on.
    pub(crate) fn resources_mut(&mut self) -> &mut Resources {
        self.resources.get_or_insert_default()
    }
}

/// A range of users or groups in a container, and on the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdMapping {
    /// The first in the container.
    #[serde(rename = "containerID")]
    pub container_id: u32,
    /// The first on the host.
    #[serde(rename = "hostID")]
    pub host_id: u32,
    /// How many.
    pub size: u32,
}

/// A namespace: a new one, or an existing one to join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Which: `pid`, `network`, `mount`, `ipc`, `uts`, `user`, `cgroup`, `time`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The one to join; empty for a new one.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Device {
    /// Where, in the container.
    pub path: String,
    /// `b` for block, `c` for character, `p` for a fifo.
    #[serde(rename = "type")]
    pub kind: String,
    /// The driver.
    pub major: i64,
    /// Which of the driver's.
    pub minor: i64,
    /// The permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Who owns it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How much of what a container may use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resources {
    /// Which devices; later rules win.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRule>,
    /// How much memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// How much of the processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// How many processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Pids>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Allows or denies the use of devices. What is left out stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceRule {
    /// Whether this allows.
    pub allow: bool,
    /// `b` for block, `c` for character, `a` or empty for both.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// The driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<i64>,
    /// Which of the driver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor: Option<i64>,
    /// What: `r`ead, `w`rite, `m`ake a node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access: String,
}

/// How much memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Memory {
    /// In bytes; -1 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How much of the processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Cpu {
    /// The weight against other containers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<u64>,
    /// Microseconds in each period; -1 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota: Option<i64>,
    /// Microseconds that may be saved up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// The length of a period in microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<u64>,
    /// Which processors: `0-2,7`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cpus: String,
    /// Which memory nodes.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mems: String,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// How many processes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pids {
    /// At most this many; -1 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Spec {
    /// Reads a spec, such as the contents of a `config.json`.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        // The text is that of containerd's `pkg/oci/spec_opts.go`.
        decode(json, "decoding spec config file failed")
    }

    /// The spec as JSON.
    pub fn to_json(&self) -> Bytes {
        encode(self)
    }

    /// Takes a spec off the wire.
    pub fn from_any(any: &Any) -> Result<Self> {
        named(any, SPEC)?;
        decode(&any.value, "decode spec")
    }

    /// Puts the spec on the wire.
    pub fn to_any(&self) -> Any {
        Any::new(SPEC, encode(self))
    }
}

impl Process {
    /// Takes a process off the wire.
    pub fn from_any(any: &Any) -> Result<Self> {
        named(any, PROCESS)?;
        decode(&any.value, "decode process")
    }

    /// Puts the process on the wire.
    pub fn to_any(&self) -> Any {
        Any::new(PROCESS, encode(self))
    }
}

fn named(any: &Any, name: &str) -> Result<()> {
    if any.is(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("{:?} is not a {name}", any.type_url)))
}

fn decode<T: DeserializeOwned>(json: &[u8], what: &'static str) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Error::caused(Kind::InvalidArgument, what, error))
}

fn encode(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("the keys of a spec are all strings").into()
}

/// Go writes null for a slice or map that was never made.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes what it may skip by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_unknown_comes_out_as_it_went_in() {
        let strange = json!({
            "ociVersion": "9.0",
            "process": {
                "cwd": "/", "user": {"uid": 0, "gid": 0, "umask": 18}, "oomScoreAdj": -5,
                "capabilities": {"bounding": ["CAP_OF_THE_FUTURE"]}
            },
            "root": {"path": "rootfs", "strange": [1, 18_446_744_073_709_551_615_u64]},
            "hooks": {"prestart": [{"path": "/x"}]},
            "linux": {
                "resources": {"pids": {"limit": 5}, "hugepageLimits": []},
                "namespaces": [{"type": "dream"}],
                "intelRdt": {"closID": "a"}
            },
            "vm": {"kernel": {"path": "/k"}}
        });
        let spec = Spec::from_json(strange.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), strange);
    }

    #[test]
    fn another_systems_spec_is_left_alone() {
        let windows = json!({"ociVersion": "1.2.1", "windows": {"layerFolders": ["c"]}});
        let spec = Spec::from_json(windows.to_string().as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&spec).unwrap(), windows);
    }

    #[test]
    fn null_is_nothing() {
        let spec =
            Spec::from_json(br#"{"mounts":null,"linux":null,"process":{"args":null,"user":null}}"#)
                .unwrap();
        assert_eq!(spec, Spec::default());
    }

    #[test]
    fn a_spec_travels_under_its_name() {
        let any = Spec::default().to_any();
        assert_eq!(any.type_url, "types.containerd.io/opencontainers/runtime-spec/1/Spec");
        assert_eq!(Spec::from_any(&any).unwrap(), Spec::default());
        assert!(Process::from_any(&any).is_err());
        let any = Process::default().to_any();
        assert_eq!(any.type_url, "types.containerd.io/opencontainers/runtime-spec/1/Process");
        assert!(Process::from_any(&any).is_ok());
    }
}
