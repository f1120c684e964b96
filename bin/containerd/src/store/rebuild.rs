// SPDX-License-Identifier: Apache-2.0
//! Making the metadata anew from what is on the disk, when the database is gone, damaged, or distrusted.
//!
//! ```text
//! marker --> salvage (damaged file, copy) --> open --> match backends --> images --> marker goes
//! ```
//!
//! The order of sources: what can still be read of the database; the copy of it that the daemon makes
//! of its own; what lies on the disk. By the disk alone, an image is known by its manifest: it belongs
//! to the namespaces that have its layers unpacked, or else to `default`. Its name is what an index or
//! its own annotations say, or else `recovered@<digest>`, so that nothing is collected before somebody
//! has looked. Containers, leases, and labels that clients set are only in the database and its copy.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use content::{Store, blob};
use fs_err as fs;
use futures_util::TryStreamExt;
use images::{Document, MAX_SIZE};
use metadata::{Backends, Db, Matched, Options, Salvaged};
use records::Image;
use types::{Context, Descriptor, Digest, Filters, Labels, Result, Scope, media_types};

/// Where an image goes that no namespace has unpacked.
const DEFAULT: &str = "default";

/// When the daemon copies its database first: the start has enough to do.
const COPY_FIRST: Duration = Duration::from_secs(3);

/// How often it does after that, if the database was written to.
const COPY_EVERY: Duration = Duration::from_mins(10);

/// The annotations by which an image says what it is called (containerd `core/images/annotations.go`
/// and the OCI image spec, annotations.md).
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// What a rebuild came to.
#[derive(Clone, Debug, Default)]
pub struct Rebuilt {
    pub(crate) salvaged: Salvaged,
    pub(crate) matched: Matched,
    /// Blobs that got a record.
    pub(crate) blobs: usize,
    /// Images that were named by what is on the disk.
    pub(crate) named: Vec<String>,
    /// Manifests that nothing gives a name to, and what they are called now.
    pub(crate) nameless: Vec<String>,
}

impl std::fmt::Display for Rebuilt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = self.salvaged.rows.iter().filter(|(_, count)| **count > 0);
        let rows: Vec<_> = rows.map(|(table, count)| format!("{table} {count}")).collect();
        writeln!(f, "records that could still be read: {}", or_none(&rows))?;
        if let Some(path) = &self.salvaged.kept {
            writeln!(f, "the database as it was: {}", path.display())?;
        }
        let Matched { forgotten, adopted, writable } = self.matched;
        writeln!(f, "records of what is not there, forgotten: {forgotten}")?;
        writeln!(f, "snapshots taken over: {adopted}, of which {writable} can be written to")?;
        writeln!(f, "blobs taken over: {}", self.blobs)?;
        writeln!(f, "images named by what is on the disk: {}", or_none(&self.named))?;
        write!(f, "images without a name: {}", or_none(&self.nameless))
    }
}

fn or_none(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn marker(path: &Path) -> PathBuf {
    path.with_file_name("rebuild")
}

/// Has the next open of the database at `path` make it anew.
pub(crate) fn ask(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (marker, new) = (marker(path), path.with_file_name("rebuild.new"));
    fs::write(&new, seconds.to_string())?;
    fs::File::open(&new)?.sync_all()?;
    fs::rename(new, &marker)?;
    let folder = marker.parent().unwrap_or(Path::new("/"));
    Ok(fs::File::open(folder)?.sync_all()?)
}

/// Opens the database at `path`, made anew first where somebody asked for that, or where it is gone
/// and its backends are not empty: the first collection would take all that they have for garbage.
pub(crate) async fn open(
    path: &Path,
    backends: Backends,
    options: Options,
) -> Result<(Db, Option<Rebuilt>)> {
    if !marker(path).exists() && is_lost(path, &backends, &options).await? {
        tracing::warn!(path = %path.display(), "the metadata is gone, and is made anew");
        ask(path)?;
    }
    let attempt = match fs::read_to_string(marker(path)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok((Db::open(path, backends, options).await?, None));
        }
        attempt => attempt?,
    };
    let salvaged = metadata::salvage(path, attempt.trim()).await?;
    let store = backends.content.clone();
    let snapshotters: Vec<String> = backends.snapshotters.keys().cloned().collect();
    let db = Db::open(path, backends, Options { take_over: None, ..options }).await?;
    let mut rebuilt =
        Rebuilt { salvaged, matched: db.match_backends().await?, ..Rebuilt::default() };
    let shelf = Shelf::read(&*store).await?;
    shelf.record(&db, &snapshotters, &mut rebuilt).await?;
    db.keep_copy(path).await?;
    fs::remove_file(marker(path))?;
    tracing::warn!("the metadata was made anew:\n{rebuilt}");
    Ok((db, Some(rebuilt)))
}

