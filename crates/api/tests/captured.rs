// SPDX-License-Identifier: Apache-2.0

//! Messages that Go's containerd and its clients sent each other, decoded and encoded again.
//!
//! `captured/` has a file per service, and a README that says where they are from.

use std::collections::BTreeSet;
use std::path::PathBuf;

use api::containerd::services::{
    containers::v1 as containers, content::v1 as content, diff::v1 as diff, events,
    images::v1 as images, introspection::v1 as introspection, leases::v1 as leases,
    namespaces::v1 as namespaces, snapshots::v1 as snapshots, tasks::v1 as tasks,
    version::v1 as version,
};
use api::containerd::{events as event, runc, task::v3 as task, types};
use api::io::containerd::cgroups;
use prost::{Message, Name};
use prost_types::Any;

/// How a message came back.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// Byte for byte.
    Equal,
    /// With the entries of its maps in another order: Go's is random, ours is sorted.
    Sorted,
    /// Otherwise, so that something was lost.
    Different,
}

type Compare = fn(&[u8]) -> Outcome;

/// Decodes and encodes. What has no field is dropped when it is decoded, so it shows in the length.
fn compare<M: Message + Default + PartialEq>(bytes: &[u8]) -> Outcome {
    let message = M::decode(bytes).expect("what Go has encoded is well formed");
    let encoded = message.encode_to_vec();
    if encoded == bytes {
        Outcome::Equal
    } else if encoded.len() == bytes.len() && M::decode(encoded.as_slice()) == Ok(message) {
        Outcome::Sorted
    } else {
        Outcome::Different
    }
}

/// The messages of one method.
struct Rpc {
    method: &'static str,
    request: Compare,
    reply: Compare,
}

fn rpc<Request, Reply>(method: &'static str) -> Rpc
where
    Request: Message + Default + PartialEq,
    Reply: Message + Default + PartialEq,
{
    Rpc { method, request: compare::<Request>, reply: compare::<Reply> }
}

/// A recorded message.
struct Captured {
    method: String,
    direction: String,
    bytes: Vec<u8>,
}

impl Captured {
    fn compare(&self, rpcs: &[Rpc]) -> Outcome {
        let rpc = rpcs
            .iter()
            .find(|rpc| rpc.method == self.method)
            .unwrap_or_else(|| panic!("{}: no such method in the table", self.method));
        let compare = if self.direction == "req" { rpc.request } else { rpc.reply };
        compare(&self.bytes)
    }
}

/// Reads all recorded messages of a service.
fn captured(service: &str) -> Vec<Captured> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/captured", service].iter().collect();
    let text = fs_err::read_to_string(path).expect("the recording is there");
    text.lines().map(captured_line).collect()
}

/// Reads a line such as `Wait resp 0804`, where `-` stands for no bytes.
fn captured_line(line: &str) -> Captured {
    let [method, direction, hex] = line.split(' ').collect::<Vec<_>>()[..] else {
        panic!("three words expected: {line}");
    };
    let digits = hex.trim_start_matches('-').as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).expect("hex digits");
    Captured {
        method: method.into(),
        direction: direction.into(),
        bytes: digits.map(byte).collect(),
    }
}

/// Checks all messages of a service, and that only those with `sorted` maps came back reordered.
fn check(service: &str, rpcs: &[Rpc], sorted: &[&str]) {
    let mut reordered = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for message in captured(service) {
        let name = format!("{} {}", message.method, message.direction);
        match message.compare(rpcs) {
            Outcome::Equal => {}
            Outcome::Sorted => _ = reordered.insert(name),
            Outcome::Different => panic!("{service} {name}: {:02x?}", message.bytes),
        }
        seen.insert(message.method);
    }
    assert_eq!(reordered.iter().map(String::as_str).collect::<Vec<_>>(), sorted);
    assert_eq!(seen.len(), rpcs.len(), "methods without a recording");
}

#[test]
fn containers_come_back_as_they_were() {
    use containers::{
        CreateContainerRequest, CreateContainerResponse, DeleteContainerRequest,
        GetContainerRequest, GetContainerResponse, ListContainerMessage, ListContainersRequest,
        UpdateContainerRequest, UpdateContainerResponse,
    };
    let rpcs = [
        rpc::<CreateContainerRequest, CreateContainerResponse>("Create"),
        rpc::<DeleteContainerRequest, ()>("Delete"),
        rpc::<GetContainerRequest, GetContainerResponse>("Get"),
        rpc::<ListContainersRequest, ListContainerMessage>("ListStream"),
        rpc::<UpdateContainerRequest, UpdateContainerResponse>("Update"),
    ];
    let sorted = ["ListStream resp", "Update resp"];
    check("containerd.services.containers.v1.Containers", &rpcs, &sorted);
}

