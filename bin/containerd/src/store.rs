// SPDX-License-Identifier: Apache-2.0
//! What there is and why, as far as the daemon knows; and what is done about what should not be.
mod host;
mod mend;
pub(crate) mod rebuild;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use metadata::{Db, Scoped};
use records::{
    Auditor, State,
    audit::{Look, Pruned, Repaired, Thing},
};
use tokio::task::spawn_blocking;
use types::{Any, Error, Filters, Kind, Result, Scope};

pub(crate) use self::host::Places;
use self::host::{Host, Name, Recorded, judge};

/// How long what seems not to belong to anybody is given to be gone.
const SETTLING: Duration = Duration::from_millis(500);

/// The daemon's knowledge of what there is.
pub(crate) struct Overview {
    db: Db,
    places: Places,
}

impl Overview {
    /// Over the records in `db`, and what the host has in `places`.
    pub(crate) fn new(db: Db, places: Places) -> Self {
        Self { db, places }
    }

    /// What is on the host. What seems wrong is looked at twice, since containers come and go.
    async fn host(&self) -> Result<(Host, Vec<Thing>)> {
        let (host, things) = self.look().await?;
        if !things.iter().any(|thing| thing.state.is_wrong()) {
            return Ok((host, things));
        }
        tokio::time::sleep(SETTLING).await;
        let (host, again) = self.look().await?;
        let was_wrong = |thing: &Thing| {
            let mut same =
                things.iter().filter(|it| it.kind == thing.kind && it.name == thing.name);
            same.any(|it| it.namespace == thing.namespace && it.state.is_wrong())
        };
        let sure = again.into_iter().filter(|it| !it.state.is_wrong() || was_wrong(it));
        Ok((host, sure.collect()))
    }

    async fn look(&self) -> Result<(Host, Vec<Thing>)> {
        let known = self.db.namespaces().list(&Filters::default()).await?;
        let known: BTreeSet<String> = known.into_iter().map(|it| it.name).collect();
        let places = self.places.clone();
        let host = spawn_blocking(move || Host::look(&places, &known)).await;
        let host =
            host.map_err(|error| Error::caused(Kind::Internal, "look at the host", error))?;
        let things = judge(&host, &self.places, &self.recorded().await?);
        Ok((host, things))
    }

    /// What the records say of the host.
    async fn recorded(&self) -> Result<Recorded> {
        let mut all = Recorded::default();
        for namespace in self.db.namespaces().list(&Filters::default()).await? {
            let scoped = self.db.scope(Scope::new(&namespace.name)?);
            add(&mut all, &namespace.name, &scoped).await?;
        }
        Ok(all)
    }
}

async fn add(all: &mut Recorded, namespace: &str, scoped: &Scoped) -> Result<()> {
    let containers = scoped.containers().list(&Filters::default()).await?;
    let sandboxes = scoped.sandboxes().list(&Filters::default()).await?;
    let containers = containers.into_iter().map(|it| (it.id, it.spec));
    for (id, spec) in containers.chain(sandboxes.into_iter().map(|it| (it.id, it.spec))) {
        let name: Name = (namespace.to_owned(), id);
        if let Some(path) = spec.as_ref().and_then(network) {
            all.networks.entry(path).or_default().push(name.clone());
        }
        all.names.insert(name);
    }
    let Some(mounts) = scoped.mounts() else { return Ok(()) };
    for activation in mounts.list(&Filters::default()).await? {
        for active in activation.active {
            let name = (namespace.to_owned(), activation.name.clone());
            all.activations.insert(PathBuf::from(active.mount_point), name);
        }
    }
    Ok(())
}

/// The network namespace that an OCI runtime spec names.
fn network(spec: &Any) -> Option<PathBuf> {
    let spec: serde_json::Value = serde_json::from_slice(&spec.value).ok()?;
    let all = spec.pointer("/linux/namespaces")?.as_array()?;
    let network = all.iter().find(|it| it["type"] == "network")?;
    network["path"].as_str().filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The file of the metadata in a daemon's root.
pub(crate) fn database(root: &Path) -> PathBuf {
    root.join("io.containerd.metadata.v1.sqlite").join("meta.sqlite")
}

#[async_trait]
impl Auditor for Overview {
    async fn check(&self, look: Look) -> Result<Vec<Thing>> {
        let mut things = self.db.audit(look).await?;
        things.extend(self.host().await?.1);
        Ok(things)
    }

    /// What is on the host goes first: it may use what is in the stores.
    async fn repair(&self) -> Result<Repaired> {
        let (host, things) = self.host().await?;
        let orphans: Vec<_> = things.into_iter().filter(|it| it.state == State::Orphan).collect();
        let places = self.places.clone();
        let mended = spawn_blocking(move || mend::all(&places, &host, &orphans)).await;
        let mut done =
            mended.map_err(|error| Error::caused(Kind::Internal, "mend the host", error))?;
        let stores = self.db.repair().await?;
        done.deeds.extend(stores.deeds);
        done.failures.extend(stores.failures);
        Ok(done)
    }

    async fn rebuild(&self) -> Result<()> {
        rebuild::ask(&database(&self.places.root))
    }

    async fn prune(&self) -> Result<Pruned> {
        let stats = self.db.prune().await?;
        Ok(Pruned { records: stats.removed.total() as u64, failures: stats.failures })
    }

    async fn back_up(&self, path: PathBuf) -> Result<()> {
        self.db.back_up(path).await
    }
}