/// Whether there is no database where there must have been one.
async fn is_lost(path: &Path, backends: &Backends, options: &Options) -> Result<bool> {
    if fs::metadata(path).is_ok_and(|about| about.len() > 0) {
        return Ok(false);
    }
    if metadata::copy_of(path).exists() {
        return Ok(true);
    }
    if options.take_over.as_ref().is_some_and(|go| go.exists()) {
        return Ok(false);
    }
    if backends.content.walk(Filters::default()).try_next().await?.is_some() {
        return Ok(true);
    }
    for snapshotter in backends.snapshotters.values() {
        if snapshotter.walk(Filters::default()).try_next().await?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies the database now and then, for as long as it is waited for.
pub(crate) async fn copies(db: Db, path: PathBuf) {
    let mut last = None;
    tokio::time::sleep(COPY_FIRST).await;
    loop {
        let written = ["", "-wal"].map(|suffix| {
            let name = format!("{}{suffix}", path.display());
            fs::metadata(name).and_then(|about| about.modified()).ok()
        });
        if last != Some(written) {
            match db.keep_copy(&path).await {
                Ok(()) => last = Some(written),
                Err(error) => tracing::warn!(%error, "the metadata could not be copied"),
            }
        }
        tokio::time::sleep(COPY_EVERY).await;
    }
}

/// The documents that the content store has, whoever knows them.
#[derive(Default)]
struct Shelf {
    documents: BTreeMap<Digest, (Descriptor, Document)>,
    /// The topmost layer of each config, by chain ID.
    configs: HashMap<Digest, Digest>,
    /// All blobs.
    there: HashSet<Digest>,
}

impl Shelf {
    async fn read(store: &dyn Store) -> Result<Self> {
        let mut shelf = Self::default();
        let infos: Vec<_> = store.walk(Filters::default()).try_collect().await?;
        for info in infos {
            if info.size <= MAX_SIZE
                && let Ok(bytes) = blob::read(store, &info.digest, MAX_SIZE).await
            {
                shelf.add(&info.digest, &bytes);
            }
            shelf.there.insert(info.digest);
        }
        Ok(shelf)
    }

    /// Takes a blob for what it says that it is, if it is what its name says.
    fn add(&mut self, digest: &Digest, bytes: &[u8]) {
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
        if digest.algorithm() == types::Algorithm::Sha256 && Digest::of(bytes) != *digest {
            return;
        }
        let said = value["mediaType"].as_str();
        let media_type = match (value.get("manifests"), value.get("config"), value.get("layers")) {
            (Some(_), None, None) => said.unwrap_or(media_types::INDEX),
            (None, Some(_), Some(_)) => said.unwrap_or(media_types::MANIFEST),
            _ => {
                let root = serde_json::from_value::<images::RootFs>(value["rootfs"].clone());
                let top = root.ok().and_then(|root| images::chain_id(&root.diff_ids));
                self.configs.extend(top.map(|top| (digest.clone(), top)));
                return;
            }
        };
        let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
        if let Ok(Some(document)) = Document::parse(&descriptor, bytes) {
            self.documents.insert(digest.clone(), (descriptor, document));
        }
    }

    /// Everything that can be reached from a document and is there, itself first.
    fn below(&self, root: &Digest) -> Vec<Digest> {
        let (mut found, mut ahead) = (Vec::new(), vec![root.clone()]);
        let mut seen = HashSet::new();
        while let Some(digest) = ahead.pop() {
            if !self.there.contains(&digest) || !seen.insert(digest.clone()) {
                continue;
            }
            let document = self.documents.get(&digest).map(|(_, document)| document.children());
            ahead.extend(document.unwrap_or_default().into_iter().map(|child| child.digest));
            found.push(digest);
        }
        found
    }

    /// The documents that no other refers to.
    fn roots(&self) -> Vec<&Descriptor> {
        let children = self.documents.values().flat_map(|(_, document)| document.children());
        let children: HashSet<Digest> = children.map(|child| child.digest).collect();
        let all = self.documents.values().map(|(descriptor, _)| descriptor);
        all.filter(|descriptor| !children.contains(&descriptor.digest)).collect()
    }

    /// What a document says that it is called, or an index that refers to it.
    fn name(&self, digest: &Digest) -> Option<String> {
        let said =
            |annotations: &Labels| NAMES.iter().find_map(|key| annotations.get(*key)).cloned();
        let own = self.documents.get(digest).and_then(|(_, document)| match document {
            Document::Index(index) => {
                let inner = || index.manifests.iter().find_map(|child| said(&child.annotations));
                said(&index.annotations).or_else(inner)
            }
            Document::Manifest(manifest) => said(&manifest.annotations),
        });
        // A bare tag is no name.
        own.filter(|name| name.contains('/'))
    }

    /// Records what has no record yet.
    async fn record(&self, db: &Db, snapshotters: &[String], told: &mut Rebuilt) -> Result<()> {
        let unpacked = unpacked(db, snapshotters).await?;
        let known = targets(db).await?;
        for root in self.roots() {
            let below = self.below(&root.digest);
            let tops = below.iter().filter_map(|digest| self.configs.get(digest));
            let mut namespaces: BTreeSet<String> = tops
                .flat_map(|top| unpacked.get(top.as_str()).into_iter().flatten())
                .map(|(namespace, _)| namespace.clone())
                .collect();
            // Who has an image by any of its documents has it.
            let has = |namespace: &str| {
                below.iter().any(|it| known.contains(&(namespace.to_owned(), it.clone())))
            };
            namespaces.extend(
                known.iter().filter(|(_, it)| below.contains(it)).map(|(name, _)| name.clone()),
            );
            if namespaces.is_empty() {
                namespaces.insert(DEFAULT.to_owned());
            }
            for namespace in namespaces {
                for digest in &below {
                    let labels = self.labels(digest, &namespace, &unpacked);
                    db.adopt_blob(&namespace, digest, labels).await?;
                    told.blobs += 1;
                }
                if !has(&namespace) {
                    self.call(db, &namespace, root, told).await?;
                }
            }
        }
        Ok(())
    }

    /// The labels by which a blob keeps what it refers to.
    fn labels(&self, digest: &Digest, namespace: &str, unpacked: &Unpacked) -> Labels {
        if let Some((_, document)) = self.documents.get(digest) {
            return images::labels::of_children(&document.children());
        }
        let Some(top) = self.configs.get(digest) else { return Labels::new() };
        let all = unpacked.get(top.as_str()).into_iter().flatten();
        let own = all.filter(|(of, _)| of == namespace);
        own.flat_map(|(_, snapshotter)| images::labels::of_snapshot(snapshotter, top)).collect()
    }

    async fn call(
        &self,
        db: &Db,
        namespace: &str,
        root: &Descriptor,
        told: &mut Rebuilt,
    ) -> Result<()> {
        let own = self.name(&root.digest);
        let list = if own.is_some() { &mut told.named } else { &mut told.nameless };
        let name = own.unwrap_or_else(|| format!("recovered@{}", root.digest));
        list.push(format!("{namespace} {name}"));
        let now = SystemTime::now();
        let target = root.clone();
        let labels = Labels::new();
        let image = Image { name, labels, target, created_at: now, updated_at: now };
        let images = db.scope(Scope::new(namespace)?).images();
        match images.create(image).await {
            Err(error) if error.is_already_exists() => Ok(()),
            created => created.map(drop).context(|| "name a manifest"),
        }
    }
}

/// Who has a snapshot, by its name: namespaces and snapshotters.
type Unpacked = HashMap<String, Vec<(String, String)>>;

async fn unpacked(db: &Db, snapshotters: &[String]) -> Result<Unpacked> {
    let mut found = Unpacked::new();
    for namespace in db.namespaces().list(&Filters::default()).await? {
        let scoped = db.scope(Scope::new(&namespace.name)?);
        for name in snapshotters {
            let Some(snapshotter) = scoped.snapshotter(name) else { continue };
            let infos: Vec<_> = snapshotter.walk(Filters::default()).try_collect().await?;
            for info in infos {
                let whose = (namespace.name.clone(), name.clone());
                found.entry(info.name).or_default().push(whose);
            }
        }
    }
    Ok(found)
}

/// The targets of all images, with their namespaces.
async fn targets(db: &Db) -> Result<HashSet<(String, Digest)>> {
    let mut all = HashSet::new();
    for namespace in db.namespaces().list(&Filters::default()).await? {
        let images = db.scope(Scope::new(&namespace.name)?).images();
        for image in images.list(&Filters::default()).await? {
            all.insert((namespace.name.clone(), image.target.digest));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shelf(documents: &[serde_json::Value]) -> (Shelf, Vec<Digest>) {
        let mut shelf = Shelf::default();
        let all = documents.iter().map(|document| {
            let bytes = document.to_string();
            let digest = Digest::of(&bytes);
            shelf.there.insert(digest.clone());
            shelf.add(&digest, bytes.as_bytes());
            digest
        });
        let all = all.collect();
        (shelf, all)
    }

    fn descriptor(digest: &Digest, media_type: &str, name: &str) -> serde_json::Value {
        let annotations = serde_json::json!({ NAMES[0]: name });
        serde_json::json!({
            "digest": digest.as_str(), "size": 1, "mediaType": media_type, "annotations": annotations,
        })
    }

    #[test]
    fn documents_are_told_by_what_they_hold_and_roots_by_who_refers_to_them() {
        let layer = Digest::of("layer");
        let config = serde_json::json!({ "rootfs": { "type": "layers", "diff_ids": [layer] } });
        let config_digest = Digest::of(config.to_string());
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "config": descriptor(&config_digest, media_types::CONFIG, ""),
            "layers": [descriptor(&layer, media_types::LAYER, "")],
        });
        let manifest_digest = Digest::of(manifest.to_string());
        let name = "docker.io/library/a:1";
        let index = serde_json::json!({
            "schemaVersion": 2,
            "manifests": [descriptor(&manifest_digest, media_types::MANIFEST, name)],
        });
        let lonely = serde_json::json!({ "anything": 1 });
        let (shelf, all) = shelf(&[config, manifest, index, lonely]);
        let roots: Vec<_> = shelf.roots().iter().map(|it| it.digest.clone()).collect();
        assert_eq!(roots, [all[2].clone()]);
        assert_eq!(shelf.name(&all[2]).as_deref(), Some(name));
        // The layer is not there.
        assert_eq!(shelf.below(&all[2]), [all[2].clone(), all[1].clone(), all[0].clone()]);
        assert_eq!(shelf.configs[&all[0]], layer);
        let labels = shelf.labels(&all[1], "n", &Unpacked::new());
        assert_eq!(labels["containerd.io/gc.ref.content.config"], all[0].as_str());
    }

    #[test]
    fn what_is_not_what_its_name_says_is_no_document() {
        let mut shelf = Shelf::default();
        let bytes = serde_json::json!({ "schemaVersion": 2, "manifests": [] }).to_string();
        shelf.add(&Digest::of("another"), bytes.as_bytes());
        assert!(shelf.documents.is_empty());
    }
}
