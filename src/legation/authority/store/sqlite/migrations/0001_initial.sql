-- Times are Unix milliseconds. Serial numbers are 16 bytes, big-endian.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    envelope BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE issuers (
    key_id TEXT PRIMARY KEY,
    role TEXT NOT NULL CHECK (role IN ('root', 'issuing')),
    key TEXT NOT NULL REFERENCES keys (id),
    der BLOB NOT NULL,
    created_at_ms INTEGER NOT NULL
) STRICT;

-- The next index of each issuer and shard that no block has taken.
CREATE TABLE serial_blocks (
    issuer TEXT NOT NULL,
    shard INTEGER NOT NULL,
    next_index INTEGER NOT NULL,
    PRIMARY KEY (issuer, shard)
) STRICT, WITHOUT ROWID;

-- `id` is the order of issue, which pages of the inventory follow.
CREATE TABLE certificates (
    id INTEGER PRIMARY KEY,
    serial BLOB NOT NULL UNIQUE,
    spiffe_id TEXT NOT NULL,
    profile TEXT NOT NULL,
    issuer TEXT NOT NULL,
    shard INTEGER NOT NULL,
    not_before_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    requester TEXT NOT NULL,
    entry_id TEXT,
    key_fingerprint BLOB NOT NULL,
    der BLOB NOT NULL,
    revoked_at_ms INTEGER,
    reason TEXT
) STRICT;

CREATE INDEX certificates_of_identity ON certificates (spiffe_id, not_after_ms);

-- A revocation list reads this and nothing else of the table.
CREATE INDEX certificates_revoked ON certificates (issuer, shard, not_after_ms)
    WHERE revoked_at_ms IS NOT NULL;

CREATE TABLE join_tokens (
    id TEXT PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    used_at_ms INTEGER
) STRICT;

CREATE TABLE agents (
    spiffe_id TEXT PRIMARY KEY,
    enrolled_at_ms INTEGER NOT NULL,
    token_id TEXT NOT NULL
) STRICT;

CREATE TABLE operators (
    spiffe_id TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    disabled_at_ms INTEGER
) STRICT;

CREATE TABLE bans (
    spiffe_id TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    revision INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    body BLOB NOT NULL,
    signature BLOB NOT NULL,
    deletes INTEGER NOT NULL,
    expires_at_ms INTEGER,
    superseded_by INTEGER
) STRICT;

CREATE UNIQUE INDEX events_current ON events (kind, key) WHERE superseded_by IS NULL;

CREATE INDEX events_over ON events (revision) WHERE superseded_by IS NOT NULL OR deletes = 1;

CREATE INDEX events_expiring ON events (expires_at_ms) WHERE expires_at_ms IS NOT NULL;

CREATE TABLE crls (
    issuer TEXT NOT NULL,
    shard INTEGER NOT NULL,
    number INTEGER NOT NULL,
    this_update_ms INTEGER NOT NULL,
    next_update_ms INTEGER NOT NULL,
    der BLOB NOT NULL,
    PRIMARY KEY (issuer, shard)
) STRICT;

-- Leaves of a Merkle tree (RFC 6962, section 2.1) in the order of their sequence.
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY,
    entry BLOB NOT NULL,
    leaf_hash BLOB NOT NULL
) STRICT;

CREATE TRIGGER audit_is_append_only_update BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;

CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;
