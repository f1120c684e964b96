// SPDX-License-Identifier: Apache-2.0
//! Taking over the metadata of Go's containerd, once, into a new database.
//!
//! The layout is that of `core/metadata/buckets.go`; what is in it goes into the tables of
//! [`crate::db`] one by one. Backends keep what they have: digests, backend keys and backend refs are
//! taken over as they are. Go's file is only read, so that Go's containerd can be started again.
//!
//! ```text
//! v1/<namespace>/labels/                      images/<name>/target/   containers/<id>/runtime/
//!               content/blob/<digest>/        content/ingests/<ref>/
//!               snapshots/<snapshotter>/<name>/                       leases/<id>/<what>/...
//!               sandboxes/<id>/runtime/       which some releases keep outside of v1
//! ```
use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use bolt::{Bucket, value};
use rusqlite::Connection;
use types::{Context, Result};

use crate::db::{Fault, Outcome, Time, json};

/// What was taken over, for the log.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    namespaces: usize,
    images: usize,
    containers: usize,
    blobs: usize,
    ingests: usize,
    snapshots: usize,
    sandboxes: usize,
    leases: usize,
    /// The highest number in a backend's key: ours have to be higher.
    sequence: i64,
}

/// Copies the records of the file at `path`, if there is one, into the database `db`, if that is
/// new: all or nothing.
///
/// A file that cannot be read is an error, and not passed over: what it knows of would be collected.
pub(crate) fn take_over(db: &mut Connection, path: &Path) -> Result<()> {
    let what = || format!("taking over {} of Go's containerd", path.display());
    if !path.try_exists()? || !is_new(db).map_err(Fault::from)? {
        return Ok(());
    }
    let file = bolt::Db::open(path).context(what)?;
    let mut take = || {
        let transaction = db.transaction()?;
        let mut taken = Taken::default();
        if let Some(version) = file.root().bucket("v1")? {
            for (name, bucket) in version.buckets()? {
                namespace(&transaction, name, &bucket, &mut taken)?;
                taken.sandboxes += sandboxes(&transaction, name, &bucket)?;
            }
        }
        for (name, bucket) in file.root().buckets()?.into_iter().filter(|(name, _)| *name != "v1") {
            taken.sandboxes += sandboxes(&transaction, name, &bucket)?;
        }
        transaction.execute(
            "UPDATE state SET value = max(value, ?) WHERE name = 'sequence'",
            [taken.sequence],
        )?;
        transaction.execute("INSERT INTO state VALUES ('taken_over', 1)", [])?;
        transaction.commit()?;
        Ok(taken)
    };
    let taken = take().map_err(|fault: Fault| types::Error::from(fault)).context(what)?;
    tracing::info!(?taken, path = %path.display(), "took over the metadata of Go's containerd");
    Ok(())
}

/// Whether nothing was ever written, nor taken over.
fn is_new(db: &Connection) -> rusqlite::Result<bool> {
    let select = "SELECT NOT EXISTS (SELECT 1 FROM namespaces) AND NOT EXISTS
        (SELECT 1 FROM state WHERE name = 'taken_over' OR (name = 'sequence' AND value > 0))";
    db.query_row(select, [], |row| row.get(0))
}

fn namespace(db: &Connection, name: &str, bucket: &Bucket<'_>, taken: &mut Taken) -> Outcome<()> {
    let labels = value::map_of(bucket, "labels")?;
    db.execute("INSERT INTO namespaces VALUES (?, ?)", (name, json(&labels)))?;
    taken.namespaces += 1;
    for (image, bucket) in within(bucket, &["images"])? {
        images(db, name, image, &bucket)?;
        taken.images += 1;
    }
    for (id, bucket) in within(bucket, &["containers"])? {
        containers(db, name, id, &bucket)?;
        taken.containers += 1;
    }
    for (digest, bucket) in within(bucket, &["content", "blob"])? {
        blobs(db, name, digest, &bucket)?;
        taken.blobs += 1;
    }
    for (reference, bucket) in within(bucket, &["content", "ingests"])? {
        let key = ingests(db, name, reference, &bucket)?;
        taken.ingests += 1;
        taken.sequence = taken.sequence.max(number(key));
    }
    for (snapshotter, bucket) in within(bucket, &["snapshots"])? {
        for (key, bucket) in bucket.buckets()? {
            let backend_key = snapshots(db, [name, snapshotter, key], &bucket)?;
            taken.snapshots += 1;
            taken.sequence = taken.sequence.max(number(backend_key));
        }
    }
    for (id, bucket) in within(bucket, &["leases"])? {
        leases(db, name, id, &bucket)?;
        taken.leases += 1;
    }
    Ok(())
}

