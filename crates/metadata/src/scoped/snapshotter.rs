// SPDX-License-Identifier: Apache-2.0
//! The snapshots of a namespace in one snapshotter.
//!
//! A backend is never called from a transaction, nor with anything locked but the names at hand: one
//! that hangs keeps nobody else from working.
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::SystemTime,
};

use ::events::Event;
use ::records::Resource;
use ::snapshots::{Capability, Commit, Info, Kind, Snapshotter, Usage};
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use mount::Mount;
use types::{Error, FieldMask, Filters, Labels, Result, Scope, labels::SNAPSHOT_REF};

use super::{
    Scoped as Owner, leases,
    snapshot_rows::{Known, Place, inherited},
};
use crate::{
    Db,
    db::{Backend, Outcome, Tx},
    holds::{Hold, Thing},
    labels,
};

/// Up to how many snapshots a walk asks the backend for one by one. For more, it lets the backend
/// list all it has.
const ONE_BY_ONE: usize = 32;

/// The snapshots of one scope in one snapshotter.
#[derive(Clone)]
pub(super) struct Scoped {
    pub(super) db: Db,
    pub(super) scope: Arc<Scope>,
    pub(super) place: Place,
    pub(super) backend: Arc<dyn Snapshotter>,
}

impl Scoped {
    pub(super) fn new(owner: &Owner, name: &str, backend: Arc<dyn Snapshotter>) -> Self {
        let Owner { db, scope } = owner.clone();
        let namespace = scope.namespace().to_owned();
        let place = Place { namespace, snapshotter: name.to_owned() };
        Self { db, scope, place, backend }
    }

    async fn known(&self, key: &str) -> Result<Known> {
        let (place, key) = (self.place.clone(), key.to_owned());
        self.db.read(move |connection| place.existing(connection, &key)).await
    }

    pub(super) fn resource(&self, key: &str) -> Resource {
        Resource::snapshot(&self.place.snapshotter, key)
    }

    async fn share(&self, backend_key: &str) -> Hold {
        let thing = Thing::Snapshot(self.place.snapshotter.clone(), backend_key.to_owned());
        self.db.shared.holds.share(thing).await
    }

    /// Holds the names alone, in one order for everybody.
    pub(super) async fn own(&self, mut names: Vec<&str>) -> Vec<Hold> {
        names.sort_unstable();
        names.dedup();
        let mut held = Vec::new();
        for name in names {
            held.push(self.db.shared.holds.own(self.place.name(name)).await);
        }
        held
    }

    fn tell(&self, tx: &Tx<'_>, event: Event) {
        tx.tell(self.scope.namespace(), event);
    }

    async fn create(&self, new: New) -> Result<Vec<Mount>> {
        check_key(&new.key)?;
        labels::check(&new.labels)?;
        let this = self.clone();
        Db::carry_out(async move { new.run(&this).await }).await
    }

    /// The snapshots that match, as the backend and the database know them together.
    async fn found(&self, filters: Filters) -> Result<Vec<Info>> {
        let place = self.place.clone();
        let all = self.db.read(move |connection| place.all(connection)).await?;
        let mut stats = self.stats(&all).await?;
        let infos = parents_first(all).into_iter().filter_map(|known| {
            let info = stats.remove(&known.backend_key)?;
            Some(known.over(info))
        });
        Ok(infos.filter(|info| filters.matches(info)).collect())
    }

