// SPDX-License-Identifier: Apache-2.0
//! Why everything is there that is there.
//!
//! Records and backends are compared without stopping anybody. So whatever seems not to fit is
//! looked at once more, in the way the collector does it before it removes something: what is in the
//! making is held by its maker, and what is being removed is known to be.
//!
//! ```text
//! list backends --> read one state of the database --> match --> look again at what does not fit
//! ```
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use ::content::blob;
use ::records::{
    State,
    audit::{Look, Thing},
};
use ::snapshots::{Place, Usage};
use futures_util::TryStreamExt;
use rusqlite::Connection;
use types::{Digest, Filters, Result};

use super::{
    backends::{BLOB, INGEST, SNAPSHOT},
    inventory,
    node::{Kind, Node},
    plan,
};
use crate::{
    Db,
    db::{Backend, Outcome},
    holds,
};

/// Looks at everything that the database and its backends have.
pub(crate) async fn audit(db: &Db, look: Look) -> Result<Vec<Thing>> {
    let busy = Busy::now(db);
    let found = Found::list(db, look.sizes).await?;
    let known = db.read(Known::read).await?;
    let mut audit = Audit { db, busy, known, things: Vec::new() };
    audit.blobs(&found).await?;
    if look.digests {
        audit.digests().await;
    }
    audit.ingests(&found).await?;
    for (snapshotter, there) in &found.snapshots {
        audit.snapshots(snapshotter, there).await?;
        audit.places(snapshotter, there).await?;
    }
    Ok(audit.things)
}

/// The backends that wait for a sweep or are swept: what nobody knows there is on its way out.
///
/// It is asked before backends are listed, and again once a thing has no record. If the thing is
/// there after that, then nobody was about to remove it.
struct Busy(BTreeSet<Backend>);

impl Busy {
    fn now(db: &Db) -> Self {
        let mut busy = db.shared.signals.pressure().dirty.clone();
        busy.extend(db.shared.turns.removals.unfinished());
        // Between its first step and the sweeps, a collection alone knows what it leads to.
        if db.shared.turns.under_way.load(Ordering::SeqCst) > 0 {
            busy.extend(db.shared.backends.all());
        }
        Self(busy)
    }

    /// What a thing is that no record names.
    fn unknown(&self, db: &Db, backend: &Backend) -> State {
        let is_going = self.0.contains(backend) || Self::now(db).0.contains(backend);
        if is_going { State::Garbage } else { State::Orphan }
    }
}

/// What the backends have.
struct Found {
    blobs: HashMap<Digest, (u64, SystemTime)>,
    ingests: HashMap<String, (u64, SystemTime)>,
    snapshots: BTreeMap<String, There>,
}

/// What one snapshotter has.
#[derive(Default)]
struct There {
    keys: HashMap<String, (u64, SystemTime)>,
    places: Vec<Place>,
}

impl Found {
    async fn list(db: &Db, sizes: bool) -> Result<Self> {
        let store = &db.shared.backends.content;
        let blobs = store.walk(Filters::default());
        let blobs = blobs.map_ok(|info| (info.digest, (info.size, info.created_at)));
        let ingests = store.statuses(&Filters::default()).await?.into_iter();
        let mut snapshots = BTreeMap::new();
        for (name, snapshotter) in &db.shared.backends.snapshotters {
            // One that does not answer is no reason to say nothing of the others.
            match There::list(&**snapshotter, sizes).await {
                Ok(there) => drop(snapshots.insert(name.clone(), there)),
                Err(error) => tracing::warn!(%error, name, "snapshotter could not be looked at"),
            }
        }
        Ok(Self {
            blobs: blobs.try_collect().await?,
            ingests: ingests.map(|it| (it.reference, (it.offset, it.updated_at))).collect(),
            snapshots,
        })
    }
}

impl There {
    async fn list(snapshotter: &dyn ::snapshots::Snapshotter, sizes: bool) -> Result<Self> {
        let places = match snapshotter.places().await {
            Err(error) if error.kind() == types::Kind::Unimplemented => Vec::new(),
            places => places?,
        };
        let infos = snapshotter.walk(Filters::default());
        let infos: Vec<_> = infos.try_collect().await?;
        let mut keys = HashMap::new();
        for info in infos {
            let usage =
                if sizes { snapshotter.usage(&info.name).await } else { Ok(Usage::default()) };
            let size = usage.map_or(0, |usage| usage.size);
            keys.insert(info.name, (size, info.created_at));
        }
        Ok(Self { keys, places })
    }
}

/// What the database has: for each thing of a backend, the records of it.
struct Known {
    blobs: HashMap<String, Vec<Node>>,
    ingests: HashMap<String, Node>,
    /// By snapshotter and backend key.
    snapshots: HashMap<(String, String), Node>,
    garbage: HashSet<Node>,
    keepers: HashMap<Node, Node>,
}

