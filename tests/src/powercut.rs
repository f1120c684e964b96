// SPDX-License-Identifier: Apache-2.0
//! What a power cut leaves, at random instants of a daemon's work, and whether that is enough.
//!
//! ```text
//! memory (tmpfs) -- xfs with reflinks -- disk.img -- loop -- ext4 or xfs -- <home>/root of a daemon
//!                                           |
//!                                     FICLONE at an instant: what the disk had then
//!                                           |
//!                     mounted anew (the journal is replayed), another daemon, and the questions
//! ```
//!
//! The filesystem under test hands the loop device only what it wrote back or synced, so what is
//! missing from a clone is just what was in its page cache. Cloning excludes writes to the file, so
//! a clone is one instant of the disk. This is a disk that keeps, in order, all that it was given;
//! one that loses or reorders what it was given between flushes is worse, and not played here.
//!
//! Claims, for each cut:
//!
//! * what was acknowledged before is there, and what was acknowledged as gone is gone;
//! * an image that is listed has all of its blobs, and a committed layer has all of its files;
//! * an image that is there runs, and what was under way can be done again;
//! * once all records are deleted, a collection leaves nothing on the disk;
//! * the databases are whole.

mod disk;
mod goods;
mod ledger;
mod verdict;
mod work;

use std::thread;
use std::time::{Duration, Instant};

use crate::image::step;
use crate::parts::{Parts, Profile, require_root, tool};
use crate::{Daemon, Outcome, Registry};

pub use disk::Filesystem;
use disk::{Host, Still};
use goods::Goods;
use ledger::{Ledger, Promise};
pub use verdict::{Class, Finding, ensure_clean};

/// How many instants of one stretch of work are kept, since each takes room.
const STRETCH: usize = 10;

/// What is to be played.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Whose daemon, client and shim.
    pub parts: Parts,
    /// What the daemon's root is on.
    pub filesystem: Filesystem,
    /// At how many instants the power is cut.
    pub cuts: usize,
    /// Chooses the instants.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// How often the power was cut.
    pub cuts: usize,
    /// How many acknowledged things were looked for, over all cuts.
    pub promised: usize,
    /// How many layers of images were compared file by file, over all cuts.
    pub layers: usize,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many cuts had findings of a class.
    pub fn cuts_with(&self, class: Class) -> usize {
        let of_class = self.findings.iter().filter(|finding| finding.class == class);
        let mut cuts: Vec<usize> = of_class.map(|finding| finding.cut).collect();
        cuts.dedup();
        cuts.len()
    }
}

/// The disk at an instant, and what had been acknowledged by then.
struct Cut {
    disk: Still,
    promises: Vec<Promise>,
}

/// Cuts the power as planned, and has each cut judged. `tell` hears of each verdict at once.
pub fn play(plan: Plan, mut tell: impl FnMut(usize, &[Finding])) -> Outcome<Report> {
    require_root()?;
    for program in ["runc", "sqlite3", "mkfs.xfs", "mkfs.ext4", "losetup"] {
        tool(program)?;
    }
    let goods = Goods::stock(Registry::start()?)?;
    let host = Host::new(plan.filesystem)?;
    let mut report = Report::default();
    let mut seed = plan.seed | 1;
    while report.cuts < plan.cuts {
        let count = STRETCH.min(plan.cuts - report.cuts);
        let (worked, cuts) = work_and_cut(plan, &host, &goods, count, &mut seed)?;
        for cut in cuts {
            let namespace = worked.estate().tag();
            let verdict = verdict::judge(plan.parts, report.cuts, namespace, &cut, &goods)?;
            tell(report.cuts, &verdict.findings);
            report.cuts += 1;
            report.promised += verdict.promised;
            report.layers += verdict.layers;
            report.findings.extend(verdict.findings);
            cut.disk.forget()?;
        }
    }
    Ok(report)
}

/// Has a daemon work on a new disk, and clones that disk at random instants. The daemon is answered
/// because its estate owns what its namespace is the name of.
fn work_and_cut(
    plan: Plan,
    host: &Host,
    goods: &Goods,
    count: usize,
    seed: &mut u64,
) -> Outcome<(Daemon, Vec<Cut>)> {
    let disk = host.format()?;
    let mut daemon = Daemon::start_on(plan.parts, Profile::Dev, |root| disk.mount(root))?;
    let ledger = Ledger::default();
    work::lay_in(&daemon.ctr(), goods, &ledger)?;
    let cuts = thread::scope(|scope| {
        let crew = work::Crew::start(scope, &daemon, goods, &ledger);
        let cut = || {
            *seed = step(*seed);
            thread::sleep(Duration::from_millis(30 + *seed % 600));
            let began = Instant::now();
            let clone = host.clone_of(&disk)?;
            Ok(Cut { disk: clone, promises: ledger.at(began, Instant::now()) })
        };
        let cuts: Outcome<Vec<Cut>> = std::iter::repeat_with(cut).take(count).collect();
        crew.stop()?;
        cuts
    })?;
    daemon.terminate()?;
    disk.unmount(&daemon.home().join("root"))?;
    Ok((daemon, cuts))
}
