-- What is suspected, one row for each certificate or identity and kind, with evidence as JSON.
-- A serial number is hexadecimal, or empty where the signal is about an identity as such.
CREATE TABLE signals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    spiffe_id TEXT NOT NULL,
    serial TEXT NOT NULL,
    requester TEXT NOT NULL,
    network TEXT NOT NULL,
    summary TEXT NOT NULL,
    count INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL,
    evidence TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'dismissed', 'responded')),
    decided_by TEXT,
    decided_at_ms INTEGER,
    note TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX signals_by_what ON signals (kind, spiffe_id, serial);

CREATE INDEX signals_by_state ON signals (state, id);

CREATE INDEX signals_by_age ON signals (last_ms);

-- What the correlator has learned to be ordinary, by node and by identity, as JSON.
CREATE TABLE misuse_learned (
    subject TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
