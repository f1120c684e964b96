// SPDX-License-Identifier: Apache-2.0
//! Every call about a task, and about a process that was added to one, in each of their states.
use std::cell::Cell;
use std::path::PathBuf;
use std::time::Duration;

use api::containerd::services::containers::v1 as containers;
use api::containerd::services::tasks::v1 as pb;
use api::containerd::v1::types::{Process, Status};
use e2e::{Context, Failure, Outcome, World};
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use super::{LIMIT, Shape, Table, fields, told};
use crate::wire::Wire;

/// In the order of a life.
const TASK_STATES: [&str; 6] =
    ["no container", "no task", "created", "running", "paused", "stopped"];
const PROCESS_STATES: [&str; 4] = ["absent", "added", "running", "stopped"];

const TASK_CALLS: [&str; 16] = [
    "Create",
    "Start",
    "Get",
    "List",
    "Kill",
    "Exec",
    "ResizePty",
    "CloseIO",
    "Pause",
    "Resume",
    "ListPids",
    "Checkpoint",
    "Update",
    "Metrics",
    "Wait",
    "Delete",
];
const PROCESS_CALLS: [&str; 8] =
    ["Exec", "Start", "Get", "Kill", "ResizePty", "CloseIO", "Wait", "DeleteProcess"];

/// Calls after which their subject is not what it was, when they succeed.
const CHANGES: [&str; 8] =
    ["Create", "Start", "Kill", "Exec", "Pause", "Resume", "Delete", "DeleteProcess"];

/// Plays every call about a task.
pub(super) fn play_tasks(world: &World, table: &Table) -> Outcome {
    let stage = Stage::new(world)?;
    for state in TASK_STATES {
        let mut id = stage.task(state)?;
        for call in TASK_CALLS {
            // That is up to the machine's criu.
            if call == "Checkpoint" && ["running", "paused"].contains(&state) {
                continue;
            }
            let answer = stage.ask(call, &id, "");
            table.check(["a task", &format!("Tasks.{call}"), state], &id, &answer);
            if answer.starts_with("OK") && CHANGES.contains(&call) {
                stage.clear(&id)?;
                id = stage.task(state)?;
            }
        }
        stage.clear(&id)?;
    }
    Ok(())
}

/// Plays every call about a process that was added to a running task.
pub(super) fn play_processes(world: &World, table: &Table) -> Outcome {
    let stage = Stage::new(world)?;
    let id = stage.task("running")?;
    for state in PROCESS_STATES {
        let mut exec = stage.process(&id, state)?;
        for call in PROCESS_CALLS {
            let answer = stage.ask(call, &id, &exec).replace(&exec, "{exec}");
            table.check(["a process", &format!("Tasks.{call}"), state], &id, &answer);
            if answer.starts_with("OK") && CHANGES.contains(&call) {
                exec = stage.process(&id, state)?;
            }
        }
    }
    stage.clear(&id)
}

/// Containers without images: a spec that names a directory.
struct Stage {
    tasks: Wire,
    containers: Wire,
    spec: Value,
    namespace: String,
    mark: String,
    made: Cell<u32>,
}

impl Stage {
    fn new(world: &World) -> Outcome<Self> {
        Ok(Self {
            tasks: Wire::connect(world, "tasks.v1.Tasks")?,
            containers: Wire::connect(world, "containers.v1.Containers")?,
            spec: spec(&rootfs(world)?),
            namespace: world.ctr.namespace().to_owned(),
            mark: world.id(""),
            made: Cell::new(0),
        })
    }

    fn name(&self, word: &str) -> String {
        self.made.set(self.made.get() + 1);
        format!("{word}{}{}", self.made.get(), self.mark)
    }

    /// Makes a task of this state; gives its name.
    fn task(&self, state: &str) -> Outcome<String> {
        let id = self.name("task");
        let steps: &[&str] = match state {
            "no container" => return Ok(id),
            "no task" => &[],
            "created" => &["Create"],
            "running" => &["Create", "Start"],
            "paused" => &["Create", "Start", "Pause"],
            _ => &["Create", "Start", "Kill", "Wait"],
        };
        self.contain(&id)?;
        self.take(steps, &id, "")?;
        Ok(id)
    }

