// SPDX-License-Identifier: Apache-2.0
//! What a daemon makes of a disk whose power was cut.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::goods::{Good, Goods, differences, digest_of, tree};
use super::ledger::{Promise, Thing};
use super::work::{SEEN_FILE, WRITTEN_FILE, on_snapshot, pull, written};
use super::{Cut, Profile};
use crate::process::run;
use crate::wait::{PATIENCE, settled};
use crate::{Ctr, Daemon, Failure, Outcome, Parts, ensure};

/// What kind of failure it is, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The daemon does not start.
    Dead,
    /// Something that was acknowledged is not there.
    Lost,
    /// Something has other bytes than it should.
    Broken,
    /// Something whose removal was acknowledged is there.
    Revived,
    /// What was there or under way cannot be used or done again.
    Unhealed,
    /// A database is not whole.
    Database,
    /// Something stays on the disk that nothing refers to.
    Left,
}

impl Class {
    /// All of them, the worst first.
    pub const ALL: [Self; 7] = [
        Self::Dead,
        Self::Lost,
        Self::Broken,
        Self::Revived,
        Self::Unhealed,
        Self::Database,
        Self::Left,
    ];

    /// What it is, in a few words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dead => "does not start",
            Self::Lost => "acknowledged and lost",
            Self::Broken => "wrong or missing bytes",
            Self::Revived => "deleted and back",
            Self::Unhealed => "does not run or pull again",
            Self::Database => "damaged database",
            Self::Left => "left over after collection",
        }
    }
}

/// Something that is wrong after a cut.
#[derive(Debug, Clone)]
pub struct Finding {
    /// After which cut, from zero.
    pub cut: usize,
    /// What kind of failure it is.
    pub class: Class,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cut {}: {}: {}", self.cut, self.class.name(), self.what)
    }
}

/// What was found after one cut.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) promised: usize,
    pub(super) layers: usize,
    pub(super) findings: Vec<Finding>,
}

/// Starts a daemon on what a cut left, in the namespace that was worked in, and asks it everything.
pub(super) fn judge(
    parts: Parts,
    number: usize,
    namespace: &str,
    cut: &Cut,
    goods: &Goods,
) -> Outcome<Verdict> {
    let mut verdict = Verdict { promised: cut.promises.len(), ..Verdict::default() };
    let mut find = |class, what: String| {
        verdict.findings.push(Finding { cut: number, class, what });
    };
    let mut mounted = Err(Failure::new("it was not mounted"));
    let started = Daemon::start_on(parts, Profile::Dev, |root| {
        mounted = cut.disk.mount(root);
        for what in databases(root, &root.with_file_name("tmp")) {
            find(Class::Database, what);
        }
        Ok(())
    });
    mounted?;
    let mut daemon = match started {
        Ok(daemon) => daemon,
        Err(failure) => {
            find(Class::Dead, failure.to_string());
            return Ok(verdict);
        }
    };
    let judge = Judge { ctr: daemon.ctr().in_namespace_of(namespace), daemon: &daemon, goods };
    let layers = judge.hear(cut, &mut find).unwrap_or_else(|failure| {
        find(Class::Unhealed, failure.to_string());
        0
    });
    daemon.terminate()?;
    let root = daemon.home().join("root");
    for what in databases(&root, &daemon.home().join("tmp")) {
        find(Class::Database, what);
    }
    verdict.layers = layers;
    Ok(verdict)
}

/// What is wrong with the databases of a root, looked at in copies so that they stay as they are.
fn databases(root: &Path, scratch: &Path) -> Vec<String> {
    let script = "cd \"$1\" && find . -name '*.sqlite' | while read -r file; do
        rm -f \"$2\"/copy.db*
        for part in '' -wal; do
            if [ -e \"$file$part\" ]; then cp \"$file$part\" \"$2/copy.db$part\"; fi
        done
        said=$(sqlite3 \"$2/copy.db\" 'PRAGMA integrity_check' 2>&1)
        [ \"$said\" = ok ] || echo \"$file: $said\"
    done; rm -f \"$2\"/copy.db*";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "databases"]).arg(root).arg(scratch);
    match run(&mut shell, PATIENCE).and_then(crate::process::Output::ok) {
        Ok(said) => said.lines().map(str::to_owned).collect(),
        Err(failure) => vec![failure.to_string()],
    }
}

struct Judge<'a> {
    ctr: Ctr,
    daemon: &'a Daemon,
    goods: &'a Goods,
}

/// What there is, by the answers of the daemon.
struct Inventory {
    images: Vec<String>,
    containers: Vec<String>,
    leases: Vec<String>,
    /// By key, whether it is committed.
    snapshots: BTreeMap<String, bool>,
}

