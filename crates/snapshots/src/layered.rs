// SPDX-License-Identifier: Apache-2.0
//! Snapshots as directories, one each, and a database that knows how they belong together.
//!
//! ```text
//! <root>/metadata.sqlite      keys, kinds, parents, labels, usage
//! <root>/snapshots/<id>/      the data; what is in it is the driver's business
//! ```
//!
//! A record never stands without its data for long: data is made before the record and removed after
//! it. So a crash leaves directories that nobody knows, which [`Snapshotter::cleanup`] removes. Only
//! a power cut can take the directory of an active snapshot, which is not synced; then nothing in it
//! was synced either, and opening makes it anew.
mod ids;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use fs_err as fs;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use mount::{Mount, UnmountFlags};
use types::{Context, Error, FieldMask, Filters, Labels, Result};

use self::ids::Ids;
use crate::{
    Capability, Commit, Info, Kind, Snapshotter, Usage,
    meta::{Meta, Record},
    tree,
};

/// What a snapshot consists of, as directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// What it is.
    pub kind: Kind,
    /// Its own directory.
    pub directory: PathBuf,
    /// Those of its ancestors, its parent first.
    pub parents: Vec<PathBuf>,
}

/// How layers lie on disk and are mounted: what one [`Layered`] snapshotter has that another has not.
///
/// Its methods block. They are called for one snapshot at a time, and not before its ancestors are
/// committed.
pub trait Driver: Send + Sync + 'static {
    /// What it can do beyond the contract.
    fn capabilities(&self) -> &[Capability] {
        &[]
    }

    /// Makes what is missing of a snapshot's data. After an error the directory is removed.
    fn create(&self, layers: &Layers) -> Result<()>;

    /// Plans the mounts of a snapshot. It touches nothing: whoever asked mounts them.
    fn plan(&self, layers: &Layers) -> Vec<Mount>;

    /// The part of a snapshot's directory that is its content, and counts as its usage.
    fn content(&self, directory: &Path) -> PathBuf;

    /// Adds labels that are not kept but computed.
    fn label(&self, _directory: &Path, _labels: &mut Labels) {}
}

/// A snapshotter that keeps each snapshot in a directory.
pub struct Layered<D> {
    shared: Arc<Shared<D>>,
}

struct Shared<D> {
    directory: PathBuf,
    driver: D,
    meta: Meta,
    ids: Ids,
    remove_later: bool,
}

impl<D: Driver> Layered<D> {
    /// Opens the snapshots in `root`, which is made if it does not exist.
    ///
    /// With `remove_later`, the data of removed snapshots stays until the next
    /// [`Snapshotter::cleanup`], and a removal does not wait for it.
    pub fn with_driver(root: &Path, driver: D, remove_later: bool) -> Result<Self> {
        let directory = root.join("snapshots");
        make_private(root)?;
        let meta = Meta::open(root)?;
        make_private(&directory)?;
        tree::sync_directory(root)?;
        let last = meta.last_id()?.max(last_directory(&directory)?);
        let shared = Shared { directory, driver, meta, ids: Ids::after(last), remove_later };
        shared.heal()?;
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Does the synchronous `work` of a method on a blocking thread.
    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared<D>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || work(&shared)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::caused(types::Kind::Internal, "snapshotter", error)),
        }
    }
}

#[async_trait]
impl<D: Driver> Snapshotter for Layered<D> {
    fn capabilities(&self) -> &[Capability] {
        self.shared.driver.capabilities()
    }

    async fn stat(&self, key: &str) -> Result<Info> {
        let key = key.to_owned();
        self.on_disk(move |shared| Ok(shared.labelled(shared.meta.get(&key)?))).await
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        let mask = mask.clone();
        self.on_disk(move |shared| Ok(shared.labelled(shared.meta.update(&info, &mask)?))).await
    }

    async fn usage(&self, key: &str) -> Result<Usage> {
        let key = key.to_owned();
        self.on_disk(move |shared| shared.usage(&key)).await
    }

    async fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let key = key.to_owned();
        self.on_disk(move |shared| shared.mounts(&key)).await
    }

    async fn prepare(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.map(str::to_owned));
        self.on_disk(move |shared| shared.create(Kind::Active, &key, parent.as_deref(), &labels))
            .await
    }

    async fn view(&self, key: &str, parent: Option<&str>, labels: Labels) -> Result<Vec<Mount>> {
        let (key, parent) = (key.to_owned(), parent.map(str::to_owned));
        self.on_disk(move |shared| shared.create(Kind::View, &key, parent.as_deref(), &labels))
            .await
    }

    async fn commit(&self, name: &str, key: &str, options: Commit) -> Result<()> {
        let (name, key) = (name.to_owned(), key.to_owned());
        self.on_disk(move |shared| {
            shared
                .commit(&name, &key, &options)
                .context(|| format!("failed to commit snapshot {key}"))
        })
        .await
    }

    async fn remove(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.on_disk(move |shared| shared.remove(&key)).await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        stream::once(self.on_disk(move |shared| shared.list(&filters)))
            .map_ok(|infos| stream::iter(infos.into_iter().map(Ok)))
            .try_flatten()
            .boxed()
    }

    async fn cleanup(&self) -> Result<()> {
        self.on_disk(Shared::cleanup).await
    }
}

impl<D: Driver> Shared<D> {
    fn path(&self, id: u64) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn layers(&self, kind: Kind, id: u64, parents: &[u64]) -> Layers {
        let parents = parents.iter().map(|&id| self.path(id)).collect();
        Layers { kind, directory: self.path(id), parents }
    }

