// SPDX-License-Identifier: Apache-2.0
//! The network of a container, as the plugins of the Container Network Interface make it
//! (<https://www.cni.dev/docs/spec/>).
//!
//! ```text
//! /etc/cni/net.d: the first configuration by name --> /opt/cni/bin: its plugins, one after the other
//!    ADD before the process starts      stdin: configuration, and what the one before has told
//!    DEL when its task is deleted       in the opposite order
//! ```
//!
//! That a container wants it is said in its record, as Go's `ctr` says it, so that whoever starts or
//! deletes its task knows (containerd `cmd/ctr/commands/commands_unix.go`).
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use records::Container;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};
use types::{Any, Context as _, Error, Kind, Result};

/// What says in a container's record that it wants a network.
const EXTENSION: &str = "ctr.cni-containerd.metadata";
/// What that is called on the wire.
const METADATA: &str = "github.com/containerd/containerd/cmd/ctr/commands/NetworkMetaData";
/// Where configurations are, where plugins, and where it is kept what they have told (libcni).
const CONFIGURATIONS: &str = "/etc/cni/net.d";
const PLUGINS: &str = "/opt/cni/bin";
const RESULTS: &str = "/var/lib/cni/results";
/// What the container's interface is called (`github.com/containerd/go-cni`).
const INTERFACE: &str = "eth0";
/// How long a plugin may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Says in a record that the container wants a network.
pub(crate) fn extension() -> (String, Any) {
    (EXTENSION.to_owned(), Any::new(METADATA, json!({ "EnableCni": true }).to_string()))
}

/// The network of one container.
#[derive(Debug)]
pub(crate) struct Network {
    name: String,
    version: String,
    plugins: Vec<Value>,
    /// What plugins know the container by.
    id: String,
}

impl Network {
    /// The network of a container that wants one.
    ///
    /// Errors: `NotFound` where no network is configured.
    pub(crate) fn of(container: &Container, namespace: &str) -> Result<Option<Self>> {
        let Some(said) = container.extensions.get(EXTENSION) else { return Ok(None) };
        let said: Value = serde_json::from_slice(&said.value).unwrap_or_default();
        if said["EnableCni"] != true {
            return Ok(None);
        }
        let id = format!("{namespace}-{}", container.id);
        configured(Path::new(CONFIGURATIONS))?.network(id).map(Some)
    }

    /// Connects the network namespace of a process.
    pub(crate) async fn set_up(&self, pid: u32) -> Result<()> {
        let namespace = format!("/proc/{pid}/ns/net");
        let mut told = None;
        for plugin in &self.plugins {
            let answer = self.call(plugin, "ADD", &namespace, told.as_ref()).await?;
            told = Some(answer);
        }
        if let Some(told) = told {
            self.keep(&told)?;
        }
        Ok(())
    }

    /// Undoes it, whether the namespace is still there or not.
    pub(crate) async fn remove(&self) -> Result<()> {
        let told = fs_err::read(self.kept()).ok();
        let told = told.and_then(|told| serde_json::from_slice::<Value>(&told).ok());
        let told = told.map(|told| told["result"].clone());
        for plugin in self.plugins.iter().rev() {
            self.call(plugin, "DEL", "", told.as_ref()).await?;
        }
        // It is not there if the network was never set up.
        drop(fs_err::remove_file(self.kept()));
        Ok(())
    }

    /// Where plugins look for what was told, also those that others call (libcni `api.go`).
    fn kept(&self) -> PathBuf {
        Path::new(RESULTS).join(format!("{}-{}-{INTERFACE}", self.name, self.id))
    }

    fn keep(&self, told: &Value) -> Result<()> {
        let kept = json!({
            "kind": "cniCacheV1",
            "containerId": self.id,
            "ifName": INTERFACE,
            "networkName": self.name,
            "result": told,
        });
        fs_err::create_dir_all(RESULTS)?;
        Ok(fs_err::write(self.kept(), kept.to_string())?)
    }

