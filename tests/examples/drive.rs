// SPDX-License-Identifier: Apache-2.0
//! Drives a daemon over its API and says how long things took, so that two daemons are measured by
//! the same client. `cargo xtask bench` builds it and reads what it prints.
//!
//! ```text
//! drive <socket> <namespace> <rootfs> runs <count> <at once>     containers that run `true`
//!                                     execs <count>              processes in one container
//!                                     hold <count> | drop <count>   containers that sleep
//!                                     metrics <count>            statistics of all tasks
//!                                     pour <megabytes> <pid>     output of one container; cpu
//!                                     runc <count>               the same lives by runc alone
//! ```
//!
//! It prints milliseconds, one on each line: of each thing, or for `runs` of each container's share.

use std::error::Error;
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::containerd::services::containers::v1 as containers;
use api::containerd::services::tasks::v1 as pb;
use api::containerd::types::Mount;
use containers::containers_client::ContainersClient;
use pb::tasks_client::TasksClient;
use prost_types::Any;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, mknodat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many containers are made at a time where that is not what is measured.
const AT_ONCE: usize = 8;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match drive(&words) {
        Ok(figures) => {
            for figure in figures {
                println!("{figure:.3}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn drive(words: &[&str]) -> Outcome<Vec<f64>> {
    let [socket, namespace, rootfs, task @ ..] = words else { return Err("too few words".into()) };
    if let ["runc", count] = task {
        let runc = Runc { namespace, rootfs: Path::new(rootfs) };
        return (0..count.parse::<u32>()?).map(|number| runc.live(number)).collect();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let it = Driver::connect(socket, namespace, rootfs).await?;
        match task {
            ["runs", count, at_once] => {
                it.each(count.parse()?, at_once.parse()?, Driver::live).await
            }
            ["execs", count] => it.execs(count.parse()?).await,
            ["hold", count] => it.each(count.parse()?, AT_ONCE, Driver::begin).await,
            ["drop", count] => it.each(count.parse()?, AT_ONCE, Driver::kill).await,
            ["metrics", count] => it.metrics(count.parse()?).await,
            ["pour", megabytes, daemon] => it.pour(megabytes, daemon.parse()?).await,
            _ => Err(format!("no such task: {task:?}").into()),
        }
    })
}

const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000"];
const TRUE: [&str; 2] = ["/bin/busybox", "true"];

/// Puts the namespace into every call.
#[derive(Clone)]
struct InNamespace(String);

impl Interceptor for InNamespace {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let value = self.0.parse().map_err(|_bad| Status::internal("no such namespace"))?;
        request.metadata_mut().insert("containerd-namespace", value);
        Ok(request)
    }
}

type Peer = InterceptedService<Channel, InNamespace>;

#[derive(Clone)]
struct Driver {
    containers: ContainersClient<Peer>,
    tasks: TasksClient<Peer>,
    namespace: String,
    rootfs: String,
}

impl Driver {
    async fn connect(socket: &str, namespace: &str, rootfs: &str) -> Outcome<Self> {
        let channel = Endpoint::from_shared(format!("unix:{socket}"))?.connect().await?;
        let peer = InterceptedService::new(channel, InNamespace(namespace.to_owned()));
        Ok(Self {
            containers: ContainersClient::new(peer.clone()),
            tasks: TasksClient::new(peer),
            namespace: namespace.to_owned(),
            rootfs: rootfs.to_owned(),
        })
    }

    async fn live(self, id: String) -> Outcome {
        self.make(&id, &TRUE, Default::default()).await?;
        let wait = pb::WaitRequest { container_id: id.clone(), exec_id: String::new() };
        let start = pb::StartRequest { container_id: id.clone(), exec_id: String::new() };
        // As every client does it: the wait stands before the start.
        let (mut waiter, mut starter) = (self.tasks.clone(), self.tasks.clone());
        let (waited, started) = tokio::join!(waiter.wait(wait), starter.start(start));
        started?;
        waited?;
        self.remove(&id).await
    }

    /// Does something to so many containers, so many at a time. Of one at a time it gives the time
    /// of each, of several the share of each in the time that all took.
    async fn each<F>(
        &self,
        count: usize,
        at_once: usize,
        thing: fn(Self, String) -> F,
    ) -> Outcome<Vec<f64>>
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        let started = Instant::now();
        for _ in 0..at_once {
            let (it, next) = (self.clone(), Arc::clone(&next));
            workers.spawn(async move {
                let mut times = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return Outcome::Ok(times);
                    }
                    let (id, started) = (format!("held{number}-{}", it.mark()), Instant::now());
                    thing(it.clone(), id).await?;
                    times.push(milliseconds(started.elapsed()));
                }
            });
        }
        let mut times = Vec::new();
        while let Some(done) = workers.join_next().await {
            times.extend(done??);
        }
        let share = milliseconds(started.elapsed()) / f64::from(u32::try_from(count)?.max(1));
        Ok(if at_once == 1 { times } else { vec![share] })
    }

    /// What ids end with, so that whoever cleans up knows them.
    fn mark(&self) -> &str {
        self.namespace.rsplit('-').next().unwrap_or_default()
    }

    /// Has one sleep.
    async fn begin(self, id: String) -> Outcome {
        self.make(&id, &SLEEP, Default::default()).await?;
        let start = pb::StartRequest { container_id: id, exec_id: String::new() };
        self.tasks.clone().start(start).await?;
        Ok(())
    }

    async fn make(&self, id: &str, args: &[&str], (stdout, stderr): (String, String)) -> Outcome {
        let runtime = containers::container::Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        };
        let container = containers::Container {
            id: id.to_owned(),
            runtime: Some(runtime),
            spec: Some(any("Spec", &spec("rootfs", args, &format!("/{}/{id}", self.namespace)))),
            ..Default::default()
        };
        let request = containers::CreateContainerRequest { container: Some(container) };
        self.containers.clone().create(request).await?;
        let rootfs = Mount {
            r#type: "bind".to_owned(),
            source: self.rootfs.clone(),
            target: String::new(),
            options: vec!["rbind".to_owned(), "ro".to_owned()],
        };
        let create = pb::CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs: vec![rootfs],
            stdout,
            stderr,
            ..Default::default()
        };
        self.tasks.clone().create(create).await?;
        Ok(())
    }

    async fn kill(self, container_id: String) -> Outcome {
        let mut tasks = self.tasks.clone();
        let kill = pb::KillRequest {
            container_id: container_id.clone(),
            exec_id: String::new(),
            signal: 9,
            all: false,
        };
        tasks.kill(kill).await?;
        let wait = pb::WaitRequest { container_id: container_id.clone(), exec_id: String::new() };
        tasks.wait(wait).await?;
        self.remove(&container_id).await
    }

    async fn remove(&self, id: &str) -> Outcome {
        let delete = pb::DeleteTaskRequest { container_id: id.to_owned() };
        self.tasks.clone().delete(delete).await?;
        let delete = containers::DeleteContainerRequest { id: id.to_owned() };
        self.containers.clone().delete(delete).await?;
        Ok(())
    }

    /// Added, started, waited for and deleted, one after the other.
    async fn execs(&self, count: usize) -> Outcome<Vec<f64>> {
        let id = format!("exec-{}", self.mark());
        self.clone().begin(id.clone()).await?;
        let mut times = Vec::new();
        for number in 0..count {
            let started = Instant::now();
            self.exec(&id, format!("e{number}")).await?;
            times.push(milliseconds(started.elapsed()));
        }
        self.clone().kill(id).await?;
        Ok(times)
    }

    async fn exec(&self, id: &str, exec_id: String) -> Outcome {
        let (mut tasks, container_id) = (self.tasks.clone(), id.to_owned());
        let process = spec("rootfs", &TRUE, "")["process"].take();
        tasks
            .exec(pb::ExecProcessRequest {
                container_id: container_id.clone(),
                exec_id: exec_id.clone(),
                spec: Some(any("Process", &process)),
                ..Default::default()
            })
            .await?;
        let wait = pb::WaitRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
        let start =
            pb::StartRequest { container_id: container_id.clone(), exec_id: exec_id.clone() };
        let mut waiter = self.tasks.clone();
        let (waited, started) = tokio::join!(waiter.wait(wait), tasks.start(start));
        started?;
        waited?;
        tasks.delete_process(pb::DeleteProcessRequest { container_id, exec_id }).await?;
        Ok(())
    }

    async fn metrics(&self, count: usize) -> Outcome<Vec<f64>> {
        let mut times = Vec::new();
        for _ in 0..count {
            let started = Instant::now();
            let told = self.tasks.clone().metrics(pb::MetricsRequest::default()).await?;
            times.push(milliseconds(started.elapsed()));
            let metrics = told.into_inner().metrics;
            if metrics.is_empty() || metrics.iter().any(|metric| metric.data.is_none()) {
                return Err("tasks without statistics".into());
            }
        }
        Ok(times)
    }

    /// The time that it takes a container's output to arrive, and the processor time that the
    /// daemon and the shim spend on it.
    async fn pour(&self, megabytes: &str, daemon: u32) -> Outcome<Vec<f64>> {
        let id = format!("pour-{}", self.mark());
        // Go's shims want both streams or none.
        let fifos = ["out", "err"].map(|name| std::env::temp_dir().join(format!("{id}-{name}")));
        for fifo in &fifos {
            mknodat(CWD, fifo, FileType::Fifo, 0o600.into(), 0)?;
        }
        let readers = fifos.clone().map(drain);
        let count = format!("count={megabytes}");
        let dd = ["/bin/busybox", "dd", "if=/dev/zero", "bs=1M", &count];
        let [stdout, stderr] = fifos.clone().map(|fifo| fifo.display().to_string());
        self.make(&id, &dd, (stdout, stderr)).await?;
        let processes = [daemon, shim_of(&id)?];
        let (before, started) = (spent(&processes)?, Instant::now());
        let start = pb::StartRequest { container_id: id.clone(), exec_id: String::new() };
        self.tasks.clone().start(start).await?;
        let wait = pb::WaitRequest { container_id: id.clone(), exec_id: String::new() };
        self.tasks.clone().wait(wait).await?;
        let elapsed = milliseconds(started.elapsed());
        let after = spent(&processes)?;
        self.remove(&id).await?;
        let mut arrived = Vec::new();
        for (reader, fifo) in readers.into_iter().zip(fifos) {
            arrived.push(reader.join().map_err(|_panic| "a reader panicked")??);
            fs_err::remove_file(fifo)?;
        }
        if arrived.first() != Some(&(megabytes.parse::<u64>()? << 20)) {
            return Err(format!("{arrived:?} bytes arrived").into());
        }
        Ok(vec![elapsed, after - before])
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn drain(fifo: PathBuf) -> std::thread::JoinHandle<std::io::Result<u64>> {
    std::thread::spawn(move || {
        let (mut file, mut buffer, mut sum) = (fs_err::File::open(fifo)?, vec![0; 1 << 20], 0);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(sum),
                read => sum += read as u64,
            }
        }
    })
}

