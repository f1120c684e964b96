// SPDX-License-Identifier: Apache-2.0
//! Making the database anew when it is gone or damaged.
//!
//! ```text
//! damaged file, copy --salvage--> new file --open--> forget what is not there
//!                                                    adopt what is there: snapshots, blobs
//! ```
//!
//! What is salvaged is read table by table and row by row, as far as SQLite gets. What is adopted is
//! what backends tell by themselves: a snapshot's key in its snapshotter is
//! `<namespace>/<number>/<name>`, and a blob is known by its digest.
mod rows;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ::snapshots::{Info, Kind};
use fs_err as fs;
use futures_util::TryStreamExt;
use tokio::task::spawn_blocking;
use types::{Context, Digest, Error, Filters, Labels, Result, labels::GC_ROOT};

use crate::{
    Db,
    db::{self, Backend, File, Outcome, Time, Tx, json},
};

/// What was read of what was left of a database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// How many records there are now, by table.
    pub rows: BTreeMap<String, usize>,
    /// Where the damaged database is kept, for a person to look at.
    pub kept: Option<PathBuf>,
}

/// What was done to records so that they match what is on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Records of blobs, snapshots and ingests that were forgotten, since nothing is left of them,
    /// and of images whose manifests are not there.
    pub forgotten: usize,
    /// Snapshots that got a record.
    pub adopted: usize,
    /// Those of them that somebody could write to: they stay until a person removes them.
    pub writable: usize,
}

/// Where the copy of the database at `path` is that [`Db::keep_copy`] makes.
pub fn copy_of(path: &Path) -> PathBuf {
    beside(path, ".copy")
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Puts a new database in place of the one at `path`, which may be damaged or gone, with what can
/// still be read of that and of its copy. The damaged one is kept under the name `attempt`; called
/// again with the same, it goes on from there.
///
/// Errors: `Unavailable` while another process has it open.
pub async fn salvage(path: impl Into<PathBuf>, attempt: &str) -> Result<Salvaged> {
    let (path, attempt) = (path.into(), attempt.to_owned());
    let done = spawn_blocking(move || salvage_at(&path, &attempt)).await;
    done.map_err(|error| Error::caused(types::Kind::Internal, "salvage", error))?
}

fn salvage_at(path: &Path, attempt: &str) -> Result<Salvaged> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let _lock = File::lock(path)?;
    let damaged = beside(path, &format!(".damaged-{attempt}"));
    let kept = set_apart(path, &damaged)?;
    let new = beside(path, ".new");
    for suffix in ["", "-wal", "-shm"] {
        absent(fs::remove_file(beside(&new, suffix)))?;
    }
    let mut rows = BTreeMap::new();
    {
        let (_file, mut connection) = File::open(&new)?;
        for source in [copy_of(path), damaged.clone()] {
            rows::copy(&mut connection, &source)
                .context(|| format!("salvage {}", source.display()))?;
        }
        rows.extend(rows::settle(&mut connection)?);
        db::close(&connection);
    }
    // The log of the old one must not be taken for that of the new one.
    for suffix in ["-wal", "-shm"] {
        absent(fs::remove_file(beside(path, suffix)))?;
    }
    fs::File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    absent(fs::remove_file(beside(&new, ".lock")))?;
    sync_folder(path)?;
    Ok(Salvaged { rows, kept: kept.then_some(damaged) })
}

/// Copies the database and its log away, unless that was done before. Says whether there is any.
fn set_apart(path: &Path, damaged: &Path) -> Result<bool> {
    if damaged.exists() || !path.exists() {
        return Ok(damaged.exists());
    }
    // The database comes last: where it is, all of it is.
    for suffix in ["-wal", ""] {
        let from = beside(path, suffix);
        if from.exists() {
            let partial = beside(damaged, ".partial");
            fs::copy(from, &partial)?;
            fs::File::open(&partial)?.sync_all()?;
            fs::rename(partial, beside(damaged, suffix))?;
        }
    }
    sync_folder(path)?;
    Ok(true)
}

fn sync_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(fs::File::open(folder)?.sync_all()?)
}

fn absent(removed: std::io::Result<()>) -> Result<()> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

impl Db {
    /// Copies the database beside itself, in place of the last copy: what [`salvage`] falls back on.
    pub async fn keep_copy(&self, path: &Path) -> Result<()> {
        let (copy, new) = (copy_of(path), beside(path, ".copy-new"));
        absent(fs::remove_file(&new))?;
        self.back_up(&new).await?;
        fs::rename(new, copy)?;
        sync_folder(path)
    }

    /// Forgets what backends do not have, and adopts the snapshots that have no record. Only for a
    /// database that nobody uses yet.
    pub async fn match_backends(&self) -> Result<Matched> {
        let mut matched = Matched::default();
        for (name, snapshotter) in &self.shared.backends.snapshotters {
            let infos: Vec<Info> = snapshotter.walk(Filters::default()).try_collect().await?;
            let name = name.clone();
            let one = self.write(move |tx| match_snapshots(tx, &name, infos)).await?;
            matched.forgotten += one.forgotten;
            matched.adopted += one.adopted;
            matched.writable += one.writable;
        }
        matched.forgotten += self.forget_blobs().await?;
        Ok(matched)
    }

    async fn forget_blobs(&self) -> Result<usize> {
        let store = Arc::clone(&self.shared.backends.content);
        let infos = store.walk(Filters::default()).map_ok(|info| info.digest);
        let there: HashSet<Digest> = infos.try_collect().await?;
        let ingests = store.statuses(&Filters::default()).await?;
        let ingests: HashSet<String> = ingests.into_iter().map(|it| it.reference).collect();
        self.write(move |tx| {
            let is_there = |text: &str| text.parse().is_ok_and(|it: Digest| there.contains(&it));
            let mut gone = forget(tx, "blobs", "digest", &is_there)?;
            gone += forget(tx, "images", "digest", &is_there)?;
            gone += forget(tx, "ingests", "backend_ref", &|name| ingests.contains(name))?;
            Ok(gone)
        })
        .await
    }

