// SPDX-License-Identifier: Apache-2.0
//! Refusals on the wire: the code and the words, as the reference has them. Clients match on both.

use api::containerd::services::containers::v1 as containers;
use api::containerd::services::content::v1 as content;
use api::containerd::services::diff::v1 as diff;
use api::containerd::services::events::v1 as events;
use api::containerd::services::images::v1 as images;
use api::containerd::services::leases::v1 as leases;
use api::containerd::services::namespaces::v1 as namespaces;
use api::containerd::services::snapshots::v1 as snapshots;
use api::containerd::services::tasks::v1 as tasks;
use api::containerd::types::Descriptor;
use content::{WriteAction, WriteContentRequest};
use e2e::{Outcome, PATIENCE, World, digest, over_the_wire};
use prost_types::{Any, FieldMask};
use tonic::Code::{
    AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, Unimplemented,
    Unknown,
};

use crate::store::collect;
use crate::wire::{Wire, named};

over_the_wire!(
    content_is_refused,
    writes_are_refused,
    images_are_refused,
    containers_are_refused,
    snapshots_are_refused,
    leases_are_refused,
    namespaces_are_refused,
    tasks_are_refused,
    diffs_are_refused,
    events_are_refused,
    a_call_without_a_namespace_is_refused,
    what_is_not_served_is_unimplemented,
);

const ZEROS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
const CONTENT: &str = "content.v1.Content";
const IMAGES: &str = "images.v1.Images";
const CONTAINERS: &str = "containers.v1.Containers";
const SNAPSHOTS: &str = "snapshots.v1.Snapshots";
const LEASES: &str = "leases.v1.Leases";
const TASKS: &str = "tasks.v1.Tasks";

/// What a name must look like, in the words of a refusal (containerd's `identifiers/validate.go`).
const PATTERN: &str = "must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$";

fn mask(path: &str) -> FieldMask {
    FieldMask { paths: vec![path.to_owned()] }
}

fn content_is_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, CONTENT)?;
    let missing = format!("content digest {ZEROS}: not found");
    for method in ["Info", "Delete", "Read"] {
        wire.refuses(method, named(ZEROS), NotFound, &missing);
    }
    let info = content::Info { digest: ZEROS.to_owned(), ..Default::default() };
    let update = content::UpdateRequest { info: Some(info), update_mask: None };
    wire.refuses("Update", update, NotFound, &missing);
    let bad = named("notadigest");
    wire.refuses("Info", bad.clone(), InvalidArgument, "\"notadigest\" failed validation");
    wire.refuses("Delete", bad, InvalidArgument, "invalid checksum digest format");
    let words = "could not get status for ref \"nope\": reference nope: not found";
    wire.refuses("Status", named("nope"), NotFound, words);
    wire.refuses("Abort", named("nope"), NotFound, "reference nope: not found");
    wire.refuses("List", named("==="), InvalidArgument, "...parse error");
    wire.done()
}

/// One message of a write under the ref `a-ref`.
fn write(action: WriteAction, data: &'static [u8], offset: i64) -> WriteContentRequest {
    WriteContentRequest {
        action: action as i32,
        r#ref: "a-ref".to_owned(),
        offset,
        data: data.into(),
        ..Default::default()
    }
}

/// The last message of a write of five bytes.
fn commit(total: i64, expected: &str) -> WriteContentRequest {
    let expected = expected.to_owned();
    WriteContentRequest { total, expected, ..write(WriteAction::Commit, b"", 5) }
}