/// The process of a container's shim: the container's name is on its command line.
fn shim_of(id: &str) -> Outcome<u32> {
    for entry in fs_err::read_dir("/proc")? {
        let entry = entry?;
        let line = fs_err::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains("containerd-shim") && line.contains(&format!("-id {id} ")) {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    Err(format!("{id} has no shim").into())
}

/// Milliseconds of processor time (proc(5), `/proc/<pid>/schedstat`: nanoseconds, by thread).
fn spent(pids: &[u32]) -> Outcome<f64> {
    let mut sum = 0.0;
    for pid in pids {
        for thread in fs_err::read_dir(format!("/proc/{pid}/task"))? {
            // It may have ended meanwhile, and then it was not one of those that work.
            let told = fs_err::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
            sum += told.split(' ').next().and_then(|it| it.parse::<f64>().ok()).unwrap_or_default();
        }
    }
    Ok(sum / 1e6)
}

fn any(name: &str, value: &Value) -> Any {
    let type_url = format!("types.containerd.io/opencontainers/runtime-spec/1/{name}");
    Any { type_url, value: value.to_string().into_bytes() }
}

fn spec(rootfs: &str, args: &[&str], cgroup: &str) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": rootfs},
        "process": {"args": args, "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {
            "cgroupsPath": cgroup,
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}],
            "resources": {"pids": {"limit": 200}},
        },
    })
}

