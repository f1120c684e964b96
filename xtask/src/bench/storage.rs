// SPDX-License-Identifier: Apache-2.0
//! The stores: records from many clients at once, small blobs, lists, collections, layers.
//!
//! One client, ours, asks both daemons, one after the other on the same disk.

use std::process::Command;
use std::time::Duration;

use e2e::{Context, Daemon, Outcome, Profile, parts, process};

use super::table::{Table, Unit};
use super::{GO, OURS};
use crate::{install, show};

/// Longer than building the client and all of the work take on a slow disk.
const LIMIT: Duration = Duration::from_mins(20);

/// Takes the figures; `small` is for trying it out.
pub(super) fn run(small: bool) -> Outcome {
    install::packages(&["containerd", "runc"])?;
    parts::require_root()?;
    show::chapter("measuring the stores");
    let contenders = [GO, OURS];
    let mut columns = Vec::new();
    for contender in &contenders {
        println!("{}", contender.name);
        let daemon = Daemon::start(contender.parts, Profile::Release)?;
        columns.push(load(&daemon, small)?);
    }
    let mut table = Table::new(contenders.iter().map(|contender| contender.name));
    let first = columns.first().context("two columns")?;
    for (at, (name, unit, _)) in first.iter().enumerate() {
        table.row(name, *unit, columns.iter().map(|rows| rows.get(at).map(|row| row.2)));
    }
    show::chapter("figures of the stores");
    print!("{}", table.render());
    Ok(())
}

type Row = (String, Unit, f64);

/// Builds the client if need be, and lets it loose on a daemon.
fn load(daemon: &Daemon, small: bool) -> Outcome<Vec<Row>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(parts::workspace());
    command.args([
        "run",
        "--release",
        "-q",
        "-p",
        "containerd-services",
        "--example",
        "load",
        "--",
    ]);
    command.arg(daemon.address()).arg(daemon.home().join("tmp"));
    command.args(small.then_some("--small"));
    let said = process::run(&mut command, LIMIT)?.ok()?;
    said.lines().map(|line| row(line).context(format!("a figure in {line:?}"))).collect()
}

/// `1234 1/s image create`.
fn row(line: &str) -> Option<Row> {
    let (figure, rest) = line.split_once(' ')?;
    let (unit, name) = rest.split_once(' ')?;
    let unit = match unit {
        "1/s" => Unit::PerSecond,
        "ms" => Unit::Milliseconds,
        _ => return None,
    };
    Some((name.to_owned(), unit, figure.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_figure_its_unit_and_its_name() {
        let want = ("image create".to_owned(), Unit::PerSecond, 12.0);
        assert_eq!(row("12 1/s image create"), Some(want));
        assert_eq!(row("12 m image create"), None);
    }
}
