// SPDX-License-Identifier: Apache-2.0
//! Every call about a sandbox and its record, in each of their states.
use std::cell::Cell;
use std::time::Duration;

use api::containerd::services::sandbox::v1 as pb;
use api::containerd::services::tasks::v1::{DeleteTaskRequest, KillRequest};
use api::containerd::types::{Sandbox, sandbox::Runtime};
use e2e::{Failure, Image, Make, Outcome, PATIENCE, World, wait};
use serde_json::json;

use super::{LIMIT, Shape, Table, fields, told};
use crate::wire::Wire;

const STORE_CALLS: [&str; 5] = ["Get", "List", "Update", "Create", "Delete"];
const CALLS: [&str; 9] =
    ["Status", "Platform", "Metrics", "Update", "Wait", "Create", "Start", "Stop", "Shutdown"];

/// Whether the daemon has the services at all: containerd 1.6 has not.
pub(super) fn are_there(world: &World) -> Outcome<bool> {
    Ok(!Stage::new(world, "shim")?.ask_store("Get", "none").starts_with("Unimplemented"))
}

/// Plays every call about a record.
pub(super) fn play_store(world: &World, table: &Table) -> Outcome {
    let stage = Stage::new(world, "shim")?;
    // Go tells of an absent one in other words where there has never been any.
    for state in ["stored", "absent"] {
        let mut id = stage.record(state)?;
        for call in STORE_CALLS {
            let answer = stage.ask_store(call, &id);
            table.check(["a sandbox's record", &format!("Store.{call}"), state], &id, &answer);
            if answer.starts_with("OK") && ["Create", "Delete"].contains(&call) {
                stage.ask_store("Delete", &id);
                id = stage.record(state)?;
            }
        }
        stage.ask_store("Delete", &id);
    }
    Ok(())
}

/// Plays every call about a sandbox that is a shim.
pub(super) fn play_shims(world: &World, table: &Table) -> Outcome {
    let states = ["absent", "stored", "created", "ready", "stopped", "shut down"];
    play(&Stage::new(world, "shim")?, "a sandbox", &states, table)
}

/// Plays every call about a sandbox that is a task.
pub(super) fn play_pods(world: &World, table: &Table) -> Outcome {
    let states = ["absent", "created", "ready", "stopped", "shut down"];
    play(&Stage::new(world, "podsandbox")?, "a pod", &states, table)
}

fn play(stage: &Stage, subject: &str, states: &[&str], table: &Table) -> Outcome {
    for state in states {
        let mut id = stage.sandbox(state)?;
        for call in CALLS {
            let answer = stage.ask(call, &id);
            table.check([subject, &format!("Controller.{call}"), state], &id, &answer);
            let changes = ["Create", "Start", "Stop", "Shutdown"].contains(&call);
            if answer.starts_with("OK") && changes {
                stage.clear(&id)?;
                id = stage.sandbox(state)?;
            }
        }
        stage.clear(&id)?;
    }
    Ok(())
}

/// Has the daemon find an image for its pods, where it wants one: Go's has no program of its own.
pub(super) fn furnish(world: &mut World) -> Outcome {
    if world.daemon.parts().daemon == Make::Ours {
        return Ok(());
    }
    let image = Image::busybox()?.command(&["sleep", "1000"]).pack()?;
    let reference = world.registry()?.push(&image, "tools/pause:1")?;
    world.daemon.terminate()?;
    let path = world.daemon.home().join("config.toml");
    let text = fs_err::read_to_string(&path)?;
    // Not every machine lets its root be spared when memory is short.
    let section = format!(
        "[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{reference}\"\n  \
         restrict_oom_score_adj = true\n"
    );
    fs_err::write(&path, text + &section)?;
    world.daemon.restart()
}

struct Stage {
    store: Wire,
    controller: Wire,
    tasks: Wire,
    sandboxer: &'static str,
    /// Where the cgroups of its sandboxes are.
    parent: String,
    mark: String,
    made: Cell<u32>,
}

impl Stage {
    fn new(world: &World, sandboxer: &'static str) -> Outcome<Self> {
        // Whatever a pod's caller says, Go waits for its task in this namespace.
        let is_theirs = world.daemon.parts().daemon == Make::Go && sandboxer == "podsandbox";
        let own = world.ctr.namespace();
        let namespace = if is_theirs { "k8s.io" } else { own };
        Ok(Self {
            store: Wire::connect(world, "sandbox.v1.Store")?.in_namespace(namespace),
            controller: Wire::connect(world, "sandbox.v1.Controller")?.in_namespace(namespace),
            tasks: Wire::connect(world, "tasks.v1.Tasks")?.in_namespace(namespace),
            sandboxer,
            parent: format!("/{own}"),
            mark: world.id(""),
            made: Cell::new(0),
        })
    }

    fn record(&self, state: &str) -> Outcome<String> {
        self.made.set(self.made.get() + 1);
        let id = format!("pod{}{}", self.made.get(), self.mark);
        if state != "absent" {
            let answer = self.ask_store("Create", &id);
            e2e::ensure!(answer.starts_with("OK"), "a record of {id}: {answer}");
        }
        Ok(id)
    }