impl Judge<'_> {
    fn hear(&self, cut: &Cut, find: &mut impl FnMut(Class, String)) -> Outcome<usize> {
        let there = self.inventory()?;
        for promise in &cut.promises {
            if let Some((class, what)) = self.kept(promise, &there) {
                find(class, what);
            }
        }
        let mut layers = 0;
        for good in self.goods.all() {
            self.whole(good, &there, find);
            layers += self.unpacked(good, &there, find);
        }
        for key in there.snapshots.keys().filter(|key| key.starts_with("kept")) {
            self.written(key, &there, find);
        }
        self.runs(&cut.promises, &there, find)?;
        layers += self.heals(find)?;
        self.clears(find)?;
        Ok(layers)
    }

    fn inventory(&self) -> Outcome<Inventory> {
        let lines = self.ctr.lines(["snapshots", "ls"])?;
        let rows = lines.iter().skip(1).filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some(((*words.first()?).to_owned(), *words.last()? == "Committed"))
        });
        Ok(Inventory {
            images: self.ctr.lines(["images", "ls", "-q"])?,
            containers: self.ctr.lines(["containers", "ls", "-q"])?,
            leases: self.ctr.lines(["leases", "ls", "-q"])?,
            snapshots: rows.collect(),
        })
    }

    fn kept(&self, promise: &Promise, there: &Inventory) -> Option<(Class, String)> {
        match promise {
            Promise::Present(thing) => {
                let lacks = self.lacks(thing, there)?;
                Some((Class::Lost, format!("{thing:?}: {lacks}")))
            }
            Promise::Absent(thing) => {
                let is_back = self.is_listed(thing, there);
                is_back.then(|| (Class::Revived, format!("{thing:?}")))
            }
        }
    }

    /// What is missing of a thing that should be there.
    fn lacks(&self, thing: &Thing, there: &Inventory) -> Option<&'static str> {
        if !self.is_listed(thing, there) {
            return Some("it is not listed");
        }
        let snapshot = match thing {
            Thing::Image(number) => self.goods.all()[*number].top(),
            Thing::Container(id) => id,
            Thing::Lease(_) | Thing::Snapshot(_) => return None,
        };
        (!there.snapshots.contains_key(snapshot)).then_some("it has no snapshot")
    }

    fn is_listed(&self, thing: &Thing, there: &Inventory) -> bool {
        match thing {
            Thing::Image(number) => there.images.contains(&self.goods.all()[*number].reference),
            Thing::Container(id) => there.containers.contains(id),
            Thing::Lease(id) => there.leases.contains(id),
            Thing::Snapshot(name) => there.snapshots.contains_key(name),
        }
    }

    /// An image that is listed has all of its blobs.
    fn whole(&self, good: &Good, there: &Inventory, find: &mut impl FnMut(Class, String)) {
        if !there.images.contains(&good.reference) {
            return;
        }
        let blobs = self.daemon.content().join("blobs/sha256");
        for blob in good.packed.blobs().chain([&good.packed.root]) {
            let path = blobs.join(blob.digest.trim_start_matches("sha256:"));
            match digest_of(&path) {
                Ok(digest) if digest == blob.digest => {}
                Ok(_) => find(Class::Broken, format!("{}: {}", good.reference, blob.digest)),
                Err(error) => find(Class::Broken, format!("{}: {error}", good.reference)),
            }
        }
    }

    /// The highest layer of an image that is committed has all of its files, and so all below.
    fn unpacked(
        &self,
        good: &Good,
        there: &Inventory,
        find: &mut impl FnMut(Class, String),
    ) -> usize {
        let depth = good.chain.iter().rposition(|name| there.snapshots.get(name) == Some(&true));
        let Some(depth) = depth else { return 0 };
        let name = &good.chain[depth];
        match self.look(name, tree) {
            Ok(have) => {
                let wrong = differences(&good.trees[depth], &have);
                if let Some(first) = wrong.first() {
                    let count = wrong.len();
                    let what = format!("{} layer {depth}: {count} files: {first}", good.reference);
                    find(Class::Broken, what);
                }
            }
            // A layer that no image keeps may be collected between two questions.
            Err(_) if !there.images.contains(&good.reference) && self.is_gone(name) => return 0,
            Err(failure) => find(Class::Broken, format!("{name}: {failure}")),
        }
        1
    }

    fn is_gone(&self, snapshot: &str) -> bool {
        self.inventory().is_ok_and(|there| !there.snapshots.contains_key(snapshot))
    }

    /// A snapshot that was committed has what was written into it.
    fn written(&self, key: &str, there: &Inventory, find: &mut impl FnMut(Class, String)) {
        if there.snapshots.get(key) != Some(&true) {
            return;
        }
        let have = self.look(key, |root| Ok(fs_err::read(root.join(WRITTEN_FILE))?));
        match have {
            Ok(bytes) if bytes == written(key) => {}
            Ok(bytes) => {
                find(Class::Broken, format!("{key}: {} bytes are not its own", bytes.len()));
            }
            Err(failure) => find(Class::Broken, format!("{key}: {failure}")),
        }
    }

    fn look<T>(&self, name: &str, work: impl FnOnce(&Path) -> Outcome<T>) -> Outcome<T> {
        let at = self.daemon.home().join("tmp/view");
        // The client keeps what it prepares from being collected, which of views not every one does.
        self.ctr.ok(["snapshots", "prepare", "looked-at", name])?;
        let seen = on_snapshot(&self.ctr, "looked-at", &at, work);
        self.ctr.ok(["snapshots", "rm", "looked-at"])?;
        seen
    }

    /// The image that was there all the time runs, and so does a container that was there.
    fn runs(
        &self,
        promises: &[Promise],
        there: &Inventory,
        find: &mut impl FnMut(Class, String),
    ) -> Outcome {
        let id = self.daemon.estate().id("run");
        let image = &self.goods.lasting().reference;
        let told = self.ctr.run(["run", "--rm", image, &id, "cat", SEEN_FILE])?;
        if !told.status.success() {
            find(Class::Unhealed, told.told());
        }
        let made = promises.iter().find_map(|promise| match promise {
            Promise::Present(Thing::Container(id)) if there.containers.contains(id) => Some(id),
            _ => None,
        });
        let Some(id) = made else { return Ok(()) };
        let told = self.ctr.run(["tasks", "start", id])?;
        if !told.status.success() {
            find(Class::Unhealed, told.told());
        }
        self.ctr.run(["tasks", "rm", id])?;
        Ok(())
    }

    /// Every image can be pulled, and then is whole.
    fn heals(&self, find: &mut impl FnMut(Class, String)) -> Outcome<usize> {
        for good in self.goods.all() {
            if let Err(failure) = pull(&self.ctr, good) {
                find(Class::Unhealed, failure.to_string());
            }
        }
        let there = self.inventory()?;
        let mut layers = 0;
        for good in self.goods.all() {
            if !there.snapshots.contains_key(good.top()) {
                find(Class::Unhealed, format!("{} is pulled and not unpacked", good.reference));
            }
            self.whole(good, &there, &mut |_, what| find(Class::Unhealed, what));
            layers += self.unpacked(good, &there, &mut |_, what| find(Class::Unhealed, what));
        }
        Ok(layers)
    }

    /// Without records nothing stays.
    fn clears(&self, find: &mut impl FnMut(Class, String)) -> Outcome {
        let there = self.inventory()?;
        for id in &there.containers {
            self.ctr.ok(["containers", "rm", id])?;
        }
        // Their clients keep what they make by hand from being collected.
        for round in ["active", ""] {
            let own = there.snapshots.keys().filter(|key| key.starts_with("kept"));
            for key in own.filter(|key| key.ends_with("active") == (round == "active")) {
                self.ctr.ok(["snapshots", "rm", key])?;
            }
        }
        for image in &there.images {
            self.ctr.ok(["images", "rm", image])?;
        }
        for id in &there.leases {
            self.ctr.ok(["leases", "rm", id])?;
        }
        self.ctr.ok(["leases", "create", "--id", "last"])?;
        self.ctr.ok(["leases", "rm", "--sync", "last"])?;
        if !settled(Duration::from_secs(5), || self.left().is_ok_and(|left| left.is_empty())) {
            find(Class::Left, self.left()?.join(" "));
        }
        Ok(())
    }

    /// What the stores have on the disk.
    fn left(&self) -> Outcome<Vec<String>> {
        let content = self.daemon.content();
        let dirs = [content.join("blobs/sha256"), content.join("ingest")];
        let mut left = self.daemon.snapshots()?;
        for dir in dirs.iter().filter(|dir| dir.exists()) {
            for entry in fs_err::read_dir(dir)? {
                left.push(entry?.path());
            }
        }
        let home = self.daemon.home();
        let short = |path: &Path| path.strip_prefix(home).unwrap_or(path).display().to_string();
        Ok(left.iter().map(|path| short(path)).collect())
    }
}

/// Fails with all that was found.
pub fn ensure_clean(findings: &[Finding]) -> Outcome {
    let words: Vec<String> = findings.iter().map(Finding::to_string).collect();
    ensure!(words.is_empty(), "{}", words.join("\n"));
    Ok(())
}
