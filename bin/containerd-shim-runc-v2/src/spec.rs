// SPDX-License-Identifier: Apache-2.0
//! The little that a shim reads of a runtime specification.
use std::{collections::BTreeMap, io, path::Path};

use fs_err as fs;
use serde::Deserialize;
use serde_json::{Map, Value};
use types::{Context, Error, Kind, Result};

/// Annotations by which containers are grouped into pods, the first that is there counts (containerd
/// `cmd/containerd-shim-runc-v2/manager/manager_linux.go`).
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

/// A container's specification, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Spec {
    annotations: BTreeMap<String, String>,
    linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Linux {
    namespaces: Vec<Namespace>,
    #[serde(rename = "cgroupsPath")]
    cgroups_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

impl Spec {
    /// Reads the specification of a bundle.
    pub(crate) fn read(bundle: &Path) -> Result<Self> {
        let text = fs::read(bundle.join("config.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::from).context(|| "config.json")
    }

    /// The group that the container belongs to.
    pub(crate) fn group(&self) -> Option<&str> {
        GROUPS.iter().find_map(|key| self.annotations.get(*key)).map(String::as_str)
    }

    /// Whether the kernel ends all its processes when the first has ended.
    pub(crate) fn has_own_processes(&self) -> bool {
        self.linux.namespaces.iter().any(|one| one.kind == "pid" && one.path.is_empty())
    }

    /// Where its cgroup is, if that is said without knowing the driver: `/default/id`.
    pub(crate) fn cgroup(&self) -> Option<&str> {
        let path = self.linux.cgroups_path.as_str();
        (path.starts_with('/') && !path.trim_matches('/').is_empty()).then_some(path)
    }
}

/// The specification of a process that is added, with or without a terminal as the request says.
pub(crate) fn process(json: &[u8], terminal: bool) -> Result<Vec<u8>> {
    let process = serde_json::from_slice::<Map<String, Value>>(json).and_then(|mut process| {
        process.insert("terminal".into(), terminal.into());
        serde_json::to_vec(&process)
    });
    process.map_err(|error| Error::caused(Kind::Unknown, "process specification", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn containers_are_grouped_by_the_first_annotation_that_is_there() {
        let json = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","x":"y"}}"#;
        assert_eq!(parse(json).group(), Some("pod"));
        let json = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod",
                       "io.containerd.runc.v2.group":"group"}}"#;
        assert_eq!(parse(json).group(), Some("group"));
        assert_eq!(parse("{}").group(), None);
    }

    #[test]
    fn only_a_namespace_of_its_own_ends_with_the_container() {
        let own = r#"{"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}]}}"#;
        assert!(parse(own).has_own_processes());
        let shared = r#"{"linux":{"namespaces":[{"type":"pid","path":"/proc/1/ns/pid"}]}}"#;
        assert!(!parse(shared).has_own_processes());
        assert!(!parse("{}").has_own_processes());
    }

    #[test]
    fn the_top_of_the_tree_is_nobody_s_cgroup() {
        let with = |path: &str| parse(&format!(r#"{{"linux":{{"cgroupsPath":"{path}"}}}}"#));
        assert_eq!(with("/default/a").cgroup(), Some("/default/a"));
        for path in ["", "/", "//", "relative", "system.slice:cri:a"] {
            assert_eq!(with(path).cgroup(), None, "{path}");
        }
    }

    #[test]
    fn a_process_has_a_terminal_if_the_request_says_so() {
        let json = process(br#"{"args":["sh"],"terminal":true}"#, false).unwrap();
        assert_eq!(json, br#"{"args":["sh"],"terminal":false}"#);
        process(b"[]", true).unwrap_err();
    }
}
