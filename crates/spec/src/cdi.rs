// SPDX-License-Identifier: Apache-2.0
//! Devices of the Container Device Interface: names for whatever a container needs to use a device
//! (<https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>).
//!
//! ```text
//! /etc/cdi/*.{json,yaml}, /var/run/cdi/*.{json,yaml} --> vendor.com/class=name --> edits of the spec
//! ```
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde::Deserialize;
use serde_json::{Value, json};
use types::{Context as _, Error, Kind, Result};

use crate::{Device, DeviceRule, Mount, Spec, device, environment, yaml};

/// Where specifications are, from the least to the most important.
pub const FOLDERS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Whether this is the name of such a device, `vendor.com/class=name`, and not a path.
pub fn is_name(text: &str) -> bool {
    let word = |word: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
        !word.is_empty() && word.chars().all(allowed)
    };
    let parts =
        text.split_once('/').and_then(|(vendor, rest)| Some((vendor, rest.split_once('=')?)));
    parts.is_some_and(|(vendor, (class, name))| word(vendor) && word(class) && word(name))
}

/// The devices that are known by name.
#[derive(Clone, Debug, Default)]
pub struct Cdi {
    documents: Vec<Document>,
    /// Where each device is described.
    devices: BTreeMap<String, Place>,
    /// Specifications that could not be read, and why.
    broken: Vec<String>,
}

impl Cdi {
    /// Reads the specifications of some folders, from the least to the most important. What is not
    /// there has none. One that cannot be read keeps nobody from the devices of others: why is told
    /// to who asks for a device that nobody has described.
    pub fn read<P: AsRef<Path>>(folders: &[P]) -> Self {
        let mut cdi = Self::default();
        for folder in folders {
            let Ok(entries) = fs_err::read_dir(folder.as_ref()) else { continue };
            let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            let first = cdi.documents.len();
            for path in paths {
                let extension = path.extension().and_then(|extension| extension.to_str());
                if !matches!(extension, Some("json" | "yaml")) {
                    continue;
                }
                match document(&path) {
                    Ok(document) => cdi.add(document, first),
                    Err(error) => cdi.broken.push(error.to_string()),
                }
            }
        }
        cdi
    }

    fn add(&mut self, document: Document, first_of_folder: usize) {
        let number = self.documents.len();
        for (index, device) in document.devices.iter().enumerate() {
            let name = format!("{}={}", document.kind, device.name);
            let other = self.devices.get(&name);
            let is_twice = other.is_some_and(|other| other.document >= first_of_folder);
            self.devices.insert(name, Place { document: number, index, is_twice });
        }
        self.documents.push(document);
    }

    /// Gives a container these devices (the words are those of Go's `cdi.InjectDevices`, and of
    /// containerd `pkg/cdi`).
    pub fn inject(&self, spec: &mut Spec, names: &[String]) -> Result<()> {
        let place = |name: &String| self.devices.get(name).filter(|place| !place.is_twice);
        let missing: Vec<_> = names.iter().filter(|name| place(name).is_none()).cloned().collect();
        if !missing.is_empty() {
            let what = format!(
                "CDI device injection failed: unresolvable CDI devices {}",
                missing.join(", ")
            );
            return Err(Error::said(Kind::NotFound, what + &self.hint()));
        }
        let mut seen = BTreeSet::new();
        for place in names.iter().filter_map(place) {
            let document = &self.documents[place.document];
            // What all devices of a specification need is given once.
            if seen.insert(place.document) {
                document.edits.apply(spec)?;
            }
            document.devices[place.index].edits.apply(spec)?;
        }
        Ok(())
    }

    fn hint(&self) -> String {
        match self.broken.as_slice() {
            [] => String::new(),
            reasons => format!(" (not read: {})", reasons.join("; ")),
        }
    }
}

/// Reads a specification, whichever of both kinds it is by its name.
fn document(path: &Path) -> Result<Document> {
    let text = fs_err::read_to_string(path)?;
    // YAML would do for both, but for the blanks of JSON, which may be tabs.
    let value = serde_json::from_str(&text).or_else(|_not_json| yaml::parse(&text));
    let document = value.and_then(|value| {
        let failed = |error| Error::caused(Kind::InvalidArgument, "its fields", error);
        serde_json::from_value(value).map_err(failed)
    });
    document.context(|| format!("CDI specification {}", path.display()))
}