#[test]
fn content_comes_back_as_it_was() {
    use content::{
        DeleteContentRequest, InfoRequest, InfoResponse, ListContentRequest, ListContentResponse,
        ListStatusesRequest, ListStatusesResponse, ReadContentRequest, ReadContentResponse,
        UpdateRequest, UpdateResponse, WriteContentRequest, WriteContentResponse,
    };
    let rpcs = [
        rpc::<DeleteContentRequest, ()>("Delete"),
        rpc::<InfoRequest, InfoResponse>("Info"),
        rpc::<ListContentRequest, ListContentResponse>("List"),
        rpc::<ListStatusesRequest, ListStatusesResponse>("ListStatuses"),
        rpc::<ReadContentRequest, ReadContentResponse>("Read"),
        rpc::<UpdateRequest, UpdateResponse>("Update"),
        rpc::<WriteContentRequest, WriteContentResponse>("Write"),
    ];
    let sorted = ["Info resp", "List resp", "Update req", "Update resp"];
    check("containerd.services.content.v1.Content", &rpcs, &sorted);
}

#[test]
fn diffs_come_back_as_they_were() {
    let rpcs = [
        rpc::<diff::ApplyRequest, diff::ApplyResponse>("Apply"),
        rpc::<diff::DiffRequest, diff::DiffResponse>("Diff"),
    ];
    check("containerd.services.diff.v1.Diff", &rpcs, &[]);
}

#[test]
fn images_come_back_as_they_were() {
    use images::{
        CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest,
        GetImageResponse, ListImagesRequest, ListImagesResponse, UpdateImageRequest,
        UpdateImageResponse,
    };
    let rpcs = [
        rpc::<CreateImageRequest, CreateImageResponse>("Create"),
        rpc::<DeleteImageRequest, ()>("Delete"),
        rpc::<GetImageRequest, GetImageResponse>("Get"),
        rpc::<ListImagesRequest, ListImagesResponse>("List"),
        rpc::<UpdateImageRequest, UpdateImageResponse>("Update"),
    ];
    let sorted = ["Create resp", "List resp", "Update req", "Update resp"];
    check("containerd.services.images.v1.Images", &rpcs, &sorted);
}

#[test]
fn introspection_comes_back_as_it_was() {
    let rpcs = [
        rpc::<introspection::PluginsRequest, introspection::PluginsResponse>("Plugins"),
        rpc::<(), introspection::ServerResponse>("Server"),
    ];
    let sorted = ["Plugins resp"];
    check("containerd.services.introspection.v1.Introspection", &rpcs, &sorted);
}

#[test]
fn leases_come_back_as_they_were() {
    let rpcs = [
        rpc::<leases::CreateRequest, leases::CreateResponse>("Create"),
        rpc::<leases::DeleteRequest, ()>("Delete"),
        rpc::<leases::ListRequest, leases::ListResponse>("List"),
    ];
    let sorted = ["Create req", "Create resp", "List resp"];
    check("containerd.services.leases.v1.Leases", &rpcs, &sorted);
}

#[test]
fn namespaces_come_back_as_they_were() {
    use namespaces::{
        CreateNamespaceRequest, CreateNamespaceResponse, DeleteNamespaceRequest,
        GetNamespaceRequest, GetNamespaceResponse, ListNamespacesRequest, ListNamespacesResponse,
        UpdateNamespaceRequest, UpdateNamespaceResponse,
    };
    let rpcs = [
        rpc::<CreateNamespaceRequest, CreateNamespaceResponse>("Create"),
        rpc::<DeleteNamespaceRequest, ()>("Delete"),
        rpc::<GetNamespaceRequest, GetNamespaceResponse>("Get"),
        rpc::<ListNamespacesRequest, ListNamespacesResponse>("List"),
        rpc::<UpdateNamespaceRequest, UpdateNamespaceResponse>("Update"),
    ];
    let sorted = ["Create req", "Get resp"];
    check("containerd.services.namespaces.v1.Namespaces", &rpcs, &sorted);
}

