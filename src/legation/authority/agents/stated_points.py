"""What an agent states of one enforcement point, as it is kept: with bounds, and by our clock."""

from datetime import datetime
from typing import NamedTuple

from legation.authority.agents.standing import PointRecord
from legation.pki import SpiffeID

MAX_TEXT = 512
MAX_NOTES = 32


class StatedPoint(NamedTuple):
    """One enforcement point in an agent's statement."""

    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at: datetime | None
    capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def record(
    agent: SpiffeID,
    point: StatedPoint,
    now: datetime,
    revision: int,
    before: PointRecord | None = None,
) -> PointRecord:
    """Return the record of a statement.

    What a point says time and again is looked through once.

    Args:
        agent: who states it.
        point: what it states.
        now: the time.
        revision: that counts as the stated one.
        before: the record of the same point's last statement, if there is one.
    """
    name, kind, spiffe_id, _, applied_at, capabilities, notes = point
    reached_at = now
    if before is not None:
        if before.revision == revision:
            reached_at = before.reached_at
        same = before.capabilities == capabilities and before.notes == notes
    if before is None or not same:
        capabilities, notes = _clipped(capabilities), _clipped(notes)
    # Fields by place: that takes half as long.
    return PointRecord(
        agent, name[:MAX_TEXT], kind[:MAX_TEXT], spiffe_id[:MAX_TEXT], revision, applied_at,
        now, reached_at, capabilities, notes, True,
    )  # fmt: skip


def _clipped(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([text[:MAX_TEXT] for text in texts[:MAX_NOTES]]) if texts else ()


def marked(points: dict[str, PointRecord], *, connected: bool) -> dict[str, PointRecord]:
    """Return the same points of an agent that has come or gone."""
    return {name: point._replace(connected=connected) for name, point in points.items()}
