// SPDX-License-Identifier: Apache-2.0
//! The snapshots of a namespace in one snapshotter.
//!
//! A backend is never called from a transaction, nor with anything locked but the names at hand: one
//! that hangs keeps nobody else from working.
mod commit;
mod create;
mod rows;

pub(crate) use commit::recover;

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
use types::{Error, FieldMask, Filters, Labels, Result, Scope};

use self::{
    create::New,
    rows::{Known, Place},
};
use super::{Scoped, leases};
use crate::{
    Db,
    db::{Backend, Tx},
    holds::{Hold, Thing},
    labels,
};

/// Up to how many snapshots a walk asks the backend for one by one. For more, it lets the backend
/// list all it has.
const ONE_BY_ONE: usize = 32;

/// The snapshots of one scope in one snapshotter.
#[derive(Clone)]
pub(super) struct Snapshots {
    db: Db,
    scope: Arc<Scope>,
    place: Place,
    backend: Arc<dyn Snapshotter>,
}

impl Snapshots {
    pub(super) fn new(scoped: &Scoped, name: &str, backend: Arc<dyn Snapshotter>) -> Self {
        let Scoped { db, scope } = scoped.clone();
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
impl Snapshotter for Snapshots {
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
        self.create(New::planned(Kind::Active, key, parent, labels)).await
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.create(New::planned(Kind::View, key, parent, labels)).await
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

/// Orders snapshots so that none comes before its parent, and otherwise by name.
fn parents_first(all: Vec<Known>) -> Vec<Known> {
    let mut left: BTreeMap<String, Known> =
        all.into_iter().map(|known| (known.name.clone(), known)).collect();
    let names: Vec<String> = left.keys().cloned().collect();
    let mut ordered = Vec::with_capacity(names.len());
    for name in names {
        let mut line = Vec::new();
        let mut next = Some(name);
        while let Some(known) = next.as_ref().and_then(|name| left.remove(name)) {
            next.clone_from(&known.parent);
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
