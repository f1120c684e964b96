// SPDX-License-Identifier: Apache-2.0
//! Several clients at once, until they are told to stop.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use super::goods::{Good, Goods};
use super::ledger::{Ledger, Thing};
use crate::process::run;
use crate::wait::{PATIENCE, until};
use crate::{Context, Ctr, Daemon, Failure, Outcome};

/// How much is written into a snapshot before it is committed.
const WRITTEN: usize = 100_000;

/// Where it is written to.
pub(super) const WRITTEN_FILE: &str = "written";

/// What its containers show.
pub(super) const SEEN_FILE: &str = "/goods/layer2/file2";

/// Pulls the image that stays.
pub(super) fn lay_in(ctr: &Ctr, goods: &Goods, ledger: &Ledger) -> Outcome {
    ledger.make(&Thing::Image(0), || pull(ctr, goods.lasting()))
}

/// Pulls and unpacks an image.
pub(super) fn pull(ctr: &Ctr, good: &Good) -> Outcome {
    ctr.ok(["images", "pull", "--plain-http", &good.reference]).map(drop)
}

/// What is written into the snapshot of that name.
pub(super) fn written(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(WRITTEN).collect()
}

/// Those who are at work.
pub(super) struct Crew<'scope> {
    stop: Arc<AtomicBool>,
    workers: Vec<ScopedJoinHandle<'scope, Outcome>>,
}

impl<'scope> Crew<'scope> {
    /// Sets to work: one pulls and deletes images, one makes containers, one leases and snapshots.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        daemon: &Daemon,
        goods: &'env Goods,
        ledger: &'env Ledger,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (ctr, mark) = (daemon.ctr(), daemon.estate().mark().to_owned());
        let scratch = daemon.home().join("tmp");
        let rounds = |work: Box<dyn Fn(usize) -> Outcome + Send + 'scope>| {
            let stop = Arc::clone(&stop);
            scope.spawn(move || {
                let mut rounds = (0..).take_while(|_| !stop.load(Ordering::SeqCst));
                rounds.try_for_each(work)
            })
        };
        let (second, third) = (ctr.clone(), ctr.clone());
        let workers = vec![
            rounds(Box::new(move |round| images(&ctr, goods, ledger, round))),
            rounds(Box::new(move |round| containers(&second, goods, ledger, &mark, round))),
            rounds(Box::new(move |round| snapshots(&third, goods, ledger, &scratch, round))),
        ];
        Self { stop, workers }
    }

    /// Lets them finish what they are at.
    pub(super) fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        for worker in self.workers {
            let done = worker.join();
            done.map_err(|_panic| Failure::new("a worker panicked"))??;
        }
        Ok(())
    }
}

/// Pulls one image and deletes the one before the last, so that collections and pulls of the same
/// layers meet.
fn images(ctr: &Ctr, goods: &Goods, ledger: &Ledger, round: usize) -> Outcome {
    let passing = goods.all().len() - 1;
    let pulled = 1 + round % passing;
    ledger.make(&Thing::Image(pulled), || pull(ctr, &goods.all()[pulled]))?;
    let Some(before) = round.checked_sub(2) else { return Ok(()) };
    let old = 1 + before % passing;
    let reference = &goods.all()[old].reference;
    ledger.remove(&Thing::Image(old), || ctr.ok(["images", "rm", "--sync", reference])).map(drop)
}

/// Makes one container and removes the one before the last.
fn containers(ctr: &Ctr, goods: &Goods, ledger: &Ledger, mark: &str, round: usize) -> Outcome {
    let id = |round: usize| format!("c{round}-{mark}");
    let image = &goods.lasting().reference;
    let made = Thing::Container(id(round));
    ledger.make(&made, || ctr.ok(["containers", "create", image, &id(round), "cat", SEEN_FILE]))?;
    let Some(old) = round.checked_sub(2).map(id) else { return Ok(()) };
    let gone = Thing::Container(old.clone());
    ledger.remove(&gone, || ctr.ok(["containers", "rm", &old])).map(drop)
}

/// Makes a lease and a snapshot with a file of its own, and removes those before the last.
fn snapshots(ctr: &Ctr, goods: &Goods, ledger: &Ledger, scratch: &Path, round: usize) -> Outcome {
    let (lease, name) =
        (|round: usize| format!("lease{round}"), |round: usize| format!("kept{round}"));
    let made = Thing::Lease(lease(round));
    ledger.make(&made, || ctr.ok(["leases", "create", "--id", &lease(round)]))?;
    let made = Thing::Snapshot(name(round));
    ledger.make(&made, || commit(ctr, goods.lasting().top(), &name(round), scratch))?;
    let Some(before) = round.checked_sub(2) else { return Ok(()) };
    let (old_lease, old_name) = (lease(before), name(before));
    let gone = Thing::Lease(old_lease.clone());
    ledger.remove(&gone, || ctr.ok(["leases", "rm", &old_lease]))?;
    let gone = Thing::Snapshot(old_name.clone());
    ledger.remove(&gone, || ctr.ok(["snapshots", "rm", &old_name])).map(drop)
}

/// Prepares, mounts, writes, unmounts and commits.
fn commit(ctr: &Ctr, parent: &str, name: &str, scratch: &Path) -> Outcome {
    let key = format!("{name}-active");
    ctr.ok(["snapshots", "prepare", &key, parent])?;
    let at = scratch.join(&key);
    on_snapshot(ctr, &key, &at, |root| Ok(fs_err::write(root.join(WRITTEN_FILE), written(name))?))?;
    ctr.ok(["snapshots", "commit", name, &key]).map(drop)
}

/// Mounts a snapshot, as its client is told to, for as long as `work` takes.
pub(super) fn on_snapshot<T>(
    ctr: &Ctr,
    key: &str,
    at: &Path,
    work: impl FnOnce(&Path) -> Outcome<T>,
) -> Outcome<T> {
    fs_err::create_dir(at)?;
    let done = mounted(ctr, key, at, work);
    let removed = fs_err::remove_dir(at);
    // Why it is still mounted says more than that it cannot be removed.
    let done = done?;
    removed?;
    Ok(done)
}

fn mounted<T>(
    ctr: &Ctr,
    key: &str,
    at: &Path,
    work: impl FnOnce(&Path) -> Outcome<T>,
) -> Outcome<T> {
    let target = at.to_string_lossy();
    let words = ctr.ok(["snapshots", "mounts", &target, key])?;
    run(Command::new("sh").args(["-ec", &words]), PATIENCE)?.ok()?;
    let done = work(at);
    free(at)?;
    done
}

/// Unmounts, so that all is written before it returns, what is in nobody's way for long: a process
/// that another test starts has our open files for as long as it has not become its program.
fn free(at: &Path) -> Outcome {
    until("the unmounting of a snapshot", PATIENCE, || match unmount(at, UnmountFlags::empty()) {
        Err(Errno::BUSY) => Ok(None),
        told => told.context("unmount a snapshot").map(Some),
    })
}
