"""Looks at a running authority. What a look costs grows with agents and points, and with nothing
that was ever issued or revoked.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from legation.authority.agents.standing import PointStanding, Standing
from legation.authority.misuse.model import SignalState
from legation.authority.model import ListRecord
from legation.authority.ocsp import OCSPService
from legation.authority.services import Services
from legation.clock import Clock, from_rfc3339
from legation.errors import LegationError
from legation.observe.authority import definitions as known
from legation.observe.authority.counting import COUNTED_BY_EVENTS
from legation.observe.metric import POINT_KINDS, Look, Metric
from legation.observe.metric import known as one_of
from legation.policy import Freshness
from legation.wire.drill import DrillRecord, DrillRow
from legation.wire.drill import Kind as DrillKind

MAX_LISTS: Final = 64
MAX_DRILL_ROWS: Final = 512
MAX_SIGNALS: Final = 1000
_SIGNALS_EVERY: Final = timedelta(seconds=10)
_log = logging.getLogger(__name__)


class AuthorityState:
    """A collector: reads the boards when it is asked.

    Args:
        services: of the authority.
        ocsp: answers about certificates, or None if that is off.
        clock: the time.
    """

    def __init__(self, services: Services, ocsp: OCSPService | None, *, clock: Clock) -> None:
        self._services = services
        self._ocsp = ocsp
        self._clock = clock
        self._drill: DrillRecord | None = None
        self._signals: dict[tuple[str, str], int] = {}
        self._signals_at: float | None = None

    async def refresh(self) -> None:
        """Read what is in the store alone: the newest drill, and open misuse signals.

        What cannot be read now stays what it was.
        """
        try:
            await self._read_drill()
            await self._read_signals()
        except LegationError as error:
            _log.warning("some metrics are not up to date: %s", error)

    async def _read_drill(self) -> None:
        newest = self._services.status.status()["drill"]
        if newest is not None and (self._drill is None or newest["id"] != self._drill.summary.id):
            self._drill = await self._services.drills.get(newest["id"])

    async def _read_signals(self) -> None:
        now = self._clock.monotonic()
        read_at = self._signals_at
        if read_at is not None and now - read_at < _SIGNALS_EVERY.total_seconds():
            return
        found = await self._services.signals.list(state=SignalState.OPEN, limit=MAX_SIGNALS)
        counts = Counter((str(s.finding.kind), str(s.finding.severity)) for s in found)
        # What has none any more says so, and is not just gone.
        self._signals = dict.fromkeys(self._signals, 0) | counts
        self._signals_at = now

    def collect(self) -> Look:
        """Return what is found now."""
        off = () if self._ocsp else _OF_OCSP
        look = Look(metric for metric in _LOOKED_AT if metric not in off)
        self._put_status(look, self._services.status.status())
        for part, state in self._services.status.ready()[1].items():
            look.put(known.READY, state == "ok", part)
        _put_points(look, self._services.propagation.standings())
        _put_lists(look, self._services.status.revocation_lists())
        for (kind, severity), count in self._signals.items():
            look.put(known.SIGNALS_OPEN, count, kind, severity)
        _put_drill(look, self._drill)
        if self._ocsp is not None:
            look.put(known.OCSP_KEPT, self._ocsp.kept)
            look.put(known.OCSP_REFRESH_FAILURES, self._ocsp.refresh_failures)
            for status, count in self._ocsp.answered.items():
                look.put(known.OCSP_RESPONSES, count, status)
        return look

    @staticmethod
    def _put_status(look: Look, status: Mapping[str, Any]) -> None:
        counts = status["counts"]
        look.put(known.FEED_REVISION, status["revision"])
        look.put(known.ENTRIES, counts["entries"])
        look.put(known.POLICIES, counts["policies"])
        look.put(known.BANS, counts["bans"])
        look.put(known.REVOKED_NOW, counts["revocations"])
        look.put(known.AGENTS, counts["agents_connected"], "connected")
        look.put(known.AGENTS, counts["agents"] - counts["agents_connected"], "away")
        look.put(known.SERVING_NOT_AFTER, _seconds(status["serving_not_after"]))
        for issuer in status["issuers"]:
            of = issuer["key_id"], issuer["role"]
            look.put(known.ISSUER_NOT_BEFORE, _seconds(issuer["not_before"]), *of)
            look.put(known.ISSUER_NOT_AFTER, _seconds(issuer["not_after"]), *of)


def _put_points(look: Look, standings: Iterable[PointStanding]) -> None:
    counts: Counter[tuple[str, Standing]] = Counter()
    lags: dict[tuple[str, Standing], float] = {}
    fresh: Counter[tuple[str, Freshness]] = Counter()
    left: dict[str, float] = {}
    for row in standings:
        kind, standing = one_of(row.point.kind, POINT_KINDS), row.standing
        counts[kind, standing] += 1
        lags[kind, standing] = max(lags.get((kind, standing), 0.0), row.lag_s)
        if (found := row.freshness) is not None:
            fresh[kind, found.state] += 1
            left[kind] = min(left.get(kind, found.left_s), found.left_s)
    for kind in {kind for kind, _ in counts}:
        for standing in Standing:
            look.put(known.POINTS, counts[kind, standing], kind, standing)
            if standing is not Standing.LEFT:
                look.put(known.POINTS_LAG, lags.get((kind, standing), 0.0), kind, standing)
    for kind, left_s in left.items():
        look.put(known.POINTS_LEFT, left_s, kind)
        for state in Freshness:
            look.put(known.POINTS_FRESHNESS, fresh[kind, state], kind, state)


def _put_lists(look: Look, lists: Iterable[ListRecord]) -> None:
    out = list(lists)
    look.put(known.CRL_LISTS, len(out))
    if not out:
        return
    first = min(out, key=lambda each: each.next_update)
    look.put(known.CRL_FIRST_THIS, first.this_update.timestamp())
    look.put(known.CRL_FIRST_NEXT, first.next_update.timestamp())
    look.put(known.CRL_LARGEST, max(each.size for each in out))
    if len(out) > MAX_LISTS:
        return
    for each in out:
        of = each.issuer, str(each.shard)
        look.put(known.CRL_NUMBER, each.number, *of)
        look.put(known.CRL_ENTRIES, each.entries, *of)
        look.put(known.CRL_SIZE, each.size, *of)
        look.put(known.CRL_THIS, each.this_update.timestamp(), *of)
        look.put(known.CRL_NEXT, each.next_update.timestamp(), *of)


def _put_drill(look: Look, drill: DrillRecord | None) -> None:
    if drill is None:
        look.put(known.DRILL_LAST, 0)
        look.put(known.DRILL_FINDINGS, 0)
        look.put(known.DRILL_TARGETS, 0)
        return
    look.put(known.DRILL_LAST, drill.summary.at.timestamp())
    look.put(known.DRILL_FINDINGS, drill.summary.findings)
    look.put(known.DRILL_TARGETS, drill.summary.targets)
    for row in _shown(drill.report.rows):
        look.put(known.DRILL_OUTCOME, 1, row.target, row.kind, row.outcome)
        if row.after_ms is not None:
            look.put(known.DRILL_REFUSAL, row.after_ms / 1000, row.target, row.kind)


def _shown(rows: Iterable[DrillRow]) -> Iterable[DrillRow]:
    """Return one row for each target and kind, findings first, so many as may be shown.

    Points that no target covers are among the findings, and named by the authority's log.
    """
    found: dict[tuple[str, DrillKind], DrillRow] = {}
    for row in sorted(rows, key=lambda row: not row.outcome.is_finding):
        if row.kind is not DrillKind.COVERAGE:
            found.setdefault((row.target, row.kind), row)
    return list(found.values())[:MAX_DRILL_ROWS]


def _seconds(time: str) -> float:
    return from_rfc3339(time).timestamp()


_OF_OCSP: Final[tuple[Metric, ...]] = (
    known.OCSP_KEPT,
    known.OCSP_RESPONSES,
    known.OCSP_REFRESH_FAILURES,
)
_LOOKED_AT: Final = tuple(each for each in known.METRICS if each not in COUNTED_BY_EVENTS)
