// SPDX-License-Identifier: Apache-2.0
//! What a daemon tells of its tasks, and what it is told about them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use e2e::{
    Context, Make, Outcome, PATIENCE, Running, World, ensure, for_each_daemon, for_their_ctr,
    only_ours, over_the_wire, wait,
};
use rustix::process::Signal;
use tonic::Code;

use crate::wire::{self, Wire};

over_the_wire!(what_is_asked_over_grpc_is_counted);
only_ours!(a_scrape_tells_of_all_tasks_though_their_shims_hang);
for_each_daemon!(an_event_is_published_by_the_daemon_s_program);
for_their_ctr!(a_checkpoint_that_cannot_be_made_leaves_the_task_alone);

/// Goes to a daemon's metrics, and returns the whole answer. In the older version of the protocol it is
/// in one piece.
fn scrape(address: &str, path: &str) -> Outcome<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Gives the daemon an address for its metrics, and starts it again.
fn with_metrics(world: &mut World) -> Outcome<String> {
    with_metrics_and(world, "")
}

/// The same with more lines in that section.
fn with_metrics_and(world: &mut World, more: &str) -> Outcome<String> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let path = world.daemon.home().join("config.toml");
    let config = fs_err::read_to_string(&path)?;
    fs_err::write(path, format!("{config}\n[metrics]\n  address = \"{address}\"\n{more}"))?;
    world.daemon.terminate()?;
    world.daemon.restart()?;
    Ok(address)
}

fn what_is_asked_over_grpc_is_counted(world: &mut World) -> Outcome {
    let address = with_metrics_and(world, "  grpc_histogram = true\n")?;
    let [versions, tasks, contents, events] =
        ["version.v1.Version", "tasks.v1.Tasks", "content.v1.Content", "events.v1.Events"];
    let wire = Wire::connect(world, versions)?;
    wire.accepts("Version", ())?;
    wire.accepts("Version", ())?;
    // Nobody has this container.
    let wire = Wire::connect(world, tasks)?;
    wire.refuses("Get", wire::named("none"), Code::NotFound, "...not found");
    wire.done()?;
    Wire::connect(world, contents)?.accepts("ListStatuses", ())?;
    Wire::connect(world, contents)?.accepts("List", ())?;
    // Whoever listens goes away.
    let listening =
        Wire::connect(world, events)?.ask::<(), ()>("Subscribe", (), Duration::from_millis(300));
    assert_eq!(listening.err().map(|status| status.code()), Some(Code::DeadlineExceeded));

    let line =
        |name: &str, (service, method, kind): (&str, &str, &str), code: &str, count: &str| {
            let code = if code.is_empty() { code } else { &format!("grpc_code=\"{code}\",") };
            format!(
                "grpc_server_{name}{{{code}grpc_method=\"{method}\",\
             grpc_service=\"containerd.services.{service}\",grpc_type=\"{kind}\"}} {count}"
            )
        };
    // To Go's service of events that is an end like any other.
    let given_up = if world.daemon.parts().daemon == Make::Go { "OK" } else { "Canceled" };
    let version = (versions, "Version", "unary");
    let wanted = [
        line("started_total", version, "", "2"),
        line("handled_total", version, "OK", "2"),
        line("handled_total", version, "NotFound", "0"),
        line("msg_received_total", version, "", "2"),
        line("msg_sent_total", version, "", "2"),
        line("handling_seconds_count", version, "", "2"),
        line("handled_total", (tasks, "Get", "unary"), "NotFound", "1"),
        line("msg_sent_total", (tasks, "Get", "unary"), "", "0"),
        line("handled_total", (tasks, "Delete", "unary"), "OK", "0"),
        line("handled_total", (contents, "List", "server_stream"), "OK", "1"),
        line("started_total", (contents, "Write", "bidi_stream"), "", "0"),
        line("started_total", (events, "Subscribe", "server_stream"), "", "1"),
        line("handled_total", (events, "Subscribe", "server_stream"), given_up, "1"),
    ];
    wait::until("all of it", PATIENCE, || {
        let text = scrape(&address, "/v1/metrics")?;
        let missing: Vec<_> =
            wanted.iter().filter(|line| !text.lines().any(|it| it == *line)).collect();
        let is_last = missing.len() <= 1;
        ensure!(is_last, "{missing:#?} in {text}");
        Ok(missing.is_empty().then_some(()))
    })
}

