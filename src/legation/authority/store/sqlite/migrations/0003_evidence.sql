-- Agents join with more than join tokens now.
ALTER TABLE agents RENAME COLUMN token_id TO evidence;

UPDATE agents SET evidence = 'join-token ' || evidence;

-- What lets an agent in once, and is not in another table: by a digest, until it is over.
CREATE TABLE spent_evidence (
    digest BLOB PRIMARY KEY,
    expires_at_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX spent_evidence_expiring ON spent_evidence (expires_at_ms);