fn writes_are_refused(world: &mut World) -> Outcome {
    collect(world)?;
    let wire = Wire::connect(world, CONTENT)?;
    // At offset 0, so whatever an earlier write left under the ref is written over.
    let hello = || write(WriteAction::Write, b"hello", 0);
    let own = digest(b"hello");
    let nameless = WriteContentRequest { r#ref: String::new(), ..hello() };
    wire.refuses("Write", nameless, InvalidArgument, "first message must have a reference");
    let words = format!("unexpected commit digest {own}, expected {ZEROS}: failed precondition");
    wire.refuses_all("Write", vec![hello(), commit(5, ZEROS)], FailedPrecondition, &words);
    let words = "\"a-ref\" failed size validation: 5 != 7: failed precondition";
    wire.refuses_all("Write", vec![hello(), commit(7, "")], FailedPrecondition, words);
    let far = write(WriteAction::Write, b"more", 100);
    let words = "write @100 must occur at current offset 5";
    wire.refuses_all("Write", vec![hello(), far], OutOfRange, words);
    wire.accepts_all("Write", vec![hello(), commit(5, &own)])?;
    let known = WriteContentRequest { total: 5, expected: own.clone(), ..hello() };
    let words = format!("content {own}: already exists");
    wire.refuses("Write", known, AlreadyExists, &words);
    let words = format!("blob with expected digest {own} exists");
    wire.refuses_all("Write", vec![hello(), commit(5, &own)], AlreadyExists, &words);
    wire.done()
}

fn target() -> Descriptor {
    let media_type = "application/vnd.oci.image.layer.v1.tar".to_owned();
    Descriptor { media_type, digest: ZEROS.to_owned(), size: 7, ..Default::default() }
}

fn images_are_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, IMAGES)?;
    let image = |name: &str| images::Image {
        name: name.to_owned(),
        target: Some(target()),
        ..Default::default()
    };
    let create = |image| images::CreateImageRequest { image: Some(image), ..Default::default() };
    let update = |name: &str, path| images::UpdateImageRequest {
        image: Some(image(name)),
        update_mask: Some(mask(path)),
        ..Default::default()
    };
    for method in ["Get", "Delete"] {
        wire.refuses(method, named("nope"), NotFound, "image \"nope\": not found");
    }
    wire.refuses("Update", update("nope", "labels"), NotFound, "image \"nope\": not found");
    wire.refuses("Create", create(image("")), InvalidArgument, "Image.Name required");
    let aimless = create(images::Image { target: None, ..image("aimless") });
    let words = "Target.Digest \"\" invalid: invalid checksum digest format: invalid argument";
    wire.refuses("Create", aimless, InvalidArgument, words);
    wire.accepts("Create", create(image("twice")))?;
    wire.refuses(
        "Create",
        create(image("twice")),
        AlreadyExists,
        "image \"twice\": already exists",
    );
    let words = "cannot update \"nonsense\" field on image \"twice\": invalid argument";
    wire.refuses("Update", update("twice", "nonsense"), InvalidArgument, words);
    let labels = [("k".repeat(2000), "v".repeat(3000))].into();
    let long = create(images::Image { labels, ..image("long") });
    let words = "...greater than maximum size (4096 bytes), key: kkkkkkkkkk: invalid argument";
    wire.refuses("Create", long, InvalidArgument, words);
    wire.refuses("List", named("==="), InvalidArgument, "...parse error");
    wire.done()
}

fn container(id: &str) -> containers::Container {
    let name = "io.containerd.runc.v2".to_owned();
    let type_url = "types.containerd.io/opencontainers/runtime-spec/1/Spec".to_owned();
    containers::Container {
        id: id.to_owned(),
        runtime: Some(containers::container::Runtime { name, options: None }),
        spec: Some(Any { type_url, value: b"{}".to_vec() }),
        ..Default::default()
    }
}

fn containers_are_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, CONTAINERS)?;
    let create = |container| containers::CreateContainerRequest { container: Some(container) };
    let update = |id, path| containers::UpdateContainerRequest {
        container: Some(container(id)),
        update_mask: Some(mask(path)),
    };
    let missing =
        format!("container \"nope\" in namespace \"{}\": not found", world.ctr.namespace());
    wire.refuses("Get", named("nope"), NotFound, &missing);
    // Compat: that the namespace has no container at all is told in other words.
    let words = format!("...{missing}");
    wire.refuses("Delete", named("nope"), NotFound, &words);
    wire.refuses("Update", update("nope", "labels"), NotFound, &words);
    wire.refuses("Update", update("", "labels"), InvalidArgument, "Container.ID required");
    let bare = containers::Container { runtime: None, ..container("bare") };
    let half = containers::Container { snapshot_key: "key".to_owned(), ..container("half") };
    let invalid = [
        (container("bad/id"), format!("container.ID: identifier \"bad/id\" {PATTERN}")),
        (container(""), "container.ID: identifier must not be empty".to_owned()),
        (bare, "container.Runtime.Name must be set".to_owned()),
        (half, "container.Snapshotter must be set if container.SnapshotKey is set".to_owned()),
    ];
    for (container, why) in invalid {
        let words = format!("create container failed validation: {why}: invalid argument");
        wire.refuses("Create", create(container), InvalidArgument, &words);
    }
    wire.accepts("Create", create(container("twice")))?;
    let words = "container \"twice\": already exists";
    wire.refuses("Create", create(container("twice")), AlreadyExists, words);
    let words = "cannot update \"runtime\" field on \"twice\": invalid argument";
    wire.refuses("Update", update("twice", "runtime"), InvalidArgument, words);
    wire.done()
}