impl Known {
    fn read(connection: &Connection) -> Outcome<Self> {
        let entries = inventory::all(connection)?;
        let (plan, keepers) = plan::keepers(&entries, SystemTime::now());
        let mut blobs = HashMap::<String, Vec<Node>>::new();
        for entry in entries.iter().filter(|entry| entry.node.kind == Kind::Content) {
            blobs.entry(entry.node.key.clone()).or_default().push(entry.node.clone());
        }
        Ok(Self {
            blobs,
            ingests: ingests(connection)?,
            snapshots: snapshots(connection)?,
            garbage: plan.garbage.into_iter().collect(),
            keepers,
        })
    }

    /// What keeps something, and what keeps that, and so on.
    fn owners(&self, node: &Node) -> Vec<String> {
        let mut seen = HashSet::from([node]);
        let mut owners = Vec::new();
        let mut at = node;
        while let Some(keeper) = self.keepers.get(at).filter(|keeper| seen.insert(keeper)) {
            owners.push(keeper.to_string());
            at = keeper;
        }
        owners
    }

    fn thing(&self, node: &Node, size: u64, since: Option<SystemTime>) -> Thing {
        let is_garbage = self.garbage.contains(node);
        Thing {
            kind: node.kind.word().to_owned(),
            namespace: node.namespace.to_string(),
            name: node.name(),
            path: None,
            size,
            state: if is_garbage { State::Garbage } else { State::Kept },
            owners: self.owners(node),
            since,
        }
    }
}

