// SPDX-License-Identifier: Apache-2.0
//! Many containers come and go, eight at a time: nothing may be left, and the daemon may not grow.

use std::time::Duration;

use e2e::{
    Daemon, Failure, Image, Outcome, Parts, Profile, Registry,
    churn::{self, Pace},
    ensure,
};

use crate::{install, show};

/// The growth in KiB for a hundred containers that is a failure: a spec that is kept of each would be
/// twice as much. Caches and the allocator's gaps still grow by up to half of it at a thousand.
const BOUND: f64 = 200.0;

/// The rest is longer than it takes the daemon to see that it is left alone.
const PACE: Pace = Pace { at_once: 8, round: 100, rest: Duration::from_secs(12) };

struct Options {
    containers: usize,
    profile: Profile,
}

/// Runs it.
pub(crate) fn run(words: &[&str]) -> Outcome {
    let Options { containers, profile } = parse(words)?;
    install::packages(&["runc", "docker-registry", "busybox-static"])?;
    e2e::parts::require_root()?;
    e2e::sweep();
    show::chapter(&format!("{containers} containers, eight at a time"));
    let registry = Registry::start()?;
    let image = registry.push(&Image::busybox()?.pack()?, "soak/busybox:1")?;
    let daemon = Daemon::start(Parts::OURS, profile)?;
    daemon.ctr().ok(["images", "pull", "--plain-http", &image])?;
    let report = churn::churn(&daemon, &image, containers, PACE)?;
    println!("{report}");
    for file in &report.opened {
        println!("opened after the first round: {file}");
    }
    report.assert_clean()?;
    let slope = report.slope();
    ensure!(slope < BOUND, "the daemon grows by {slope:.0} KiB for a hundred containers");
    Ok(())
}

fn parse(words: &[&str]) -> Outcome<Options> {
    match words {
        [] => Ok(Options { containers: 1000, profile: Profile::Dev }),
        ["--containers", count, rest @ ..] => {
            Ok(Options { containers: count.parse::<usize>()?.max(1), ..parse(rest)? })
        }
        ["--release", rest @ ..] => Ok(Options { profile: Profile::Release, ..parse(rest)? }),
        other => Err(Failure::new(format!("soak does not know {other:?}"))),
    }
}
