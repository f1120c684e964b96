// SPDX-License-Identifier: Apache-2.0
//! What there is and why, as far as the daemon knows.
mod host;

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use async_trait::async_trait;
use metadata::Db;
use records::{
    Auditor,
    audit::{Pruned, Thing},
};
use tokio::task::spawn_blocking;
use types::{Error, Filters, Kind, Result, Scope};

use self::host::{Host, Name, judge};

/// How long what seems not to belong to anybody is given to be gone.
const SETTLING: Duration = Duration::from_millis(500);

/// The daemon's knowledge of what there is.
pub(crate) struct Overview {
    db: Db,
    state: PathBuf,
    address: PathBuf,
}

impl Overview {
    /// Over the records in `db`, the bundles below `state` and the shims that speak to `address`.
    pub(crate) fn new(db: Db, state: PathBuf, address: PathBuf) -> Self {
        Self { db, state, address }
    }

    /// Bundles and shims. What seems wrong is looked at twice, since containers come and go.
    async fn host(&self) -> Result<Vec<Thing>> {
        let things = self.look().await?;
        if !things.iter().any(|thing| thing.state.is_wrong()) {
            return Ok(things);
        }
        tokio::time::sleep(SETTLING).await;
        let again = self.look().await?;
        let was_wrong = |thing: &Thing| {
            let mut same =
                things.iter().filter(|it| it.kind == thing.kind && it.name == thing.name);
            same.any(|it| it.namespace == thing.namespace && it.state.is_wrong())
        };
        Ok(again.into_iter().filter(|it| !it.state.is_wrong() || was_wrong(it)).collect())
    }

    async fn look(&self) -> Result<Vec<Thing>> {
        let (state, address) = (self.state.clone(), self.address.clone());
        let host = spawn_blocking(move || Host::look(&state, &address)).await;
        let host =
            host.map_err(|error| Error::caused(Kind::Internal, "look at the host", error))?;
        Ok(judge(&host, &self.recorded().await?))
    }

    /// All containers and sandboxes.
    async fn recorded(&self) -> Result<BTreeSet<Name>> {
        let mut all = BTreeSet::new();
        for namespace in self.db.namespaces().list(&Filters::default()).await? {
            let scoped = self.db.scope(Scope::new(&namespace.name)?);
            let containers = scoped.containers().list(&Filters::default()).await?;
            let sandboxes = scoped.sandboxes().list(&Filters::default()).await?;
            let ids = containers.into_iter().map(|it| it.id);
            let ids = ids.chain(sandboxes.into_iter().map(|it| it.id));
            all.extend(ids.map(|id| (namespace.name.clone(), id)));
        }
        Ok(all)
    }
}

#[async_trait]
impl Auditor for Overview {
    async fn check(&self, sizes: bool) -> Result<Vec<Thing>> {
        let mut things = self.db.audit(sizes).await?;
        things.extend(self.host().await?);
        Ok(things)
    }

    async fn prune(&self) -> Result<Pruned> {
        let stats = self.db.prune().await?;
        Ok(Pruned { records: stats.removed.total() as u64, failures: stats.failures })
    }

    async fn back_up(&self, path: PathBuf) -> Result<()> {
        self.db.back_up(path).await
    }
}