    fn labelled(&self, record: Record) -> Info {
        let mut info = record.info;
        self.driver.label(&self.path(record.id), &mut info.labels);
        info
    }

    fn measure(&self, id: u64) -> Result<Usage> {
        Ok(tree::usage(&self.driver.content(&self.path(id)))?)
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let record = self.meta.get(key)?;
        match record.info.kind {
            Kind::Active => self.measure(record.id),
            Kind::View | Kind::Committed => Ok(record.usage),
        }
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (record, parents) = self.meta.chain(key).context(|| "failed to get active mount")?;
        if record.info.kind == Kind::Committed {
            let text = format!("requested snapshot {key} not active nor view");
            return Err(Error::failed_precondition(text));
        }
        Ok(self.driver.plan(&self.layers(record.info.kind, record.id, &parents)))
    }

    /// Makes the data, then the record. Data without a record is removed here, or by a cleanup.
    fn create(
        &self,
        kind: Kind,
        key: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Vec<Mount>> {
        let context = || "failed to create snapshot";
        let parents = self.meta.admit(key, parent).context(context)?;
        let id = self.ids.next();
        let layers = self.layers(kind, id.get(), &parents);
        let created = self
            .driver
            .create(&layers)
            .and_then(|()| self.meta.create(id.get(), kind, key, parent, labels));
        if let Err(error) = created {
            discard(&layers.directory);
            return Err(error.context(context()));
        }
        Ok(self.driver.plan(&layers))
    }

    /// The data is measured and made durable while others may use the database.
    fn commit(&self, name: &str, key: &str, options: &Commit) -> Result<()> {
        let record = self.meta.get(key)?;
        self.refuse_rebase(&record, options)?;
        let usage = match record.info.kind {
            Kind::Active => {
                self.seal(record.id)?;
                self.measure(record.id)?
            }
            // Not to be committed: the database says so, and in which words.
            Kind::View | Kind::Committed => Usage::default(),
        };
        self.meta.commit(name, key, usage, options)
    }

    fn refuse_rebase(&self, record: &Record, options: &Commit) -> Result<()> {
        let able = self.driver.capabilities().contains(&Capability::Rebase);
        match &options.parent {
            Some(parent) if !able && record.info.parent.as_ref() != Some(parent) => {
                let key = &record.info.name;
                Err(Error::unimplemented(format!("rebase of snapshot {key:?} onto {parent:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Makes the names that lead to the content durable; the content itself is by now.
    fn seal(&self, id: u64) -> Result<()> {
        let path = self.path(id);
        tree::sync_directory(&self.driver.content(&path))?;
        tree::sync_directory(&path)?;
        Ok(tree::sync_directory(&self.directory)?)
    }

    fn remove(&self, key: &str) -> Result<()> {
        let id = self.meta.remove(key).context(|| format!("failed to remove snapshot {key}"))?;
        if !self.remove_later {
            discard(&self.path(id));
        }
        Ok(())
    }

    fn list(&self, filters: &Filters) -> Result<Vec<Info>> {
        let records = self.meta.list()?;
        let infos = records.into_iter().map(|record| self.labelled(record));
        Ok(infos.filter(|info| filters.matches(info)).collect())
    }

    /// Removes the directories that no record has.
    ///
    /// The order matters: what was in the making when the directories were listed is either still in
    /// the making, or has a record by the time that records are read.
    fn cleanup(&self) -> Result<()> {
        let names = fs::read_dir(&self.directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<std::io::Result<Vec<_>>>()?;
        let mut known = self.ids.in_the_making();
        known.extend(self.meta.ids()?);
        for name in names {
            let id = name.to_str().and_then(|name| name.parse().ok());
            if !id.is_some_and(|id| known.contains(&id)) {
                discard(&self.directory.join(name));
            }
        }
        Ok(())
    }

    /// Makes what a power cut took of active snapshots and views. What cannot be made is left to
    /// whoever uses it: one bad snapshot must not keep the others away.
    fn heal(&self) -> Result<()> {
        for record in self.meta.list()? {
            let outcome = match record.info.kind {
                Kind::Committed => self.look(record.id),
                kind => self.remake(kind, &record.info.name),
            };
            if let Err(error) = outcome {
                tracing::warn!(%error, key = record.info.name, "snapshot is damaged");
            }
        }
        Ok(())
    }

    fn look(&self, id: u64) -> Result<()> {
        fs::metadata(self.driver.content(&self.path(id)))?;
        Ok(())
    }

    fn remake(&self, kind: Kind, key: &str) -> Result<()> {
        let (record, parents) = self.meta.chain(key)?;
        self.driver.create(&self.layers(kind, record.id, &parents))
    }
}

/// Removes a directory that no record has. That is not worth failing for: the next cleanup tries
/// again.
fn discard(path: &Path) {
    let removed = tree::remove(path).or_else(|error| {
        // Somebody's mount is in the way: their view of it stays, ours goes.
        if error.kind() != std::io::ErrorKind::ResourceBusy {
            return Err(Error::from(error));
        }
        mount::unmount_recursive(path, UnmountFlags::DETACH)?;
        Ok(tree::remove(path)?)
    });
    if let Err(error) = removed {
        tracing::warn!(%error, path = %path.display(), "failed to remove directory");
    }
}

/// Nobody but root may look below: file modes inside are those of images.
fn make_private(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.context(|| format!("failed to mkdir {}", path.display()))
}

/// The highest id that a directory has, known or not.
fn last_directory(directory: &Path) -> Result<u64> {
    let mut last = 0;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        last = last.max(name.to_str().and_then(|name| name.parse().ok()).unwrap_or(0));
    }
    Ok(last)
}
