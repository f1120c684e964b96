// SPDX-License-Identifier: Apache-2.0
//! The only door: everything that is done with this workspace, besides writing it.
//!
//! ```text
//! cargo xtask demo    see it work, on this machine, from nothing
//!             test    know that it works: what CI runs
//!             tidy    the rules that no compiler knows
//!             bench   figures beside those of the distribution's containerd
//!             soak    many containers, and what they leave
//!             powercut  what a power cut leaves, at random instants
//!             fuzz    foreign input and random trees, for minutes
//!             kernels  tests of what this kernel lacks, under kernels that have it
//!             newer   the scenarios, with newer releases of containerd, Docker and CRIU
//!             ci      test and demo, and what else is installed that checks
//! ```

mod bench;
mod ci;
mod demo;
mod fuzz;
mod install;
mod kernels;
mod newer;
mod powercut;
mod run;
mod show;
mod soak;
mod stop;
mod test;
mod tidy;

use std::process::ExitCode;

use e2e::Outcome;

const HELP: &str = "\
cargo xtask <task>

  demo [--reference]   pull an image and run it, step by step; --reference does it with the
                       distribution's containerd
  test [--reference]   formatting, lints, tidy, unit, crate, rim and end-to-end tests;
                       --reference plays the scenarios only on the distribution's containerd
  tidy                 dependency table, file names, licence lines, lengths, forbidden words
  bench [daemon] [execution] [--reference] [--rounds N] [--dev]
                       figures beside the distribution's containerd, both tables or one:
                       memory, start, run and pull; what running containers costs
  bench storage [--small]
                       records, blobs, lists, collections and layers, beside the distribution's
  bench collection [--small] [--seconds N]
                       pulls, deletions and leases among full stores: how long others wait
  bench distribution [--size MB] [--rounds N] [--reference] [--dev]
                       pull, push, export and import of an image of 500 MB, also over a slow wire;
                       --dev measures ours as built for tests
  soak [--containers N] [--release]
                       many containers come and go: what is left, and how the daemon grows
  powercut [--cuts N] [--fs ext4|xfs] [--daemon ours|go] [--seed N]
                       cut the power at random instants, and count what was lost or broken
  fuzz [--minutes N] [--seed N] [--keep]
                       foreign input, changed at random, and random trees through every snapshotter;
                       --keep keeps inputs with outcomes that were not seen before
  kernels [uml|qemu]   tests of what this kernel may lack, under kernels that have it: project quotas
                       and cgroups of version 2 (user-mode Linux), fs-verity (qemu, emulated)
  newer [--suite NAME] [--only WORD]
                       fetch newer releases of containerd, Docker and CRIU from Debian (forky), and
                       compare their command lines with ours (alone: --only words), and play the
                       scenarios with them
  ci                   test, then demo, and cargo-deny, cargo-machete and typos if installed
";

fn main() -> ExitCode {
    stop::listen();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match task(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if stop::asked() => ExitCode::from(130),
        Err(failure) => {
            eprintln!("\n{} {failure}", show::red("failed:"));
            ExitCode::FAILURE
        }
    }
}

fn task(words: &[&str]) -> Outcome {
    match words {
        ["demo"] => demo::run(false),
        ["demo", "--reference"] => demo::run(true),
        ["test"] => test::run(false),
        ["test", "--reference"] => test::run(true),
        ["tidy"] => tidy::run(),
        ["fuzz", options @ ..] => fuzz::run(options),
        ["kernels", options @ ..] => kernels::run(options),
        ["bench", options @ ..] => bench::run(options),
        ["soak", options @ ..] => soak::run(options),
        ["newer", options @ ..] => newer::run(options),
        ["powercut", options @ ..] => powercut::run(options),
        ["ci"] => ci::run(),
        ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => {
            eprint!("{HELP}");
            Err(e2e::Failure::new(format!("there is no task {:?}", words.join(" "))))
        }
    }
}
