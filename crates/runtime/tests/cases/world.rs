// SPDX-License-Identifier: Apache-2.0
//! A daemon's shims, and what is at the other end of their sockets.
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use api::{
    containerd::{
        task::v3::{CreateTaskRequest, CreateTaskResponse, StateRequest, StateResponse},
        v1::types::Status,
    },
    service::{TASK_V2, TASK_V3},
};
use async_trait::async_trait;
use bytes::Bytes;
use events::Exchange;
use fs_err as fs;
use records::{Container, Delete, Records, Runtime};
use runtime::{Checkpoints, Config, Shims, Tasks, Timeouts};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::Notify, task::JoinHandle};
use types::{Descriptor, Error, FieldMask, Filters, Result, Scope};

pub(crate) const NAMESPACE: &str = "ns";

/// A place for a daemon's shims.
pub(crate) struct World {
    pub(crate) directory: TempDir,
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) boot_id: String,
    pub(crate) timeouts: Timeouts,
}

impl World {
    pub(crate) fn new() -> Self {
        let timeouts = Timeouts { state: Duration::from_millis(300), ..Timeouts::default() };
        let (directory, exchange) = (TempDir::new().unwrap(), Arc::new(Exchange::new()));
        Self { directory, exchange, boot_id: "one".into(), timeouts }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn open(&self) -> Arc<Shims> {
        let config = Config {
            root: self.path("root"),
            state: self.path("state"),
            address: "/run/nobody.sock".into(),
            ttrpc_address: "/run/nobody.sock.ttrpc".into(),
            publish_binary: "/bin/false".into(),
            beside: None,
            debug: false,
            version: "1".into(),
            boot_id: self.boot_id.clone(),
            env: vec!["EXTRA=more".into()],
            grpc: None,
            timeouts: self.timeouts,
        };
        Shims::open(config, self.exchange.clone()).unwrap()
    }

    /// Writes a program, and returns where it is.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path(name);
        sys::program::install(&path, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        path
    }

    /// A bundle as a daemon that went down left it.
    pub(crate) fn bundle(&self, id: &str, program: &Path, bootstrap: &str) -> PathBuf {
        let path = self.path("state").join(NAMESPACE).join(id);
        fs::create_dir_all(path.join("rootfs")).unwrap();
        fs::write(path.join("config.json"), "{}").unwrap();
        fs::write(path.join("shim-binary-path"), program.display().to_string()).unwrap();
        fs::write(path.join("bootstrap.json"), bootstrap).unwrap();
        path
    }
}

pub(crate) fn json(version: u32, address: &str) -> String {
    format!(r#"{{"version":{version},"address":"{address}","protocol":"ttrpc"}}"#)
}

pub(crate) fn tasks(shims: &Arc<Shims>, program: &Path) -> Arc<dyn Tasks> {
    let name = program.display().to_string();
    shims.tasks(
        &Scope::new(NAMESPACE).unwrap(),
        Arc::new(Made(name)),
        None,
        Arc::new(NoCheckpoints),
    )
}

/// A shim that is a server in this process. Dropping it is its death.
pub(crate) struct Served {
    pub(crate) address: String,
    /// How often it was asked for a state.
    pub(crate) asked: Arc<AtomicUsize>,
    /// While it is set no state is told.
    frozen: Arc<Frozen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Frozen {
    is_set: AtomicBool,
    thawed: Notify,
}

impl Served {
    pub(crate) fn v2(directory: &Path, name: &str) -> Self {
        Self::new(directory, name, &[TASK_V2])
    }

    pub(crate) fn v3(directory: &Path, name: &str) -> Self {
        Self::new(directory, name, &[TASK_V2, TASK_V3])
    }

    fn new(directory: &Path, name: &str, services: &[&str]) -> Self {
        let path = directory.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let (asked, frozen) = (Arc::new(AtomicUsize::new(0)), Arc::<Frozen>::default());
        let server = services.iter().fold(ttrpc::Server::new(), |server, service| {
            let (asked, frozen) = (asked.clone(), frozen.clone());
            server
                .method(service, "State", move |_, request: StateRequest| {
                    state(request, asked.clone(), frozen.clone())
                })
                .method(service, "Create", |_, _: CreateTaskRequest| async {
                    Ok(CreateTaskResponse { pid: 42 })
                })
        });
        let task = tokio::spawn(async move {
            server.serve(listener, std::future::pending()).await.unwrap();
        });
        Self { address: format!("unix://{}", path.display()), asked, frozen, task }
    }

    pub(crate) fn freeze(&self) {
        self.frozen.is_set.store(true, Ordering::SeqCst);
    }

    pub(crate) fn thaw(&self) {
        self.frozen.is_set.store(false, Ordering::SeqCst);
        self.frozen.thawed.notify_waiters();
    }

    pub(crate) fn times_asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn state(
    request: StateRequest,
    asked: Arc<AtomicUsize>,
    frozen: Arc<Frozen>,
) -> Result<StateResponse, ttrpc::Status> {
    asked.fetch_add(1, Ordering::SeqCst);
    let thawed = frozen.thawed.notified();
    if frozen.is_set.load(Ordering::SeqCst) {
        thawed.await;
    }
    let mut state = StateResponse { id: request.id, pid: 42, ..Default::default() };
    state.set_status(Status::Running);
    Ok(state)
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Containers of every id, of one runtime.
struct Made(String);

#[async_trait]
impl Records<Container> for Made {
    async fn get(&self, id: &str) -> Result<Container> {
        let runtime = Runtime { name: self.0.clone(), options: None };
        Ok(Container { runtime, ..container(id) })
    }

    async fn list(&self, _: &Filters) -> Result<Vec<Container>> {
        Ok(Vec::new())
    }

    async fn create(&self, record: Container) -> Result<Container> {
        Ok(record)
    }

    async fn update(&self, record: Container, _: &FieldMask) -> Result<Container> {
        Ok(record)
    }

    async fn delete(&self, id: &str, _: Delete) -> Result<()> {
        Err(Error::not_found(id.to_owned()))
    }
}

fn container(id: &str) -> Container {
    let now = std::time::SystemTime::UNIX_EPOCH;
    Container {
        id: id.to_owned(),
        labels: types::Labels::new(),
        image: String::new(),
        runtime: Runtime { name: String::new(), options: None },
        spec: None,
        snapshotter: String::new(),
        snapshot_key: String::new(),
        created_at: now,
        updated_at: now,
        extensions: BTreeMap::new(),
        sandbox: String::new(),
    }
}

struct NoCheckpoints;

#[async_trait]
impl Checkpoints for NoCheckpoints {
    async fn keep(&self, _: &Path, _: Bytes) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }

    async fn unpack(&self, checkpoint: &Descriptor, _: &Path) -> Result<()> {
        Err(Error::not_found(checkpoint.digest.to_string()))
    }
}

/// The names of events by topic, as many as `count`.
pub(crate) async fn topics(
    subscription: &mut events::Subscription,
    count: usize,
) -> BTreeMap<String, usize> {
    let mut topics = BTreeMap::new();
    for _ in 0..count {
        let next = tokio::time::timeout(Duration::from_secs(10), subscription.next());
        let envelope = next.await.expect("an event in time").expect("an event").unwrap();
        *topics.entry(envelope.topic.clone()).or_default() += 1;
    }
    topics
}
