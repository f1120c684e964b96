// SPDX-License-Identifier: Apache-2.0
//! Many containers come and go, eight at a time: nothing may be left, and the daemon may not grow.

use e2e::{Daemon, Failure, Image, Outcome, Parts, Profile, Registry, churn, ensure};

use crate::{install, show};

/// Growth that would show after a million containers, and less than what measuring is off by.
const BYTES_PER_CONTAINER: f64 = 4096.0;

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
    let report = churn::churn(&daemon, &image, containers, 8)?;
    println!("{report}");
    report.assert_clean()?;
    let slope = report.slope();
    ensure!(slope < BYTES_PER_CONTAINER, "the daemon grows by {slope:.0} bytes a container");
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