fn snapshots_are_refused(world: &mut World) -> Outcome {
    collect(world)?;
    let wire = Wire::connect(world, SNAPSHOTS)?;
    let prepare = |snapshotter: &str, key: &str, parent: &str| snapshots::PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        ..Default::default()
    };
    let overlay = |key, parent| prepare("overlayfs", key, parent);
    // Questions about one snapshot have its key where this has it.
    let about = |key| overlay(key, "");
    let commit = |name: &str, key: &str| snapshots::CommitSnapshotRequest {
        snapshotter: "overlayfs".to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        ..Default::default()
    };
    let words = "snapshotter not loaded: nope: invalid argument";
    wire.refuses("Prepare", prepare("nope", "key", ""), InvalidArgument, words);
    let words = "snapshotter argument missing: invalid argument";
    wire.refuses("Prepare", prepare("", "key", ""), InvalidArgument, words);
    wire.accepts("Prepare", about("active"))?;
    let words = "parent snapshot nope does not exist: not found";
    wire.refuses("Prepare", overlay("key", "nope"), NotFound, words);
    for method in ["Stat", "Mounts", "Remove", "Usage"] {
        wire.refuses(method, about("nope"), NotFound, "snapshot nope does not exist: not found");
    }
    wire.refuses("Commit", commit("name", "nope"), NotFound, "...nope");
    let words = "snapshot \"active\": already exists";
    wire.refuses("Prepare", about("active"), AlreadyExists, words);
    let words = "...is not committed snapshot: invalid argument";
    wire.refuses("Prepare", overlay("child", "active"), InvalidArgument, words);
    wire.accepts("Commit", commit("name", "active"))?;
    wire.accepts("Prepare", overlay("child", "name"))?;
    let words = "snapshot \"name\": already exists";
    wire.refuses("Commit", commit("name", "child"), AlreadyExists, words);
    let words = "cannot remove snapshot with child: failed precondition";
    wire.refuses("Remove", about("name"), FailedPrecondition, words);
    let words = "...not active";
    wire.refuses("Mounts", about("name"), FailedPrecondition, words);
    let words = "...is not active: failed precondition";
    wire.refuses("Commit", commit("other", "name"), FailedPrecondition, words);
    wire.done()
}

fn leases_are_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, LEASES)?;
    let add = |id: &str, kind: &str| leases::AddResourceRequest {
        id: id.to_owned(),
        resource: Some(leases::Resource { id: ZEROS.to_owned(), r#type: kind.to_owned() }),
    };
    for method in ["Delete", "ListResources"] {
        wire.refuses(method, named("nope"), NotFound, "lease \"nope\": not found");
    }
    wire.refuses("AddResource", add("nope", "content"), NotFound, "lease \"nope\": not found");
    wire.accepts("Create", named("twice"))?;
    wire.refuses("Create", named("twice"), AlreadyExists, "lease \"twice\": already exists");
    let words = "resource type nonsense not supported yet: not implemented";
    wire.refuses("AddResource", add("twice", "nonsense"), Unimplemented, words);
    let words = "invalid snapshot resource type snapshots: invalid argument";
    wire.refuses("AddResource", add("twice", "snapshots"), InvalidArgument, words);
    wire.done()
}

fn namespaces_are_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, "namespaces.v1.Namespaces")?;
    let create = |name: &str| namespaces::CreateNamespaceRequest {
        namespace: Some(namespaces::Namespace { name: name.to_owned(), ..Default::default() }),
    };
    wire.refuses("Delete", named("nope"), NotFound, "namespace \"nope\": not found");
    let words = format!("identifier \"bad name\" {PATTERN}: invalid argument");
    wire.refuses("Create", create("bad name"), InvalidArgument, &words);
    let words = "identifier must not be empty: invalid argument";
    wire.refuses("Create", create(""), InvalidArgument, words);
    let words = "...greater than maximum length (76 characters): invalid argument";
    wire.refuses("Create", create(&"x".repeat(77)), InvalidArgument, words);
    wire.accepts("Create", create("twice"))?;
    let words = "namespace \"twice\": already exists";
    wire.refuses("Create", create("twice"), AlreadyExists, words);
    wire.done()
}

