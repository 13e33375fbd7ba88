"""Which certificates a revocation hits, by an index, wherever in the inventory they are."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from legation.authority.revoking.scopes import (
    HOLD,
    AgentScope,
    IdentityScope,
    KeyScope,
    PatternScope,
    Scope,
    SerialScope,
)
from legation.authority.store.sqlite import hits as module
from legation.authority.store.sqlite.database import open_database
from legation.authority.store.sqlite.hits import held, hits
from legation.authority.store.sqlite.values import serial_to_bytes, to_ms
from legation.pki.spiffe_id import SpiffeID
from legation.policy import SpiffeIDPattern
from tests.authority.store_contract import HOUR, NOW

AGENT = SpiffeID.parse("spiffe://example.org/legation/agent/one")
OTHER = "spiffe://example.org/legation/agent/other"
KEY = bytes(range(32))
BY_AGENT, BY_KEY = AgentScope(agent=AGENT), KeyScope(fingerprint=KEY)
RUN = 4096  # certificates that lie together in the indexes


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_database(tmp_path / "a.db")) as connection:
        yield connection


def add(
    connection: sqlite3.Connection,
    row_id: int,
    *,
    requester: str = str(AGENT),
    key: bytes = KEY,
    ends: timedelta = HOUR,
    reason: str | None = None,
) -> None:
    connection.execute(
        "INSERT INTO certificates (id, serial, spiffe_id, profile, issuer, shard, not_before_ms,"
        " not_after_ms, requester, key_fingerprint, der, revoked_at_ms, reason)"
        " VALUES (?, ?, 'spiffe://example.org/w', 'workload', 'aa', 0, ?, ?, ?, ?, x'', ?, ?)",
        (
            row_id,
            serial_to_bytes(row_id),
            to_ms(NOW - HOUR),
            to_ms(NOW + ends),
            requester,
            key,
            None if reason is None else to_ms(NOW),
            reason,
        ),
    )


@pytest.mark.parametrize("scope", [BY_AGENT, BY_KEY])
def test_nothing_is_missed_in_any_run(connection: sqlite3.Connection, scope: Scope) -> None:
    """In the first and the last of a run, in runs that follow and in those far away."""
    ids = [1, RUN - 1, RUN, 2 * RUN - 1, 2 * RUN, 900 * RUN + 7]
    for row_id in ids:
        add(connection, row_id)
        add(connection, row_id + 100_000_000, requester=OTHER, key=bytes(32))
    found = hits(connection, scope, reason="keyCompromise", at=NOW)
    assert [row_id for row_id, _, _ in found] == ids


@pytest.mark.parametrize("scope", [BY_AGENT, BY_KEY])
def test_what_is_over_or_revoked_is_not_hit(connection: sqlite3.Connection, scope: Scope) -> None:
    """What is on hold is, unless by another hold; and that alone can be released."""
    add(connection, 1, reason="superseded")
    add(connection, 2, ends=-HOUR)
    add(connection, 5 * RUN, reason=HOLD)
    add(connection, 9 * RUN)
    for_good = hits(connection, scope, reason="keyCompromise", at=NOW)
    on_hold = hits(connection, scope, reason=HOLD, at=NOW)
    assert [row_id for row_id, _, _ in for_good] == [5 * RUN, 9 * RUN]
    assert [row_id for row_id, _, _ in on_hold] == [9 * RUN]
    assert list(held(connection, scope, at=NOW)) == [5 * RUN]


@pytest.mark.parametrize(
    ("scope", "index"),
    [
        (SerialScope(serial=1), "sqlite_autoindex_certificates_1 (serial=?)"),
        (IdentityScope(spiffe_id=AGENT, ban=True), "certificates_of_identity (spiffe_id=?"),
        (BY_AGENT, "certificates_revocable_by_requester (<expr>=? AND requester=?)"),
        (BY_KEY, "certificates_revocable_by_key (<expr>=? AND key_fingerprint=?)"),
        (
            PatternScope(pattern=SpiffeIDPattern.parse("spiffe://example.org/a/*"), before=NOW),
            "certificates_of_identity (spiffe_id>?",
        ),
    ],
)
def test_an_index_finds_them(connection: sqlite3.Connection, scope: Scope, index: str) -> None:
    """However much is on record: the inventory itself is never walked."""
    condition, values = module._condition(connection, scope, at=NOW)
    for wanted in (module._FRESH, module._HELD):
        query = f"SELECT id FROM certificates WHERE ({condition}) AND {wanted}"  # noqa: S608
        rows = connection.execute(
            f"EXPLAIN QUERY PLAN {query}", {"at": 1, "reason": HOLD, **values}
        )
        plan = [row[3] for row in rows]
        assert f"SEARCH certificates USING INDEX {index}" in plan[0], json.dumps(plan, indent=1)
        assert "SCAN certificates" not in plan
