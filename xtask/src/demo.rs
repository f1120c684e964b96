// SPDX-License-Identifier: Apache-2.0
//! First light: an image goes into a real registry, is pulled, run, looked at and removed again, each
//! command shown before what it says, each answer checked, and nothing left behind.

mod stage;
mod traces;

use e2e::{Context, Daemon, Image, Layer, Outcome, Packed, Parts, Profile, Registry, Tar, ensure};

use crate::{install, show};
use stage::Stage;
use traces::Surroundings;

/// Plays the demo; with `reference`, on the distribution's containerd.
pub(crate) fn run(reference: bool) -> Outcome {
    let parts = if reference { Parts::REFERENCE } else { Parts::OURS };
    prepare(reference)?;
    e2e::sweep();
    let before = Surroundings::look();
    let played = play(parts);
    let clean = before.assert_unchanged();
    if played.is_ok() && clean.is_ok() {
        println!("\n{}", show::green("Every step did what it should, and nothing is left behind."));
    }
    played.and(clean)
}

fn prepare(reference: bool) -> Outcome {
    show::chapter("What is needed from Debian");
    let mut packages = vec!["runc", "docker-registry", "busybox-static"];
    if reference {
        packages.push("containerd");
    }
    install::packages(&packages)?;
    e2e::parts::require_root()?;
    if !reference {
        show::chapter("Build");
        show::command("cargo build --release -p containerd -p ctr -p containerd-shim-runc-v2");
        let programs = e2e::parts::Programs::find(Parts::OURS, Profile::Release)?;
        for program in [&programs.daemon, &programs.ctr, &programs.shim] {
            let size = fs_err::metadata(program)?.len();
            println!("{:>9} KiB  {}", size / 1024, program.display());
        }
    }
    Ok(())
}

fn play(parts: Parts) -> Outcome {
    show::chapter("An image, made of busybox, in a real registry");
    let image = image()?;
    let registry = Registry::start()?;
    let reference = registry.push(&image, "demo/hello:1")?;
    describe(&image, &reference);

    show::chapter("containerd, on a root, state and socket of its own");
    let mut daemon = Daemon::start(parts, Profile::Release)?;
    show::command(&e2e::process::shown(&daemon.command()));
    println!("process {}, answers after {}", daemon.pid()?, show::seconds(daemon.boot_time()));
    let ctr = daemon.ctr();
    for (name, value) in ctr.environment() {
        show::command(&format!("export {name}={value}"));
    }
    let stage = Stage::new(&ctr);
    stage.ctr(&["version"], &["Client:", "Server:", "Version:"])?;

    pull(&stage, &image, &reference)?;
    run_and_look(&stage, &daemon, &reference)?;
    remove(&stage, &daemon, &reference)?;

    show::chapter("The end");
    show::command(&format!("kill {}", daemon.pid()?));
    let status = daemon.terminate()?;
    println!("containerd ended with {status}");
    ensure!(status.success(), "containerd should have ended with success");
    Ok(())
}

/// Three layers: busybox, a greeting, and a few megabytes to watch on their way.
fn image() -> Outcome<Packed> {
    let greeting = Tar::new().dir("srv", 0o755).file("srv/greeting", 0o644, GREETING.as_bytes());
    let ballast = Layer::noise("srv/ballast", 6 << 20, 1);
    let image = Image::busybox()?.with(Layer::new(greeting)).with(ballast);
    image.command(&["cat", "/srv/greeting"]).pack()
}

const GREETING: &str = "Hello from a container.\n";

fn describe(image: &Packed, reference: &str) {
    println!("{reference}");
    println!("  manifest {}", image.root.digest);
    for layer in &image.layers {
        println!("  layer    {} {:>9} bytes", layer.digest, layer.bytes.len());
    }
}

fn pull(stage: &Stage, image: &Packed, reference: &str) -> Outcome {
    show::chapter("Pull");
    let said = stage.watch(&["images", "pull", "--plain-http", reference])?;
    for layer in &image.layers {
        let name = &layer.digest["sha256:".len()..][..12];
        ensure!(said.contains(name), "the pull said nothing of layer {name}");
    }
    stage.ctr(&["images", "ls"], &[reference, &image.root.digest])?;
    stage.ctr(&["snapshots", "tree"], &["sha256:"]).map(drop)
}

fn run_and_look(stage: &Stage, daemon: &Daemon, reference: &str) -> Outcome {
    show::chapter("Run, and be done");
    let hello = daemon.estate().id("hello");
    let said = stage.ctr(&["run", "--rm", reference, &hello], &[])?;
    ensure!(said == GREETING, "the container should have said {GREETING:?}");

    show::chapter("Run in the background, and look");
    let events = stage.listen()?;
    let web = daemon.estate().id("web");
    stage.ctr(&["run", "-d", reference, &web, "sleep", "1000"], &[])?;
    stage.ctr(&["tasks", "ls"], &[&web, "RUNNING"])?;
    stage.ctr(&["tasks", "exec", "--exec-id", "look", &web, "ps"], &["sleep 1000"])?;
    stage.ctr(&["tasks", "metrics", &web], &["memory", "pids.current"])?;
    stage.ctr(&["tasks", "kill", "--signal", "KILL", &web], &[])?;
    daemon.ctr().wait_for_state(&web, "STOPPED", e2e::PATIENCE)?;
    stage.ctr(&["tasks", "ls"], &[&web, "STOPPED"])?;
    stage.ctr_ending(&["tasks", "rm", &web], &[0, 137])?;
    stage.ctr(&["containers", "rm", &web], &[])?;

    show::chapter("What was told meanwhile");
    stage.heard(events, &["/tasks/start", "/tasks/exec-started", "/tasks/exit", "/tasks/delete"])
}

fn remove(stage: &Stage, daemon: &Daemon, reference: &str) -> Outcome {
    show::chapter("Remove, and see that content and snapshots were collected");
    let blobs = daemon.content().join("blobs/sha256");
    let count = || fs_err::read_dir(&blobs).map_or(0, Iterator::count);
    // The directory of the container's snapshot goes a moment after its record.
    e2e::wait::until("one directory for each layer", e2e::PATIENCE, || {
        Ok((daemon.snapshots()?.len() == 3).then_some(()))
    })?;
    println!("{} blobs and 3 snapshots on the disk", count());
    stage.ctr(&["images", "rm", "--sync", reference], &[])?;
    let left = stage.ctr(&["content", "ls", "-q"], &[])?;
    ensure!(left.trim().is_empty(), "content should have been collected");
    let left = stage.ctr(&["snapshots", "ls"], &["KEY"])?;
    ensure!(!left.contains("sha256:"), "snapshots should have been collected");
    e2e::wait::until("empty directories", e2e::PATIENCE, || {
        Ok((count() == 0 && daemon.snapshots()?.is_empty()).then_some(()))
    })
    .context("on the disk")?;
    println!("no blobs and no snapshots on the disk");
    Ok(())
}
