// SPDX-License-Identifier: Apache-2.0
//! A snapshotter in another process, which is told on whose behalf it is called.
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use mount::Mount;
use snapshots::{Capability, Commit, Info, Snapshotter, Usage};
use tonic::transport::Channel;
use types::{FieldMask, Filters, Labels, Result, Scope};

/// The namespace of what concerns all of them.
const NOBODY: &str = "default";

/// Names the namespace of each snapshot in the headers of calls about it, as Go's does: keys begin with
/// it (`<namespace>/<number>/<key>`, containerd `core/metadata/snapshot.go`, `createKey`).
pub(super) struct Namespaced {
    channel: Channel,
    name: String,
    capabilities: Vec<Capability>,
    of_nobody: Arc<dyn Snapshotter>,
}

impl Namespaced {
    pub(super) fn new(channel: Channel, name: &str, capabilities: Vec<Capability>) -> Result<Self> {
        let of_nobody = connect(&channel, name, &capabilities, NOBODY)?;
        Ok(Self { channel, name: name.to_owned(), capabilities, of_nobody })
    }

    fn of(&self, key: &str) -> Arc<dyn Snapshotter> {
        let found = connect(&self.channel, &self.name, &self.capabilities, namespace(key));
        found.unwrap_or_else(|_no_namespace| Arc::clone(&self.of_nobody))
    }
}

fn connect(
    channel: &Channel,
    name: &str,
    capabilities: &[Capability],
    namespace: &str,
) -> Result<Arc<dyn Snapshotter>> {
    let peer = services::peer(channel.clone(), &Scope::new(namespace)?)?;
    Ok(services::snapshots::connect(peer, name, capabilities.to_vec()))
}

fn namespace(key: &str) -> &str {
    let mut parts = key.split('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(namespace), Some(_), Some(_)) if !namespace.is_empty() => namespace,
        _ => NOBODY,
    }
}

#[async_trait]
impl Snapshotter for Namespaced {
    fn capabilities(&self) -> &[Capability] {
        &self.capabilities
    }

    async fn stat(&self, key: &str) -> Result<Info> {
        self.of(key).stat(key).await
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        self.of(&info.name).update(info, mask).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        self.of(key).usage(key).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        self.of(key).mounts(key).await
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.of(key).prepare(key, parent, labels).await
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        self.of(key).view(key, parent, labels).await
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        self.of(key).commit(name, key, options).await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        self.of(key).remove(key).await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        self.of_nobody.walk(filters)
    }

    async fn cleanup(&self) -> Result<()> {
        self.of_nobody.cleanup().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_begins_with_whose_it_is() {
        assert_eq!(namespace("k8s.io/12/sha256:abc"), "k8s.io");
        assert_eq!(namespace("moby/7/extract-1 sha256:a/b"), "moby");
        for other in ["plain", "a/b", "/1/x", ""] {
            assert_eq!(namespace(other), NOBODY, "{other}");
        }
    }
}
