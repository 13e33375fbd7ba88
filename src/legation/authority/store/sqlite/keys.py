"""Rows of wrapped private keys."""

import sqlite3
from collections.abc import Sequence

from legation.authority.store.records import WrappedKey
from legation.authority.store.sqlite.values import from_ms, to_ms


def insert_keys(connection: sqlite3.Connection, keys: Sequence[WrappedKey]) -> None:
    """Record wrapped keys."""
    connection.executemany(
        "INSERT INTO keys (id, purpose, algorithm, envelope, created_at_ms) VALUES (?, ?, ?, ?, ?)",
        [(k.id, k.purpose, k.algorithm, k.envelope, to_ms(k.created_at)) for k in keys],
    )


def wrapped_keys(connection: sqlite3.Connection) -> Sequence[WrappedKey]:
    """Return every wrapped key, the oldest first."""
    rows = connection.execute(
        "SELECT id, purpose, algorithm, envelope, created_at_ms FROM keys ORDER BY rowid"
    )
    return [
        WrappedKey(
            id=key_id,
            purpose=purpose,
            algorithm=algorithm,
            envelope=envelope,
            created_at=from_ms(created),
        )
        for key_id, purpose, algorithm, envelope, created in rows
    ]
