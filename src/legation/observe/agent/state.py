"""Looks at a running agent, and counts what becomes of its certificates."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final

from prometheus_client import Counter as CounterInstrument

from legation.agent.identities.held import RotationStatus
from legation.agent.wiring import Agent
from legation.causes import Cause
from legation.observe.agent import definitions as known
from legation.observe.metric import POINT_KINDS, Instruments, Look
from legation.observe.metric import known as one_of
from legation.policy import JUDGED_KINDS, Freshness

_LOOK_EVERY_S: Final = 1.0
_CAUSES: Final = frozenset(map(str, Cause))
_STATES: Final = ("current", "failing", "rejected", "missing")
_OUTCOMES: Final = ("issued", "failed", "rolled_back")


class AgentState:
    """A collector: reads the agent's boards when it is asked."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Look:
        """Return what is found now."""
        look = Look(metric for metric in known.METRICS if metric is not known.CERTIFICATIONS)
        self._put_connection(look)
        self._put_certificates(look)
        self._put_points(look)
        causes: Counter[str] = Counter()
        for refusal in self._agent.board.refusals():
            causes[refusal.cause if refusal.cause in _CAUSES else Cause.UNKNOWN] += refusal.count
        for cause, count in causes.items():
            look.put(known.REFUSED, count, cause)
        return look

    def _put_connection(self, look: Look) -> None:
        agent, sync = self._agent, self._agent.sync
        contact = sync.last_contact
        look.put(known.CONNECTED, sync.connected)
        look.put(known.LAST_CONTACT, 0 if contact is None else contact.timestamp())
        look.put(known.IN_STEP, agent.freshness.in_step_at.timestamp())
        look.put(known.FEED_REVISION, agent.identities.state.revision)
        if sync.clock_skew_s is not None:
            look.put(known.CLOCK_SKEW, sync.clock_skew_s)

    def _put_certificates(self, look: Look) -> None:
        agent = self._agent
        look.put(known.OWN_NOT_AFTER, agent.own.identity.not_after.timestamp())
        look.put(known.OWN_FAILING, agent.own.problem is not None)
        look.put(known.STAPLES, agent.staples.count)
        rows = agent.identities.status()
        states = Counter(map(_state_of, rows))
        for state in _STATES:
            look.put(known.IDENTITIES, states[state], state)
        ends = [row.not_after.timestamp() for row in rows if row.not_after is not None]
        if ends:
            look.put(known.FIRST_NOT_AFTER, min(ends))
        look.put(known.NOT_IN_FORCE, sum(bool(row.problem) for row in agent.in_force.rows()))
        for state, count in Counter(sink.state for sink in agent.sinks.status()).items():
            look.put(known.SINKS, count, state)

    def _put_points(self, look: Look) -> None:
        agent = self._agent
        newest = agent.identities.state.revision
        counts: Counter[str] = Counter()
        behind: Counter[str] = Counter()
        first: dict[str, int] = {}
        fresh: Counter[tuple[str, Freshness]] = Counter()
        left: dict[str, float] = {}
        for point in agent.board.points():
            kind = one_of(point.kind, POINT_KINDS)
            counts[kind] += 1
            behind[kind] += point.revision < newest
            first[kind] = min(first.get(kind, point.revision), point.revision)
            if point.kind in JUDGED_KINDS:
                found = agent.freshness.of(point.spiffe_id)
                fresh[kind, found.state] += 1
                if found.left_s is not None:
                    left[kind] = min(left.get(kind, found.left_s), found.left_s)
        for kind, count in counts.items():
            look.put(known.POINTS, count, kind)
            look.put(known.POINTS_BEHIND, behind[kind], kind)
            look.put(known.POINTS_REVISION, first[kind], kind)
        for kind in {kind for kind, _ in fresh}:
            for state in Freshness:
                look.put(known.POINTS_FRESHNESS, fresh[kind, state], kind, state)
        for kind, left_s in left.items():
            look.put(known.POINTS_LEFT, left_s, kind)


class CertificationCounts:
    """Counts certificates that came, were taken back, or could not be had.

    The rotator says how its identities are; what happened is the difference of two looks.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._count: CounterInstrument = instruments.counter(known.CERTIFICATIONS)
        for outcome in _OUTCOMES:
            self._count.labels(outcome)
        self._before: dict[str, RotationStatus] = {}

    async def run(self, agent: Agent) -> None:
        """Follow an agent until cancelled."""
        async for _ in agent.identities.watch():
            self.look(agent.identities.status())
            await asyncio.sleep(_LOOK_EVERY_S)

    def look(self, rows: Sequence[RotationStatus]) -> None:
        """Take in how every identity is."""
        for row in rows:
            before = self._before.get(row.entry.id)
            told = 0 if before is None else before.failures
            # Fewer than before: there was a success in between.
            self._add("failed", row.failures - told if row.failures >= told else row.failures)
            came = row.serial is not None and (before is None or before.serial != row.serial)
            back = row.rejected is not None and (before is None or before.rejected != row.rejected)
            self._add("rolled_back", back)
            self._add("issued", came and not back)
        self._before = {row.entry.id: row for row in rows}

    def _add(self, outcome: str, count: int) -> None:
        self._count.labels(outcome).inc(count)


def _state_of(row: RotationStatus) -> str:
    if row.serial is None:
        return "missing"
    if row.rejected is not None:
        return "rejected"
    return "failing" if row.failures else "current"
