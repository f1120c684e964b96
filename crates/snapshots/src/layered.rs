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
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use fs_err as fs;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};
use mount::{Mount, UnmountFlags};
use sys::failpoint;
use types::{Context, Error, FieldMask, Filters, Labels, Result};

use self::ids::Ids;
use crate::{
    Capability, Commit, Info, Kind, Place, Snapshotter, Usage,
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
    /// Its labels.
    pub labels: Labels,
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

    /// Makes what is missing of a snapshot's data. After an error what there is of it is removed.
    fn create(&self, layers: &Layers) -> Result<()>;

    /// Plans the mounts of a snapshot. It mounts nothing: whoever asked does.
    fn plan(&self, layers: &Layers) -> Result<Vec<Mount>>;

    /// Whether a snapshot has data of its own; one that has none shows its parent's.
    fn has_data(&self, _kind: Kind, _has_parent: bool) -> bool {
        true
    }

    /// The part of a snapshot's data that is its content.
    fn content(&self, layers: &Layers) -> PathBuf;

    /// Measures what an active snapshot takes.
    fn measure(&self, layers: &Layers) -> Result<Usage> {
        Ok(tree::usage(&self.content(layers))?)
    }

    /// Makes an active snapshot ready to be committed, and durable but for its name in the directory
    /// of all snapshots; answers with what it takes. It may stay active all the same.
    fn seal(&self, layers: &Layers) -> Result<Usage> {
        tree::sync_directory(&self.content(layers))?;
        tree::sync_directory(&layers.directory)?;
        self.measure(layers)
    }

    /// Does what is left to do once a snapshot is committed, if it is not done yet. It is called
    /// again whenever the snapshots are opened.
    fn settle(&self, layers: &Layers) -> Result<()> {
        fs::metadata(self.content(layers))?;
        Ok(())
    }

    /// Removes the data of a snapshot that no record has. It can be cut short and begun again.
    fn remove(&self, directory: &Path) -> Result<()> {
        Ok(tree::remove(directory)?)
    }

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
        if !directory.try_exists()? {
            make_private(&directory)?;
            tree::sync_directory(root)?;
        }
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

    async fn mend(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.on_disk(move |shared| shared.mend(&key)).await
    }

    async fn places(&self) -> Result<Vec<Place>> {
        self.on_disk(Shared::places).await
    }
}

impl<D: Driver> Shared<D> {
    fn path(&self, id: u64) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn layers(&self, kind: Kind, id: u64, parents: &[u64], labels: &Labels) -> Layers {
        let parents = parents.iter().map(|&id| self.path(id)).collect();
        Layers { kind, directory: self.path(id), parents, labels: labels.clone() }
    }

    fn labelled(&self, record: Record) -> Info {
        let mut info = record.info;
        self.driver.label(&self.path(record.id), &mut info.labels);
        info
    }

    fn chain(&self, key: &str) -> Result<(Record, Layers)> {
        let (record, parents) = self.meta.chain(key)?;
        let layers = self.layers(record.info.kind, record.id, &parents, &record.info.labels);
        Ok((record, layers))
    }

    fn usage(&self, key: &str) -> Result<Usage> {
        let (record, layers) = self.chain(key)?;
        match record.info.kind {
            Kind::Active => self.driver.measure(&layers),
            Kind::View | Kind::Committed => Ok(record.usage),
        }
    }

    fn mounts(&self, key: &str) -> Result<Vec<Mount>> {
        let (record, layers) = self.chain(key).context(|| "failed to get active mount")?;
        if record.info.kind == Kind::Committed {
            let text = format!("requested snapshot {key} not active or view");
            let refused = Error::failed_precondition(text);
            return Err(refused.context("failed to get active mount"));
        }
        self.driver.plan(&layers)
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
        let layers = self.layers(kind, id.get(), &parents, labels);
        let made = || {
            self.driver.create(&layers)?;
            failpoint::reach("snapshots.create.made")?;
            let mounts = self.driver.plan(&layers)?;
            self.meta.create(id.get(), kind, key, parent, labels)?;
            Ok(mounts)
        };
        let mounts = made().map_err(|error: Error| {
            self.discard(&layers.directory);
            error.context(context())
        })?;
        failpoint::reach("snapshots.create.recorded")?;
        Ok(mounts)
    }

