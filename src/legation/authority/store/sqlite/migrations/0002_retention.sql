-- What is pruned first is what expired first.
CREATE INDEX certificates_expiring ON certificates (not_after_ms);

CREATE INDEX join_tokens_expiring ON join_tokens (expires_at_ms);

-- Entries leave from the old end only, and only after an entry that announces it.
DROP TRIGGER audit_is_append_only_delete;

CREATE TRIGGER audit_is_append_only_delete BEFORE DELETE ON audit
WHEN OLD.sequence > ifnull((SELECT value FROM meta WHERE name = 'audit_pruned'), 0)
BEGIN
    SELECT RAISE (ABORT, 'the audit log is append-only');
END;
