"""What the drills need of the store; the promises are those of `protocols`."""

from collections.abc import Sequence
from typing import Protocol

from legation.authority.store.records import AuditDraft
from legation.wire.drill import DrillRecord, DrillReport, DrillSummary


class DrillStore(Protocol):
    """Drills that were held."""

    async def record_drill(self, report: DrillReport, *, by: str, audit: AuditDraft) -> DrillRecord:
        """Keep a report under the next number, and forget the oldest beyond a fixed count."""
        ...

    async def drills(self, *, before: int | None, limit: int) -> Sequence[DrillSummary]:
        """Return drills older than the one numbered `before`, the newest first."""
        ...

    async def drill(self, drill_id: int) -> DrillRecord:
        """Return one.

        Raises:
            NotFound: never held, or forgotten.
        """
        ...
