-- Everything that one agent asked for, and everything with one key, however much is on record.
-- An index by either alone would have every issuance write half as much again, to pages at random.
-- So both begin with the run of 4096 certificates that were issued one after the other:
-- what is issued now goes to a few pages, and who looks for something looks into every run that
-- has anything left to revoke (`hits._RUNS`).
DROP INDEX certificates_expiring;

CREATE INDEX certificates_expiring ON certificates (not_after_ms);

CREATE INDEX certificates_revocable_by_requester ON certificates (id >> 12, requester)
    WHERE revoked_at_ms IS NULL OR reason = 'certificateHold';

CREATE INDEX certificates_revocable_by_key ON certificates (id >> 12, key_fingerprint)
    WHERE revoked_at_ms IS NULL OR reason = 'certificateHold';
