// SPDX-License-Identifier: Apache-2.0
//! Containers, their tasks, and what goes in and out of them.
use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use client::{Client, Fifos, Io, NewContainer, NewTask, Streams};
use records::{Container, Image, Runtime};
use runtime::Stdio;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use types::{Any, Filters, Kind, Labels};

use super::{
    image::{image, plain},
    remote::Remote,
    world::{World, amd64, pull},
};

async fn pulled(world: &World, snapshotter: &str) -> Image {
    let remote = Remote::default();
    let image = image(&remote, &plain());
    world.client().pull(&pull(&remote, &image.manifest, snapshotter)).await.unwrap()
}

fn container(id: &str, spec: &str) -> Container {
    let now = SystemTime::now();
    Container {
        id: id.into(),
        labels: Labels::from([("mine".into(), "yes".into())]),
        image: String::new(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(Any::new(
            "types.containerd.io/opencontainers/runtime-spec/1/Spec",
            spec.to_owned(),
        )),
        snapshotter: "overlay".into(),
        snapshot_key: String::new(),
        created_at: now,
        updated_at: now,
        extensions: BTreeMap::new(),
        sandbox: String::new(),
    }
}

fn over(image: &Image, container: Container) -> NewContainer {
    let image = Some((image.clone(), amd64()));
    NewContainer { container, image, read_only: false, snapshot_labels: Labels::new() }
}

/// A task of a container without a root filesystem.
async fn bare(client: &Client, id: &str) -> Container {
    let container = container(id, "{}");
    let new =
        NewContainer { container, image: None, read_only: false, snapshot_labels: Labels::new() };
    client.new_container(new).await.unwrap()
}

fn fifo_dirs(world: &World) -> Vec<PathBuf> {
    let root = world.folder.path().join("fifo");
    let entries = fs_err::read_dir(root).map(|all| all.map(|it| it.unwrap().path()).collect());
    entries.unwrap_or_default()
}

fn io(world: &World, id: &str, terminal: bool, streams: Streams) -> Io {
    Io::streams(&world.folder.path().join("fifo"), id, terminal, streams).unwrap()
}

#[tokio::test]
async fn a_container_is_a_record_and_a_snapshot_over_its_image() {
    let world = World::new().await;
    let image = pulled(&world, "native").await;
    let client = world.client();
    let made = client.new_container(over(&image, container("c", "{}"))).await.unwrap();
    assert_eq!((made.image.as_str(), made.snapshot_key.as_str()), (image.name.as_str(), "c"));
    assert_eq!(made.labels["mine"], "yes");
    assert_eq!(made.labels["maintainer"], "me");
    assert_eq!(made.labels["io.containerd.image.config.stop-signal"], "SIGTERM");
    assert!(!made.labels.contains_key("containerd.io/x"), "a stranger's label means nothing");
    assert_eq!(world.snapshots("overlay").await, (3, 1), "it was unpacked there for the container");
    world.db.collect().await.unwrap();
    assert_eq!(world.snapshots("overlay").await, (3, 1));
    assert!(client.leases.list(&Filters::default()).await.unwrap().is_empty());

    let again = client.new_container(over(&image, container("c", "{}"))).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    client.delete_container("c", false).await.unwrap();
    assert_eq!(world.snapshots("overlay").await, (3, 0));
    assert!(client.containers.get("c").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_container_that_cannot_be_kept_leaves_no_snapshot() {
    let world = World::new().await;
    let image = pulled(&world, "overlay").await;
    let too_long = Labels::from([("k".into(), "v".repeat(4096))]);
    let container = Container { labels: too_long, ..container("c", "{}") };
    world.client().new_container(over(&image, container)).await.unwrap_err();
    assert_eq!(world.snapshots("overlay").await, (3, 0));
}

#[tokio::test]
async fn a_task_gets_the_mounts_of_its_container() {
    let world = World::new().await;
    let image = pulled(&world, "overlay").await;
    let client = world.client();
    let spec = r#"{"linux":{"mountLabel":"system_u:object_r:x:s0:c1,c2"}}"#;
    let made = client.new_container(over(&image, container("c", spec))).await.unwrap();
    let mut task = client.new_task(&made, NewTask::default()).await.unwrap();
    let created = world.shim.created().remove(0);
    assert_eq!((created.rootfs.len(), created.rootfs[0].kind.as_str()), (1, "overlay"));
    let label = "context=\"system_u:object_r:x:s0:c1,c2\"";
    assert_eq!(created.rootfs[0].options.last().unwrap(), label);

    task.start().await.unwrap();
    let error = client.delete_container("c", false).await.unwrap_err();
    assert_eq!(error.to_string(), "cannot delete running task c: failed precondition");
    let found = client.attach("c", "", None).await.unwrap();
    let error = found.delete().await.unwrap_err();
    let want = "task must be stopped before deletion: running: failed precondition";
    assert_eq!(error.to_string(), want);
    task.resize(80, 24).await.unwrap();
    task.end().await.unwrap();
    assert_eq!(task.delete().await.unwrap().status, 137);
    client.delete_container("c", true).await.unwrap();
    assert_eq!(world.shim.calls(), ["resize c 80x24", "kill c  9 true", "delete c "]);
    let error = client.attach("c", "", None).await.err().unwrap();
    assert_eq!(error.to_string(), "no running task found: task c: not found");
}

/// Streams, and what is at their other ends.
fn streams(input: bool) -> (Streams, DuplexStream, DuplexStream, DuplexStream) {
    let ((stdin, ours_in), (stdout, ours_out), (stderr, ours_err)) =
        (duplex(4096), duplex(4096), duplex(4096));
    let streams = Streams {
        stdin: if input { Some(Box::new(stdin)) } else { None },
        stdout: Some(Box::new(stdout)),
        stderr: Some(Box::new(stderr)),
    };
    (streams, ours_in, ours_out, ours_err)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_in_comes_out_whole_however_late_the_shim_is() {
    let world = World::new().await;
    let client = world.client();
    let made = bare(&client, "c").await;
    let (streams, mut input, mut output, mut errors) = streams(true);
    let io = io(&world, "c", false, streams);
    let mut task = client.new_task(&made, NewTask { io, ..NewTask::default() }).await.unwrap();
    let Stdio { stdin, stdout, terminal, .. } = world.shim.created().remove(0).stdio;
    assert!(stdin.ends_with("/c-stdin") && stdout.ends_with("/c-stdout") && !terminal);
    let data = "all of it ".repeat(100_000);
    let sent = data.clone();
    let write = tokio::spawn(async move {
        input.write_all(sent.as_bytes()).await.unwrap();
    });
    task.start().await.unwrap();
    let read = tokio::spawn(async move {
        let mut all = String::new();
        output.read_to_string(&mut all).await.unwrap();
        all
    });
    let exit = task.wait().await.unwrap();
    assert_eq!((exit.status, fifo_dirs(&world).len()), (7, 1));
    task.delete().await.unwrap();
    write.await.unwrap();
    assert_eq!(read.await.unwrap().len(), data.len());
    let mut said = String::new();
    errors.read_to_string(&mut said).await.unwrap();
    assert_eq!((said.as_str(), fifo_dirs(&world)), ("done", vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_never_opens_its_pipes_can_be_deleted() {
    let world = World::new().await;
    let client = world.client();
    let made = bare(&client, "c").await;
    let (streams, _input, mut output, _errors) = streams(true);
    let io = io(&world, "c", true, streams);
    let task = client.new_task(&made, NewTask { io, ..NewTask::default() }).await.unwrap();
    assert_eq!(world.shim.created()[0].stdio.stderr, "", "a terminal has one output");
    world.shim.exit("c", "", 1);
    assert_eq!(task.delete().await.unwrap().status, 1);
    assert_eq!(output.read(&mut [0; 8]).await.unwrap(), 0);
    assert_eq!(fifo_dirs(&world), [] as [PathBuf; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_is_executed_beside_the_first_and_attached_to() {
    let world = World::new().await;
    let client = world.client();
    let made = bare(&client, "c").await;
    let mut task = client.new_task(&made, NewTask::default()).await.unwrap();
    task.start().await.unwrap();

    let (first, _input, _output, _errors) = streams(true);
    let io = io(&world, "sh", false, first);
    let mut process = client.exec("c", "sh", Any::default(), io).await.unwrap();
    process.start().await.unwrap();
    // Whoever had it goes, and somebody else comes.
    drop(process);
    let (second, mut input, mut output, _errors) = streams(true);
    let process = client.attach("c", "sh", Some(second)).await.unwrap();
    input.write_all(b"hello").await.unwrap();
    drop(input);
    assert_eq!(process.wait().await.unwrap().status, 7);
    process.delete().await.unwrap();
    let mut all = String::new();
    output.read_to_string(&mut all).await.unwrap();
    assert_eq!((all.as_str(), fifo_dirs(&world)), ("hello", vec![]));

    let error = client.exec("c", "", Any::default(), Io::default()).await.err().unwrap();
    assert_eq!(error.to_string(), "exec id must not be empty: invalid argument");
    task.end().await.unwrap();
    task.delete().await.unwrap();
}

#[tokio::test]
async fn a_task_that_cannot_be_made_leaves_no_pipes() {
    let world = World::new().await;
    let client = world.client();
    let made = bare(&client, "broken").await;
    let (streams, ..) = streams(true);
    let io = io(&world, "broken", false, streams);
    let outcome = client.new_task(&made, NewTask { io, ..NewTask::default() }).await;
    assert_eq!(outcome.err().unwrap().kind(), Kind::Unavailable);
    assert_eq!(fifo_dirs(&world), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn output_may_go_to_a_log_instead() {
    let world = World::new().await;
    let client = world.client();
    let made = bare(&client, "c").await;
    let io = Io::log("binary:///usr/bin/logger?tag=x", false);
    let task = client.new_task(&made, NewTask { io, ..NewTask::default() }).await.unwrap();
    let stdio = world.shim.created().remove(0).stdio;
    assert_eq!((stdio.stdin.as_str(), stdio.stdout == stdio.stderr), ("", true));
    assert_eq!(stdio.stdout, "binary:///usr/bin/logger?tag=x");
    world.shim.exit("c", "", 0);
    task.delete().await.unwrap();
    let none = Fifos::create(world.folder.path(), "../x", false, &Streams::default());
    assert_eq!(none.unwrap_err().kind(), Kind::InvalidArgument);
}