/// Where a device is described.
#[derive(Clone, Copy, Debug)]
struct Place {
    document: usize,
    index: usize,
    /// Another specification of the same importance describes it too: nobody knows which is meant.
    is_twice: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Document {
    #[serde(deserialize_with = "yaml::text")]
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Clone, Debug, Deserialize)]
struct Named {
    #[serde(deserialize_with = "yaml::text")]
    name: String,
    #[serde(default, rename = "containerEdits")]
    edits: Edits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    #[serde(deserialize_with = "yaml::texts")]
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Bind>,
    hooks: Vec<Hook>,
    #[serde(rename = "additionalGids")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bind {
    host_path: String,
    container_path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    options: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    #[serde(rename = "hookName")]
    when: String,
    path: String,
    #[serde(default, deserialize_with = "yaml::texts")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "yaml::texts")]
    env: Vec<String>,
    timeout: Option<i64>,
}

impl Edits {
    fn apply(&self, spec: &mut Spec) -> Result<()> {
        spec.process.env = environment::merge(&spec.process.env, &self.env);
        for node in &self.device_nodes {
            node.add(spec)?;
        }
        for mount in &self.mounts {
            // What is mounted there already is replaced.
            spec.mounts.retain(|other| other.destination != mount.container_path);
            spec.mounts.push(mount.mount());
        }
        for hook in &self.hooks {
            hook.add(spec)?;
        }
        // Root's group is everybody's who asks for none.
        let gids = self.additional_gids.iter().copied().filter(|&gid| gid != 0);
        for gid in gids {
            if !spec.process.user.additional_gids.contains(&gid) {
                spec.process.user.additional_gids.push(gid);
            }
        }
        if let Some(rdt) = &self.intel_rdt {
            spec.linux.other.insert("intelRdt".to_owned(), rdt.clone());
        }
        Ok(())
    }
}

impl Node {
    /// What is not said of a device is as the host has it.
    fn add(&self, spec: &mut Spec) -> Result<()> {
        let host = self.host_path.as_ref().unwrap_or(&self.path);
        let is_told = self.kind.is_some() && self.major.is_some() && self.minor.is_some();
        let found = if is_told {
            Device::default()
        } else {
            let found = device::devices(Path::new(host));
            let found = found.context(|| "CDI device injection failed")?;
            found.into_iter().next().unwrap_or_default()
        };
        let device = Device {
            path: self.path.clone(),
            kind: self.kind.clone().unwrap_or(found.kind),
            major: self.major.unwrap_or(found.major),
            minor: self.minor.unwrap_or(found.minor),
            file_mode: self.file_mode.or(found.file_mode),
            uid: self.uid.or(found.uid).or(Some(spec.process.user.uid).filter(|&uid| uid > 0)),
            gid: self.gid.or(found.gid).or(Some(spec.process.user.gid).filter(|&gid| gid > 0)),
            ..Device::default()
        };
        if device.kind != "p" {
            let access = self.permissions.as_deref().unwrap_or("rwm");
            spec.linux.resources_mut().devices.push(DeviceRule::allow(&device, access));
        }
        spec.linux.devices.retain(|other| other.path != device.path);
        spec.linux.devices.push(device);
        Ok(())
    }
}

impl Bind {
    fn mount(&self) -> Mount {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let kind = self.kind.as_deref().unwrap_or_default();
        Mount::new(&self.container_path, kind, &self.host_path, &options)
    }
}