    /// Has a plugin do something. The words of its failures are those of libcni.
    async fn call(
        &self,
        plugin: &Value,
        command: &str,
        namespace: &str,
        told: Option<&Value>,
    ) -> Result<Value> {
        let kind = plugin["type"].as_str().unwrap_or_default();
        let program = Path::new(PLUGINS).join(kind);
        if kind.is_empty() || kind.contains('/') || !program.is_file() {
            let what = format!("failed to find plugin {kind:?} in path [{PLUGINS}]");
            return Err(Error::said(Kind::Unknown, what));
        }
        let failed = || format!("plugin type={kind:?} failed ({})", command.to_lowercase());
        let mut process = Command::new(program);
        process.env("CNI_COMMAND", command).env("CNI_CONTAINERID", &self.id);
        process.env("CNI_NETNS", namespace).env("CNI_IFNAME", INTERFACE);
        process.env("CNI_ARGS", "").env("CNI_PATH", PLUGINS).kill_on_drop(true);
        let input = self.configuration(plugin, told).to_string();
        let output = timeout(PATIENCE, run(process, input.as_bytes())).await;
        let elapsed = |_| Error::deadline(format!("no end within {PATIENCE:?}"));
        let output = output.map_err(elapsed).and_then(|output| output).context(failed)?;
        answer(&output).context(failed)
    }

    fn configuration(&self, plugin: &Value, told: Option<&Value>) -> Value {
        let mut input = plugin.clone();
        input["name"] = json!(self.name);
        input["cniVersion"] = json!(self.version);
        if let Some(told) = told {
            input["prevResult"] = told.clone();
        }
        input
    }
}

async fn run(mut command: Command, input: &[u8]) -> Result<std::process::Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read its configuration has no use for it.
        drop(stdin.write_all(input).await);
    }
    Ok(child.wait_with_output().await?)
}

/// What a plugin has told, or why it has failed.
fn answer(output: &std::process::Output) -> Result<Value> {
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    if output.status.success() {
        return Ok(told);
    }
    let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    let words = [text("msg"), text("details")].into_iter().filter(|text| !text.is_empty());
    let words = words.collect::<Vec<_>>().join("; ");
    let words = if words.is_empty() { output.status.to_string() } else { words };
    Err(Error::said(Kind::Unknown, words))
}

/// A configuration, as it is written down.
struct Configuration(Value);

impl Configuration {
    fn network(self, id: String) -> Result<Network> {
        let Self(value) = self;
        let name = value["name"].as_str().ok_or_else(|| Error::invalid("network has no name"))?;
        let version = value["cniVersion"].as_str().unwrap_or("0.1.0");
        let plugins = match value["plugins"].as_array() {
            Some(plugins) => plugins.clone(),
            None => vec![value.clone()],
        };
        Ok(Network { name: name.to_owned(), version: version.to_owned(), plugins, id })
    }
}

/// The first configuration by name (the words are those of `github.com/containerd/go-cni`).
fn configured(folder: &Path) -> Result<Configuration> {
    let none = || {
        let folder = folder.display();
        let what = format!("no network config found in {folder}: cni plugin not initialized");
        Error::said(Kind::NotFound, what)
    };
    let entries = fs_err::read_dir(folder).map(|entries| entries.flatten().map(|it| it.path()));
    let is_one = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("conf" | "conflist" | "json"))
    };
    let mut paths: Vec<_> = entries.map(|paths| paths.filter(is_one).collect()).unwrap_or_default();
    paths.sort();
    let path = paths.first().ok_or_else(none)?;
    let value = serde_json::from_slice(&fs_err::read(path)?).map_err(|error| {
        Error::caused(Kind::InvalidArgument, format!("network config {}", path.display()), error)
    })?;
    Ok(Configuration(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_configuration_is_taken_alone_or_in_a_list() {
        let dir = tempfile::tempdir().unwrap();
        let none = configured(dir.path()).err().unwrap();
        assert!(none.is_not_found() && none.to_string().contains("cni plugin not initialized"));
        fs_err::write(dir.path().join("1.txt"), "not one").unwrap();
        let alone = r#"{"cniVersion":"0.4.0","name":"a","type":"loopback"}"#;
        fs_err::write(dir.path().join("20-a.conf"), alone).unwrap();
        let network = configured(dir.path()).unwrap().network("ns-id".into()).unwrap();
        assert_eq!((network.name.as_str(), network.plugins.len()), ("a", 1));
        let list = r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"x"},{"type":"y"}]}"#;
        fs_err::write(dir.path().join("10-b.conflist"), list).unwrap();
        let network = configured(dir.path()).unwrap().network("ns-id".into()).unwrap();
        assert_eq!((network.name.as_str(), network.plugins.len()), ("b", 2));
        let input = network.configuration(&network.plugins[1], Some(&json!({"ips": []})));
        let want = r#"{"cniVersion":"1.0.0","name":"b","prevResult":{"ips":[]},"type":"y"}"#;
        assert_eq!(input.to_string(), want);
    }
}
