// SPDX-License-Identifier: Apache-2.0
//! Committing a snapshot, so that a crash at any point loses nothing.
//!
//! ```text
//! write the intent --> ask the backend --> write the outcome, forget the intent
//!        |                   |
//!      crash               crash: at the next start the backend is asked whether it is done
//! ```
use std::{sync::Arc, time::SystemTime};

use ::events::Event;
use ::records::Resource;
use ::snapshots::{Commit, Snapshotter};
use types::{Error, Result, Scope};

use super::{
    Snapshots,
    create::exists,
    rows::{Intent, Known, Place, inherited, intents},
};
use crate::{
    Db,
    db::{Outcome, Tx},
    scoped::{self, leases},
};

/// What the backend is asked for.
struct Begun {
    intent: Intent,
    backend_key: String,
    backend_parent: Option<String>,
}

impl Snapshots {
    /// Commits with both names owned, so that whoever is after the same name waits and then finds
    /// the outcome.
    pub(super) async fn commit_owned(
        &self,
        name: String,
        key: String,
        options: Commit,
    ) -> Result<()> {
        let _owned = self.own(vec![&name, &key]).await;
        let this = self.clone();
        let begun = self.db.write(move |tx| this.begin_commit(tx, name, key, options)).await??;
        let Begun { intent, backend_key, backend_parent } = begun;
        let told = Commit { labels: inherited(&intent.labels), parent: backend_parent };
        let asked = self.backend.commit(&intent.backend_key, &backend_key, told).await;
        let is_done = match &asked {
            Ok(()) => Some(true),
            Err(_) => is_there(&*self.backend, &intent.backend_key).await,
        };
        let (place, scope) = (self.place.clone(), Arc::clone(&self.scope));
        match is_done {
            Some(true) => self.db.write(move |tx| finish(tx, &place, &scope, &intent)).await,
            Some(false) => {
                self.db.write(move |tx| give_up(tx, &place, &intent)).await?;
                asked
            }
            // The backend cannot be asked. The intent stays until it can.
            None => asked,
        }
    }

    /// Writes the intent. That the name is taken is an answer and no failure, since the lease has
    /// it now.
    fn begin_commit(
        &self,
        tx: &Tx<'_>,
        name: String,
        key: String,
        options: Commit,
    ) -> Outcome<Result<Begun>> {
        let place = &self.place;
        leases::hold(tx, &self.scope, &self.resource(&name))?;
        if place.find(tx, &name)?.is_some() {
            return Ok(Err(exists(&name)));
        }
        let known = place.existing(tx, &key)?;
        if place.intent(tx, &key)?.is_some() {
            return Err(Error::unavailable(format!("snapshot {key} is being committed")).into());
        }
        let rebased = known.parent.is_none() && options.parent.is_some();
        let parent = options.parent.as_ref().or(known.parent.as_ref());
        let backend_parent = match parent {
            Some(parent) => Some(place.existing_parent(tx, parent)?.backend_key),
            None => None,
        };
        // A parent that the snapshot has already needs not be said, and another one is for the
        // backend to refuse.
        let is_said = options.parent.is_some() && options.parent != known.parent;
        if rebased {
            place.put(tx, &Known { parent: options.parent, ..known.clone() })?;
        }
        let backend_name = scoped::backend_key(tx, &self.scope, &name)?;
        let mut labels = options.labels;
        crate::labels::drop_empty(&mut labels);
        let intent = Intent { key, name, backend_key: backend_name, labels, rebased };
        place.intend(tx, &intent)?;
        let backend_parent = backend_parent.filter(|_| is_said);
        Ok(Ok(Begun { intent, backend_key: known.backend_key, backend_parent }))
    }
}

/// Finishes or gives up the commits of a snapshotter that were begun and are nobody's any more.
///
/// A backend that does not answer keeps nothing from starting: its commits wait.
pub(crate) async fn recover(db: &Db, snapshotter: &str) -> Result<()> {
    let Some(backend) = db.shared.backends.snapshotters.get(snapshotter) else { return Ok(()) };
    let name = snapshotter.to_owned();
    for (place, intent) in db.read(move |connection| intents(connection, &name)).await? {
        let holds = &db.shared.holds;
        let Some(_key) = holds.try_own(place.name(&intent.key)) else { continue };
        let Some(_name) = holds.try_own(place.name(&intent.name)) else { continue };
        let Some(is_done) = is_there(&**backend, &intent.backend_key).await else { continue };
        let scope = Scope::new(&*place.namespace)?;
        tracing::info!(key = intent.key, name = intent.name, is_done, "recovered a commit");
        db.write(move |tx| match place.intent(tx, &intent.key)? {
            Some(still) if still == intent && is_done => finish(tx, &place, &scope, &intent),
            Some(still) if still == intent => give_up(tx, &place, &intent),
            _ => Ok(()),
        })
        .await?;
    }
    Ok(())
}

/// Whether the backend has the snapshot, if it can say.
async fn is_there(backend: &dyn Snapshotter, backend_key: &str) -> Option<bool> {
    match backend.stat(backend_key).await {
        Ok(_) => Some(true),
        Err(error) if error.is_not_found() => Some(false),
        Err(error) => {
            tracing::warn!(%error, backend_key, "whether a commit is done cannot be said yet");
            None
        }
    }
}

/// Puts the committed snapshot in place of the active one.
fn finish(tx: &Tx<'_>, place: &Place, scope: &Scope, intent: &Intent) -> Outcome<()> {
    let Intent { key, name, backend_key, labels, .. } = intent;
    let active = place.existing(tx, key)?;
    let now = SystemTime::now();
    place.delete(tx, key)?;
    place.forget_intent(tx, key)?;
    place.put(
        tx,
        &Known {
            name: name.clone(),
            backend_key: backend_key.clone(),
            parent: active.parent,
            labels: labels.clone(),
            created_at: now,
            updated_at: now,
        },
    )?;
    leases::let_go(tx, scope, &Resource::snapshot(&place.snapshotter, &**key))?;
    tx.tell(&place.namespace, Event::snapshot_committed(&place.snapshotter, key, name));
    Ok(())
}

/// Leaves the active snapshot as it was.
fn give_up(tx: &Tx<'_>, place: &Place, intent: &Intent) -> Outcome<()> {
    if intent.rebased {
        let active = place.existing(tx, &intent.key)?;
        place.put(tx, &Known { parent: None, ..active })?;
    }
    place.forget_intent(tx, &intent.key)
}
