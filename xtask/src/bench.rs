// SPDX-License-Identifier: Apache-2.0
//! Figures, side by side with the distribution's containerd in the same run on the same machine.
//!
//! Rounds alternate between the daemons, so that whatever else the machine does falls on all of
//! them alike, and the median is taken. What counts is the ratio, not the number.

mod collection;
mod distribution;
mod execution;
mod storage;
mod table;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::procfs::{Memory, memory};
use e2e::{
    Context, Ctr, Daemon, Failure, Image, Layer, Outcome, PATIENCE, Parts, Profile, Registry,
    process,
};

use crate::{install, show};
use table::{Figure, Table, Unit};

/// One daemon with one client.
struct Contender {
    name: &'static str,
    parts: Parts,
}

const GO: Contender = Contender { name: "Go", parts: Parts::REFERENCE };
const OURS: Contender = Contender { name: "ours", parts: Parts::GO_CTR };
const OUR_CTR: Contender = Contender { name: "ours, our ctr", parts: Parts::OURS };

/// What is wanted.
struct Options {
    /// The tables to play; all of them if none is named.
    tables: Vec<String>,
    reference: bool,
    rounds: usize,
    profile: Profile,
}

/// Takes the figures. The first contender is what the others are compared with.
pub(crate) fn run(words: &[&str]) -> Outcome {
    match words {
        ["storage", rest @ ..] => storage::run(rest.contains(&"--small")),
        ["collection", rest @ ..] => collection::run(rest),
        ["distribution", rest @ ..] => distribution::run(rest),
        _ => daemons(&parse(words)?),
    }
}

fn daemons(options: &Options) -> Outcome {
    install::packages(&["runc", "docker-registry", "busybox-static", "containerd"])?;
    e2e::parts::require_root()?;
    e2e::sweep();
    let wanted =
        |name: &str| options.tables.is_empty() || options.tables.iter().any(|it| it == name);
    let mut tables = Vec::new();
    if wanted("daemon") {
        show::chapter("measuring the daemon");
        tables.push(("figures of the daemon", daemon(options)?));
    }
    if wanted("execution") {
        show::chapter("measuring execution");
        let Options { reference, rounds, profile, .. } = *options;
        tables.push(("figures of execution", execution::run(reference, rounds, profile)?));
    }
    for (title, table) in tables {
        show::chapter(title);
        print!("{}", table.render());
    }
    Ok(())
}

fn daemon(options: &Options) -> Outcome<Table> {
    let Options { reference, rounds, profile, .. } = *options;
    let contenders: &[Contender] = if reference { &[GO] } else { &[GO, OURS, OUR_CTR] };
    let mut table = Table::new(contenders.iter().map(|contender| contender.name));
    boot(contenders, rounds, profile, &mut table)?;
    let registry = Registry::start()?;
    let stages = stages(contenders, &registry, profile)?;
    rest(&stages, &mut table)?;
    shims(&stages, &mut table)?;
    runs(&stages, rounds, &mut table)?;
    pulls(&stages, &registry, (rounds / 5).clamp(1, 5), &mut table)?;
    after(&stages, &mut table)?;
    Ok(table)
}

fn parse(words: &[&str]) -> Outcome<Options> {
    match words {
        [] => Ok(Options {
            tables: Vec::new(),
            reference: false,
            rounds: 15,
            profile: Profile::Release,
        }),
        ["--reference", rest @ ..] => Ok(Options { reference: true, ..parse(rest)? }),
        // For trying it out: what such programs take says nothing.
        ["--dev", rest @ ..] => Ok(Options { profile: Profile::Dev, ..parse(rest)? }),
        ["--rounds", count, rest @ ..] => {
            Ok(Options { rounds: count.parse::<usize>()?.max(1), ..parse(rest)? })
        }
        [name @ ("daemon" | "execution"), rest @ ..] => {
            let mut options = parse(rest)?;
            options.tables.push((*name).to_owned());
            Ok(options)
        }
        other => Err(Failure::new(format!("bench does not know {other:?}"))),
    }
}

/// From the start of the process to its first answer, each time on an empty root.
fn boot(contenders: &[Contender], rounds: usize, profile: Profile, table: &mut Table) -> Outcome {
    println!("boot, {rounds} rounds");
    let mut times = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (contender, times) in contenders.iter().zip(&mut times) {
            times.push(Daemon::start(contender.parts, profile)?.boot_time());
        }
    }
    table.row(
        "boot to the first answered call",
        Unit::Milliseconds,
        times.iter().map(|t| median(t)),
    );
    Ok(())
}

/// A contender on its stage.
struct Stage {
    daemon: Daemon,
    ctr: Ctr,
    image: String,
}

