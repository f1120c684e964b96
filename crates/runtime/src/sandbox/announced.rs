// SPDX-License-Identifier: Apache-2.0
//! A controller of whose sandboxes everybody is told.
use std::{sync::Arc, time::Duration, time::SystemTime};

use api::containerd::events::{SandboxCreate, SandboxExit, SandboxStart};
use async_trait::async_trait;
use events::{Event, Publisher, Typed};
use records::Sandbox;
use types::{FieldMask, Platform, Result};

use super::{Controller, Create, Instance, Status};
use crate::{Exit, Metric};

/// Publishes what becomes of a controller's sandboxes: `/sandboxes/create`, `start` and `exit`.
///
/// Compat: Go's tells of an end to whoever waits for it, and once for each of them (containerd
/// `plugins/services/sandbox/controller_service.go`). Here it is told once, whether anybody waits
/// or not.
#[derive(Clone)]
pub struct Announced {
    inner: Arc<dyn Controller>,
    publisher: Arc<dyn Publisher>,
    namespace: String,
}

impl Announced {
    /// Publishes in `namespace` what becomes of the sandboxes of `inner`.
    pub fn new(
        inner: Arc<dyn Controller>,
        publisher: Arc<dyn Publisher>,
        namespace: impl Into<String>,
    ) -> Self {
        Self { inner, publisher, namespace: namespace.into() }
    }

    /// Tells of the end of a sandbox that runs already, if it does.
    pub async fn follow(&self, sandbox_id: &str) {
        let exit = match self.inner.wait(sandbox_id).await {
            Ok(exit) => exit,
            Err(error) if error.is_not_found() => return,
            Err(error) => {
                tracing::warn!(sandbox_id, %error, "failed to wait for a sandbox");
                Exit { pid: 0, status: 255, at: SystemTime::now() }
            }
        };
        let ended = SandboxExit {
            sandbox_id: sandbox_id.to_owned(),
            exit_status: exit.status,
            exited_at: Some(exit.at.into()),
        };
        self.publish(&ended).await;
    }

    async fn publish(&self, event: &impl Typed) {
        let Event { topic, body } = Event::of(event);
        if let Err(error) = self.publisher.publish(&self.namespace, topic, body).await {
            tracing::warn!(topic, %error, "failed to publish");
        }
    }
}

#[async_trait]
impl Controller for Announced {
    async fn create(&self, create: Create) -> Result<()> {
        let sandbox_id = create.sandbox.id.clone();
        self.inner.create(create).await?;
        self.publish(&SandboxCreate { sandbox_id }).await;
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<Instance> {
        let instance = self.inner.start(id).await?;
        self.publish(&SandboxStart { sandbox_id: id.to_owned() }).await;
        let (follower, id) = (self.clone(), id.to_owned());
        // It ends with the sandbox, and what goes wrong on the way is logged.
        tokio::spawn(async move { follower.follow(&id).await });
        Ok(instance)
    }

    async fn platform(&self, id: &str) -> Result<Platform> {
        self.inner.platform(id).await
    }

    async fn stop(&self, id: &str, grace: Option<Duration>) -> Result<()> {
        self.inner.stop(id, grace).await
    }

    async fn wait(&self, id: &str) -> Result<Exit> {
        self.inner.wait(id).await
    }

    async fn status(&self, id: &str, verbose: bool) -> Result<Status> {
        self.inner.status(id, verbose).await
    }

    async fn shutdown(&self, id: &str) -> Result<()> {
        self.inner.shutdown(id).await
    }

    async fn metrics(&self, id: &str) -> Result<Option<Metric>> {
        self.inner.metrics(id).await
    }

    async fn update(&self, sandbox: Sandbox, mask: &FieldMask) -> Result<()> {
        self.inner.update(sandbox, mask).await
    }
}