    /// What the backend knows, by its keys. What it does not know is left out.
    async fn stats(&self, all: &[Known]) -> Result<HashMap<String, Info>> {
        if all.len() > ONE_BY_ONE {
            let infos = self.backend.walk(Filters::default());
            return infos.map_ok(|info| (info.name.clone(), info)).try_collect().await;
        }
        let mut stats = HashMap::new();
        for known in all {
            match self.backend.stat(&known.backend_key).await {
                Ok(info) => drop(stats.insert(known.backend_key.clone(), info)),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(stats)
    }
}

#[async_trait]
impl Snapshotter for Scoped {
    fn capabilities(&self) -> &[Capability] {
        self.backend.capabilities()
    }

    async fn stat(&self, key: &str) -> Result<Info> {
        let known = self.known(key).await?;
        let info = self.backend.stat(&known.backend_key).await?;
        Ok(known.over(info))
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        check_key(&info.name)?;
        let (place, change) = (self.place.clone(), mask.clone());
        let known = self
            .db
            .write(move |tx| {
                let mut known = place.existing(tx, &info.name)?;
                let what = || format!("snapshot {:?}", info.name);
                labels::change(&mut known.labels, &info.labels, &change, what)?;
                known.updated_at = SystemTime::now();
                place.put(tx, &known)?;
                Ok(known)
            })
            .await?;
        let info = self.backend.update(known.for_backend(), mask).await?;
        Ok(known.over(info))
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        self.backend.usage(&self.known(key).await?.backend_key).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.backend.mounts(&self.known(key).await?.backend_key).await
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(New::new(Kind::Active, key, parent, labels)).await
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(New::new(Kind::View, key, parent, labels)).await
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        check_key(name)?;
        check_key(key)?;
        labels::check(&options.labels)?;
        let (this, name, key) = (self.clone(), name.to_owned(), key.to_owned());
        Db::carry_out(async move { this.commit_owned(name, key, options).await }).await
    }

    /// The record goes now, the data with the next collection (containerd
    /// `core/metadata/snapshot.go`, `Remove`). The key can be used again at once.
    async fn remove(&self, key: &str) -> Result<()> {
        let _owned = self.own(vec![key]).await;
        let (this, key) = (self.clone(), key.to_owned());
        self.db
            .write(move |tx| {
                let place = &this.place;
                place.existing(tx, &key)?;
                if place.has_children(tx, &key)? {
                    let error = Error::failed_precondition("cannot remove snapshot with child");
                    return Err(error.into());
                }
                place.delete(tx, &key)?;
                place.forget_intent(tx, &key)?;
                leases::let_go(tx, &this.scope, &this.resource(&key))?;
                tx.deleted();
                tx.orphaned(Backend::Snapshotter(place.snapshotter.clone()));
                this.tell(tx, Event::snapshot_removed(&place.snapshotter, &key));
                Ok(())
            })
            .await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        let found = stream::once(self.found(filters));
        found.map_ok(|infos| stream::iter(infos.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn cleanup(&self) -> Result<()> {
        self.backend.cleanup().await
    }
}

impl Place {
    pub(super) fn name(&self, name: &str) -> Thing {
        Thing::Name(self.snapshotter.clone(), self.namespace.clone(), name.to_owned())
    }
}

fn check_key(key: &str) -> Result<()> {
    match key {
        "" => Err(Error::invalid("snapshot key must not be empty")),
        _ => Ok(()),
    }
}

/// A snapshot to be made.
#[derive(Clone)]
struct New {
    kind: Kind,
    key: String,
    parent: Option<String>,
    labels: Labels,
}

/// What a new snapshot and its parent are called in the backend.
struct Begun {
    backend_key: String,
    backend_parent: Option<String>,
}

impl New {
    fn new(kind: Kind, key: &str, parent: Option<&str>, mut labels: Labels) -> Self {
        labels::drop_empty(&mut labels);
        Self { kind, key: key.to_owned(), parent: parent.map(str::to_owned), labels }
    }

    /// The name under which the snapshot will be committed, if the client knows it by now.
    fn target(&self) -> Option<&str> {
        self.labels.get(SNAPSHOT_REF).map(String::as_str)
    }

    async fn run(self, at: &Scoped) -> Result<Vec<Mount>> {
        let (this, place) = (self.clone(), at.clone());
        let begun = at.db.write(move |tx| this.begin(tx, &place)).await??;
        let mut held = vec![at.share(&begun.backend_key).await];
        if let Some(parent) = &begun.backend_parent {
            held.push(at.share(parent).await);
        }
        match self.make(at, &begun).await {
            Ok(mounts) => {
                let recorded = self.clone().record(at, &begun).await;
                if recorded.is_err() {
                    undo(at, &begun.backend_key).await;
                }
                recorded.map(|()| mounts)
            }
            // The backend found what the client is after (containerd
            // `docs/snapshotters/remote-snapshotter.md`).
            Err(error) if error.is_already_exists() && self.target().is_some() => {
                Err(self.adopt(at, begun).await?)
            }
            // A key of ours is new: a client must not take this for its own key's existence.
            Err(error) if error.is_already_exists() => Err(Error::new(
                types::Kind::Unknown,
                format!("unexpected error from snapshotter: {error}"),
            )),
            Err(error) => Err(error),
        }
    }

    /// Chooses the backend's key. That the snapshot exists is an answer and no failure, since the
    /// lease has it now.
    fn begin(self, tx: &Tx<'_>, at: &Scoped) -> Outcome<Result<Begun>> {
        if let Some(target) = self.target()
            && at.place.find(tx, target)?.is_some()
        {
            leases::hold(tx, &at.scope, &at.resource(target))?;
            return Ok(Err(Error::already_exists(format!("target snapshot {target:?}"))));
        }
        if at.place.find(tx, &self.key)?.is_some() {
            leases::hold(tx, &at.scope, &at.resource(&self.key))?;
            return Ok(Err(exists(&self.key)));
        }
        let parent = match &self.parent {
            Some(parent) => Some(at.place.existing_parent(tx, parent)?.backend_key),
            None => None,
        };
        let backend_key = super::backend_key(tx, &at.scope, &self.key)?;
        Ok(Ok(Begun { backend_key, backend_parent: parent }))
    }

    async fn make(&self, at: &Scoped, begun: &Begun) -> Result<Vec<Mount>> {
        let (key, parent) = (&begun.backend_key, begun.backend_parent.as_deref());
        let labels = inherited(&self.labels);
        match self.kind {
            Kind::View => at.backend.view(key, parent, labels).await,
            Kind::Active | Kind::Committed => at.backend.prepare(key, parent, labels).await,
        }
    }

    async fn record(self, at: &Scoped, begun: &Begun) -> Result<()> {
        let now = SystemTime::now();
        let known = Known {
            name: self.key,
            backend_key: begun.backend_key.clone(),
            parent: self.parent,
            labels: self.labels,
            created_at: now,
            updated_at: now,
        };
        let is_told = self.kind == Kind::Active;
        let (at, backend_parent) = (at.clone(), begun.backend_parent.clone());
        let db = at.db.clone();
        db.write(move |tx| {
            if let Some(error) = at.insert(tx, &known, backend_parent.as_deref())? {
                return Ok(Err(error));
            }
            if is_told {
                let parent = known.parent.as_deref().unwrap_or_default();
                at.tell(tx, Event::snapshot_prepared(&at.place.snapshotter, &known.name, parent));
            }
            Ok(Ok(()))
        })
        .await?
    }

    /// Records the committed snapshot that the backend has already, and returns what the client is
    /// told: that it exists.
    async fn adopt(self, at: &Scoped, begun: Begun) -> Result<Error> {
        let target = self.target().unwrap_or_default().to_owned();
        let parent = begun.backend_parent;
        let missing = || Error::not_found(format!("target snapshot {target:?} in backend"));
        let found = find_target(&*at.backend, &target, parent.as_deref()).await?;
        let found = found.ok_or_else(missing)?;
        let _held = at.share(&found.name).await;
        // It could have been collected before it was held.
        at.backend.stat(&found.name).await?;
        let mut labels = found.labels;
        labels.extend(self.labels);
        let known = Known {
            name: target.clone(),
            backend_key: found.name,
            parent: self.parent,
            labels,
            created_at: found.created_at,
            updated_at: found.updated_at,
        };
        let this = at.clone();
        at.db.write(move |tx| this.insert(tx, &known, parent.as_deref()).map(drop)).await?;
        Ok(Error::already_exists(format!("target snapshot {target:?} from snapshotter")))
    }
}

impl Scoped {
    /// Writes the row of a snapshot that the backend has; or says that the name is taken.
    fn insert(
        &self,
        tx: &Tx<'_>,
        known: &Known,
        backend_parent: Option<&str>,
    ) -> Outcome<Option<Error>> {
        leases::hold(tx, &self.scope, &self.resource(&known.name))?;
        if self.place.find(tx, &known.name)?.is_some() {
            return Ok(Some(exists(&known.name)));
        }
        if let Some(parent) = &known.parent {
            let now = self.place.existing_parent(tx, parent)?.backend_key;
            if Some(now.as_str()) != backend_parent {
                return Err(Error::invalid(format!("mismatched parent {parent}")).into());
            }
        }
        super::enter(tx, &self.scope)?;
        self.place.put(tx, known)?;
        Ok(None)
    }
}

pub(super) fn exists(key: &str) -> Error {
    Error::already_exists(format!("snapshot {key:?}"))
}

/// Removes what could not be recorded. What stays is an orphan, and collected.
async fn undo(at: &Scoped, backend_key: &str) {
    if let Err(error) = at.backend.remove(backend_key).await {
        tracing::warn!(%error, backend_key, "snapshot that was not recorded stays for collection");
        let backend = Backend::Snapshotter(at.place.snapshotter.clone());
        at.db.shared.signals.pressure().dirty.insert(backend);
    }
}

/// The committed snapshot over `parent` that the backend has for `target`.
async fn find_target(
    backend: &dyn Snapshotter,
    target: &str,
    parent: Option<&str>,
) -> Result<Option<Info>> {
    let mut filter = format!("labels.{SNAPSHOT_REF:?}=={target:?}");
    if let Some(parent) = parent {
        filter += &format!(",parent=={parent:?}");
    }
    let mut found = backend.walk(Filters::parse([filter])?);
    while let Some(info) = found.try_next().await? {
        // A backend need not know filters.
        let is_meant = info.kind == Kind::Committed
            && info.labels.get(SNAPSHOT_REF).is_some_and(|label| label == target)
            && info.parent.as_deref() == parent;
        if is_meant {
            return Ok(Some(info));
        }
    }
    Ok(None)
}

/// Orders snapshots so that none comes before its parent, and otherwise by name.
fn parents_first(all: Vec<Known>) -> Vec<Known> {
    let mut left: BTreeMap<String, Known> =
        all.into_iter().map(|known| (known.name.clone(), known)).collect();
    let names: Vec<String> = left.keys().cloned().collect();
    let mut ordered = Vec::with_capacity(names.len());
    for name in names {
        let mut line = Vec::new();
        let mut next = Some(name);
        while let Some(known) = next.and_then(|name| left.remove(&name)) {
            next = known.parent.clone();
            line.push(known);
        }
        ordered.extend(line.into_iter().rev());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn parents_come_before_their_children() {
        let known = |name: &str, parent: Option<&str>| Known {
            name: name.into(),
            backend_key: name.into(),
            parent: parent.map(Into::into),
            labels: Labels::new(),
            created_at: UNIX_EPOCH,
            updated_at: UNIX_EPOCH,
        };
        let all =
            vec![known("a", Some("c")), known("b", None), known("c", Some("d")), known("d", None)];
        let names: Vec<_> = parents_first(all).into_iter().map(|known| known.name).collect();
        assert_eq!(names, ["d", "c", "a", "b"]);
    }
}
