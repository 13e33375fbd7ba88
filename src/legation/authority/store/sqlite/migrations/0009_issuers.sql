-- Issuing CAs come and go. What is there already signs, as it always did.
ALTER TABLE issuers ADD COLUMN state TEXT NOT NULL DEFAULT 'active'
    CHECK (state IN ('prepared', 'published', 'active', 'retiring', 'tainted'));

ALTER TABLE issuers ADD COLUMN since_ms INTEGER;

ALTER TABLE issuers ADD COLUMN requested_by TEXT;

ALTER TABLE issuers ADD COLUMN reason TEXT;

ALTER TABLE issuers ADD COLUMN revision INTEGER;

ALTER TABLE issuers ADD COLUMN activate_by_ms INTEGER;

ALTER TABLE issuers ADD COLUMN rate REAL;

ALTER TABLE issuers ADD COLUMN rotation TEXT;

ALTER TABLE issuers ADD COLUMN at_once INTEGER NOT NULL DEFAULT 0;

-- One that signs, and one that is to follow it.
CREATE UNIQUE INDEX issuers_signing ON issuers (role)
    WHERE role = 'issuing' AND state = 'active';

CREATE UNIQUE INDEX issuers_following ON issuers (role)
    WHERE state IN ('prepared', 'published');

-- Those on their root's revocation list; their private keys are gone.
CREATE TABLE removed_issuers (
    key_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    serial BLOB NOT NULL,
    der BLOB NOT NULL,
    reason TEXT NOT NULL,
    created_at_ms INTEGER NOT NULL,
    removed_at_ms INTEGER NOT NULL,
    removed_by TEXT NOT NULL,
    lists_until_ms INTEGER
) STRICT;
