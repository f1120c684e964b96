// SPDX-License-Identifier: Apache-2.0
//! A snapshotter in another process, which is told on whose behalf it is called.
use std::{
    collections::{BTreeSet, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use futures_util::{
    StreamExt as _, TryFutureExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
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
    /// Whose snapshots it was asked about: a proxy that keeps them apart lists each one's own.
    seen: Mutex<BTreeSet<String>>,
}

impl Namespaced {
    pub(super) fn new(channel: Channel, name: &str, capabilities: Vec<Capability>) -> Result<Self> {
        let of_nobody = connect(&channel, name, &capabilities, NOBODY)?;
        let name = name.to_owned();
        Ok(Self { channel, name, capabilities, of_nobody, seen: Mutex::default() })
    }

    fn of(&self, key: &str) -> Arc<dyn Snapshotter> {
        let whose = namespace(key);
        let Ok(found) = connect(&self.channel, &self.name, &self.capabilities, whose) else {
            return Arc::clone(&self.of_nobody);
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(whose) {
            seen.insert(whose.to_owned());
        }
        found
    }

    /// On behalf of each namespace that is known.
    fn of_all(&self) -> Vec<Arc<dyn Snapshotter>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found =
            seen.iter().map(|whose| connect(&self.channel, &self.name, &self.capabilities, whose));
        found.filter_map(Result::ok).collect()
    }

    /// Everything that there is. Most proxies know no namespaces, and list it all to anybody.
    async fn all(&self, filters: Filters) -> Result<Vec<Info>> {
        let mut all: Vec<Info> = self.of_nobody.walk(filters.clone()).try_collect().await?;
        if all.iter().any(|info| namespace(&info.name) != NOBODY) {
            return Ok(all);
        }
        let mut known: HashSet<String> = all.iter().map(|info| info.name.clone()).collect();
        for one in self.of_all() {
            let more: Vec<Info> = one.walk(filters.clone()).try_collect().await?;
            all.extend(more.into_iter().filter(|info| known.insert(info.name.clone())));
        }
        Ok(all)
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
        let all = self.all(filters).map_ok(|all| stream::iter(all.into_iter().map(Ok)));
        all.try_flatten_stream().boxed()
    }

    async fn cleanup(&self) -> Result<()> {
        for one in self.of_all() {
            one.cleanup().await?;
        }
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
