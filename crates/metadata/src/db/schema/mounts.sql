-- Mounts that the mount manager performed. `id` names the directory they are in; `active` and
-- `system` are JSON, and NULL while the activation is being made or undone. `lease` is empty, or the
-- lease under which it was made.
CREATE TABLE mounts (
    namespace TEXT NOT NULL, name TEXT NOT NULL, labels TEXT NOT NULL, lease TEXT NOT NULL,
    id INTEGER NOT NULL UNIQUE, active TEXT, system TEXT,
    created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) STRICT;
CREATE INDEX mounts_by_lease ON mounts (namespace, lease) WHERE lease <> '';
INSERT INTO state VALUES ('activation', 0);