fn a_scrape_tells_of_all_tasks_though_their_shims_hang(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let ids: Vec<_> = (0..3).map(|number| world.id(&format!("s{number}"))).collect();
    for id in &ids {
        world.ctr.ok(["run", "-d", "--null-io", &image, id, "sleep", "1000"])?;
    }
    let address = with_metrics(world)?;
    world.ctr.ok(["tasks", "ls"])?;
    let shims = world.daemon.estate().shims();
    shims.iter().try_for_each(|shim| e2e::process::send(shim.pid, Signal::STOP))?;
    let began = Instant::now();
    let text = scrape(&address, "/v1/metrics");
    let took = began.elapsed();
    shims.iter().try_for_each(|shim| e2e::process::send(shim.pid, Signal::CONT))?;
    let text = text?;
    ensure!(took < Duration::from_millis(1500), "a scrape takes {took:?}");
    assert!(text.starts_with("HTTP/1.0 200"), "{text}");
    for id in &ids {
        let labels = format!(
            "{{container_id=\"{id}\",namespace=\"{}\",runtime=\"io.containerd.runc.v2\"}} 1\n",
            world.ctr.namespace()
        );
        ensure!(text.contains(&format!("container_pids_current{labels}")), "{id} in {text}");
    }
    for name in ["container_memory_", "containerd_build_info_total{", "process_open_fds "] {
        assert!(text.contains(&format!("\n{name}")), "{name} in {text}");
    }
    assert!(scrape(&address, "/")?.starts_with("HTTP/1.0 404"));
    ids.iter().try_for_each(|id| world.ctr.remove(id))
}

fn an_event_is_published_by_the_daemon_s_program(world: &mut World) -> Outcome {
    let mut listener = world.events()?;
    let address = world.daemon.address().display().to_string();
    let mut command = world.daemon.command();
    let program = command.get_program().to_owned();
    command = std::process::Command::new(program);
    command.args(["--address", &address, "publish", "--topic", "/tasks/oom", "--namespace"]);
    command.arg(world.ctr.namespace());
    // A `google.protobuf.Any` with a `containerd.events.TaskOOM` of the container `web`.
    let kind = "containerd.events.TaskOOM";
    let event = [b"\x0a", &[kind.len() as u8][..], kind.as_bytes(), b"\x12\x05\x0a\x03web"];
    let mut publish = Running::start_fed(&mut command)?;
    publish.feed(&event.concat())?;
    publish.hang_up();
    publish.wait(PATIENCE)?.ok()?;
    let text = listener.wait_for("/tasks/oom", PATIENCE, |text| text.contains("/tasks/oom"))?;
    let line = text.lines().find(|line| line.contains("/tasks/oom")).context("its line")?;
    assert!(line.contains("\"container_id\":\"web\""), "{line}");
    Ok(())
}

/// CRIU may be missing, too old for the kernel, or unable to: it is said in its own words, and the
/// task is as it was.
fn a_checkpoint_that_cannot_be_made_leaves_the_task_alone(world: &mut World) -> Outcome {
    let image = world.busybox()?;
    let id = world.id("web");
    world.ctr.ok(["run", "-d", "--null-io", &image, &id, "sleep", "1000"])?;
    let made = world.ctr.run(["tasks", "checkpoint", &id])?;
    if made.status.success() {
        println!("skipped: CRIU can make checkpoints on this machine");
    } else {
        assert!(made.stderr.contains("criu"), "{}", made.told());
        assert_eq!(world.ctr.state(&id)?.as_deref(), Some("RUNNING"));
        let images = world.ctr.ok(["images", "ls", "-q"])?;
        assert!(!images.contains("checkpoint"), "{images}");
    }
    world.ctr.remove(&id)
}
