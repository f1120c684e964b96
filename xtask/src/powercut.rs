// SPDX-License-Identifier: Apache-2.0
//! Power cuts at random instants, counted: what each daemon lost, broke or could not use again.

use std::time::{Instant, SystemTime};

use e2e::powercut::{Class, Filesystem, Finding, Plan, Report, ensure_clean, play};
use e2e::{Failure, Outcome, Parts};

use crate::{install, show};

/// Cuts the power as the options say. Only findings against ours are a failure.
pub(crate) fn run(options: &[&str]) -> Outcome {
    let seed = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.as_secs());
    let standard = Plan { parts: Parts::OURS, filesystem: Filesystem::Ext4, cuts: 30, seed };
    let plan = parse(standard, options)?;
    install::packages(&[
        "runc",
        "docker-registry",
        "busybox-static",
        "containerd",
        "e2fsprogs",
        "xfsprogs",
        "sqlite3",
    ])?;
    e2e::sweep();
    show::chapter(&format!(
        "{} power cuts of {} (seed {})",
        plan.cuts,
        plan.filesystem.name(),
        plan.seed
    ));
    let began = Instant::now();
    let report = play(plan, tell)?;
    show::chapter("figures");
    print!("{}", figures(&report));
    println!("{:40} {:6.0} s", "took", began.elapsed().as_secs_f64());
    if plan.parts == Parts::REFERENCE { Ok(()) } else { ensure_clean(&report.findings) }
}

fn parse(plan: Plan, options: &[&str]) -> Outcome<Plan> {
    match options {
        [] => Ok(plan),
        ["--cuts", count, rest @ ..] => parse(Plan { cuts: count.parse()?, ..plan }, rest),
        ["--seed", seed, rest @ ..] => parse(Plan { seed: seed.parse()?, ..plan }, rest),
        ["--fs", "ext4", rest @ ..] => parse(Plan { filesystem: Filesystem::Ext4, ..plan }, rest),
        ["--fs", "xfs", rest @ ..] => parse(Plan { filesystem: Filesystem::Xfs, ..plan }, rest),
        ["--daemon", "ours", rest @ ..] => parse(Plan { parts: Parts::OURS, ..plan }, rest),
        ["--daemon", "go", rest @ ..] => parse(Plan { parts: Parts::REFERENCE, ..plan }, rest),
        other => Err(Failure::new(format!("powercut does not know {other:?}"))),
    }
}

fn tell(cut: usize, findings: &[Finding]) {
    if findings.is_empty() {
        println!("cut {cut}: all is well");
    }
    for finding in findings {
        println!("{finding}");
    }
}

fn figures(report: &Report) -> String {
    let counts = [
        ("cuts", report.cuts),
        ("acknowledged things looked for", report.promised),
        ("unpacked images compared", report.layers),
    ];
    let counts = counts.map(|(name, count)| (name.to_owned(), count));
    let classes = Class::ALL.map(|class| (format!("cuts with: {}", class.name()), class));
    let classes = classes.map(|(name, class)| (name, report.cuts_with(class)));
    let rows = counts.into_iter().chain(classes);
    rows.fold(String::new(), |text, (name, count)| text + &format!("{name:40} {count:6}\n"))
}
