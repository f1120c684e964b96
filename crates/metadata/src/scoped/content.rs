// SPDX-License-Identifier: Apache-2.0
//! The blobs that a namespace sees, and its ingests.
//!
//! An ingest gets its row before the backend has it, and a blob its row after: so what the backend
//! alone has is either being worked on, and held, or an orphan.
mod ingest;
mod seen;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ::content::{Expected, Info, Ingest, Piece, Reader, Status, Store};
use ::events::Event;
use ::records::Resource;
use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use rusqlite::{Connection, OptionalExtension};
use types::{
    Digest, Error, FieldMask, Filters, Labels, Result, Scope, labels::NAMESPACE_SHAREABLE,
};

pub(crate) use self::seen::Seen;

use self::ingest::Writing;
use super::{Scoped, leases};
use crate::{
    Db, Sharing,
    db::{self, Backend, Json, Outcome, Time, Tx, json},
    holds::Thing,
    labels,
};

/// How long an ingest stays that belongs to no lease (containerd `core/metadata/content.go`).
const STALE: Duration = Duration::from_hours(24);

/// The content of one scope.
#[derive(Clone)]
pub(super) struct Content {
    pub(super) db: Db,
    pub(super) scope: Arc<Scope>,
}

impl Content {
    pub(super) fn new(scoped: &Scoped) -> Self {
        let Scoped { db, scope } = scoped.clone();
        Self { db, scope }
    }

    pub(super) fn backend(&self) -> &Arc<dyn Store> {
        &self.db.shared.backends.content
    }

