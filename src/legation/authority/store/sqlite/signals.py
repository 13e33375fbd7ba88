"""Rows of misuse signals, and of what was learned to be ordinary."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from legation.authority.misuse.model import (
    UNKNOWN,
    Evidence,
    Finding,
    Kind,
    Severity,
    Signal,
    SignalState,
)
from legation.authority.store.records import AuditDraft
from legation.authority.store.sqlite.feed import append_audit
from legation.authority.store.sqlite.values import optional_from_ms, optional_ms, to_ms
from legation.errors import NotFound

_WHAT = (
    "kind, severity, spiffe_id, serial, requester, network, summary, count, first_ms, last_ms,"
    " evidence"
)
_COLUMNS = f"id, {_WHAT}, state, decided_by, decided_at_ms, note"


def put_findings(connection: sqlite3.Connection, findings: Sequence[Finding]) -> Sequence[Signal]:
    """Add each finding to its signal."""
    return [_put(connection, finding) for finding in findings]


def _put(connection: sqlite3.Connection, finding: Finding) -> Signal:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM signals"  # noqa: S608 - constants
        " WHERE kind = ? AND spiffe_id = ? AND serial = ?",
        (finding.kind, finding.spiffe_id, _serial_text(finding.serial)),
    ).fetchone()
    if row is None:
        number = connection.execute(
            f"INSERT INTO signals ({_WHAT}, state, note)"  # noqa: S608 - constants
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'open', '')",
            _values(finding),
        ).lastrowid
        assert number is not None  # noqa: S101 - SQLite has just inserted it
        return Signal(id=number, finding=finding, new=True)
    now = _signal(row).continued(finding)
    connection.execute(
        "UPDATE signals SET state = ?, decided_by = ?, decided_at_ms = ?, note = ?, summary = ?,"
        " severity = ?, count = ?, first_ms = ?, last_ms = ?, evidence = ? WHERE id = ?",
        (
            now.state,
            now.decided_by,
            optional_ms(now.decided_at),
            now.note,
            now.finding.summary,
            now.finding.severity,
            now.finding.count,
            _ms(now.finding.first),
            _ms(now.finding.last),
            _evidence_text(now.finding.evidence),
            now.id,
        ),
    )
    return now


def signals(
    connection: sqlite3.Connection,
    *,
    state: SignalState | None,
    before: int | None,
    limit: int,
) -> Sequence[Signal]:
    """Return signals, the newest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM signals"  # noqa: S608 - constants
        " WHERE (:state IS NULL OR state = :state) AND (:before IS NULL OR id < :before)"
        " ORDER BY id DESC LIMIT :limit",
        {"state": state, "before": before, "limit": limit},
    )
    return [_signal(row) for row in rows]


def signal(connection: sqlite3.Connection, signal_id: int) -> Signal:
    """Return one."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM signals WHERE id = ?",  # noqa: S608 - constants
        (signal_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no signal {signal_id}", remedy="see which: legation signal list")
    return _signal(row)


def decide_signal(
    connection: sqlite3.Connection,
    signal_id: int,
    state: SignalState,
    *,
    note: str,
    audit: AuditDraft,
) -> Signal:
    """Record what became of a signal."""
    signal(connection, signal_id).require_open()
    connection.execute(
        "UPDATE signals SET state = ?, decided_by = ?, decided_at_ms = ?, note = ? WHERE id = ?",
        (state, audit.actor, to_ms(audit.time), note, signal_id),
    )
    append_audit(connection, audit)
    return signal(connection, signal_id)


def prune_signals(connection: sqlite3.Connection, *, before: datetime, most: int) -> int:
    """Forget the old, and the oldest of too many."""
    aged = connection.execute("DELETE FROM signals WHERE last_ms < ?", (to_ms(before),)).rowcount
    crowded = connection.execute(
        "DELETE FROM signals WHERE id <="
        " (SELECT id FROM signals ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (most,),
    ).rowcount
    return aged + crowded


def learn(
    connection: sqlite3.Connection, subjects: Mapping[str, Mapping[str, Any]], *, at: datetime
) -> None:
    """Keep what was learned."""
    connection.executemany(
        "INSERT INTO misuse_learned (subject, value, at_ms) VALUES (?, ?, ?)"
        " ON CONFLICT (subject) DO UPDATE SET value = excluded.value, at_ms = excluded.at_ms",
        [(subject, json.dumps(value), to_ms(at)) for subject, value in subjects.items()],
    )


def learned(connection: sqlite3.Connection) -> Mapping[str, dict[str, Any]]:
    """Return what was learned."""
    rows = connection.execute("SELECT subject, value FROM misuse_learned")
    return {subject: json.loads(value) for subject, value in rows}


def forget_learned(connection: sqlite3.Connection, *, before: datetime) -> int:
    """Forget subjects of long ago."""
    return connection.execute(
        "DELETE FROM misuse_learned WHERE at_ms < ?", (to_ms(before),)
    ).rowcount


def _signal(row: tuple[Any, ...]) -> Signal:
    number, kind, severity, spiffe_id, serial, requester, network, summary, *rest = row
    count, first, last, evidence, state, decided_by, decided_at, note = rest
    return Signal(
        id=number,
        finding=Finding(
            kind=Kind(kind),
            severity=Severity(severity),
            spiffe_id=spiffe_id,
            serial=int(serial, 16) if serial else UNKNOWN,
            requester=requester,
            network=network,
            summary=summary,
            count=count,
            first=first / 1000,
            last=last / 1000,
            evidence=tuple(Evidence(**one) for one in json.loads(evidence)),
        ),
        state=SignalState(state),
        decided_by=decided_by,
        decided_at=optional_from_ms(decided_at),
        note=note,
    )


def _values(finding: Finding) -> tuple[Any, ...]:
    return (
        finding.kind,
        finding.severity,
        finding.spiffe_id,
        _serial_text(finding.serial),
        finding.requester,
        finding.network,
        finding.summary,
        finding.count,
        _ms(finding.first),
        _ms(finding.last),
        _evidence_text(finding.evidence),
    )


def _serial_text(serial: int) -> str:
    return "" if serial == UNKNOWN else format(serial, "x")


def _evidence_text(rows: Sequence[Evidence]) -> str:
    return json.dumps([asdict(row) for row in rows])


def _ms(seconds: float) -> int:
    return to_ms(datetime.fromtimestamp(seconds, UTC))