fn stages(contenders: &[Contender], registry: &Registry, profile: Profile) -> Outcome<Vec<Stage>> {
    let image = registry.push(&Image::busybox()?.pack()?, "bench/busybox:1")?;
    let start = |contender: &Contender| {
        let daemon = Daemon::start(contender.parts, profile)?;
        Ok(Stage { ctr: daemon.ctr(), daemon, image: image.clone() })
    };
    contenders.iter().map(start).collect()
}

/// How long a daemon is left alone before its memory is looked at.
const LEFT_ALONE: Duration = Duration::from_secs(12);

/// The memory of each daemon that was started and then left alone.
fn rest(stages: &[Stage], table: &mut Table) -> Outcome {
    println!("idle");
    thread::sleep(LEFT_ALONE);
    memories("daemon, idle", stages, table)
}

/// The memory of each daemon after all of the work.
fn after(stages: &[Stage], table: &mut Table) -> Outcome {
    thread::sleep(LEFT_ALONE);
    memories("daemon, after this work", stages, table)
}

fn memories(name: &str, stages: &[Stage], table: &mut Table) -> Outcome {
    let all = stages.iter().map(|stage| memory(stage.daemon.pid()?));
    let all: Vec<Memory> = all.collect::<Outcome<_>>()?;
    table.row(&format!("{name}: resident"), Unit::Kib, all.iter().map(|m| kib(m.resident)));
    table.row(&format!("{name}: proportional"), Unit::Kib, all.iter().map(|m| kib(m.proportional)));
    Ok(())
}

/// The memory of one shim with one sleeping container.
fn shims(stages: &[Stage], table: &mut Table) -> Outcome {
    println!("one shim");
    let mut all = Vec::new();
    for stage in stages {
        stage.ctr.ok(["images", "pull", "--plain-http", &stage.image])?;
        let id = stage.daemon.estate().id("sleeper");
        stage.ctr.ok(["run", "-d", &stage.image, &id, "sleep", "1000"])?;
        thread::sleep(Duration::from_secs(1));
        let shims = stage.daemon.estate().shims();
        all.push(memory(shims.first().context("a shim")?.pid)?);
        stage.ctr.remove(&id)?;
    }
    table.row("one shim: resident", Unit::Kib, all.iter().map(|m| kib(m.resident)));
    table.row("one shim: proportional", Unit::Kib, all.iter().map(|m| kib(m.proportional)));
    table.row("one shim: private", Unit::Kib, all.iter().map(|m| kib(m.private)));
    Ok(())
}

/// `ctr run --rm <image> true`, from the start of the client to its end.
fn runs(stages: &[Stage], rounds: usize, table: &mut Table) -> Outcome {
    println!("run --rm true, {rounds} rounds");
    let mut times = vec![Vec::new(); stages.len()];
    for round in 0..rounds {
        for (stage, times) in stages.iter().zip(&mut times) {
            let id = stage.daemon.estate().id(&format!("run{round}"));
            times.push(timed(&mut stage.ctr.command(["run", "--rm", &stage.image, &id, "true"]))?);
        }
    }
    table.row("run --rm true", Unit::Milliseconds, times.iter().map(|t| median(t)));
    Ok(())
}

/// Pull and unpack of about 100 MB in several layers, most of it of the kind that does not compress.
fn pulls(stages: &[Stage], registry: &Registry, rounds: usize, table: &mut Table) -> Outcome {
    let mut image = Image::busybox()?;
    for seed in 0..4 {
        image = image.with(Layer::noise(&format!("noise{seed}"), 20 << 20, seed + 1));
        image = image.with(Layer::text(&format!("text{seed}"), 20 << 20, seed + 1));
    }
    let packed = image.pack()?;
    println!("pull of {} MB, {rounds} rounds", packed.size() / 1_000_000);
    let reference = registry.push(&packed, "bench/big:1")?;
    let mut times = vec![Vec::new(); stages.len()];
    for _ in 0..rounds {
        for (stage, times) in stages.iter().zip(&mut times) {
            let mut pull = stage.ctr.command(["images", "pull", "--plain-http", &reference]);
            times.push(timed(&mut pull)?);
            stage.ctr.ok(["images", "rm", "--sync", &reference])?;
        }
    }
    let name = format!("pull and unpack of {} MB", packed.size() / 1_000_000);
    table.row(&name, Unit::Milliseconds, times.iter().map(|t| median(t)));
    Ok(())
}

/// KiB as a figure. No process of this world has terabytes.
fn kib(value: u64) -> Figure {
    u32::try_from(value).ok().map(f64::from)
}

fn timed(command: &mut Command) -> Outcome<Duration> {
    let started = Instant::now();
    process::run(command, 5 * PATIENCE)?.ok()?;
    Ok(started.elapsed())
}

fn median(times: &[Duration]) -> Figure {
    let mut times = times.to_vec();
    times.sort();
    times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1000.0)
}