fn ingests(connection: &Connection) -> Outcome<HashMap<String, Node>> {
    let select = "SELECT namespace, ref, backend_ref FROM ingests";
    let mut select = connection.prepare_cached(select)?;
    let rows = select.query_map([], |row| {
        let namespace: Arc<str> = row.get::<_, String>(0)?.into();
        let node = Node::new(&namespace, Kind::Ingest, row.get::<_, String>(1)?);
        Ok((row.get(2)?, node))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Snapshots, and what commits that are under way are to make of them.
fn snapshots(connection: &Connection) -> Outcome<HashMap<(String, String), Node>> {
    let select = "SELECT namespace, snapshotter, key AS name, backend_key FROM commits
        UNION ALL SELECT namespace, snapshotter, name, backend_key FROM snapshots";
    let mut select = connection.prepare_cached(select)?;
    let rows = select.query_map([], |row| {
        let namespace: Arc<str> = row.get::<_, String>(0)?.into();
        let snapshotter: String = row.get(1)?;
        let node = Node::snapshot(&namespace, &snapshotter, row.get::<_, String>(2)?);
        Ok(((snapshotter, row.get(3)?), node))
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

struct Audit<'a> {
    db: &'a Db,
    busy: Busy,
    known: Known,
    things: Vec<Thing>,
}

impl Audit<'_> {
    async fn blobs(&mut self, found: &Found) -> Result<()> {
        for (digest, &(size, since)) in &found.blobs {
            let records = self.known.blobs.get(digest.as_str()).map_or(&[][..], Vec::as_slice);
            let things = records.iter().map(|node| self.known.thing(node, size, Some(since)));
            self.things.extend(things);
            if records.is_empty() && self.is_stray_blob(digest).await? {
                let state = self.busy.unknown(self.db, &Backend::Content);
                if self.db.shared.backends.content.info(digest).await.is_ok() {
                    self.unknown(state, "blob", digest.as_str(), size, Some(since));
                }
            }
        }
        let lacking = self.known.blobs.iter().filter_map(|(digest, records)| {
            let digest: Digest = digest.parse().ok()?;
            (!found.blobs.contains_key(&digest)).then(|| (digest, records.clone()))
        });
        for (digest, records) in lacking.collect::<Vec<_>>() {
            let info = self.db.shared.backends.content.info(&digest).await;
            let state = if info.is_ok() { State::Kept } else { State::Missing };
            for node in records {
                let node_is_there =
                    state == State::Kept || self.still(BLOB, [node.key.clone()]).await?;
                let thing = self.known.thing(&node, 0, None);
                self.things.extend(node_is_there.then_some(Thing { state, ..thing }));
            }
        }
        Ok(())
    }

    /// Reads the blobs that somebody knows. One that is gone meanwhile, or cannot be read, is not said
    /// to be broken: the disk may be in trouble, and the blob may not.
    async fn digests(&mut self) {
        let store = &self.db.shared.backends.content;
        let mut whole = HashMap::<String, bool>::new();
        let there = |it: &&mut Thing| it.kind == "blob" && it.state == State::Kept;
        for thing in self.things.iter_mut().filter(there) {
            let Ok(digest) = thing.name.parse::<Digest>() else { continue };
            let is_whole = match whole.get(&thing.name) {
                Some(known) => *known,
                None => match blob::digest_now(&**store, &digest).await {
                    Ok(now) => now == digest,
                    Err(error) => {
                        tracing::warn!(%error, %digest, "blob could not be read");
                        true
                    }
                },
            };
            whole.insert(thing.name.clone(), is_whole);
            if !is_whole {
                thing.state = State::Broken;
            }
        }
    }

    /// Whether nobody knows a blob, and nobody commits one that it could be.
    async fn is_stray_blob(&self, digest: &Digest) -> Result<bool> {
        if self.db.shared.holds.is_held(&holds::Thing::SomeBlob) {
            return Ok(false);
        }
        let params = [digest.as_str().to_owned()];
        self.is_stray(&holds::Thing::Blob(digest.clone()), BLOB, params).await
    }

    async fn ingests(&mut self, found: &Found) -> Result<()> {
        for (name, &(size, since)) in &found.ingests {
            if let Some(node) = self.known.ingests.get(name) {
                let thing = self.known.thing(node, size, Some(since));
                self.things.push(thing);
                continue;
            }
            let thing = holds::Thing::Ingest(name.clone());
            let is_stray = self.is_stray(&thing, INGEST, [name.clone()]).await?;
            let state = self.busy.unknown(self.db, &Backend::Content);
            if is_stray && self.db.shared.backends.content.status(name).await.is_ok() {
                self.unknown(state, "ingest", name, size, Some(since));
            }
        }
        Ok(())
    }

    async fn snapshots(&mut self, of: &str, there: &There) -> Result<()> {
        let backend = Arc::clone(&self.db.shared.backends.snapshotters[of]);
        for (key, &(size, since)) in &there.keys {
            let at = (of.to_owned(), key.clone());
            if let Some(node) = self.known.snapshots.get(&at) {
                let thing = self.known.thing(node, size, Some(since));
                self.things.push(thing);
                continue;
            }
            let thing = holds::Thing::Snapshot(at.0.clone(), at.1.clone());
            let is_stray = self.is_stray(&thing, SNAPSHOT, [at.0, at.1]).await?;
            let state = self.busy.unknown(self.db, &Backend::Snapshotter(of.to_owned()));
            if is_stray && backend.stat(key).await.is_ok() {
                let name = format!("{of}/{key}");
                self.unknown(state, "snapshot", &name, size, Some(since));
            }
        }
        let lacking = self.known.snapshots.iter();
        let lacking =
            lacking.filter(|((name, key), _)| name == of && !there.keys.contains_key(key));
        for ((_, key), node) in
            lacking.map(|(at, node)| (at.clone(), node.clone())).collect::<Vec<_>>()
        {
            // A commit that is under way has the name to itself. One that ended while the backend was
            // asked has brought what was not there, or taken the record along.
            let name = holds::Thing::Name(of.into(), node.namespace.to_string(), node.key.clone());
            let is_there = backend.stat(&key).await.is_ok()
                || self.db.shared.holds.is_held(&name)
                || backend.stat(&key).await.is_ok();
            let state = if is_there { State::Kept } else { State::Missing };
            let thing = self.known.thing(&node, 0, None);
            if is_there || self.still(SNAPSHOT, [of.to_owned(), key]).await? {
                self.things.push(Thing { state, ..thing });
            }
        }
        Ok(())
    }

    /// Where data lies: with a record of the snapshotter's, or without.
    async fn places(&mut self, of: &str, there: &There) -> Result<()> {
        let backend = Backend::Snapshotter(of.to_owned());
        for place in &there.places {
            let path = place.path.display().to_string();
            let Some(key) = &place.key else {
                let state = self.busy.unknown(self.db, &backend);
                if place.path.exists() {
                    self.unknown(state, "directory", &path, 0, place.changed_at);
                }
                continue;
            };
            let node = self.known.snapshots.get(&(of.to_owned(), key.clone()));
            let owners = node
                .into_iter()
                .flat_map(|node| std::iter::once(node.to_string()).chain(self.known.owners(node)));
            let mut thing = unknown("directory", &path, State::Kept, place.changed_at);
            thing.owners = owners.collect();
            thing.path = Some(place.path.clone());
            let is_lost = place.changed_at.is_none() && self.is_recorded(of, key).await;
            thing.state = if is_lost { State::Missing } else { State::Kept };
            self.things.push(thing);
        }
        Ok(())
    }

    async fn is_recorded(&self, of: &str, key: &str) -> bool {
        self.db.shared.backends.snapshotters[of].stat(key).await.is_ok()
    }

    /// Whether nobody uses something that a backend has, and no record names it.
    async fn is_stray<const N: usize>(
        &self,
        thing: &holds::Thing,
        select: &'static str,
        params: [String; N],
    ) -> Result<bool> {
        Ok(!self.db.shared.holds.is_held(thing) && !self.still(select, params).await?)
    }

    /// Whether a record is still there that was there before.
    async fn still<const N: usize>(
        &self,
        select: &'static str,
        params: [String; N],
    ) -> Result<bool> {
        let params = rusqlite::params_from_iter(params);
        self.db.read(move |connection| Ok(connection.prepare_cached(select)?.exists(params)?)).await
    }

    fn unknown(
        &mut self,
        state: State,
        kind: &str,
        name: &str,
        size: u64,
        since: Option<SystemTime>,
    ) {
        self.things.push(Thing { size, ..unknown(kind, name, state, since) });
    }
}

fn unknown(kind: &str, name: &str, state: State, since: Option<SystemTime>) -> Thing {
    Thing {
        kind: kind.to_owned(),
        namespace: String::new(),
        name: name.to_owned(),
        path: (kind == "directory").then(|| name.into()),
        size: 0,
        state,
        owners: Vec::new(),
        since,
    }
}
