// SPDX-License-Identifier: Apache-2.0
//! Sandboxes that are tasks: a process that does nothing, in namespaces that others join.
//!
//! ```text
//! sandbox --> container of the same name --> task: /pause
//!                                              `-- its shim makes the pod's other tasks too
//! ```
//!
//! The process is a program that the daemon brings along, so no image is needed and none has to be pulled. Its root
//! filesystem is one read-only directory for all sandboxes of a daemon.
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use fs_err as fs;
use mount::Mount;
use records::{Container, Delete, Records, Sandbox};
use serde_json::{Value, json};
use types::{Any, Context, Error, FieldMask, Filters, Kind, Platform, Result, Scope};

use super::{Controller, Create, Endpoint, Instance, NOT_READY, READY, Status, missing};
use crate::{Exit, Metric, Shims, Tasks, checkpoints::Nowhere};

/// What OCI specs are called on the wire (containerd `core/runtime/typeurl.go`).
const SPEC: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Where the program is, in the sandbox.
const PAUSE: &str = "/pause";
/// What specs may want to mount something over.
const DIRECTORIES: &[&str] =
    &["proc", "dev", "sys", "etc", "run", "tmp", "var/run", "dev/shm", "dev/pts", "dev/mqueue"];
/// The same for files.
const FILES: &[&str] = &["etc/hosts", "etc/hostname", "etc/resolv.conf"];
/// How long a process that was asked to end may take where nothing else was said.
const GRACE: Duration = Duration::from_secs(10);
const SIGKILL: u32 = 9;
const SIGTERM: u32 = 15;

/// Sandboxes that are tasks.
#[derive(Debug)]
pub struct Pods {
    shims: Arc<Shims>,
    rootfs: PathBuf,
}

impl Pods {
    /// Puts the program `pause` where sandboxes find it, into a directory below `root`.
    pub fn open(shims: Arc<Shims>, root: &Path, pause: &[u8]) -> Result<Arc<Self>> {
        let rootfs = root.join("rootfs");
        for name in DIRECTORIES {
            fs::create_dir_all(rootfs.join(name))?;
        }
        for name in FILES {
            fs::OpenOptions::new().create(true).append(true).open(rootfs.join(name))?;
        }
        // A sandbox that runs may have the old one open: it is replaced, not written to.
        let fresh = rootfs.join(".pause");
        sys::program::install(&fresh, pause)?;
        fs::rename(fresh, rootfs.join("pause"))?;
        Ok(Arc::new(Self { shims, rootfs }))
    }

    /// The sandboxes of one namespace, whose containers are kept in `containers`.
    pub fn controller(
        self: &Arc<Self>,
        scope: &Scope,
        containers: Arc<dyn Records<Container>>,
    ) -> Arc<dyn Controller> {
        Arc::new(Scoped {
            pods: self.clone(),
            namespace: scope.namespace().to_owned(),
            tasks: self.shims.tasks(scope, containers.clone(), None, Arc::new(Nowhere)),
            containers,
        })
    }
}

struct Scoped {
    pods: Arc<Pods>,
    namespace: String,
    tasks: Arc<dyn Tasks>,
    containers: Arc<dyn Records<Container>>,
}

impl Scoped {
    async fn endpoint(&self, id: &str) -> Result<Endpoint> {
        let Shims { table, config, .. } = &*self.pods.shims;
        let shim = table.find(&self.namespace, id, config.timeouts.load).await?;
        Ok(Endpoint::of(&shim.answer))
    }

    fn rootfs(&self) -> Vec<Mount> {
        let source = self.pods.rootfs.display().to_string();
        let options = ["rbind", "ro"].map(str::to_owned).to_vec();
        vec![Mount { kind: "bind".into(), source, target: String::new(), options }]
    }

