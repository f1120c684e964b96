// SPDX-License-Identifier: Apache-2.0
//! Clients that get hold of garbage while it is being removed: what they find is whole and stays.
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use ::content::Memory;
use ::records::Delete;
use metadata::{Backends, Db, Options, Scoped};
use types::{Digest, Labels, Scope};

use super::world::image;

const BLOBS: usize = 2000;

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

type Graph = HashMap<Digest, Vec<Digest>>;

/// A tangle of blobs that refer to each other, some in circles, and that nothing refers to.
fn tangle(path: &std::path::Path, dice: &mut Dice) -> (Vec<Digest>, Graph) {
    let all: Vec<_> = (0..BLOBS).map(|number| Digest::of(number.to_string())).collect();
    let mut raw = rusqlite::Connection::open(path).unwrap();
    let tx = raw.transaction().unwrap();
    let mut graph = Graph::new();
    for (number, digest) in all.iter().enumerate() {
        let mut to = Vec::new();
        for _ in 0..dice.roll(4) {
            let ahead = (number + 1 + dice.roll(40)).min(BLOBS - 1);
            let back = if dice.roll(12) == 0 { number.saturating_sub(3) } else { ahead };
            to.push(all[back].clone());
        }
        let label =
            |(at, to): (usize, &Digest)| format!("\"containerd.io/gc.ref.content.{at}\":\"{to}\"");
        let labels: Vec<_> = to.iter().enumerate().map(label).collect();
        tx.execute(
            "INSERT INTO blobs VALUES ('n', ?, 1, ?, 0, 0)",
            (digest.as_str(), format!("{{{}}}", labels.join(","))),
        )
        .unwrap();
        graph.insert(digest.clone(), to);
    }
    tx.commit().unwrap();
    (all, graph)
}

fn closure(graph: &Graph, from: &Digest) -> BTreeSet<Digest> {
    let mut found = BTreeSet::new();
    let mut queue = vec![from.clone()];
    while let Some(digest) = queue.pop() {
        if found.insert(digest.clone()) {
            queue.extend(graph[&digest].iter().cloned());
        }
    }
    found
}

/// Names blobs, and returns those that were there once they had a name.
async fn rescue(scoped: Scoped, all: Arc<(Vec<Digest>, Graph)>, number: usize) -> Vec<Digest> {
    let mut dice = Dice(77 + number as u64);
    let (images, content) = (scoped.images(), scoped.content());
    let mut rescued = Vec::new();
    for round in 0..40 {
        let digest = &all.0[dice.roll(BLOBS)];
        let name = format!("i-{number}-{round}");
        images.create(image(&name, digest, Labels::new())).await.unwrap();
        if content.info(digest).await.is_err() {
            continue;
        }
        for below in closure(&all.1, digest) {
            let found = content.info(&below).await;
            assert!(found.is_ok(), "{name} has {digest}, and not all below: {below}");
        }
        if dice.roll(3) == 0 {
            images.delete(&name, Delete::default()).await.unwrap();
        } else {
            rescued.push(digest.clone());
        }
    }
    rescued
}

#[tokio::test(flavor = "multi_thread")]
async fn who_names_garbage_in_time_keeps_it_whole() {
    for seed in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("meta.sqlite");
        let backends = || Backends { content: Arc::<Memory>::default(), snapshotters: [].into() };
        drop(Db::open(&path, backends(), Options::default()).await.unwrap());
        let all = Arc::new(tangle(&path, &mut Dice(seed)));
        let db = Db::open(&path, backends(), Options::default()).await.unwrap();
        let scoped = db.scope(Scope::new("n").unwrap());
        let clients: Vec<_> = (0..3)
            .map(|number| tokio::spawn(rescue(scoped.clone(), Arc::clone(&all), number)))
            .collect();
        let removed = db.collect().await.unwrap().removed.content;
        let mut want = BTreeSet::new();
        let mut rescued = 0;
        for client in clients {
            for digest in client.await.unwrap() {
                rescued += 1;
                want.extend(closure(&all.1, &digest));
            }
        }
        db.collect().await.unwrap();
        let left: BTreeSet<_> = super::world::blobs(&*scoped.content()).await.into_iter().collect();
        println!("{removed} removed at first; {rescued} rescued, with {} below", want.len());
        assert!(left == want, "{} are left, {} should be", left.len(), want.len());
        assert!(rescued > 0 && removed > 0, "{rescued} rescued, {removed} removed");
    }
}