/// The buckets in the bucket at `path`; none if that does not exist.
fn within<'a>(bucket: &Bucket<'a>, path: &[&str]) -> Result<Vec<(&'a str, Bucket<'a>)>> {
    let mut bucket = *bucket;
    for name in path {
        let Some(next) = bucket.bucket(name)? else { return Ok(Vec::new()) };
        bucket = next;
    }
    bucket.buckets()
}

/// When it was made, and last changed.
fn times(bucket: &Bucket<'_>) -> Result<(Time, Time)> {
    let time = |key| value::time_of(bucket, key, UNIX_EPOCH).map(Time);
    Ok((time("createdat")?, time("updatedat")?))
}

/// The number in a backend's key, `<namespace>/<number>/<name>` (`core/metadata/snapshot.go`,
/// `createKey`).
fn number(key: &str) -> i64 {
    key.split('/').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

fn images(db: &Connection, namespace: &str, name: &str, bucket: &Bucket<'_>) -> Outcome<()> {
    let Some(target) = bucket.bucket("target")? else { return Ok(()) };
    let (created_at, updated_at) = times(bucket)?;
    db.prepare_cached("INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?.execute((
        namespace,
        name,
        json(&value::map_of(bucket, "labels")?),
        value::text_of(&target, "mediatype")?,
        value::text_of(&target, "digest")?,
        value::signed(target.value("size")?)?,
        json(&value::map_of(bucket, "annotations")?),
        created_at,
        updated_at,
    ))?;
    Ok(())
}

fn containers(db: &Connection, namespace: &str, id: &str, bucket: &Bucket<'_>) -> Outcome<()> {
    let any = |bytes: Option<&[u8]>| bytes.map(value::any).transpose();
    let runtime = bucket.bucket("runtime")?;
    let runtime_name = runtime.map_or(Ok(""), |bucket| value::text_of(&bucket, "name"))?;
    let options = runtime.map_or(Ok(None), |bucket| bucket.value("options"))?;
    let (options, spec) = (any(options)?, any(bucket.value("spec")?)?);
    let (created_at, updated_at) = times(bucket)?;
    db.prepare_cached("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")?
        .execute((
            namespace,
            id,
            json(&value::map_of(bucket, "labels")?),
            value::text_of(bucket, "image")?,
            runtime_name,
            options.as_ref().map(|any| any.type_url.as_str()),
            options.as_ref().map(|any| &any.value[..]),
            spec.as_ref().map(|any| any.type_url.as_str()),
            spec.as_ref().map(|any| &any.value[..]),
            value::text_of(bucket, "snapshotter")?,
            value::text_of(bucket, "snapshotKey")?,
            value::text_of(bucket, "sandboxid")?,
            created_at,
            updated_at,
        ))?;
    extensions(db, "extensions", [namespace, id], bucket)
}

/// The sandboxes in the bucket of a namespace; returns how many there are.
fn sandboxes(db: &Connection, namespace: &str, bucket: &Bucket<'_>) -> Outcome<usize> {
    let all = within(bucket, &["sandboxes"])?;
    for (id, bucket) in &all {
        let enter = "INSERT INTO namespaces VALUES (?, '{}') ON CONFLICT DO NOTHING";
        db.execute(enter, [namespace])?;
        let any = |bytes: Option<&[u8]>| bytes.map(value::any).transpose();
        let runtime = bucket.bucket("runtime")?;
        let options = any(runtime.map_or(Ok(None), |bucket| bucket.value("options"))?)?;
        let spec = any(bucket.value("spec")?)?;
        let (created_at, updated_at) = times(bucket)?;
        let put = "INSERT INTO sandboxes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        db.prepare_cached(put)?.execute((
            namespace,
            id,
            json(&value::map_of(bucket, "labels")?),
            runtime.map_or(Ok(""), |bucket| value::text_of(&bucket, "name"))?,
            options.as_ref().map(|any| any.type_url.as_str()),
            options.as_ref().map(|any| &any.value[..]),
            spec.as_ref().map(|any| any.type_url.as_str()),
            spec.as_ref().map(|any| &any.value[..]),
            value::text_of(bucket, "sandboxer")?,
            created_at,
            updated_at,
        ))?;
        extensions(db, "sandbox_extensions", [namespace, id], bucket)?;
    }
    Ok(all.len())
}