    /// Adds a process of this state to a task; gives its name.
    fn process(&self, id: &str, state: &str) -> Outcome<String> {
        let exec = self.name("exec");
        let steps: &[&str] = match state {
            "absent" => &[],
            "added" => &["Exec"],
            "running" => &["Exec", "Start"],
            _ => &["Exec", "Start", "Kill", "Wait"],
        };
        self.take(steps, id, &exec)?;
        Ok(exec)
    }

    fn take(&self, steps: &[&str], id: &str, exec: &str) -> Outcome {
        for step in steps {
            // A wait for what ends now is short, but longer than one for what does not.
            let answer = (0..50).map(|_| self.ask(step, id, exec)).find(|it| it != "waits");
            let answer = answer.context(format!("an end of {step} of {id}"))?;
            if !answer.starts_with("OK") {
                return Err(Failure::new(format!("{step} of {id} {exec}: {answer}")));
            }
        }
        Ok(())
    }

    /// Makes a container that sleeps.
    fn contain(&self, id: &str) -> Outcome {
        let mut spec = self.spec.clone();
        spec["linux"]["cgroupsPath"] = format!("/{}/{id}", self.namespace).into();
        let runtime = containers::container::Runtime {
            name: "io.containerd.runc.v2".to_owned(),
            options: None,
        };
        let container = containers::Container {
            id: id.to_owned(),
            runtime: Some(runtime),
            spec: Some(any("Spec", &spec)),
            ..Default::default()
        };
        let request = containers::CreateContainerRequest { container: Some(container) };
        self.containers.accepts("Create", request)
    }

    /// Removes task and container, whatever they are.
    fn clear(&self, id: &str) -> Outcome {
        for call in ["Resume", "Kill", "Wait", "Delete"] {
            self.ask(call, id, "");
        }
        let state = self.ask("Get", id, "");
        e2e::ensure!(state.starts_with("NotFound"), "{id} is still there: {state}");
        let request = containers::DeleteContainerRequest { id: id.to_owned() };
        drop(self.containers.ask::<_, ()>("Delete", request, LIMIT));
        Ok(())
    }

    /// Makes a call about a task, or about a process of it if `exec` names one.
    fn ask(&self, call: &str, id: &str, exec: &str) -> String {
        let container_id = id.to_owned();
        // An Exec about a task is that of a new process.
        let is_new = call == "Exec" && exec.is_empty();
        let exec_id = if is_new { "new".to_owned() } else { exec.to_owned() };
        match call {
            "Create" => self.told::<_, pb::CreateTaskResponse>(
                call,
                pb::CreateTaskRequest { container_id, ..Default::default() },
            ),
            "Start" => {
                self.told::<_, pb::StartResponse>(call, pb::StartRequest { container_id, exec_id })
            }
            "Get" => {
                self.told::<_, pb::GetResponse>(call, pb::GetRequest { container_id, exec_id })
            }
            "List" => self.listed(id),
            "Kill" => self.told::<_, ()>(
                call,
                pb::KillRequest { container_id, exec_id, signal: 9, all: false },
            ),
            "Exec" => self.told::<_, ()>(
                call,
                pb::ExecProcessRequest {
                    container_id,
                    exec_id,
                    spec: Some(any("Process", &self.spec["process"])),
                    ..Default::default()
                },
            ),
            "ResizePty" => self.told::<_, ()>(
                call,
                pb::ResizePtyRequest { container_id, exec_id, width: 80, height: 25 },
            ),
            "CloseIO" => {
                self.told::<_, ()>(call, pb::CloseIoRequest { container_id, exec_id, stdin: true })
            }
            "Pause" => self.told::<_, ()>(call, pb::PauseTaskRequest { container_id }),
            "Resume" => self.told::<_, ()>(call, pb::ResumeTaskRequest { container_id }),
            "ListPids" => {
                self.told::<_, pb::ListPidsResponse>(call, pb::ListPidsRequest { container_id })
            }
            "Update" => {
                let resources = Some(any("LinuxResources", &json!({"pids": {"limit": 100}})));
                let request =
                    pb::UpdateTaskRequest { container_id, resources, ..Default::default() };
                self.told::<_, ()>(call, request)
            }
            "Checkpoint" => self.told::<_, pb::CheckpointTaskResponse>(
                call,
                pb::CheckpointTaskRequest { container_id, ..Default::default() },
            ),
            "Metrics" => self.told::<_, pb::MetricsResponse>(
                call,
                pb::MetricsRequest { filters: vec![format!("id=={id}")] },
            ),
            "Wait" => {
                let request = pb::WaitRequest { container_id, exec_id };
                let limit = Duration::from_millis(1500);
                told::<_, pb::WaitResponse>(&self.tasks, call, request, limit)
            }
            "Delete" => {
                self.told::<_, pb::DeleteResponse>(call, pb::DeleteTaskRequest { container_id })
            }
            _ => self.told::<_, pb::DeleteResponse>(
                call,
                pb::DeleteProcessRequest { container_id, exec_id },
            ),
        }
    }

