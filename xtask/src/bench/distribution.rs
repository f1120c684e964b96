// SPDX-License-Identifier: Apache-2.0
//! Distribution: an image of eight layers pulled, pushed, exported and imported, over the loopback and
//! over a wire of 1 Gbit/s and 20 ms, beside the distribution's containerd and skopeo.
//!
//! All of it happens in network namespaces that this program makes for itself.

mod contender;
mod floor;
mod gauge;
mod goods;
mod link;

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use e2e::parts::Programs;
use e2e::{Context, Failure, Outcome, PATIENCE, Packed, Parts, Profile, Registry, process};

use super::table::{Table, Unit};
use crate::{install, show};
use contender::{Contender, ENTRIES, Entry};
use gauge::Cost;
use link::Link;

/// What this program calls itself by once it is in a network namespace of its own.
const INSIDE: &str = "--inside";

#[derive(Debug)]
struct Options {
    inside: bool,
    /// Bytes of files.
    size: usize,
    rounds: usize,
    contenders: usize,
    /// How ours are built.
    profile: Profile,
}

/// Takes the figures.
pub(super) fn run(words: &[&str]) -> Outcome {
    if words == [link::RELAY] {
        return link::relay();
    }
    let options = parse(words)?;
    if options.inside { measure(&options) } else { enter(words, options.profile) }
}

fn parse(words: &[&str]) -> Outcome<Options> {
    match words {
        [] => Ok(Options {
            inside: false,
            size: 500_000_000,
            rounds: 3,
            contenders: ENTRIES.len(),
            profile: Profile::Release,
        }),
        [INSIDE, rest @ ..] => Ok(Options { inside: true, ..parse(rest)? }),
        ["--size", megabytes, rest @ ..] => {
            let size = megabytes.parse::<usize>()?.max(1) * 1_000_000;
            Ok(Options { size, ..parse(rest)? })
        }
        ["--rounds", count, rest @ ..] => {
            Ok(Options { rounds: count.parse::<usize>()?.max(1), ..parse(rest)? })
        }
        ["--dev", rest @ ..] => Ok(Options { profile: Profile::Dev, ..parse(rest)? }),
        ["--reference", rest @ ..] => Ok(Options { contenders: 2, ..parse(rest)? }),
        other => Err(Failure::new(format!("bench distribution does not know {other:?}"))),
    }
}

/// Sees to it that all that needs a network is there, and goes where there is none.
fn enter(words: &[&str], profile: Profile) -> Outcome {
    install::packages(&[
        "runc",
        "docker-registry",
        "containerd",
        "skopeo",
        "umoci",
        "ethtool",
        "iproute2",
        "util-linux",
    ])?;
    e2e::parts::require_root()?;
    Programs::find(Parts::OURS, profile)?;
    let mut own = Command::new("unshare");
    own.arg("--net").arg(std::env::current_exe()?);
    let failed = own.args(["bench", "distribution", INSIDE]).args(words).exec();
    Err(failed).context("enter a network namespace")
}

fn measure(options: &Options) -> Outcome {
    e2e::sweep();
    process::run(Command::new("ip").args(["link", "set", "lo", "up"]), PATIENCE)?.ok()?;
    show::chapter("an image");
    let image = goods::image(options.size).pack()?;
    let (layers, travels) = (image.layers.len(), image.size() / 1_000_000);
    println!("{} MB in {layers} layers, {travels} MB compressed", options.size / 1_000_000);
    show::chapter("measuring");
    let entries = &ENTRIES[..options.contenders];
    let mut table = Table::new(entries.iter().map(|entry| entry.name));
    near(entries, &image, options, &mut table)?;
    far(entries, &image, options, &mut table)?;
    let floor = median(&floor::floor(&image, options.rounds)?);
    show::chapter("distribution");
    print!("{}", table.render());
    println!(
        "\nthe floor, `zcat | tar x` and `sha256sum` of all layers at once: {}, on the disk after {}, \
         {} of processors",
        show::seconds(floor.time),
        show::seconds(floor.durable),
        show::seconds(floor.processor),
    );
    Ok(())
}

