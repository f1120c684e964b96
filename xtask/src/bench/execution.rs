// SPDX-License-Identifier: Apache-2.0
//! What running containers costs: daemons side by side, driven over the API by one and the same
//! client, and the same lives by runc alone, so that what is left is the daemons' and shims' own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::procfs::memory;
use e2e::{
    Context, Daemon, Failure, Make, Outcome, PATIENCE, Parts, Profile, ensure, parts, process,
};

use super::table::{Figure, Table, Unit};
use super::{Contender, GO, OURS, kib};

/// Lives in one go. Daemons take turns between goes.
const LIVES: usize = 5;
/// Containers whose shims are weighed.
const WEIGHED: usize = 50;
/// Containers whose statistics are asked for.
const COUNTED: usize = 100;
/// What is poured through a container's standard output.
const MEGABYTES: &str = "512";

/// Our daemon with Go's shim tells whose a difference is.
const GO_SHIM: Contender = Contender { name: "ours, Go's shim", parts: Parts::GO_SHIM };

/// Takes the figures of this table.
pub(super) fn run(reference: bool, rounds: usize, profile: Profile) -> Outcome<Table> {
    let contenders: &[Contender] = if reference { &[GO] } else { &[GO, OURS, GO_SHIM] };
    let driver = parts::driver(profile)?;
    let stages = contenders.iter().map(|it| Stage::new(it, &driver, profile));
    let stages = stages.collect::<Outcome<Vec<_>>>()?;
    let mut table = Table::new(contenders.iter().map(|contender| contender.name));
    lives(&stages, rounds, &mut table)?;
    crowds(&stages, rounds, &mut table)?;
    execs(&stages, rounds, &mut table)?;
    pours(&stages, &mut table)?;
    masses(&stages, &mut table)?;
    Ok(table)
}

/// A daemon and who drives it.
struct Stage {
    daemon: Daemon,
    driver: PathBuf,
    rootfs: PathBuf,
    is_reference: bool,
}

impl Stage {
    fn new(contender: &Contender, driver: &std::path::Path, profile: Profile) -> Outcome<Self> {
        let daemon = Daemon::start(contender.parts, profile)?;
        let rootfs = daemon.home().join("rootfs");
        for name in ["bin", "proc", "dev", "sys", "tmp"] {
            fs_err::create_dir_all(rootfs.join(name))?;
        }
        fs_err::copy(parts::tool("busybox")?, rootfs.join("bin/busybox"))?;
        let is_reference = contender.parts.daemon == Make::Go;
        Ok(Self { daemon, driver: driver.to_owned(), rootfs, is_reference })
    }

    /// Has the driver do something, and gives its figures.
    fn drive(&self, task: &[&str]) -> Outcome<Vec<f64>> {
        let mut command = Command::new(&self.driver);
        command.arg(self.daemon.address()).arg(self.daemon.estate().tag()).arg(&self.rootfs);
        command.args(task).env("TMPDIR", self.daemon.home().join("tmp"));
        let said = process::run(&mut command, 10 * PATIENCE)?.ok()?;
        said.lines().map(|line| line.parse().map_err(Failure::from)).collect()
    }
}

/// Plays the same task on all stages in turn, so often; gives the figures of each stage.
fn in_turn(stages: &[Stage], times: usize, task: &[&str]) -> Outcome<Vec<Vec<f64>>> {
    println!("{}", task.join(" "));
    let mut figures = vec![Vec::new(); stages.len()];
    for _ in 0..times {
        for (stage, figures) in stages.iter().zip(&mut figures) {
            figures.extend(stage.drive(task)?);
        }
    }
    Ok(figures)
}