    fn told<M: Message + 'static, R: Shape>(&self, call: &str, request: M) -> String {
        told::<M, R>(&self.tasks, call, request, LIMIT)
    }

    /// How a task is shown among all.
    fn listed(&self, id: &str) -> String {
        let answer = self.tasks.ask("List", pb::ListTasksRequest::default(), LIMIT);
        super::words(answer.map(|list: pb::ListTasksResponse| {
            let mine = list.tasks.iter().filter(|task| task.id == id);
            format!("tasks [{}]", mine.map(process).collect::<Vec<_>>().join("; "))
        }))
    }
}

/// A directory with a shell and its commands.
fn rootfs(world: &World) -> Outcome<PathBuf> {
    let dir = world.daemon.home().join("tmp/rootfs");
    for name in ["bin", "proc", "dev", "sys", "tmp"] {
        fs_err::create_dir_all(dir.join(name))?;
    }
    fs_err::copy(e2e::parts::tool("busybox")?, dir.join("bin/busybox"))?;
    Ok(dir)
}

fn spec(rootfs: &std::path::Path) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": rootfs},
        "process": {
            "args": ["/bin/busybox", "sleep", "1000"],
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}],
            "resources": {"pids": {"limit": 200}},
        },
    })
}

/// What travels as JSON, named as containerd's `typeurl` names it.
fn any(name: &str, value: &Value) -> Any {
    let type_url = format!("types.containerd.io/opencontainers/runtime-spec/1/{name}");
    Any { type_url, value: value.to_string().into_bytes() }
}

fn process(it: &Process) -> String {
    let status = Status::try_from(it.status).map_or("?", |status| status.as_str_name());
    let exit = format!("exit_status {}", it.exit_status);
    fields(&[
        ("container_id", !it.container_id.is_empty()),
        ("id", !it.id.is_empty()),
        ("pid", it.pid > 0),
        (status, true),
        (&exit, it.exit_status > 0),
        ("exited_at", is_time(it.exited_at)),
    ])
}

/// Whether a time says something: Go's zero time is one before 1970.
fn is_time(at: Option<prost_types::Timestamp>) -> bool {
    at.is_some_and(|at| at.seconds > 0)
}

impl Shape for pb::CreateTaskResponse {
    fn shape(&self) -> String {
        fields(&[("container_id", !self.container_id.is_empty()), ("pid", self.pid > 0)])
    }
}

impl Shape for pb::StartResponse {
    fn shape(&self) -> String {
        fields(&[("pid", self.pid > 0)])
    }
}

impl Shape for pb::GetResponse {
    fn shape(&self) -> String {
        self.process.as_ref().map_or_else(String::new, process)
    }
}

impl Shape for pb::ListPidsResponse {
    fn shape(&self) -> String {
        format!("processes {}", self.processes.len())
    }
}

impl Shape for pb::CheckpointTaskResponse {
    fn shape(&self) -> String {
        format!("descriptors {}", self.descriptors.len())
    }
}

impl Shape for pb::MetricsResponse {
    fn shape(&self) -> String {
        let metrics = self.metrics.iter().map(|it| {
            let data = it.data.as_ref().is_some_and(|any| !any.value.is_empty());
            fields(&[
                ("id", !it.id.is_empty()),
                ("timestamp", is_time(it.timestamp)),
                ("data", data),
            ])
        });
        format!("metrics [{}]", metrics.collect::<Vec<_>>().join("; "))
    }
}

impl Shape for pb::WaitResponse {
    fn shape(&self) -> String {
        let exit = format!("exit_status {}", self.exit_status);
        fields(&[(&exit, true), ("exited_at", is_time(self.exited_at))])
    }
}

impl Shape for pb::DeleteResponse {
    fn shape(&self) -> String {
        let exit = format!("exit_status {}", self.exit_status);
        fields(&[
            ("id", !self.id.is_empty()),
            ("pid", self.pid > 0),
            (&exit, true),
            ("exited_at", is_time(self.exited_at)),
        ])
    }
}
