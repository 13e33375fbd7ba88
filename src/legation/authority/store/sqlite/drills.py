"""Rows of drills: the newest ones, each with its report as JSON."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from legation.authority.store.records import AuditDraft
from legation.authority.store.sqlite.feed import append_audit
from legation.authority.store.sqlite.values import from_ms, to_ms
from legation.clock import from_rfc3339, to_rfc3339
from legation.errors import NotFound
from legation.wire.drill import DrillRecord, DrillReport, DrillRow, DrillSummary, Kind, Outcome

KEPT = 500  # the newest; four a day fill it in four months
_SUMMARY = "id, at_ms, reported_by, targets, findings, slowest_ms"


def record_drill(
    connection: sqlite3.Connection, report: DrillReport, *, by: str, audit: AuditDraft
) -> DrillRecord:
    """Keep a report, and forget what is beyond `KEPT`."""
    row = (to_ms(report.at), by, report.targets, len(report.findings), report.slowest_ms)
    number = connection.execute(
        "INSERT INTO drills (at_ms, reported_by, targets, findings, slowest_ms, report)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (*row, _text(report)),
    ).lastrowid
    assert number is not None  # noqa: S101 - SQLite has just inserted it
    connection.execute("DELETE FROM drills WHERE id <= ?", (number - KEPT,))
    append_audit(connection, audit, drill=number)
    return DrillRecord(summary=_summary((number, *row)), report=report)


def drills(
    connection: sqlite3.Connection, *, before: int | None, limit: int
) -> Sequence[DrillSummary]:
    """Return drills in brief, the newest first, those older than `before`."""
    rows = connection.execute(
        f"SELECT {_SUMMARY} FROM drills WHERE :before IS NULL OR id < :before"  # noqa: S608 - constants
        " ORDER BY id DESC LIMIT :limit",
        {"before": before, "limit": limit},
    )
    return [_summary(row) for row in rows]


def drill(connection: sqlite3.Connection, drill_id: int) -> DrillRecord:
    """Return one."""
    row = connection.execute(
        f"SELECT {_SUMMARY}, report FROM drills WHERE id = ?",  # noqa: S608 - constants
        (drill_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no drill {drill_id}", remedy="see which: legation drill list")
    return DrillRecord(summary=_summary(row[:-1]), report=_report(row[-1]))


def _summary(row: tuple[Any, ...]) -> DrillSummary:
    number, at, by, targets, findings, slowest = row
    return DrillSummary(
        id=number,
        at=from_ms(at),
        by=by,
        targets=targets,
        findings=findings,
        slowest_ms=slowest,
    )


def _text(report: DrillReport) -> str:
    return json.dumps({**asdict(report), "at": to_rfc3339(report.at), "serial": str(report.serial)})


def _report(text: str) -> DrillReport:
    fields = json.loads(text)
    rows = tuple(
        DrillRow(**{**row, "kind": Kind(row["kind"]), "outcome": Outcome(row["outcome"])})
        for row in fields["rows"]
    )
    return DrillReport(
        **{
            **fields,
            "at": from_rfc3339(fields["at"]),
            "serial": int(fields["serial"]),
            "rows": rows,
        }
    )
