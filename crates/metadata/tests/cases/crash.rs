// SPDX-License-Identifier: Apache-2.0
//! What was answered survives a kill at any time, and what was not leaves nothing behind.
use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use ::content::{Expected, blob};
use ::records::Delete;
use metadata::{Backends, Db, Options, Scoped};
use types::{Digest, Labels, Scope, labels::GC_ROOT};

use super::world::{backends, blobs, image, labels, names};

const FOLDER: &str = "METADATA_CRASH_FOLDER";
const ROUND: &str = "METADATA_CRASH_ROUND";

async fn open(folder: &Path) -> (Db, Backends) {
    let backends = backends(folder);
    let path = folder.join("meta.sqlite");
    (Db::open(path, backends.clone(), Options::default()).await.unwrap(), backends)
}

/// What the child says once it was answered: lines of `+ kind name`, and `- kind name`.
fn say(sign: char, kind: &str, name: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{sign} {kind} {name}").unwrap();
    out.flush().unwrap();
}

async fn work(scoped: &Scoped, round: &str, worker: usize, number: usize) {
    let name = format!("{round}-{worker}-{number}");
    let root = || labels([(GC_ROOT, "1")]);
    let digest =
        blob::write(&*scoped.content(), &name, Expected::default(), format!("blob {name}"), root())
            .await
            .unwrap();
    say('+', "blob", digest.as_str());
    scoped.images().create(image(&name, &digest, Labels::new())).await.unwrap();
    say('+', "image", &name);
    let snapshots = scoped.snapshotter("native").unwrap();
    let key = format!("{name} key");
    snapshots.prepare(&key, None, root()).await.unwrap();
    let commit = ::snapshots::Commit { labels: root(), parent: None };
    snapshots.commit(&name, &key, commit).await.unwrap();
    say('+', "snapshot", &name);
    if number.is_multiple_of(3) {
        scoped.images().delete(&name, Delete::default()).await.unwrap();
        say('-', "image", &name);
        snapshots.remove(&name).await.unwrap();
        say('-', "snapshot", &name);
    }
}

/// Not a test: what the test below runs and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child process of another test"]
async fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let round = std::env::var(ROUND).unwrap();
    let (db, _) = open(Path::new(&folder)).await;
    let collecting = db.clone();
    tokio::spawn(async move {
        loop {
            collecting.collect().await.unwrap();
        }
    });
    let workers = (0..4).map(|worker| {
        let (scoped, round) = (db.scope(Scope::new("n").unwrap()), round.clone());
        tokio::spawn(async move {
            for number in 0.. {
                work(&scoped, &round, worker, number).await;
            }
        })
    });
    futures_util::future::join_all(workers.collect::<Vec<_>>()).await;
}

fn start(folder: &Path, round: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["cases::crash::child", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets a child work for a while, kills it, and returns what it was answered.
fn interrupt(folder: &Path, round: usize) -> Vec<String> {
    let mut child = start(folder, round);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut said: Vec<String> = Vec::new();
    while said.len() < 6 {
        said.extend(lines.next().filter(|line| line.starts_with(['+', '-'])));
    }
    // Rounds end at different points of the work.
    std::thread::sleep(Duration::from_millis(100 + 37 * round as u64));
    child.kill().unwrap();
    child.wait().unwrap();
    said.extend(lines.filter(|line| line.starts_with(['+', '-'])));
    said
}

/// What has to be there, and what may not be. A line cut short says nothing.
#[derive(Default)]
struct Ledger {
    there: BTreeSet<(String, String)>,
    gone: BTreeSet<(String, String)>,
}

impl Ledger {
    fn enter(&mut self, said: &[String]) {
        for line in said {
            let mut words = line.splitn(3, ' ');
            let (sign, kind, name) = (words.next(), words.next(), words.next());
            let (Some(kind), Some(name)) = (kind, name) else { continue };
            let entry = (kind.to_owned(), name.to_owned());
            if sign == Some("+") {
                self.there.insert(entry);
            } else {
                self.there.remove(&entry);
                self.gone.insert(entry);
            }
        }
    }

    async fn check(&self, scoped: &Scoped) {
        let images = scoped.images();
        let snapshots = scoped.snapshotter("native").unwrap();
        for (kind, name) in &self.there {
            match kind.as_str() {
                "blob" => {
                    let digest: Digest = name.parse().unwrap();
                    let data = blob::read(&*scoped.content(), &digest, 1000).await.unwrap();
                    assert_eq!(Digest::of(&data), digest);
                }
                "image" => drop(images.get(name).await.unwrap_or_else(|e| panic!("{e}"))),
                _ => drop(snapshots.stat(name).await.unwrap_or_else(|e| panic!("{e}"))),
            }
        }
        for (kind, name) in &self.gone {
            match kind.as_str() {
                "image" => assert!(images.get(name).await.is_err(), "{name}"),
                _ => assert!(snapshots.stat(name).await.is_err(), "{name}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::default();
    for round in 0..6 {
        let said = interrupt(folder.path(), round);
        ledger.enter(&said);
        let (db, backends) = open(folder.path()).await;
        let scoped = db.scope(Scope::new("n").unwrap());
        forgive(&mut ledger, &scoped, &said).await;
        ledger.check(&scoped).await;
        db.collect().await.unwrap();
        ledger.check(&scoped).await;
        no_orphans(&scoped, &backends).await;
    }
    println!("{} things survived, {} stayed gone", ledger.there.len(), ledger.gone.len());
}

/// A deletion that was done but not answered is as good as one that was: the child deletes an image
/// after its snapshot is there, and a snapshot after its image is gone.
async fn forgive(ledger: &mut Ledger, scoped: &Scoped, said: &[String]) {
    let is_unsaid = |kind: &str, name: &str| !said.contains(&format!("- {kind} {name}"));
    let snapshots = scoped.snapshotter("native").unwrap();
    let mut undecided = Vec::new();
    for (kind, name) in &ledger.there {
        let number = name.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
        let may_be_gone = number.is_some_and(|number| number.is_multiple_of(3));
        if kind != "blob" && may_be_gone && is_unsaid(kind, name) {
            let is_gone = match kind.as_str() {
                "image" => scoped.images().get(name).await.is_err(),
                _ => snapshots.stat(name).await.is_err(),
            };
            undecided.extend(is_gone.then(|| (kind.clone(), name.clone())));
        }
    }
    assert!(undecided.len() <= 4, "one for each worker: {undecided:?}");
    for entry in undecided {
        ledger.there.remove(&entry);
        ledger.gone.insert(entry);
    }
}

/// After a collection the backends have what the database knows, and nothing else.
async fn no_orphans(scoped: &Scoped, backends: &Backends) {
    assert_eq!(blobs(&*backends.content).await, blobs(&*scoped.content()).await);
    let known = names(&*scoped.snapshotter("native").unwrap()).await;
    let stored = names(&*backends.snapshotters["native"]).await;
    assert_eq!(stored.len(), known.len());
    let bare: BTreeSet<_> = stored.iter().map(|key| key.splitn(3, '/').nth(2).unwrap()).collect();
    assert_eq!(bare, known.iter().map(String::as_str).collect());
}