/// The same lives without anybody but runc.
struct Runc<'a> {
    namespace: &'a str,
    rootfs: &'a Path,
}

impl Runc<'_> {
    fn live(&self, number: u32) -> Outcome<f64> {
        let id = format!("runc{number}-{}", self.namespace.rsplit('-').next().unwrap_or_default());
        let bundle = std::env::temp_dir().join(&id);
        fs_err::create_dir_all(&bundle)?;
        let rootfs = self.rootfs.display().to_string();
        let spec = spec(&rootfs, &TRUE, &format!("/{}/{id}", self.namespace));
        fs_err::write(bundle.join("config.json"), spec.to_string())?;
        let pid_file = bundle.join("pid").display().to_string();
        let bundle_path = bundle.display().to_string();

        let started = Instant::now();
        self.call(&["create", "--bundle", &bundle_path, "--pid-file", &pid_file, &id])?;
        let pid: i32 = fs_err::read_to_string(&pid_file)?.trim().parse()?;
        let process = pidfd_open(Pid::from_raw(pid).ok_or("no pid")?, PidfdFlags::empty())?;
        self.call(&["start", &id])?;
        let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))?;
        self.call(&["delete", &id])?;
        let elapsed = milliseconds(started.elapsed());

        fs_err::remove_dir_all(bundle)?;
        Ok(elapsed)
    }

    fn call(&self, words: &[&str]) -> Outcome {
        let root = format!("/run/containerd/runc/{}", self.namespace);
        let mut command = Command::new("runc");
        command.args(["--root", &root]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status()?.success() { Ok(()) } else { Err(format!("runc {words:?}").into()) }
    }
}
