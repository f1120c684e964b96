// SPDX-License-Identifier: Apache-2.0
//! What a power cut leaves is enough to go on from. Many more cuts, and those of the distribution's
//! containerd, are played by `cargo xtask powercut`.

use e2e::powercut::{Filesystem, Plan, ensure_clean, play};
use e2e::{Failure, Outcome, Parts, ensure};

/// The seed is fixed, the instants are not: what is at work at a time is up to the machine.
#[test]
fn after_a_power_cut_nothing_acknowledged_is_lost_and_all_heals() -> Outcome {
    cut().map_err(Failure::told_at_once)
}

fn cut() -> Outcome {
    let plan = Plan { parts: Parts::OURS, filesystem: Filesystem::Ext4, cuts: 6, seed: 21 };
    let report = play(plan, |_, _| {})?;
    ensure!(report.promised > 0 && report.layers > 0, "nothing was looked for: {report:?}");
    ensure_clean(&report.findings)
}
