// SPDX-License-Identifier: Apache-2.0
//! Foreign input and random trees, for minutes rather than for the moment that `test` has for them.

use std::time::Duration;

use e2e::{Failure, Outcome, ensure, parts};

use crate::{install, run, show};

/// How many random trees each snapshotter is given for every minute: about as long as that takes.
const TREES_A_MINUTE: u64 = 40;

struct Options {
    minutes: u64,
    seed: u64,
    keep: bool,
}

/// Plays every target for so many minutes, all of them side by side.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let Options { minutes, seed, keep } = parse(words)?;
    parts::require_root()?;
    install::packages(&["e2fsprogs", "xfsprogs", "btrfs-progs", "erofs-utils"])?;
    show::chapter(&format!("foreign input for {minutes} minutes, from seed {seed}"));
    let words = ["test", "-p", "containerd-services", "--test", "main", "--", "--nocapture"];
    let mut cargo = run::cargo(&words);
    cargo.args(["--test-threads", "12", "sorts_are_borne", "come_back"]);
    cargo.env("FUZZ_SECONDS", (minutes * 60).to_string()).env("FUZZ_SEED", seed.to_string());
    cargo.env("ROUND_TRIPS", (minutes * TREES_A_MINUTE).to_string());
    cargo.env("ROUND_TRIPS_SEED", seed.to_string());
    if keep {
        cargo.env("FUZZ_KEEP", "1");
    }
    let mut said = String::new();
    let passed = run::watched(&mut cargo, Duration::from_mins(minutes * 10 + 40), |line| {
        if line.starts_with("test ") || line.contains(" outcomes") || line.contains("not borne") {
            println!("{line}");
        }
        said.push_str(line);
        said.push('\n');
    })?;
    ensure!(passed, "something was not borne:\n{}", end_of(&said));
    Ok(())
}

/// What is worth a look of what the tests said: what they say of each change is long.
fn end_of(said: &str) -> &str {
    let from = said.len().saturating_sub(20_000);
    let from = (from..said.len()).find(|&at| said.is_char_boundary(at)).unwrap_or(said.len());
    &said[from..]
}

fn parse(words: &[&str]) -> Outcome<Options> {
    match words {
        [] => Ok(Options { minutes: 5, seed: 1, keep: false }),
        ["--minutes", count, rest @ ..] => {
            Ok(Options { minutes: count.parse::<u64>()?.max(1), ..parse(rest)? })
        }
        ["--seed", number, rest @ ..] => Ok(Options { seed: number.parse()?, ..parse(rest)? }),
        ["--keep", rest @ ..] => Ok(Options { keep: true, ..parse(rest)? }),
        other => Err(Failure::new(format!("fuzz does not know {other:?}"))),
    }
}