/// What clients keep beside a record, into the table for it.
fn extensions(
    db: &Connection,
    table: &str,
    [namespace, id]: [&str; 2],
    bucket: &Bucket<'_>,
) -> Outcome<()> {
    let Some(extensions) = bucket.bucket("extensions")? else { return Ok(()) };
    for (name, item) in extensions.items()? {
        if let bolt::Item::Value(bytes) = item {
            let any = value::any(bytes)?;
            let row = (namespace, id, value::text(name)?, any.type_url.as_str(), &any.value[..]);
            db.prepare_cached(&format!("INSERT INTO {table} VALUES (?, ?, ?, ?, ?)"))?
                .execute(row)?;
        }
    }
    Ok(())
}

fn blobs(db: &Connection, namespace: &str, digest: &str, bucket: &Bucket<'_>) -> Outcome<()> {
    let (created_at, updated_at) = times(bucket)?;
    let size = value::signed(bucket.value("size")?)?;
    let labels = json(&value::map_of(bucket, "labels")?);
    db.prepare_cached("INSERT INTO blobs VALUES (?, ?, ?, ?, ?, ?)")?
        .execute((namespace, digest, size, labels, created_at, updated_at))?;
    Ok(())
}

/// Returns what the ingest is called in the backend.
fn ingests<'a>(
    db: &Connection,
    namespace: &str,
    reference: &str,
    bucket: &Bucket<'a>,
) -> Outcome<&'a str> {
    let backend_ref = value::text_of(bucket, "ref")?;
    let expected = Some(value::text_of(bucket, "expected")?).filter(|digest| !digest.is_empty());
    let expires: Option<SystemTime> = bucket.value("expireat")?.map(value::time).transpose()?;
    db.prepare_cached("INSERT INTO ingests VALUES (?, ?, ?, ?, ?)")?.execute((
        namespace,
        reference,
        backend_ref,
        expected,
        expires.map(Time),
    ))?;
    Ok(backend_ref)
}

/// Returns what the snapshot is called in the backend.
fn snapshots<'a>(
    db: &Connection,
    [namespace, snapshotter, name]: [&str; 3],
    bucket: &Bucket<'a>,
) -> Outcome<&'a str> {
    let backend_key = value::text_of(bucket, "name")?;
    let parent = Some(value::text_of(bucket, "parent")?).filter(|parent| !parent.is_empty());
    let labels = json(&value::map_of(bucket, "labels")?);
    let (created_at, updated_at) = times(bucket)?;
    db.prepare_cached("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)")?.execute((
        namespace,
        snapshotter,
        name,
        backend_key,
        parent,
        labels,
        created_at,
        updated_at,
    ))?;
    Ok(backend_key)
}

/// A lease and what it holds: the kinds are the names of buckets, and those of snapshots come with
/// their snapshotter (`core/metadata/leases.go`, `ListResources`).
fn leases(db: &Connection, namespace: &str, id: &str, bucket: &Bucket<'_>) -> Outcome<()> {
    let (created_at, _) = times(bucket)?;
    db.prepare_cached("INSERT INTO leases VALUES (?, ?, ?, ?)")?.execute((
        namespace,
        id,
        json(&value::map_of(bucket, "labels")?),
        created_at,
    ))?;
    let mut held = Vec::new();
    for kind in ["content", "ingests", "images"] {
        held.extend(bucket.bucket(kind)?.map(|bucket| (kind.to_owned(), bucket)));
    }
    for (snapshotter, bucket) in within(bucket, &["snapshots"])? {
        held.push((format!("snapshots/{snapshotter}"), bucket));
    }
    for (kind, bucket) in held {
        for (key, _) in bucket.items()? {
            db.prepare_cached("INSERT INTO resources VALUES (?, ?, ?, ?)")?.execute((
                namespace,
                id,
                &kind,
                value::text(key)?,
            ))?;
        }
    }
    Ok(())
}
