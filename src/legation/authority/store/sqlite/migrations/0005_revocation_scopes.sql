-- Everything that one agent asked for, and everything with one key, by a look at what has not
-- expired, revoked or not. An index by either would answer at once, and cost every issuance a
-- random page; rows come nearly in the order of this one.
DROP INDEX certificates_expiring;

CREATE INDEX certificates_expiring ON certificates (not_after_ms, key_fingerprint, requester);

-- Keys, by the SHA-256 of their SubjectPublicKeyInfo, that are never certified again.
CREATE TABLE banned_keys (
    fingerprint BLOB PRIMARY KEY,
    reason TEXT NOT NULL,
    since_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Revocations that wait for a second operator, and large ones: what is `running` when the
-- authority ends goes on when it starts. `newest` is the certificate's id up to which it counts.
CREATE TABLE revocation_requests (
    id TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    reason TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    requested_at_ms INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'running', 'done', 'rejected')),
    count INTEGER NOT NULL,
    newest INTEGER,
    decided_by TEXT,
    decided_at_ms INTEGER,
    revision INTEGER
) STRICT;

CREATE INDEX revocation_requests_by_state ON revocation_requests (state, requested_at_ms);