    async fn signal(&self, id: &str, signal: u32) -> Result<()> {
        match self.tasks.kill(id, "", signal, false).await {
            Err(error) if !is_over(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a process cannot be signalled because it has ended.
fn is_over(error: &Error) -> bool {
    error.is_not_found() || error.kind() == Kind::FailedPrecondition
}

/// The spec of the process: what the record says, with what it leaves out.
fn spec(create: &Create, namespace: &str) -> Result<Value> {
    let id = &create.sandbox.id;
    let given = create.sandbox.spec.as_ref().filter(|spec| !spec.value.is_empty());
    let mut spec = match given {
        None => json!({}),
        Some(spec) => serde_json::from_slice(&spec.value).map_err(|source| {
            Error::caused(Kind::InvalidArgument, format!("spec of sandbox {id}"), source)
        })?,
    };
    let defaults = defaults(id, namespace, &create.netns_path);
    fill(&mut spec, defaults);
    if spec["process"]["args"].as_array().is_none_or(Vec::is_empty) {
        spec["process"]["args"] = json!([PAUSE]);
    }
    spec["root"] = json!({ "path": "rootfs", "readonly": true });
    for (key, value) in &create.annotations {
        spec["annotations"][key] = json!(value);
    }
    Ok(spec)
}

/// Puts what is missing of `from` into `into`; lists are taken as a whole.
fn fill(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                fill(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into @ Value::Null, from) => *into = from,
        _ => {}
    }
}

fn defaults(id: &str, namespace: &str, netns: &str) -> Value {
    let network = match netns {
        "" => json!({ "type": "network" }),
        path => json!({ "type": "network", "path": path }),
    };
    json!({
        "ociVersion": "1.1.0",
        "hostname": id,
        "process": {
            "user": { "uid": 65535, "gid": 65535 },
            "args": [PAUSE],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc",
              "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
            { "destination": "/sys", "type": "sysfs", "source": "sysfs",
              "options": ["nosuid", "noexec", "nodev", "ro"] },
        ],
        "linux": {
            "cgroupsPath": format!("/{namespace}/{id}"),
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, network,
            ],
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
        },
    })
}

#[async_trait]
impl Controller for Scoped {
    async fn create(&self, create: Create) -> Result<()> {
        let spec = spec(&create, &self.namespace)?;
        let now = SystemTime::now();
        let Sandbox { id, runtime, labels, .. } = create.sandbox;
        let container = Container {
            id,
            labels,
            image: String::new(),
            runtime,
            spec: Some(Any::new(SPEC, spec.to_string())),
            snapshotter: String::new(),
            snapshot_key: String::new(),
            created_at: now,
            updated_at: now,
            extensions: Default::default(),
            sandbox: String::new(),
        };
        self.containers.create(container).await.context(|| "sandbox container").map(drop)
    }

    async fn start(&self, id: &str) -> Result<Instance> {
        let missing = || Error::not_found(format!("unable to find pod sandbox with id {id:?}"));
        let container = self.containers.get(id).await;
        let container =
            container.map_err(|error| if error.is_not_found() { missing() } else { error })?;
        let rootfs = self.rootfs();
        let create = crate::Create { id: id.to_owned(), rootfs, ..Default::default() };
        let made = self.tasks.create(create).await;
        let pid = made.context(|| format!("failed to create sandbox {id}"))?;
        if let Err(error) = self.tasks.start(id, "").await {
            if let Err(left) = self.tasks.delete(id).await {
                tracing::warn!(id, error = %left, "failed to delete a sandbox that did not start");
            }
            return Err(error.context(format!("failed to start sandbox {id}")));
        }
        Ok(Instance {
            id: id.to_owned(),
            pid,
            created_at: Some(container.created_at),
            labels: container.labels,
            endpoint: self.endpoint(id).await?,
            spec: container.spec,
        })
    }

    async fn platform(&self, _: &str) -> Result<Platform> {
        Ok(Platform::host())
    }

    async fn stop(&self, id: &str, grace: Option<Duration>) -> Result<()> {
        self.containers.get(id).await.map_err(|error| named(error, id))?;
        self.signal(id, SIGTERM).await?;
        let ended = tokio::time::timeout(grace.unwrap_or(GRACE), self.tasks.wait(id, ""));
        match ended.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_not_found() => Ok(()),
            Ok(Err(error)) => Err(error.context("failed to stop sandbox")),
            Err(_elapsed) => self.signal(id, SIGKILL).await,
        }
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        self.tasks.wait(id, "").await.map_err(|error| named(error, id))
    }

    async fn status(&self, id: &str, verbose: bool) -> Result<Status> {
        let missing = || Error::not_found(format!("unable to find sandbox {id:?}"));
        let container = self.containers.get(id).await;
        let container =
            container.map_err(|error| if error.is_not_found() { missing() } else { error })?;
        let process = match self.tasks.get(id, "").await {
            Err(error) if error.is_not_found() => None,
            process => Some(process?),
        };
        let is_ready =
            process.as_ref().is_some_and(|process| process.status == crate::Status::Running);
        let mut status = Status {
            id: id.to_owned(),
            state: if is_ready { READY } else { NOT_READY }.into(),
            created_at: Some(container.created_at),
            ..Status::default()
        };
        if let Some(process) = process {
            status.pid = if is_ready { process.pid } else { 0 };
            status.exited_at = process.exit.map(|exit| exit.at);
            status.endpoint = self.endpoint(id).await?;
        }
        if verbose && let Some(spec) = &container.spec {
            let text = String::from_utf8_lossy(&spec.value).into_owned();
            status.info.insert("runtimeSpec".into(), text);
        }
        Ok(status)
    }

    async fn shutdown(&self, id: &str) -> Result<()> {
        self.signal(id, SIGKILL).await?;
        match self.tasks.wait(id, "").await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        match self.tasks.delete(id).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        match self.containers.delete(id, Delete::default()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn metrics(&self, id: &str) -> Result<Option<Metric>> {
        // What has no task has no statistics, and is missing.
        self.tasks.get(id, "").await.map_err(|error| named(error, id))?;
        let filters = Filters::parse([format!("id=={id}")])?;
        Ok(self.tasks.metrics(&filters).await?.pop())
    }

    /// What may be changed of a task is changed by the task's own update.
    async fn update(&self, _: Sandbox, _: &FieldMask) -> Result<()> {
        Ok(())
    }
}

/// To whoever asks for a sandbox, a missing container or task is a missing sandbox.
fn named(error: Error, id: &str) -> Error {
    if error.is_not_found() { missing(id) } else { error }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use records::Runtime;

    use super::*;

    fn create(spec: Option<&str>) -> Create {
        Create::new(Sandbox {
            id: "pod".into(),
            runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
            spec: spec.map(|text| Any::new(SPEC, text.to_owned())),
            labels: [].into(),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
            extensions: [].into(),
            sandboxer: "podsandbox".into(),
        })
    }

    #[test]
    fn a_sandbox_of_which_nothing_is_said_pauses() {
        let spec = spec(&create(None), "ns").unwrap();
        assert_eq!(spec["process"]["args"], json!(["/pause"]));
        assert_eq!(spec["linux"]["cgroupsPath"], "/ns/pod");
        assert_eq!(spec["linux"]["namespaces"][4], json!({ "type": "network" }));
        assert_eq!(spec["root"]["readonly"], true);
    }

    #[test]
    fn what_is_said_of_a_sandbox_is_kept() {
        let text = r#"{"process":{"cwd":"/tmp","args":[]},"linux":{"namespaces":[{"type":"pid"}]},
            "root":{"path":"/elsewhere"}}"#;
        let mut create = create(Some(text));
        create.annotations.insert("a".into(), "b".into());
        let spec = spec(&create, "ns").unwrap();
        assert_eq!(spec["process"]["cwd"], "/tmp");
        assert_eq!(spec["process"]["args"], json!(["/pause"]));
        assert_eq!(spec["linux"]["namespaces"], json!([{ "type": "pid" }]));
        assert_eq!(spec["root"]["path"], "rootfs");
        assert_eq!(spec["annotations"], json!({ "a": "b" }));
    }

    #[test]
    fn a_network_namespace_is_joined() {
        let create = Create { netns_path: "/run/netns/a".into(), ..create(None) };
        let spec = spec(&create, "ns").unwrap();
        assert_eq!(spec["linux"]["namespaces"][4]["path"], "/run/netns/a");
        let bad = super::spec(&Create { ..self::create(Some("no json")) }, "ns").unwrap_err();
        assert_eq!(bad.kind(), Kind::InvalidArgument);
    }
}
