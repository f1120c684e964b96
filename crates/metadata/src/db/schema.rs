// SPDX-License-Identifier: Apache-2.0
//! The tables, and how old ones become new ones.
//!
//! `PRAGMA user_version` says how many of [`MIGRATIONS`] a file has been through. A released
//! migration never changes: what changes is a further one.
//!
//! Tables have a rowid on purpose: SQLite tells of changes by rowid (see [`super::Touched`]).
use rusqlite::Connection;
use types::{Error, Result};

use super::fault::sql;

const MIGRATIONS: &[&str] = &["
    -- What there is one of: `clean` is 1 while nobody has the database open, `sequence` is the last
    -- number that was part of a backend's key.
    CREATE TABLE state (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    INSERT INTO state VALUES ('clean', 1), ('sequence', 0);

    CREATE TABLE namespaces (name TEXT PRIMARY KEY, labels TEXT NOT NULL) STRICT;

    CREATE TABLE containers (
        namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL,
        image TEXT NOT NULL, runtime TEXT NOT NULL, options_type TEXT, options BLOB,
        spec_type TEXT, spec BLOB, snapshotter TEXT NOT NULL, snapshot_key TEXT NOT NULL,
        sandbox TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT;
    CREATE TABLE extensions (
        namespace TEXT NOT NULL, container TEXT NOT NULL, name TEXT NOT NULL,
        type TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (namespace, container, name),
        FOREIGN KEY (namespace, container) REFERENCES containers ON DELETE CASCADE
    ) STRICT;

    CREATE TABLE images (
        namespace TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL,
        media_type TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL,
        annotations TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, name)
    ) STRICT;

    CREATE TABLE leases (
        namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL, created_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT;
    -- What a lease holds, which need not exist. `kind` is the wire's: content, ingests, images,
    -- snapshots/<snapshotter>.
    CREATE TABLE resources (
        namespace TEXT NOT NULL, lease TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
        PRIMARY KEY (namespace, lease, kind, id),
        FOREIGN KEY (namespace, lease) REFERENCES leases ON DELETE CASCADE
    ) STRICT;

    CREATE TABLE blobs (
        namespace TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, labels TEXT NOT NULL,
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, digest)
    ) STRICT;
    CREATE INDEX blobs_by_digest ON blobs (digest);
    -- `expected` is set while the ingest is only a promise to share that blob.
    CREATE TABLE ingests (
        namespace TEXT NOT NULL, ref TEXT NOT NULL, backend_ref TEXT NOT NULL UNIQUE,
        expected TEXT, expires_at INTEGER,
        PRIMARY KEY (namespace, ref)
    ) STRICT;
    CREATE INDEX ingests_by_expected ON ingests (expected) WHERE expected IS NOT NULL;

    CREATE TABLE snapshots (
        namespace TEXT NOT NULL, snapshotter TEXT NOT NULL, name TEXT NOT NULL,
        backend_key TEXT NOT NULL, parent TEXT, labels TEXT NOT NULL,
        created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, snapshotter, name)
    ) STRICT;
    CREATE INDEX snapshots_by_parent ON snapshots (namespace, snapshotter, parent)
        WHERE parent IS NOT NULL;
    CREATE INDEX snapshots_by_backend_key ON snapshots (snapshotter, backend_key);
    -- Commits that were begun: the backend has been asked, or is about to be. `rebased` is 1 if the
    -- snapshot had no parent before.
    CREATE TABLE commits (
        namespace TEXT NOT NULL, snapshotter TEXT NOT NULL, key TEXT NOT NULL,
        name TEXT NOT NULL, backend_key TEXT NOT NULL, labels TEXT NOT NULL, rebased INTEGER NOT NULL,
        PRIMARY KEY (namespace, snapshotter, key)
    ) STRICT;
", "
    CREATE TABLE sandboxes (
        namespace TEXT NOT NULL, id TEXT NOT NULL, labels TEXT NOT NULL,
        runtime TEXT NOT NULL, options_type TEXT, options BLOB, spec_type TEXT, spec BLOB,
        sandboxer TEXT NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT;
    CREATE TABLE sandbox_extensions (
        namespace TEXT NOT NULL, sandbox TEXT NOT NULL, name TEXT NOT NULL,
        type TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (namespace, sandbox, name),
        FOREIGN KEY (namespace, sandbox) REFERENCES sandboxes ON DELETE CASCADE
    ) STRICT;
", include_str!("schema/mounts.sql")];

/// Brings the database to the newest schema, all the way or not at all.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let known = MIGRATIONS.len();
    let found: usize = connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map_err(sql)? as usize;
    if found > known {
        return Err(Error::failed_precondition(format!(
            "metadata database has schema {found}, of a later release; this one knows {known}"
        )));
    }
    if found == known {
        return Ok(());
    }
    let transaction = connection.transaction().map_err(sql)?;
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(found) {
        transaction
            .execute_batch(migration)
            .map_err(|error| sql(error).context(format!("migrate to schema {}", at + 1)))?;
    }
    transaction.pragma_update(None, "user_version", known as i64).map_err(sql)?;
    transaction.commit().map_err(sql)
}