    /// Records a blob that the backend has in a namespace, with `labels` beside those that it has.
    pub async fn adopt_blob(&self, namespace: &str, digest: &Digest, labels: Labels) -> Result<()> {
        let size = self.shared.backends.content.info(digest).await?.size;
        let (namespace, digest) = (namespace.to_owned(), digest.clone());
        self.write(move |tx| {
            enter(tx, &namespace)?;
            let now = Time(SystemTime::now());
            tx.prepare_cached(
                "INSERT INTO blobs VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO UPDATE
                SET labels = json_patch(labels, ?4)",
            )?
            .execute((namespace, digest.as_str(), size as i64, json(&labels), now))?;
            Ok(())
        })
        .await
    }
}

/// Deletes the rows of a table whose `column` names what is not there.
fn forget(
    tx: &Tx<'_>,
    table: &str,
    column: &str,
    is_there: &dyn Fn(&str) -> bool,
) -> Outcome<usize> {
    let mut select = tx.prepare(&format!("SELECT rowid, {column} FROM {table}"))?;
    let all = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let gone: Vec<_> = all.collect::<Result<Vec<_>, _>>()?;
    let gone = gone.into_iter().filter(|(_, name)| !is_there(name));
    let mut delete = tx.prepare(&format!("DELETE FROM {table} WHERE rowid = ?"))?;
    let mut count = 0;
    for (row, _) in gone {
        count += delete.execute([row])?;
    }
    Ok(count)
}

fn enter(tx: &Tx<'_>, namespace: &str) -> Outcome<()> {
    let enter = "INSERT INTO namespaces VALUES (?, '{}') ON CONFLICT DO NOTHING";
    tx.prepare_cached(enter)?.execute([namespace])?;
    Ok(())
}

/// A backend's key, taken apart: `<namespace>/<number>/<name>`.
fn parts(key: &str) -> Option<(&str, i64, &str)> {
    let (namespace, rest) = key.split_once('/')?;
    let (number, name) = rest.split_once('/')?;
    types::identifiers::validate(namespace).ok()?;
    Some((namespace, number.parse().ok()?, name)).filter(|_| !name.is_empty())
}

fn match_snapshots(tx: &Tx<'_>, of: &str, infos: Vec<Info>) -> Outcome<Matched> {
    let there: HashSet<&str> = infos.iter().map(|info| info.name.as_str()).collect();
    let mut matched = Matched::default();
    for (namespace, name, key) in rows_of(tx, of)? {
        if !there.contains(key.as_str()) {
            let delete =
                "DELETE FROM snapshots WHERE namespace = ? AND snapshotter = ? AND name = ?";
            matched.forgotten += tx.prepare_cached(delete)?.execute([&namespace, of, &name])?;
        }
    }
    // By key: whose each is, and under which name.
    let rows = rows_of(tx, of)?.into_iter();
    let mut known: HashMap<String, (String, String)> =
        rows.map(|(namespace, name, key)| (key, (namespace, name))).collect();
    for info in infos {
        let Some((namespace, number, name)) = parts(&info.name) else { continue };
        let raise = "UPDATE state SET value = max(value, ?) WHERE name = 'sequence'";
        tx.prepare_cached(raise)?.execute([number])?;
        if known.contains_key(&info.name) {
            continue;
        }
        let name = name.to_owned();
        let parent = match &info.parent {
            Some(parent) => match known.get(parent) {
                Some((whose, parent)) if whose == namespace => Some(parent.clone()),
                _ => continue,
            },
            None => None,
        };
        if adopt(tx, [namespace, of, &name], &info, parent.as_deref())? {
            matched.adopted += 1;
            matched.writable += usize::from(info.kind == Kind::Active);
            let whose = (namespace.to_owned(), name);
            known.insert(info.name.clone(), whose);
        }
    }
    tx.orphaned(Backend::Snapshotter(of.to_owned()));
    Ok(matched)
}

fn rows_of(tx: &Tx<'_>, of: &str) -> Outcome<Vec<(String, String, String)>> {
    let select = "SELECT namespace, name, backend_key FROM snapshots WHERE snapshotter = ?";
    let mut select = tx.prepare_cached(select)?;
    let rows = select.query_map([of], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Records a snapshot, unless its name is taken. One that somebody could write to may be the last that
/// is left of a container, so it stays until a person removes it.
fn adopt(
    tx: &Tx<'_>,
    [namespace, of, name]: [&str; 3],
    info: &Info,
    parent: Option<&str>,
) -> Outcome<bool> {
    enter(tx, namespace)?;
    let mut labels = info.labels.clone();
    if info.kind == Kind::Active {
        let now = jiff::Timestamp::now().to_string();
        labels.insert(GC_ROOT.to_owned(), now);
    }
    let put = "INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING";
    let count = tx.prepare_cached(put)?.execute((
        namespace,
        of,
        name,
        &info.name,
        parent,
        json(&labels),
        Time(info.created_at),
        Time(info.updated_at),
    ))?;
    Ok(count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_it_is() {
        assert_eq!(parts("n/7/sha256:abc"), Some(("n", 7, "sha256:abc")));
        assert_eq!(parts("n/7/a/b"), Some(("n", 7, "a/b")));
        for strange in ["", "n", "n/7", "n/7/", "n/x/a", "a b/7/c"] {
            assert_eq!(parts(strange), None, "{strange}");
        }
    }
}
