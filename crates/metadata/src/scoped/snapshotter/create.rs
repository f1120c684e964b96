// SPDX-License-Identifier: Apache-2.0
//! Making a snapshot: a key is chosen, the backend makes it, and then it is recorded.
use std::time::SystemTime;

use ::events::Event;
use ::snapshots::{Info, Kind, Snapshotter};
use futures_util::TryStreamExt;
use mount::Mount;
use types::{Error, Filters, Labels, Result, labels::SNAPSHOT_REF};

use super::{
    Snapshots,
    rows::{Known, inherited},
};
use crate::{
    db::{Backend, Outcome, Tx},
    labels,
    scoped::{self, leases},
};

/// A snapshot to be made.
#[derive(Clone)]
pub(super) struct New {
    kind: Kind,
    pub(super) key: String,
    parent: Option<String>,
    pub(super) labels: Labels,
}

/// What a new snapshot and its parent are called in the backend.
struct Begun {
    backend_key: String,
    backend_parent: Option<String>,
}

impl New {
    pub(super) fn planned(kind: Kind, key: &str, parent: Option<&str>, mut labels: Labels) -> Self {
        labels::drop_empty(&mut labels);
        Self { kind, key: key.to_owned(), parent: parent.map(str::to_owned), labels }
    }

    /// The name under which the snapshot will be committed, if the client knows it by now.
    fn target(&self) -> Option<&str> {
        self.labels.get(SNAPSHOT_REF).map(String::as_str)
    }

    pub(super) async fn run(self, at: &Snapshots) -> Result<Vec<Mount>> {
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
    fn begin(self, tx: &Tx<'_>, at: &Snapshots) -> Outcome<Result<Begun>> {
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
        let backend_key = scoped::backend_key(tx, &at.scope, &self.key)?;
        Ok(Ok(Begun { backend_key, backend_parent: parent }))
    }

    async fn make(&self, at: &Snapshots, begun: &Begun) -> Result<Vec<Mount>> {
        let (key, parent) = (&begun.backend_key, begun.backend_parent.as_deref());
        let labels = inherited(&self.labels);
        match self.kind {
            Kind::View => at.backend.view(key, parent, labels).await,
            Kind::Active | Kind::Committed => at.backend.prepare(key, parent, labels).await,
        }
    }

    async fn record(self, at: &Snapshots, begun: &Begun) -> Result<()> {
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
    async fn adopt(self, at: &Snapshots, begun: Begun) -> Result<Error> {
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

impl Snapshots {
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
        scoped::enter(tx, &self.scope)?;
        self.place.put(tx, known)?;
        Ok(None)
    }
}

pub(super) fn exists(key: &str) -> Error {
    Error::already_exists(format!("snapshot {key:?}"))
}

/// Removes what could not be recorded. What stays is an orphan, and collected.
async fn undo(at: &Snapshots, backend_key: &str) {
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
    let over = parent.map(|parent| format!(",parent=={parent:?}")).unwrap_or_default();
    let filter = format!("labels.{SNAPSHOT_REF:?}=={target:?}{over}");
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