/// One container after the other; and what of that is not runc's own.
fn lives(stages: &[Stage], rounds: usize, table: &mut Table) -> Outcome {
    let times = rounds.div_ceil(LIVES);
    let count = LIVES.to_string();
    let (mut ours, mut runcs) = (vec![Vec::new(); stages.len()], Vec::new());
    for _ in 0..times {
        for (all, some) in ours.iter_mut().zip(in_turn(stages, 1, &["runs", &count, "1"])?) {
            all.extend(some);
        }
        runcs.extend(in_turn(&stages[..1], 1, &["runc", &count])?.concat());
    }
    let whole: Vec<Figure> = ours.iter().map(|figures| middle(figures)).collect();
    let runc = middle(&runcs);
    table.row("create, start, wait, delete", Unit::Milliseconds, whole.iter().copied());
    table.row("  by runc alone", Unit::Milliseconds, whole.iter().map(|_| runc));
    let rest = whole.iter().map(|whole| Some((*whole)? - runc?));
    table.row("  what is not runc's own", Unit::Milliseconds, rest);
    Ok(())
}

/// Eight containers at a time: the share of each.
fn crowds(stages: &[Stage], rounds: usize, table: &mut Table) -> Outcome {
    let times = rounds.div_ceil(LIVES);
    let shares = in_turn(stages, times, &["runs", "24", "8"])?;
    table.row("the same, eight at a time", Unit::Milliseconds, shares.iter().map(|it| middle(it)));
    Ok(())
}

fn execs(stages: &[Stage], rounds: usize, table: &mut Table) -> Outcome {
    let (times, count) = (rounds.div_ceil(LIVES), LIVES.to_string());
    let figures = in_turn(stages, times, &["execs", &count])?;
    table.row("exec of true", Unit::Milliseconds, figures.iter().map(|it| middle(it)));
    Ok(())
}

/// Much output: how long it takes to arrive, and the processor time of daemon and shim.
fn pours(stages: &[Stage], table: &mut Table) -> Outcome {
    println!("pour {MEGABYTES}");
    let (mut times, mut costs) = (Vec::new(), Vec::new());
    for stage in stages {
        let pid = stage.daemon.pid()?.to_string();
        let rounds = (0..3).map(|_| stage.drive(&["pour", MEGABYTES, &pid]));
        let rounds = rounds.collect::<Outcome<Vec<_>>>()?;
        let column = |index: usize| -> Vec<f64> {
            rounds.iter().filter_map(|figures| figures.get(index).copied()).collect()
        };
        times.push(middle(&column(0)));
        costs.push(middle(&column(1)));
    }
    let name = |what: &str| format!("{MEGABYTES} MiB of output: {what}");
    table.row(&name("time"), Unit::Milliseconds, times.into_iter());
    table.row(&name("processor time"), Unit::Milliseconds, costs.into_iter());
    Ok(())
}

/// Many containers that sleep: what their shims weigh, and how long it takes to ask for the
/// statistics of all. One daemon after the other: twice as many would be another measurement.
fn masses(stages: &[Stage], table: &mut Table) -> Outcome {
    let (mut weights, mut times) = (Vec::new(), Vec::new());
    for stage in stages {
        println!("{COUNTED} containers");
        stage.drive(&["hold", &COUNTED.to_string()])?;
        // Memory is given back a little after the last call.
        std::thread::sleep(Duration::from_secs(2));
        weights.push(weight(stage)?);
        times.push(middle(&stage.drive(&["metrics", "9"])?));
        stage.drive(&["drop", &COUNTED.to_string()])?;
        ensure!(stage.is_reference || stage.daemon.estate().assert_clean().is_ok(), "left behind");
    }
    let name = format!("private memory of {WEIGHED} shims");
    table.row(&name, Unit::Kib, weights.into_iter());
    let name = format!("statistics of {COUNTED} containers");
    table.row(&name, Unit::Milliseconds, times.into_iter());
    Ok(())
}

fn weight(stage: &Stage) -> Outcome<Figure> {
    let shims = stage.daemon.estate().shims();
    ensure!(shims.len() >= COUNTED, "{} shims", shims.len());
    let all = shims.iter().take(WEIGHED).map(|shim| Ok(memory(shim.pid)?.private));
    let all = all.collect::<Outcome<Vec<u64>>>().context("weigh shims")?;
    Ok(kib(all.iter().sum()))
}

fn middle(figures: &[f64]) -> Figure {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}
