// SPDX-License-Identifier: Apache-2.0
//! Taking over the snapshots of Go's containerd (`core/snapshots/storage/bolt.go`).
//!
//! ```text
//! v1/snapshots/<key>/  id, kind, parent, createdat, updatedat, size, inodes, labels/
//! ```
//!
//! The directories are the same, so the records are all there is to take. Go's file stays as it is.
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::UNIX_EPOCH,
};

use bolt::value;
use rusqlite::{Connection, named_params};
use types::{Context, Error, Labels, Result};

use super::{fault::Fault, row};

/// A snapshot in Go's file.
struct Theirs {
    key: String,
    id: u64,
    kind: u8,
    parent: String,
    created_at: i64,
    updated_at: i64,
    size: i64,
    inodes: i64,
    labels: Labels,
}

/// Copies the records of the file at `path` into the new, empty database `db`.
pub(super) fn take_over(db: &Connection, path: &Path) -> Result<(), Fault> {
    let file = bolt::Db::open(path).context(|| "taking over the snapshots of Go's containerd")?;
    let (all, last) = read(&file).context(|| path.display().to_string())?;
    for theirs in parents_first(all)? {
        insert(db, &theirs)?;
    }
    // An id that Go gave is not given again, also when its snapshot is gone.
    let known = row::last_id(db)?;
    if last > known {
        let set = "INSERT INTO sqlite_sequence (name, seq) SELECT 'snapshots', ?1
            WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'snapshots')";
        db.execute(set, [last as i64])?;
        db.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'snapshots'", [last as i64])?;
    }
    Ok(())
}

/// All snapshots, and the last id that was given.
fn read(file: &bolt::Db) -> Result<(Vec<Theirs>, u64)> {
    let version = file.root().bucket("v1")?;
    let Some(snapshots) = version.map(|v1| v1.bucket("snapshots")).transpose()?.flatten() else {
        return Ok((Vec::new(), 0));
    };
    let mut all = Vec::new();
    for (key, bucket) in snapshots.buckets()? {
        let snapshot = one(key, &bucket).context(|| format!("snapshot {key}"))?;
        all.push(snapshot);
    }
    Ok((all, snapshots.sequence()))
}

fn one(key: &str, bucket: &bolt::Bucket<'_>) -> Result<Theirs> {
    let time = |key| Ok::<_, Error>(row::nanoseconds(value::time_of(bucket, key, UNIX_EPOCH)?));
    Ok(Theirs {
        key: key.to_owned(),
        id: value::unsigned(bucket.value("id")?)?,
        kind: bucket.value("kind")?.and_then(|kind| kind.first().copied()).unwrap_or_default(),
        parent: value::text_of(bucket, "parent")?.to_owned(),
        created_at: time("createdat")?,
        updated_at: time("updatedat")?,
        size: value::signed(bucket.value("size")?)?,
        inodes: value::signed(bucket.value("inodes")?)?,
        labels: value::map_of(bucket, "labels")?,
    })
}

/// Puts each snapshot after its parent. One whose parent is missing is refused: what it is made of
/// is not known.
fn parents_first(all: Vec<Theirs>) -> Result<Vec<Theirs>> {
    let mut children = HashMap::<String, Vec<Theirs>>::new();
    let names: HashSet<String> = all.iter().map(|theirs| theirs.key.clone()).collect();
    let lost = all.iter().find(|one| !one.parent.is_empty() && !names.contains(&one.parent));
    if let Some(Theirs { key, parent, .. }) = lost {
        let text = format!("snapshot {key} has the parent {parent}, which is missing");
        return Err(Error::new(types::Kind::DataLoss, text));
    }
    for theirs in all {
        children.entry(theirs.parent.clone()).or_default().push(theirs);
    }
    let mut ordered = children.remove("").unwrap_or_default();
    let mut at = 0;
    while let Some(theirs) = ordered.get(at) {
        let next = children.remove(&theirs.key).unwrap_or_default();
        ordered.extend(next);
        at += 1;
    }
    Ok(ordered)
}

/// The numbers of kinds are ours, too: both are those of the wire.
fn insert(db: &Connection, theirs: &Theirs) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO snapshots (id, key, kind, parent, created_at, updated_at, size, inodes)
         VALUES (:id, :key, :kind, (SELECT id FROM snapshots WHERE key = :parent), :created_at,
                 :updated_at, :size, :inodes)",
    )?
    .execute(named_params! {
        ":id": theirs.id as i64, ":key": theirs.key, ":kind": theirs.kind,
        ":parent": theirs.parent, ":created_at": theirs.created_at,
        ":updated_at": theirs.updated_at, ":size": theirs.size, ":inodes": theirs.inodes,
    })?;
    Ok(row::set_labels(db, theirs.id, &theirs.labels)?)
}
