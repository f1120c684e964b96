// SPDX-License-Identifier: Apache-2.0
//! Who runs sandboxes: the daemon's own controllers, and those that the config names.
use std::{collections::BTreeMap, sync::Arc};

use events::Exchange;
use metadata::Db;
use runtime::{
    Shims,
    sandbox::{Announced, Controller, Pods, Sandboxes},
};
use serde::Deserialize;
use tokio::task::JoinSet;
use types::{Error, Filters, Kind, Result, Scope};

use crate::{Config, plugins::kinds};

/// A controller in another process, for a scope.
pub(crate) type Remote = Arc<dyn Fn(&Scope) -> Result<Arc<dyn Controller>> + Send + Sync>;

/// The sandbox controllers of a daemon, by name.
pub(crate) struct Sandboxers {
    db: Db,
    exchange: Arc<Exchange>,
    shims: Arc<Sandboxes>,
    pods: Arc<Pods>,
    remote: BTreeMap<String, Remote>,
    /// The controller of whoever names none.
    default: String,
}

#[derive(Deserialize)]
#[serde(default)]
struct Section {
    default_sandboxer: String,
}

impl Default for Section {
    fn default() -> Self {
        Self { default_sandboxer: "shim".into() }
    }
}

impl Sandboxers {
    /// Finds the sandboxes that were there before, and lets containers be made in them.
    pub(crate) fn open(
        config: &Config,
        db: &Db,
        exchange: &Arc<Exchange>,
        shims: &Arc<Shims>,
        remote: BTreeMap<String, Remote>,
    ) -> Result<Arc<Self>> {
        let directory = format!("{}.shim", kinds::SANDBOX);
        let (root, state) = (config.root.join(&directory), config.state.join(&directory));
        let pods = config.root.join(format!("{}.podsandbox", kinds::POD_SANDBOX));
        let section: Section = config.section(&format!("{}.sandbox-controllers", kinds::GRPC))?;
        let this = Arc::new(Self {
            db: db.clone(),
            exchange: exchange.clone(),
            shims: Sandboxes::open(shims.clone(), root, state)?,
            pods: Pods::open(shims.clone(), &pods, pause::PROGRAM)?,
            remote,
            default: section.default_sandboxer,
        });
        let weak = Arc::downgrade(&this);
        shims.find_sandboxes(Box::new(move |namespace, id| {
            let (weak, scope, id) = (weak.clone(), Scope::new(namespace), id.to_owned());
            Box::pin(async move {
                let ended = || Error::unavailable("the daemon is ending");
                let (this, scope) = (weak.upgrade().ok_or_else(ended)?, scope?);
                let sandbox = this.db.scope(scope.clone()).sandboxes().get(&id).await?;
                let controller = this.controller(&scope, &sandbox.sandboxer)?;
                let endpoint = controller.status(&id, false).await?.endpoint;
                let is_served = !endpoint.address.is_empty();
                is_served.then_some(endpoint).ok_or_else(|| {
                    Error::failed_precondition(format!("sandbox {id:?} is not running"))
                })
            })
        }));
        Ok(this)
    }

    /// The controller called `name`, or the default one (the text is that of containerd
    /// `plugins/services/sandbox/controller_service.go`).
    pub(crate) fn controller(&self, scope: &Scope, name: &str) -> Result<Arc<dyn Controller>> {
        Ok(Arc::new(self.announced(scope, name)?))
    }

    fn announced(&self, scope: &Scope, name: &str) -> Result<Announced> {
        let name = if name.is_empty() { self.default.as_str() } else { name };
        let inner = match (self.remote.get(name), name) {
            (Some(remote), _) => remote(scope)?,
            (None, "shim") => self.shims.controller(scope),
            (None, "podsandbox") => {
                self.pods.controller(scope, self.db.scope(scope.clone()).containers())
            }
            (None, _) => {
                let what = format!("not found: failed to get sandbox controller by {name}");
                return Err(Error::said(Kind::NotFound, what));
            }
        };
        Ok(Announced::new(inner, self.exchange.clone(), scope.namespace()))
    }

    /// Tells of the ends of the sandboxes that were started by an earlier daemon. It ends when the
    /// last of them has.
    pub(crate) async fn follow(self: Arc<Self>) -> Result<()> {
        let mut followers = JoinSet::new();
        for namespace in self.db.namespaces().list(&Filters::default()).await? {
            let scope = Scope::new(&namespace.name)?;
            for sandbox in
                self.db.scope(scope.clone()).sandboxes().list(&Filters::default()).await?
            {
                match self.announced(&scope, &sandbox.sandboxer) {
                    Ok(controller) => {
                        followers.spawn(async move { controller.follow(&sandbox.id).await });
                    }
                    Err(error) => {
                        tracing::warn!(id = sandbox.id, %error, "a sandbox without controller");
                    }
                }
            }
        }
        followers.join_all().await;
        Ok(())
    }
}
