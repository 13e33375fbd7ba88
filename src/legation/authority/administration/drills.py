"""Drills on record, and the newest of them as an indicator."""

from collections.abc import Mapping, Sequence
from typing import Any

from legation.authority.events import DrillFailed, DrillHeld, EventBus
from legation.authority.model import Actor
from legation.authority.moments import stamp
from legation.authority.settings import AuthoritySettings
from legation.authority.store import AuditDraft, DrillStore
from legation.clock import Clock, to_rfc3339
from legation.errors import LimitExceeded
from legation.wire.drill import DrillRecord, DrillReport, DrillSummary

MAX_ROWS = 4096
_IN_EVENT = 16  # findings of one drill


class Drills:
    """Implements `legation.authority.services.DrillService`."""

    def __init__(
        self, store: DrillStore, *, settings: AuthoritySettings, clock: Clock, events: EventBus
    ) -> None:
        self._store = store
        self._trust_domain = settings.trust_domain
        self._clock = clock
        self._events = events
        self._newest: DrillSummary | None = None

    async def load(self) -> None:
        """Learn of the newest drill; the status needs it at hand."""
        self._newest = next(iter(await self._store.drills(before=None, limit=1)), None)

    async def record(self, report: DrillReport, *, actor: Actor) -> DrillRecord:
        """Keep a report; the oldest one leaves when there are too many.

        Raises:
            LimitExceeded: more rows than a report may have.
        """
        if len(report.rows) > MAX_ROWS:
            raise LimitExceeded(f"a drill's report has at most {MAX_ROWS} rows")
        by = str(actor.spiffe_id)
        record = await self._store.record_drill(
            report,
            by=by,
            audit=AuditDraft(
                time=stamp(self._clock),
                actor=by,
                action="drill.report",
                subject=str(self._trust_domain),
                detail={
                    "serial": format(report.serial, "x"),
                    "targets": report.targets,
                    "findings": len(report.findings),
                },
            ),
        )
        self._newest = record.summary
        self._tell(record)
        return record

    async def list(self, *, before: int | None, limit: int) -> Sequence[DrillSummary]:
        """Return those on record, the newest first; `before` is where the page before ended."""
        return await self._store.drills(before=before, limit=limit)

    async def get(self, drill_id: int) -> DrillRecord:
        """Return one.

        Raises:
            NotFound: there is none with this number.
        """
        return await self._store.drill(drill_id)

    def indicator(self) -> Mapping[str, Any] | None:
        """Return the newest drill in brief, as JSON values; None if there was none."""
        newest = self._newest
        if newest is None:
            return None
        return {
            "id": newest.id,
            "at": to_rfc3339(newest.at),
            "targets": newest.targets,
            "findings": newest.findings,
            "slowest_ms": newest.slowest_ms,
        }

    def _tell(self, record: DrillRecord) -> None:
        summary, findings = record.summary, record.report.findings
        if not findings:
            self._events.emit(
                DrillHeld(
                    drill=summary.id,
                    actor=summary.by,
                    targets=summary.targets,
                    slowest_ms=summary.slowest_ms,
                )
            )
            return
        named = tuple(f"{row.target} {row.kind} {row.outcome}" for row in findings[:_IN_EVENT])
        self._events.emit(
            DrillFailed(drill=summary.id, actor=summary.by, targets=summary.targets, findings=named)
        )