/// Everything over the loopback. Rounds alternate, so that what else the machine does falls on all.
fn near(entries: &[Entry], image: &Packed, options: &Options, table: &mut Table) -> Outcome {
    let rounds = options.rounds;
    let registry = Registry::start()?;
    let name = registry.push(image, "bench/image:1")?;
    let mut costs = vec![[const { Vec::new() }; 4]; entries.len()];
    for round in 1..=rounds {
        for (entry, costs) in entries.iter().zip(&mut costs) {
            println!("loopback, round {round} of {rounds}: {}", entry.name);
            let contender = Contender::start(*entry, options.profile)?;
            for (all, cost) in costs.iter_mut().zip(tour(&contender, &name)?) {
                all.push(cost);
            }
        }
    }
    for (index, deed) in ["pull", "push", "export", "import"].iter().enumerate() {
        rows(&format!("{deed}, loopback"), table, costs.iter().map(|costs| &costs[index]));
    }
    Ok(())
}

/// Pull, push, export and import, by one who had nothing.
fn tour(contender: &Contender, name: &str) -> Outcome<[Cost; 4]> {
    let measure = |commands| gauge::measure(commands, contender.daemon(), contender.home());
    let pull = measure(contender.pull(name))?;
    let target = Registry::start()?;
    let push = measure(contender.push(name, &format!("{}/bench/image:1", target.host())))?;
    drop(target);
    let export = measure(contender.export(name))?;
    contender.forget()?;
    gauge::sync(contender.home())?;
    let import = measure(contender.import())?;
    contender.drop_archive()?;
    Ok([pull, push, export, import])
}

/// The pull over the wire.
fn far(entries: &[Entry], image: &Packed, options: &Options, table: &mut Table) -> Outcome {
    let rounds = options.rounds;
    let link = Link::lay()?;
    let registry = link.registry()?;
    println!("the wire answers after {}", show::seconds(link::round_trip()?));
    let name = registry.push(image, "bench/image:1")?;
    let mut costs = vec![Vec::new(); entries.len()];
    for round in 1..=rounds {
        for (entry, costs) in entries.iter().zip(&mut costs) {
            println!("wire, round {round} of {rounds}: {}", entry.name);
            let contender = Contender::start(*entry, options.profile)?;
            let pull = contender.pull(&name);
            costs.push(gauge::measure(pull, contender.daemon(), contender.home())?);
        }
    }
    rows("pull, 1 Gbit/s and 20 ms", table, costs.iter());
    Ok(())
}

fn rows<'a>(name: &str, table: &mut Table, costs: impl Iterator<Item = &'a Vec<Cost>>) {
    let medians: Vec<Cost> = costs.map(|costs| median(costs)).collect();
    let mut row = |what: &str, unit, figure: &dyn Fn(&Cost) -> Option<f64>| {
        table.row(&format!("{name}{what}"), unit, medians.iter().map(figure));
    };
    row("", Unit::Milliseconds, &|cost| milliseconds(cost.time));
    row(": on the disk", Unit::Milliseconds, &|cost| milliseconds(cost.durable));
    row(": processors", Unit::Milliseconds, &|cost| milliseconds(cost.processor));
    row(": daemon's peak", Unit::Kib, &|cost| cost.memory.and_then(super::kib));
}

#[expect(clippy::unnecessary_wraps, reason = "a figure may be missing, this one never is")]
fn milliseconds(time: Duration) -> Option<f64> {
    Some(time.as_secs_f64() * 1000.0)
}

/// The median of each of the figures.
fn median(costs: &[Cost]) -> Cost {
    Cost {
        time: middle(costs, |cost| cost.time),
        durable: middle(costs, |cost| cost.durable),
        processor: middle(costs, |cost| cost.processor),
        memory: middle(costs, |cost| cost.memory),
    }
}

fn middle<T: Ord + Default>(costs: &[Cost], figure: impl Fn(&Cost) -> T) -> T {
    let mut figures: Vec<T> = costs.iter().map(figure).collect();
    figures.sort();
    let index = figures.len() / 2;
    figures.into_iter().nth(index).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_in_any_order() -> Outcome {
        let options = parse(&[INSIDE, "--rounds", "1", "--size", "20"])?;
        assert!(options.inside && options.size == 20_000_000 && options.rounds == 1);
        assert!(parse(&["--speed"]).is_err());
        Ok(())
    }

    #[test]
    fn each_figure_has_its_own_median() {
        let cost = |time, memory| Cost {
            time: Duration::from_secs(time),
            memory: Some(memory),
            ..Cost::default()
        };
        let all = median(&[cost(1, 9), cost(3, 1), cost(2, 5)]);
        assert_eq!((all.time, all.memory), (Duration::from_secs(2), Some(5)));
    }
}