    /// Makes a sandbox of this state; gives its name.
    fn sandbox(&self, state: &str) -> Outcome<String> {
        let id = self.record(state)?;
        let steps: &[&str] = match state {
            "absent" | "stored" => &[],
            "created" => &["Create"],
            "ready" => &["Create", "Start"],
            "stopped" => &["Create", "Start", "Stop"],
            _ => &["Create", "Start", "Shutdown"],
        };
        for step in steps {
            let answer = self.ask(step, &id);
            if !answer.starts_with("OK") {
                return Err(Failure::new(format!("{step} of {id}: {answer}")));
            }
        }
        if steps.contains(&"Stop") {
            // A shim ends too, and for a moment more its name is taken. Of a pod its end is kept.
            let last = if self.sandboxer == "shim" { "NotFound" } else { "OK" };
            let has_ended = || Ok(self.ask("Wait", &id).starts_with(last).then_some(()));
            wait::until("the end of the sandbox", PATIENCE, has_ended)?;
        }
        Ok(id)
    }

    fn clear(&self, id: &str) -> Outcome {
        for call in ["Stop", "Shutdown"] {
            self.ask(call, id);
        }
        if self.sandboxer == "podsandbox" {
            self.end_forgotten(id)?;
        }
        self.ask_store("Delete", id);
        let state = self.ask_store("Get", id);
        e2e::ensure!(state.starts_with("NotFound"), "{id} is still there: {state}");
        Ok(())
    }

    /// Ends the task of a pod that another took the place of.
    fn end_forgotten(&self, id: &str) -> Outcome {
        let container_id = id.to_owned();
        let kill = KillRequest { container_id, signal: 9, ..Default::default() };
        told::<_, ()>(&self.tasks, "Kill", kill, LIMIT);
        wait::until("the end of its task", PATIENCE, || {
            let request = DeleteTaskRequest { container_id: id.to_owned() };
            let answer = told::<_, ()>(&self.tasks, "Delete", request, LIMIT);
            Ok(answer.starts_with("NotFound").then_some(()))
        })
    }

    fn ask_store(&self, call: &str, id: &str) -> String {
        let sandbox_id = id.to_owned();
        let sandbox = Some(self.described(id));
        match call {
            "Create" => told::<_, pb::StoreCreateResponse>(
                &self.store,
                call,
                pb::StoreCreateRequest { sandbox },
                LIMIT,
            ),
            "Update" => told::<_, pb::StoreUpdateResponse>(
                &self.store,
                call,
                pb::StoreUpdateRequest { sandbox, fields: vec!["labels.a".to_owned()] },
                LIMIT,
            ),
            "Delete" => told::<_, pb::StoreDeleteResponse>(
                &self.store,
                call,
                pb::StoreDeleteRequest { sandbox_id },
                LIMIT,
            ),
            "List" => told::<_, pb::StoreListResponse>(
                &self.store,
                call,
                pb::StoreListRequest { filters: vec![format!("id=={id}")] },
                LIMIT,
            ),
            _ => told::<_, pb::StoreGetResponse>(
                &self.store,
                call,
                pb::StoreGetRequest { sandbox_id },
                LIMIT,
            ),
        }
    }

    fn ask(&self, call: &str, id: &str) -> String {
        let (sandbox_id, sandboxer) = (id.to_owned(), self.sandboxer.to_owned());
        let wire = &self.controller;
        match call {
            "Create" => {
                let sandbox = Some(self.described(id));
                let request = pb::ControllerCreateRequest {
                    sandbox_id,
                    sandboxer,
                    sandbox,
                    ..Default::default()
                };
                told::<_, pb::ControllerCreateResponse>(wire, call, request, LIMIT)
            }
            "Start" => {
                let request = pb::ControllerStartRequest { sandbox_id, sandboxer };
                told::<_, pb::ControllerStartResponse>(wire, call, request, LIMIT)
            }
            "Platform" => {
                let request = pb::ControllerPlatformRequest { sandbox_id, sandboxer };
                told::<_, pb::ControllerPlatformResponse>(wire, call, request, LIMIT)
            }
            "Stop" => {
                let request = pb::ControllerStopRequest { sandbox_id, timeout_secs: 5, sandboxer };
                told::<_, pb::ControllerStopResponse>(wire, call, request, LIMIT)
            }
            "Wait" => {
                let request = pb::ControllerWaitRequest { sandbox_id, sandboxer };
                let limit = Duration::from_millis(1500);
                told::<_, pb::ControllerWaitResponse>(wire, call, request, limit)
            }
            "Status" => {
                let request = pb::ControllerStatusRequest { sandbox_id, verbose: false, sandboxer };
                told::<_, pb::ControllerStatusResponse>(wire, call, request, LIMIT)
            }
            "Metrics" => {
                let request = pb::ControllerMetricsRequest { sandbox_id, sandboxer };
                told::<_, pb::ControllerMetricsResponse>(wire, call, request, LIMIT)
            }
            "Update" => {
                let request = pb::ControllerUpdateRequest {
                    sandbox_id,
                    sandboxer,
                    sandbox: Some(self.described(id)),
                    fields: vec!["labels.a".to_owned()],
                };
                told::<_, pb::ControllerUpdateResponse>(wire, call, request, LIMIT)
            }
            _ => {
                let request = pb::ControllerShutdownRequest { sandbox_id, sandboxer };
                told::<_, pb::ControllerShutdownResponse>(wire, call, request, LIMIT)
            }
        }
    }

