"""Fills the store of an authority that does not run with revoked certificates.

Rows and events are what that many revocations would have left. Only the events' signatures
are not real: the authority never checks its own, and signing a million takes a minute.
"""

import itertools
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from legation.authority.store.sqlite.database import open_database
from legation.authority.store.sqlite.values import meta, serial_to_bytes, set_meta, to_ms
from legation.pki.serials import SerialNumber
from legation.wire.feed import FeedEvent, Kind, Revocation

IDENTITIES = 20_000
AGENTS = 1000
_REASON = "superseded"
_LIFETIME = timedelta(days=1)
_FIRST_INDEX = 1 << 40  # beyond what the authority allocates while a bench runs
_PART = 50_000  # rows of one transaction
_DER = bytes(700)  # of the size of a certificate; a bench does not look inside


def add_revoked(database: Path, count: int, *, shards: int) -> None:
    """Add revoked certificates of the issuing authority, and their events.

    Args:
        database: of an authority that does not run.
        count: how many.
        shards: over how many revocation lists they are spread.
    """
    with closing(open_database(database)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # whoever loses a bench begins it anew
        connection.execute("PRAGMA cache_size = -1000000")
        (issuer,) = connection.execute(
            "SELECT key_id FROM issuers WHERE role = 'issuing'"
        ).fetchone()
        taken = connection.execute("SELECT count(*) FROM certificates").fetchone()[0]
        now = datetime.now(UTC).replace(microsecond=0)
        rows = _revocations(issuer, taken, shards=shards, at=now)
        for start in range(0, count, _PART):
            connection.execute("BEGIN IMMEDIATE")
            _add(connection, itertools.islice(rows, min(_PART, count - start)), at=now)
            connection.execute("COMMIT")


def _revocations(issuer: str, first: int, *, shards: int, at: datetime) -> Iterator[Revocation]:
    for number in itertools.count(first):
        serial = SerialNumber.generate(shard=number % shards, index=_FIRST_INDEX + number)
        yield Revocation(
            serial=serial.to_int(),
            spiffe_id=f"spiffe://example.org/ns/bench/service-{number % IDENTITIES}",
            issuer=issuer,
            reason=_REASON,
            revoked_at=at,
            # They do not all end in the same second.
            expires_at=at + _LIFETIME + timedelta(seconds=number % 3600),
        )


def _add(connection: sqlite3.Connection, rows: Iterator[Revocation], *, at: datetime) -> None:
    first = meta(connection, "revision", 0) + 1
    numbered = list(enumerate(rows, start=first))
    connection.executemany(
        "INSERT INTO certificates (serial, spiffe_id, profile, issuer, shard, not_before_ms,"
        " not_after_ms, requester, key_fingerprint, der, revoked_at_ms, reason)"
        " VALUES (?, ?, 'workload', ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                serial_to_bytes(row.serial),
                row.spiffe_id,
                row.issuer,
                SerialNumber.from_int(row.serial).shard,
                to_ms(at),
                to_ms(row.expires_at),
                f"spiffe://example.org/legation/agent/bench-{revision % AGENTS}",
                os.urandom(32),
                _DER,
                to_ms(at),
                row.reason,
            )
            for revision, row in numbered
        ),
    )
    connection.executemany(
        "INSERT INTO events (revision, kind, key, body, signature, deletes, expires_at_ms)"
        " VALUES (?, ?, ?, ?, ?, 0, ?)",
        (
            (
                revision,
                str(Kind.REVOCATION),
                format(row.serial, "x"),
                FeedEvent(
                    revision=revision,
                    time_ms=to_ms(at),
                    kind=Kind.REVOCATION,
                    key=format(row.serial, "x"),
                    value=row.to_value(),
                ).to_bytes(),
                bytes(64),
                to_ms(row.expires_at),
            )
            for revision, row in numbered
        ),
    )
    set_meta(connection, "revision", numbered[-1][0])