    /// The data is measured and made durable while others may use the database, and only if the
    /// commit is going to be admitted.
    fn commit(&self, name: &str, key: &str, options: &Commit) -> Result<()> {
        let (record, mut layers) = self.chain(key)?;
        self.refuse_rebase(&record, options)?;
        self.meta.admit_commit(name, key, options)?;
        let usage = self.driver.seal(&layers)?;
        tree::sync_directory(&self.directory)?;
        failpoint::reach("snapshots.commit.sealed")?;
        self.meta.commit(name, key, usage, options)?;
        failpoint::reach("snapshots.commit.recorded")?;
        layers.kind = Kind::Committed;
        if let Err(error) = self.driver.settle(&layers) {
            // It is committed: what is left is done when the snapshots are opened next.
            tracing::warn!(%error, name, "failed to settle committed snapshot");
        }
        failpoint::reach("snapshots.commit.settled")?;
        Ok(())
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

    fn remove(&self, key: &str) -> Result<()> {
        let id = self.meta.remove(key).context(|| format!("failed to remove snapshot {key}"))?;
        failpoint::reach("snapshots.remove.recorded")?;
        if !self.remove_later {
            self.discard(&self.path(id));
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
                self.discard(&self.directory.join(name));
                failpoint::reach("snapshots.cleanup.removed")?;
            }
        }
        Ok(())
    }

    /// Where data lies, in the order of [`Self::cleanup`] for the same reason. What was removed
    /// meanwhile is not missing: it is looked for again.
    fn places(&self) -> Result<Vec<Place>> {
        let mut found: HashMap<PathBuf, SystemTime> = HashMap::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let Ok(about) = entry.metadata() else { continue };
            found.insert(entry.path(), about.modified()?);
        }
        let making: HashSet<_> =
            self.ids.in_the_making().into_iter().map(|id| self.path(id)).collect();
        found.retain(|path, _| !making.contains(path));
        let mut places = Vec::new();
        for record in self.meta.list()? {
            let Record { id, info, .. } = record;
            let path = self.path(id);
            let listed = found.remove(&path);
            if !self.driver.has_data(info.kind, info.parent.is_some()) {
                continue;
            }
            let content = self.driver.content(&self.layers(info.kind, id, &[], &info.labels));
            let changed_at = listed.or_else(|| modified(&path));
            // A directory without what belongs into it is as good as none.
            let changed_at = changed_at.filter(|_| content.exists());
            places.push(Place { path, key: Some(info.name), changed_at });
        }
        let strays = found.into_iter().filter(|(path, _)| path.exists());
        places.extend(strays.map(|(path, time)| Place { path, key: None, changed_at: Some(time) }));
        Ok(places)
    }

    fn mend(&self, key: &str) -> Result<()> {
        let (record, layers) = self.chain(key)?;
        if record.info.kind == Kind::Committed {
            let text = format!("snapshot {key} is committed and cannot be made anew");
            return Err(Error::failed_precondition(text));
        }
        self.driver.create(&layers)
    }

    /// Makes what a power cut took of active snapshots and views, and ends what a crash cut short.
    /// What cannot be made is left to whoever uses it: one bad snapshot must not keep the others
    /// away.
    fn heal(&self) -> Result<()> {
        for record in self.meta.list()? {
            let key = &record.info.name;
            let outcome = self.chain(key).and_then(|(record, layers)| match record.info.kind {
                Kind::Committed => self.driver.settle(&layers),
                Kind::Active | Kind::View => self.driver.create(&layers),
            });
            if let Err(error) = outcome {
                tracing::warn!(%error, key, "snapshot is damaged");
            }
        }
        Ok(())
    }

    /// Removes the data that no record has. That is not worth failing for: the next cleanup tries
    /// again.
    fn discard(&self, path: &Path) {
        let removed = self.driver.remove(path).or_else(|error| {
            // Somebody's mount is in the way: their view of it stays, ours goes.
            if mount::mountinfo::below(path)?.is_empty() {
                return Err(error);
            }
            mount::unmount_recursive(path, UnmountFlags::DETACH)?;
            self.driver.remove(path)
        });
        if let Err(error) = removed {
            tracing::warn!(%error, path = %path.display(), "failed to remove directory");
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|about| about.modified()).ok()
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