    /// The size of the blob that is expected, if the backend has it.
    async fn stored(&self, expected: &Expected) -> Result<Option<u64>> {
        let Some(digest) = &expected.digest else { return Ok(None) };
        match self.backend().info(digest).await {
            Ok(info) => Ok(Some(info.size)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key of the ingest `reference` in the backend.
    async fn backend_ref(&self, reference: &str) -> Result<String> {
        let (scope, reference) = (Arc::clone(&self.scope), reference.to_owned());
        self.db.read(move |connection| Ok(existing(connection, &scope, &reference)?.0)).await
    }

    async fn all(&self, filters: Filters) -> Result<Vec<Info>> {
        let scope = Arc::clone(&self.scope);
        self.db
            .read(move |connection| {
                let mut select = connection.prepare_cached(
                    "SELECT digest, size, labels, created_at, updated_at FROM blobs
                    WHERE namespace = ? ORDER BY digest",
                )?;
                let all =
                    select.query_map([scope.namespace()], read)?.collect::<Result<Vec<_>, _>>()?;
                Ok(all.into_iter().filter(|info| filters.matches(info)).collect())
            })
            .await
    }
}

#[async_trait]
impl Store for Content {
    async fn info(&self, digest: &Digest) -> Result<Info> {
        let (scope, digest) = (Arc::clone(&self.scope), digest.clone());
        self.db.read(move |connection| blob(connection, &scope, &digest)).await
    }

    async fn update(&self, info: Info, mask: &FieldMask) -> Result<Info> {
        let (scope, mask) = (Arc::clone(&self.scope), mask.clone());
        self.db
            .write(move |tx| {
                let mut kept = blob(tx, &scope, &info.digest)?;
                labels::change(&mut kept.labels, &info.labels, &mask, || {
                    format!("content info {:?}", info.digest.as_str())
                })?;
                kept.updated_at = SystemTime::now();
                put(tx, &scope, &kept)?;
                Ok(kept)
            })
            .await
    }

    fn walk(&self, filters: Filters) -> BoxStream<'_, Result<Info>> {
        let all = stream::once(self.all(filters));
        all.map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten().boxed()
    }

    async fn delete(&self, digest: &Digest) -> Result<()> {
        let (scope, digest) = (Arc::clone(&self.scope), digest.clone());
        self.db
            .write(move |tx| {
                blob(tx, &scope, &digest)?;
                tx.prepare_cached("DELETE FROM blobs WHERE namespace = ? AND digest = ?")?
                    .execute([scope.namespace(), digest.as_str()])?;
                leases::let_go(tx, &scope, &Resource::content(&digest))?;
                tx.deleted();
                tx.orphaned(Backend::Content);
                tx.tell(scope.namespace(), Event::content_deleted(&digest));
                Ok(())
            })
            .await
    }

    async fn reader(&self, digest: &Digest) -> Result<Box<dyn Reader>> {
        self.info(digest).await?;
        self.backend().reader(digest).await
    }

    async fn piece(&self, digest: &Digest, offset: u64, len: usize) -> Result<Piece> {
        let shared = &self.db.shared;
        let commits = shared.signals.commits();
        if !shared.seen.has(&self.scope, digest, commits) {
            self.info(digest).await?;
            shared.seen.add(&self.scope, digest, commits);
        }
        self.backend().piece(digest, offset, len).await
    }

    async fn status(&self, reference: &str) -> Result<Status> {
        let backend_ref = self.backend_ref(reference).await?;
        match self.backend().status(&backend_ref).await {
            Ok(status) => Ok(Status { reference: reference.to_owned(), ..status }),
            Err(error) if error.is_not_found() => Err(missing(reference)),
            Err(error) => Err(error),
        }
    }

    async fn statuses(&self, filters: &Filters) -> Result<Vec<Status>> {
        let scope = Arc::clone(&self.scope);
        let refs = self.db.read(move |connection| refs(connection, &scope)).await?;
        let mut statuses = Vec::new();
        for (backend_ref, reference) in refs {
            match self.backend().status(&backend_ref).await {
                Ok(status) => statuses.push(Status { reference, ..status }),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        statuses.retain(|status| filters.matches(status));
        Ok(statuses)
    }

    async fn abort(&self, reference: &str) -> Result<()> {
        let (scope, reference) = (Arc::clone(&self.scope), reference.to_owned());
        let (backend_ref, promised) = self
            .db
            .write(move |tx| {
                let found = existing(tx, &scope, &reference)?;
                ingest::forget(tx, &scope, &reference)?;
                tx.orphaned(Backend::Content);
                Ok(found)
            })
            .await?;
        if promised.is_some() {
            return Ok(());
        }
        match self.backend().abort(&backend_ref).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    async fn writer(&self, reference: &str, expected: Expected) -> Result<Box<dyn Ingest>> {
        if reference.is_empty() {
            return Err(Error::invalid("ref must not be empty"));
        }
        let holds = &self.db.shared.holds;
        let _name = holds.own(self.name(reference)).await;
        let held = match &expected.digest {
            Some(digest) => Some(holds.share(Thing::Blob(digest.clone())).await),
            None => None,
        };
        let stored = self.stored(&expected).await?;
        let beginning = Beginning {
            scope: Arc::clone(&self.scope),
            sharing: self.db.shared.sharing,
            reference: reference.to_owned(),
            expected: expected.clone(),
            stored,
        };
        // A power cut may take an ingest that was only begun; what a lease holds it may not.
        let writing = match self.db.write_lazily(move |tx| beginning.run(tx)).await? {
            Begun::Exists(error) => {
                if self.scope.lease().is_some() {
                    self.db.sync().await?;
                }
                return Err(error);
            }
            Begun::Promised { backend_ref, digest, size } => {
                Writing::promised(self, reference, backend_ref, digest, size, held)
            }
            Begun::Empty { backend_ref, is_new } => {
                let opened = Writing::open(self, reference, backend_ref, expected).await;
                if opened.is_err() && is_new {
                    self.give_up(reference).await;
                }
                opened?
            }
        };
        Ok(Box::new(writing))
    }
}

impl Content {
    /// What is owned of an ingest while it changes hands.
    fn name(&self, reference: &str) -> Thing {
        Thing::Reference(self.scope.namespace().to_owned(), reference.to_owned())
    }

    /// Takes back the row of an ingest that the backend would not have.
    async fn give_up(&self, reference: &str) {
        let (scope, name) = (Arc::clone(&self.scope), reference.to_owned());
        let forgotten = self.db.write(move |tx| ingest::forget(tx, &scope, &name)).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, reference, "ingest that was not begun stays until it expires");
        }
    }
}

/// What a writer is about to begin.
struct Beginning {
    scope: Arc<Scope>,
    sharing: Sharing,
    reference: String,
    expected: Expected,
    /// The size of the blob, if the backend has it.
    stored: Option<u64>,
}

enum Begun {
    /// The namespace has the blob. The lease has it now, too, which is why this is no failure of
    /// the transaction.
    Exists(Error),
    /// Another namespace has the blob, and shares it: only a record is missing.
    Promised { backend_ref: String, digest: Digest, size: u64 },
    /// There is everything to write.
    Empty { backend_ref: String, is_new: bool },
}

impl Beginning {
    fn run(self, tx: &Tx<'_>) -> Outcome<Begun> {
        let Self { scope, reference, .. } = &self;
        // A blob that is known and whose bytes were lost can be brought again.
        if let Some(digest) = &self.expected.digest
            && self.stored.is_some()
            && find_blob(tx, scope, digest)?.is_some()
        {
            leases::hold(tx, scope, &Resource::content(digest))?;
            return Ok(Begun::Exists(Error::already_exists(format!("content {digest}"))));
        }
        let promised = self.promised(tx)?;
        super::enter(tx, scope)?;
        leases::hold(tx, scope, &Resource::ingest(reference))?;
        let (backend_ref, is_new) = match find(tx, scope, reference)? {
            Some((backend_ref, _)) => (backend_ref, false),
            None => (super::backend_key(tx, scope, reference)?, true),
        };
        self.put(tx, &backend_ref, promised.map(|(digest, _)| digest))?;
        Ok(match promised {
            Some((digest, size)) => Begun::Promised { backend_ref, digest: digest.clone(), size },
            None => Begun::Empty { backend_ref, is_new },
        })
    }

    /// The blob that need not be written. One of another size is not what is expected: most likely
    /// the caller is wrong, and will be told at commit.
    fn promised(&self, tx: &Tx<'_>) -> Outcome<Option<(&Digest, u64)>> {
        let (Some(digest), Some(size)) = (&self.expected.digest, self.stored) else {
            return Ok(None);
        };
        let is_meant =
            matches!(self.expected.size, None | Some(0)) || self.expected.size == Some(size);
        Ok((is_meant && self.is_shared(tx, digest)?).then_some((digest, size)))
    }

    /// Whether a blob of the backend may be had for its name. That it is there is not enough: some
    /// namespace must have it, or else it is an orphan or being written by another.
    fn is_shared(&self, tx: &Tx<'_>, digest: &Digest) -> Outcome<bool> {
        let any = "SELECT 1 FROM blobs WHERE digest = ?";
        if self.sharing == Sharing::Shared {
            return Ok(tx.prepare_cached(any)?.exists([digest.as_str()])?);
        }
        let shareable = format!(
            "{any} AND namespace IN (SELECT name FROM namespaces
            WHERE labels ->> '$.\"{NAMESPACE_SHAREABLE}\"' = 'true')"
        );
        Ok(tx.prepare_cached(&shareable)?.exists([digest.as_str()])?)
    }

    /// Writes the row. Without a lease to hold it, the ingest goes stale one day.
    fn put(&self, tx: &Tx<'_>, backend_ref: &str, promised: Option<&Digest>) -> Outcome<()> {
        let expires = self.scope.lease().is_none().then(|| SystemTime::now() + STALE);
        if let Some(time) = expires {
            tx.expires(time);
        }
        let put = "INSERT INTO ingests VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE
            SET expected = ?4, expires_at = coalesce(?5, expires_at)";
        tx.prepare_cached(put)?.execute((
            self.scope.namespace(),
            &self.reference,
            backend_ref,
            promised.map(Digest::as_str),
            expires.map(Time),
        ))?;
        Ok(())
    }
}

/// Records a blob that the backend has, and ends its ingest.
///
/// That the namespace has it by now is an answer, not a failure: the ingest ends all the same.
pub(super) fn record(
    tx: &Tx<'_>,
    scope: &Scope,
    reference: &str,
    digest: &Digest,
    size: u64,
    mut labels: Labels,
) -> Outcome<Result<()>> {
    ingest::forget(tx, scope, reference)?;
    leases::hold(tx, scope, &Resource::content(digest))?;
    if find_blob(tx, scope, digest)?.is_some() {
        return Ok(Err(Error::already_exists(format!("content {digest}"))));
    }
    super::enter(tx, scope)?;
    labels::drop_empty(&mut labels);
    let now = SystemTime::now();
    let info = Info { digest: digest.clone(), size, created_at: now, updated_at: now, labels };
    put(tx, scope, &info)?;
    tx.tell(scope.namespace(), Event::content_created(digest, size));
    Ok(Ok(()))
}

fn blob(connection: &Connection, scope: &Scope, digest: &Digest) -> Outcome<Info> {
    let missing = || Error::not_found(format!("content digest {digest}"));
    find_blob(connection, scope, digest)?.ok_or_else(|| missing().into())
}

fn find_blob(connection: &Connection, scope: &Scope, digest: &Digest) -> Outcome<Option<Info>> {
    let select = "SELECT digest, size, labels, created_at, updated_at FROM blobs
        WHERE namespace = ? AND digest = ?";
    let mut select = connection.prepare_cached(select)?;
    Ok(select.query_row([scope.namespace(), digest.as_str()], read).optional()?)
}

fn put(tx: &Tx<'_>, scope: &Scope, info: &Info) -> Outcome<()> {
    let put = "INSERT INTO blobs VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO UPDATE
        SET labels = ?4, updated_at = ?6";
    tx.prepare_cached(put)?.execute((
        scope.namespace(),
        info.digest.as_str(),
        info.size as i64,
        json(&info.labels),
        Time(info.created_at),
        Time(info.updated_at),
    ))?;
    Ok(())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Info> {
    Ok(Info {
        digest: row.get::<_, db::Digest>(0)?.0,
        size: row.get::<_, i64>(1)? as u64,
        labels: row.get::<_, Json>(2)?.0,
        created_at: row.get::<_, Time>(3)?.0,
        updated_at: row.get::<_, Time>(4)?.0,
    })
}

/// The key of an ingest in the backend, and the blob that it is a promise of.
type Found = (String, Option<String>);

fn find(connection: &Connection, scope: &Scope, reference: &str) -> Outcome<Option<Found>> {
    let select = "SELECT backend_ref, expected FROM ingests WHERE namespace = ? AND ref = ?";
    Ok(connection
        .prepare_cached(select)?
        .query_row([scope.namespace(), reference], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?)
}

fn existing(connection: &Connection, scope: &Scope, reference: &str) -> Outcome<Found> {
    find(connection, scope, reference)?.ok_or_else(|| missing(reference).into())
}

fn missing(reference: &str) -> Error {
    Error::not_found(format!("reference {reference}"))
}

/// The ingests of a namespace: how the backend calls them, and how clients do.
fn refs(connection: &Connection, scope: &Scope) -> Outcome<HashMap<String, String>> {
    let mut select =
        connection.prepare_cached("SELECT backend_ref, ref FROM ingests WHERE namespace = ?")?;
    let pair = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(select.query_map([scope.namespace()], pair)?.collect::<Result<_, _>>()?)
}