#[test]
fn snapshots_come_back_as_they_were() {
    use snapshots::{
        CommitSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, MountsRequest,
        MountsResponse, PrepareSnapshotRequest, PrepareSnapshotResponse, RemoveSnapshotRequest,
        StatSnapshotRequest, StatSnapshotResponse, UpdateSnapshotRequest, UpdateSnapshotResponse,
        UsageRequest, UsageResponse, ViewSnapshotRequest, ViewSnapshotResponse,
    };
    let rpcs = [
        rpc::<CommitSnapshotRequest, ()>("Commit"),
        rpc::<ListSnapshotsRequest, ListSnapshotsResponse>("List"),
        rpc::<MountsRequest, MountsResponse>("Mounts"),
        rpc::<PrepareSnapshotRequest, PrepareSnapshotResponse>("Prepare"),
        rpc::<RemoveSnapshotRequest, ()>("Remove"),
        rpc::<StatSnapshotRequest, StatSnapshotResponse>("Stat"),
        rpc::<UpdateSnapshotRequest, UpdateSnapshotResponse>("Update"),
        rpc::<UsageRequest, UsageResponse>("Usage"),
        rpc::<ViewSnapshotRequest, ViewSnapshotResponse>("View"),
    ];
    let sorted = ["List resp"];
    check("containerd.services.snapshots.v1.Snapshots", &rpcs, &sorted);
}

#[test]
fn tasks_come_back_as_they_were() {
    use tasks::{
        CheckpointTaskRequest, CheckpointTaskResponse, CloseIoRequest, CreateTaskRequest,
        CreateTaskResponse, DeleteProcessRequest, DeleteResponse, DeleteTaskRequest,
        ExecProcessRequest, GetRequest, GetResponse, KillRequest, ListPidsRequest,
        ListPidsResponse, ListTasksRequest, ListTasksResponse, MetricsRequest, MetricsResponse,
        PauseTaskRequest, ResizePtyRequest, ResumeTaskRequest, StartRequest, StartResponse,
        WaitRequest, WaitResponse,
    };
    let rpcs = [
        rpc::<CheckpointTaskRequest, CheckpointTaskResponse>("Checkpoint"),
        rpc::<CloseIoRequest, ()>("CloseIO"),
        rpc::<CreateTaskRequest, CreateTaskResponse>("Create"),
        rpc::<DeleteTaskRequest, DeleteResponse>("Delete"),
        rpc::<DeleteProcessRequest, DeleteResponse>("DeleteProcess"),
        rpc::<ExecProcessRequest, ()>("Exec"),
        rpc::<GetRequest, GetResponse>("Get"),
        rpc::<KillRequest, ()>("Kill"),
        rpc::<ListTasksRequest, ListTasksResponse>("List"),
        rpc::<ListPidsRequest, ListPidsResponse>("ListPids"),
        rpc::<MetricsRequest, MetricsResponse>("Metrics"),
        rpc::<PauseTaskRequest, ()>("Pause"),
        rpc::<ResizePtyRequest, ()>("ResizePty"),
        rpc::<ResumeTaskRequest, ()>("Resume"),
        rpc::<StartRequest, StartResponse>("Start"),
        rpc::<WaitRequest, WaitResponse>("Wait"),
    ];
    check("containerd.services.tasks.v1.Tasks", &rpcs, &[]);
}

#[test]
fn the_version_comes_back_as_it_was() {
    let rpcs = [rpc::<(), version::VersionResponse>("Version")];
    check("containerd.services.version.v1.Version", &rpcs, &[]);
}

#[test]
fn what_a_shim_of_version_2_is_told_comes_back_as_it_was() {
    use task::{
        CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
        CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
        PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
        StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse,
        WaitRequest, WaitResponse,
    };
    let rpcs = [
        rpc::<CheckpointTaskRequest, ()>("Checkpoint"),
        rpc::<CloseIoRequest, ()>("CloseIO"),
        rpc::<ConnectRequest, ConnectResponse>("Connect"),
        rpc::<CreateTaskRequest, CreateTaskResponse>("Create"),
        rpc::<DeleteRequest, DeleteResponse>("Delete"),
        rpc::<ExecProcessRequest, ()>("Exec"),
        rpc::<KillRequest, ()>("Kill"),
        rpc::<PauseRequest, ()>("Pause"),
        rpc::<PidsRequest, PidsResponse>("Pids"),
        rpc::<ResizePtyRequest, ()>("ResizePty"),
        rpc::<ResumeRequest, ()>("Resume"),
        rpc::<ShutdownRequest, ()>("Shutdown"),
        rpc::<StartRequest, StartResponse>("Start"),
        rpc::<StateRequest, StateResponse>("State"),
        rpc::<StatsRequest, StatsResponse>("Stats"),
        rpc::<WaitRequest, WaitResponse>("Wait"),
    ];
    check(api::service::TASK_V2, &rpcs, &[]);
}