impl Hook {
    fn add(&self, spec: &mut Spec) -> Result<()> {
        const NAMES: [&str; 6] = [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ];
        if !NAMES.contains(&self.when.as_str()) {
            let what = format!("CDI device injection failed: unknown hook name {:?}", self.when);
            return Err(Error::said(Kind::InvalidArgument, what));
        }
        let mut hook = json!({ "path": self.path });
        for (name, words) in [("args", &self.args), ("env", &self.env)] {
            if !words.is_empty() {
                hook[name] = json!(words);
            }
        }
        if let Some(timeout) = self.timeout {
            hook["timeout"] = json!(timeout);
        }
        let hooks = spec.other.entry("hooks").or_insert_with(|| json!({}));
        match hooks[&self.when].as_array_mut() {
            Some(others) => others.push(hook),
            None => hooks[&self.when] = json!([hook]),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "acme.com/gadget",
        "containerEdits": {"env": ["ALL=1"], "additionalGids": [44, 0]},
        "devices": [
            {"name": "one", "containerEdits": {
                "env": ["ONE=1"],
                "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null", "permissions": "rw"}],
                "mounts": [{"hostPath": "/srv", "containerPath": "/srv", "options": ["ro", "bind"]}],
                "hooks": [{"hookName": "createContainer", "path": "/bin/x", "args": ["x", "-y"]}]}},
            {"name": "two", "containerEdits": {
                "deviceNodes": [{"path": "/dev/two", "type": "c", "major": 7, "minor": 8}]}}]}"#;

    fn known(texts: &[&str]) -> (tempfile::TempDir, Cdi) {
        let folder = tempfile::tempdir().unwrap();
        for (number, text) in texts.iter().enumerate() {
            fs_err::write(folder.path().join(format!("{number}.json")), text).unwrap();
        }
        let cdi = Cdi::read(&[folder.path()]);
        (folder, cdi)
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_device_brings_along_all_that_it_needs() {
        let (_folder, cdi) = known(&[SPEC]);
        let mut spec = Spec::default();
        cdi.inject(&mut spec, &names(&["acme.com/gadget=one", "acme.com/gadget=two"])).unwrap();
        assert_eq!(spec.process.env, ["ALL=1", "ONE=1"]);
        assert_eq!(spec.process.user.additional_gids, [44]);
        let told: Vec<_> =
            spec.linux.devices.iter().map(|it| (it.path.as_str(), it.major, it.minor)).collect();
        assert_eq!(told, [("/dev/one", 1, 3), ("/dev/two", 7, 8)]);
        let rules = &spec.linux.resources.unwrap().devices;
        assert_eq!((rules[0].access.as_str(), rules[1].access.as_str()), ("rw", "rwm"));
        assert_eq!(spec.mounts[0].options, ["ro", "bind"]);
        let want = json!({"createContainer": [{"path": "/bin/x", "args": ["x", "-y"]}]});
        assert_eq!(spec.other["hooks"], want);
    }

    #[test]
    fn a_device_that_nobody_or_more_than_one_describes_is_refused() {
        let (folder, cdi) = known(&[SPEC, SPEC]);
        let refused = |cdi: &Cdi, name: &str| {
            cdi.inject(&mut Spec::default(), &names(&[name])).unwrap_err().to_string()
        };
        let want = "CDI device injection failed: unresolvable CDI devices acme.com/gadget=one";
        assert!(refused(&cdi, "acme.com/gadget=one").starts_with(want));
        let more = tempfile::tempdir().unwrap();
        fs_err::write(more.path().join("a.json"), SPEC).unwrap();
        fs_err::write(more.path().join("b.yaml"), "kind: [x").unwrap();
        fs_err::write(more.path().join("c.yml"), "kind: x").unwrap();
        let cdi = Cdi::read(&[folder.path(), more.path()]);
        cdi.inject(&mut Spec::default(), &names(&["acme.com/gadget=one"])).unwrap();
        let told = refused(&cdi, "acme.com/gadget=none");
        assert!(told.contains("b.yaml: yaml: ") && !told.contains("c.yml"), "{told}");
    }

    #[test]
    fn a_specification_in_yaml_says_the_same() {
        let text = "
            cdiVersion: 0.6.0
            kind: acme.com/gadget
            devices:
              - name: 0  # a number, and yet a name
                containerEdits:
                  env: [ONE=1]
                  deviceNodes:
                    - {path: /dev/one, hostPath: /dev/null, permissions: rw, fileMode: 0640}
                  hooks:
                    - hookName: createContainer
                      path: /bin/x
                      args: [x, -1]
        ";
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("acme.yaml"), text).unwrap();
        let mut spec = Spec::default();
        Cdi::read(&[folder.path()]).inject(&mut spec, &names(&["acme.com/gadget=0"])).unwrap();
        assert_eq!(spec.process.env, ["ONE=1"]);
        let device = &spec.linux.devices[0];
        assert_eq!((device.major, device.minor, device.file_mode), (1, 3, Some(0o640)));
        assert_eq!(spec.linux.resources.unwrap().devices[0].access, "rw");
        let want = json!({"createContainer": [{"path": "/bin/x", "args": ["x", "-1"]}]});
        assert_eq!(spec.other["hooks"], want);
    }

    #[test]
    fn names_are_told_from_paths() {
        assert!(is_name("nvidia.com/gpu=0") && is_name("a/b=c:d"));
        for path in ["/dev/null", "/dev/a=b", "dev/null", "=", "a/b=", "a/b c=d"] {
            assert!(!is_name(path), "{path}");
        }
    }
}
