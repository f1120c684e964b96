// SPDX-License-Identifier: Apache-2.0
//! Removing from backends what the database does not know.
//!
//! Nothing is locked but the one thing at hand, so a backend that hangs in a removal keeps only
//! that thing's users waiting. What fails is left for the next time, and does not stop the rest.
use std::collections::HashSet;

use ::snapshots::{Kind, Snapshotter};
use futures_util::TryStreamExt;
use rusqlite::{Connection, Params};
use types::{Digest, Filters, Result};

use crate::{
    Db,
    db::{Backend, Outcome},
    holds::{Hold, Thing},
    scoped,
};

pub(super) const BLOB: &str = "SELECT 1 FROM blobs WHERE digest = ?1
    UNION ALL SELECT 1 FROM ingests WHERE expected = ?1";
pub(super) const INGEST: &str = "SELECT 1 FROM ingests WHERE backend_ref = ?";
pub(super) const SNAPSHOT: &str =
    "SELECT 1 FROM snapshots WHERE snapshotter = ?1 AND backend_key = ?2
    UNION ALL SELECT 1 FROM commits WHERE snapshotter = ?1 AND backend_key = ?2";

/// Sweeps one backend, and returns what could not be removed.
pub(super) async fn sweep(db: Db, backend: Backend) -> Result<Vec<String>> {
    let mut failures = Vec::new();
    match backend {
        Backend::Content => {
            blobs(&db, &mut failures).await?;
            ingests(&db, &mut failures).await?;
        }
        Backend::Snapshotter(name) => snapshots(&db, &name, &mut failures).await?,
        Backend::Mounts => scoped::sweep_mounts(&db, &mut failures).await?,
    }
    Ok(failures)
}

async fn blobs(db: &Db, failures: &mut Vec<String>) -> Result<()> {
    let store = &db.shared.backends.content;
    let known = db
        .read(|connection| {
            let all = "SELECT digest FROM blobs UNION SELECT expected FROM ingests
                WHERE expected IS NOT NULL";
            texts(connection, all, [])
        })
        .await?;
    let infos = store.walk(Filters::default()).map_ok(|info| info.digest);
    let all: Vec<Digest> = infos.try_collect().await?;
    for digest in all.into_iter().filter(|digest| !known.contains(digest.as_str())) {
        // A blob that is being committed under a digest nobody knows yet could be this one.
        let Some(_some) = db.shared.holds.try_own(Thing::SomeBlob) else { continue };
        let name = digest.as_str().to_owned();
        let Some(_hold) = orphan(db, Thing::Blob(digest.clone()), BLOB, [name]).await? else {
            continue;
        };
        report(failures, "blob", digest.as_str(), store.delete(&digest).await);
    }
    Ok(())
}

async fn ingests(db: &Db, failures: &mut Vec<String>) -> Result<()> {
    let store = &db.shared.backends.content;
    for status in store.statuses(&Filters::default()).await? {
        let name = status.reference;
        let hold = orphan(db, Thing::Ingest(name.clone()), INGEST, [name.clone()]).await?;
        if hold.is_some() {
            report(failures, "ingest", &name, store.abort(&name).await);
        }
    }
    Ok(())
}

/// Children go before their parents, so that each branch goes as far as it is unknown.
async fn snapshots(db: &Db, of: &str, failures: &mut Vec<String>) -> Result<()> {
    let Some(backend) = db.shared.backends.snapshotters.get(of) else { return Ok(()) };
    scoped::recover_snapshotter(db, of).await?;
    let name = of.to_owned();
    let known = db
        .read(move |connection| {
            let all = "SELECT backend_key FROM snapshots WHERE snapshotter = ?1
                UNION SELECT backend_key FROM commits WHERE snapshotter = ?1";
            texts(connection, all, [name])
        })
        .await?;
    let infos = backend.walk(Filters::default()).map_ok(|info| (info.name, info.kind));
    let all: Vec<(String, Kind)> = infos.try_collect().await?;
    for (key, kind) in all.into_iter().rev().filter(|(key, _)| !known.contains(key)) {
        let thing = Thing::Snapshot(of.to_owned(), key.clone());
        let params = [of.to_owned(), key.clone()];
        if let Some(_hold) = orphan(db, thing, SNAPSHOT, params).await? {
            tracing::debug!(snapshotter = of, key, ?kind, "removing snapshot");
            report(failures, "snapshot", &key, backend.remove(&key).await);
        }
    }
    clean_up(&**backend).await
}

async fn clean_up(backend: &dyn Snapshotter) -> Result<()> {
    match backend.cleanup().await {
        Err(error) if error.kind() == types::Kind::Unimplemented => Ok(()),
        cleaned => cleaned,
    }
}

/// Owns `thing` if nobody uses it and the database does not know it.
///
/// It is owned first and looked up then: whoever had it has recorded it by now, or never will.
async fn orphan<P: Params + Send + 'static>(
    db: &Db,
    thing: Thing,
    select: &'static str,
    params: P,
) -> Result<Option<Hold>> {
    let Some(hold) = db.shared.holds.try_own(thing) else { return Ok(None) };
    let is_known =
        db.read(move |connection| Ok(connection.prepare_cached(select)?.exists(params)?)).await?;
    Ok(Some(hold).filter(|_| !is_known))
}

fn texts(connection: &Connection, select: &str, params: impl Params) -> Outcome<HashSet<String>> {
    let mut select = connection.prepare_cached(select)?;
    Ok(select.query_map(params, |row| row.get(0))?.collect::<Result<_, _>>()?)
}

fn report(failures: &mut Vec<String>, what: &str, name: &str, outcome: Result<()>) {
    match outcome {
        Ok(()) => tracing::debug!(name, "removed {what}"),
        Err(error) if error.is_not_found() => {}
        Err(error) => {
            tracing::warn!(%error, name, "{what} could not be removed");
            failures.push(format!("{what} {name}: {error}"));
        }
    }
}