#[test]
fn events_come_back_as_they_were() {
    let rpcs = [
        rpc::<events::v1::PublishRequest, ()>("Publish"),
        rpc::<events::v1::SubscribeRequest, types::Envelope>("Subscribe"),
    ];
    check("containerd.services.events.v1.Events", &rpcs, &[]);
    let rpcs = [rpc::<events::ttrpc::v1::ForwardRequest, ()>("Forward")];
    check(api::service::EVENTS, &rpcs, &[]);
}

/// A message that travels packed.
struct Packed {
    name: String,
    compare: Compare,
}

fn packed<M: Message + Name + Default + PartialEq>() -> Packed {
    Packed { name: M::full_name(), compare: compare::<M> }
}

/// Collects what was packed in the recorded messages of a method.
fn unpacked<M: Message + Default>(
    service: &str,
    method: &str,
    direction: &str,
    inside: fn(M) -> Vec<Option<Any>>,
) -> Vec<Any> {
    captured(service)
        .iter()
        .filter(|message| message.method == method && message.direction == direction)
        .map(|message| M::decode(message.bytes.as_slice()).unwrap())
        .flat_map(inside)
        .flatten()
        .collect()
}

fn all_packed() -> Vec<Any> {
    let events = "containerd.services.events.v1.Events";
    let tasks = "containerd.services.tasks.v1.Tasks";
    [
        unpacked(events, "Subscribe", "resp", |event: types::Envelope| vec![event.event]),
        unpacked(tasks, "Checkpoint", "req", |r: tasks::CheckpointTaskRequest| vec![r.options]),
        unpacked(tasks, "Exec", "req", |r: tasks::ExecProcessRequest| vec![r.spec]),
        unpacked(tasks, "Metrics", "resp", |reply: tasks::MetricsResponse| {
            reply.metrics.into_iter().map(|metric| metric.data).collect()
        }),
        unpacked(api::service::TASK_V2, "Create", "req", |request: task::CreateTaskRequest| {
            vec![request.options]
        }),
    ]
    .concat()
}

#[test]
fn what_is_packed_comes_back_as_it_was() {
    let known = [
        packed::<cgroups::v1::Metrics>(),
        packed::<event::ContainerCreate>(),
        packed::<event::ContainerDelete>(),
        packed::<event::ContainerUpdate>(),
        packed::<event::ContentDelete>(),
        packed::<event::NamespaceCreate>(),
        packed::<event::NamespaceDelete>(),
        packed::<event::NamespaceUpdate>(),
        packed::<event::SnapshotCommit>(),
        packed::<event::SnapshotPrepare>(),
        packed::<event::SnapshotRemove>(),
        packed::<event::TaskCreate>(),
        packed::<event::TaskDelete>(),
        packed::<event::TaskExecAdded>(),
        packed::<event::TaskExecStarted>(),
        packed::<event::TaskExit>(),
        packed::<event::TaskOom>(),
        packed::<event::TaskPaused>(),
        packed::<event::TaskResumed>(),
        packed::<event::TaskStart>(),
        packed::<images::ImageCreate>(),
        packed::<images::ImageDelete>(),
        packed::<images::ImageUpdate>(),
        packed::<runc::v1::CheckpointOptions>(),
        packed::<runc::v1::Options>(),
    ];
    let mut seen = BTreeSet::new();
    for any in all_packed() {
        if any.type_url.starts_with("types.containerd.io/") {
            assert_eq!(any.value[0], b'{', "{}: JSON expected", any.type_url);
            continue;
        }
        let packed = known.iter().find(|packed| packed.name == any.type_url);
        let packed = packed.unwrap_or_else(|| panic!("{}: not in the table", any.type_url));
        assert_ne!((packed.compare)(&any.value), Outcome::Different, "{}", any.type_url);
        seen.insert(any.type_url);
    }
    assert_eq!(seen.len(), known.len(), "not all were recorded: {seen:?}");
}