    /// A record as others make it, with a specification, however little it says. What Go's `podsandbox`
    /// wants to know is in an extension (containerd `internal/cri/server/podsandbox`).
    fn described(&self, id: &str) -> Sandbox {
        let any = |type_url: &str, value: String| prost_types::Any {
            type_url: type_url.to_owned(),
            value: value.into_bytes(),
        };
        let config = json!({ "linux": { "cgroup_parent": self.parent } });
        let metadata = json!({ "Version": "v1", "Metadata": { "ID": id, "Config": config } });
        let metadata =
            any("github.com/containerd/cri/pkg/store/sandbox/Metadata", metadata.to_string());
        let is_pod = self.sandboxer == "podsandbox";
        let spec = r#"{"ociVersion":"1.0.2"}"#.to_owned();
        Sandbox {
            sandbox_id: id.to_owned(),
            runtime: Some(Runtime { name: "io.containerd.runc.v2".to_owned(), options: None }),
            spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Spec", spec)),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            extensions: is_pod.then(|| ("metadata".to_owned(), metadata)).into_iter().collect(),
            sandboxer: self.sandboxer.to_owned(),
            ..Default::default()
        }
    }
}

fn sandbox(it: Option<&Sandbox>) -> String {
    it.map_or_else(String::new, |it| {
        fields(&[
            ("sandbox_id", !it.sandbox_id.is_empty()),
            ("runtime", it.runtime.is_some()),
            ("labels", !it.labels.is_empty()),
            ("created_at", it.created_at.is_some()),
            ("updated_at", it.updated_at.is_some()),
            ("sandboxer", !it.sandboxer.is_empty()),
        ])
    })
}

impl Shape for pb::StoreCreateResponse {
    fn shape(&self) -> String {
        sandbox(self.sandbox.as_ref())
    }
}

impl Shape for pb::StoreUpdateResponse {
    fn shape(&self) -> String {
        sandbox(self.sandbox.as_ref())
    }
}

impl Shape for pb::StoreGetResponse {
    fn shape(&self) -> String {
        sandbox(self.sandbox.as_ref())
    }
}

impl Shape for pb::StoreListResponse {
    fn shape(&self) -> String {
        let all = self.list.iter().map(|it| sandbox(Some(it)));
        format!("list [{}]", all.collect::<Vec<_>>().join("; "))
    }
}

impl Shape for pb::StoreDeleteResponse {
    fn shape(&self) -> String {
        String::new()
    }
}

impl Shape for pb::ControllerCreateResponse {
    fn shape(&self) -> String {
        fields(&[("sandbox_id", !self.sandbox_id.is_empty())])
    }
}

impl Shape for pb::ControllerStartResponse {
    fn shape(&self) -> String {
        fields(&[
            ("sandbox_id", !self.sandbox_id.is_empty()),
            ("pid", self.pid > 0),
            ("created_at", self.created_at.is_some()),
            ("labels", !self.labels.is_empty()),
            ("address", !self.address.is_empty()),
            ("version", self.version > 0),
            ("spec", self.spec.is_some()),
        ])
    }
}

impl Shape for pb::ControllerPlatformResponse {
    fn shape(&self) -> String {
        let platform = self.platform.clone().unwrap_or_default();
        fields(&[
            ("os", !platform.os.is_empty()),
            ("architecture", !platform.architecture.is_empty()),
        ])
    }
}

impl Shape for pb::ControllerStopResponse {
    fn shape(&self) -> String {
        String::new()
    }
}

impl Shape for pb::ControllerUpdateResponse {
    fn shape(&self) -> String {
        String::new()
    }
}

impl Shape for pb::ControllerShutdownResponse {
    fn shape(&self) -> String {
        String::new()
    }
}

impl Shape for pb::ControllerWaitResponse {
    fn shape(&self) -> String {
        let exit = format!("exit_status {}", self.exit_status);
        fields(&[(&exit, true), ("exited_at", self.exited_at.is_some())])
    }
}

impl Shape for pb::ControllerStatusResponse {
    fn shape(&self) -> String {
        fields(&[
            ("sandbox_id", !self.sandbox_id.is_empty()),
            ("pid", self.pid > 0),
            (&self.state, !self.state.is_empty()),
            ("info", !self.info.is_empty()),
            ("created_at", self.created_at.is_some()),
            ("exited_at", self.exited_at.is_some()),
            ("extra", self.extra.is_some()),
            ("address", !self.address.is_empty()),
            ("version", self.version > 0),
        ])
    }
}

impl Shape for pb::ControllerMetricsResponse {
    fn shape(&self) -> String {
        fields(&[("metrics", self.metrics.is_some())])
    }
}
