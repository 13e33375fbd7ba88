"""Rows that have had their time: expired certificates, join tokens, old audit entries.

Each function takes the oldest rows first, so many at most, and writes down in the same
transaction what it took. Freed pages stay in the file and are used again.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from legation.authority.revoking.scopes import AgentScope
from legation.authority.store.records import AuditDraft
from legation.authority.store.sqlite.feed import append_audit
from legation.authority.store.sqlite.hits import hits
from legation.authority.store.sqlite.values import set_meta, to_ms
from legation.clock import from_rfc3339, to_rfc3339
from legation.pki import SpiffeID

_LAPSED = "NOT EXISTS (SELECT 1 FROM certificates WHERE certificates.spiffe_id = agents.spiffe_id)"


def prune_certificates(
    connection: sqlite3.Connection, *, expired_before: datetime, limit: int, audit: AuditDraft
) -> int:
    """Forget the certificates that expired first."""
    count = connection.execute(
        "DELETE FROM certificates WHERE id IN (SELECT id FROM certificates"
        " WHERE not_after_ms < ? ORDER BY not_after_ms LIMIT ?)",
        (to_ms(expired_before), limit),
    ).rowcount
    return _announced(connection, count, expired_before, audit)


def has_valid(connection: sqlite3.Connection, agent: str, *, at: datetime) -> bool:
    """Tell whether anything that an agent has asked for is valid then; on hold is valid."""
    scope = AgentScope(agent=SpiffeID.parse(agent))
    return bool(hits(connection, scope, reason="unspecified", at=at))


def lapsed_agents(connection: sqlite3.Connection, limit: int) -> Sequence[str]:
    """Return agents of which no certificate is on record."""
    rows = connection.execute(f"SELECT spiffe_id FROM agents WHERE {_LAPSED} LIMIT ?", (limit,))  # noqa: S608
    return [name for (name,) in rows]


def prune_agents(
    connection: sqlite3.Connection, names: Iterable[str], *, audit: AuditDraft
) -> Sequence[str]:
    """Forget these agents, unless one has joined anew since they were looked up."""
    query = f"DELETE FROM agents WHERE spiffe_id = ? AND {_LAPSED}"  # noqa: S608
    gone = [name for name in names if connection.execute(query, (name,)).rowcount]
    if gone:
        append_audit(connection, audit, count=len(gone), agents=gone)
    return gone


def prune_tokens(
    connection: sqlite3.Connection, *, expired_before: datetime, limit: int, audit: AuditDraft
) -> int:
    """Forget the join tokens, used or not, that expired first."""
    count = connection.execute(
        "DELETE FROM join_tokens WHERE id IN (SELECT id FROM join_tokens"
        " WHERE expires_at_ms < ? ORDER BY expires_at_ms LIMIT ?)",
        (to_ms(expired_before), limit),
    ).rowcount
    return _announced(connection, count, expired_before, audit)


def _announced(
    connection: sqlite3.Connection, count: int, expired_before: datetime, audit: AuditDraft
) -> int:
    if count:
        append_audit(connection, audit, count=count, expired_before=to_rfc3339(expired_before))
    return count


def prune_audit(
    connection: sqlite3.Connection, *, before: datetime, limit: int, audit: AuditDraft
) -> int:
    """Forget the oldest audit entries, up to the first that is not older than `before`."""
    rows = connection.execute(
        "SELECT sequence, entry, leaf_hash FROM audit ORDER BY sequence LIMIT ?", (limit,)
    )
    leaves = hashlib.sha256()
    sequences = []
    for sequence, entry, leaf_hash in rows:
        # In the order of the log: whoever finds an entry finds all that followed it.
        if from_rfc3339(json.loads(entry)["time"]) >= before:
            break
        leaves.update(leaf_hash)
        sequences.append(sequence)
    if not sequences:
        return 0
    # First: the newest entry always stays, so no sequence number is ever used again.
    append_audit(
        connection,
        audit,
        first=sequences[0],
        last=sequences[-1],
        count=len(sequences),
        leaves_sha256=leaves.hexdigest(),
    )
    set_meta(connection, "audit_pruned", sequences[-1])
    connection.execute("DELETE FROM audit WHERE sequence <= ?", (sequences[-1],))
    return len(sequences)
