-- The schema of the first release, as it wrote it. It never changes.
PRAGMA journal_mode = WAL;
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
CREATE TABLE commits (
    namespace TEXT NOT NULL, snapshotter TEXT NOT NULL, key TEXT NOT NULL,
    name TEXT NOT NULL, backend_key TEXT NOT NULL, labels TEXT NOT NULL, rebased INTEGER NOT NULL,
    PRIMARY KEY (namespace, snapshotter, key)
) STRICT;

-- What the release that wrote this had: an image with its blob and its snapshot, a container with an
-- extension, a lease with what it holds, an ingest.
UPDATE state SET value = 7 WHERE name = 'sequence';
INSERT INTO namespaces VALUES ('n', '{"color":"green"}');
INSERT INTO containers VALUES ('n', 'c', '{}', 'i', 'io.containerd.runc.v2', NULL, NULL, 'spec', x'7b7d',
    'native', 'rw', '', 1700000000000000000, 1700000000000000001);
INSERT INTO extensions VALUES ('n', 'c', 'e', 'type', x'01');
INSERT INTO images VALUES ('n', 'i', '{"mine":"1"}', 'application/vnd.oci.image.manifest.v1+json',
    'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824', 5, '{}', 1, 2);
INSERT INTO leases VALUES ('n', 'l', '{}', 3);
INSERT INTO resources VALUES ('n', 'l', 'content',
    'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824');
INSERT INTO blobs VALUES ('n',
    'sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824', 5, '{}', 4, 5);
PRAGMA user_version = 1;