/// What a call about a container or one of its processes has: their two names.
fn process(id: &str, exec: &str) -> tasks::GetRequest {
    tasks::GetRequest { container_id: id.to_owned(), exec_id: exec.to_owned() }
}

fn tasks_are_refused(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", &image, &id, "sleep", "1000"])?;
    let wire = Wire::connect(world, TASKS)?;
    let missing =
        format!("container \"nope\" in namespace \"{}\": not found", world.ctr.namespace());
    let methods = [
        "Create",
        "Get",
        "Start",
        "Wait",
        "Kill",
        "Pause",
        "Resume",
        "ListPids",
        "Delete",
        "CloseIO",
        "ResizePty",
    ];
    for method in methods {
        wire.refuses(method, named("nope"), NotFound, &missing);
    }
    wire.refuses("Create", named(&id), AlreadyExists, &format!("task {id}: already exists"));
    let words = "process does not exist nope: not found";
    for method in ["Get", "Start", "Wait", "Kill", "DeleteProcess"] {
        wire.refuses(method, process(&id, "nope"), NotFound, words);
    }
    // Compat: the shim has no code for these two.
    wire.refuses("Delete", named(&id), Unknown, "...cannot delete a running process");
    wire.refuses("Start", named(&id), Unknown, "...cannot start a running process");
    wire.refuses("Exec", named(&id), InvalidArgument, "exec id cannot be empty");
    world.ctr.ok(["tasks", "kill", "--signal", "KILL", &id])?;
    world.ctr.wait_for_state(&id, "STOPPED", PATIENCE)?;
    let kill = tasks::KillRequest { container_id: id.clone(), signal: 9, ..Default::default() };
    wire.refuses("Kill", kill, NotFound, "process already finished: not found");
    world.ctr.remove(&id)?;
    wire.done()
}

fn diffs_are_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, "diff.v1.Diff")?;
    let apply = diff::ApplyRequest { diff: Some(target()), ..Default::default() };
    let words =
        format!("failed to get reader from content store: content digest {ZEROS}: not found");
    wire.refuses("Apply", apply, NotFound, &words);
    let compare = diff::DiffRequest { media_type: "nonsense".to_owned(), ..Default::default() };
    let words = "unsupported diff media type: nonsense: not implemented";
    wire.refuses("Diff", compare, Unimplemented, words);
    wire.done()
}

fn events_are_refused(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, "events.v1.Events")?;
    let publish = |topic: &str| events::PublishRequest {
        topic: topic.to_owned(),
        event: Some(Any::default()),
    };
    let bad =
        format!("failed validation on component \"bad topic\": identifier \"bad topic\" {PATTERN}");
    let invalid = [
        ("", "must not be empty"),
        ("no/slash", "must start with '/'"),
        ("/", "must have at least one component"),
        ("/bad topic", &bad),
    ];
    for (topic, why) in invalid {
        let words = format!("envelope topic \"{topic}\": {why}: invalid argument");
        wire.refuses("Publish", publish(topic), InvalidArgument, &words);
    }
    wire.done()
}

fn a_call_without_a_namespace_is_refused(world: &mut World) -> Outcome {
    let words = "namespace is required: failed precondition";
    for service in [IMAGES, CONTENT, CONTAINERS, LEASES, TASKS] {
        let wire = Wire::connect(world, service)?.in_namespace("");
        wire.refuses("List", (), FailedPrecondition, words);
        wire.done()?;
    }
    let wire = Wire::connect(world, CONTENT)?.in_namespace("");
    wire.refuses("Write", write(WriteAction::Stat, b"", 0), FailedPrecondition, words);
    wire.done()?;
    let wire = Wire::connect(world, IMAGES)?.in_namespace("bad name");
    let words =
        format!("namespace validation: identifier \"bad name\" {PATTERN}: invalid argument");
    wire.refuses("List", (), InvalidArgument, &words);
    wire.done()
}

fn what_is_not_served_is_unimplemented(world: &mut World) -> Outcome {
    let wire = Wire::connect(world, "nope.v1.Nope")?;
    let words = "unknown service containerd.services.nope.v1.Nope";
    wire.refuses("Do", (), Unimplemented, words);
    wire.done()?;
    let wire = Wire::connect(world, IMAGES)?;
    wire.refuses("Nope", (), Unimplemented, "...");
    wire.done()
}
