"""Who has the memo: what each enforcement point has in force, as its agent states it."""

import dataclasses
from bisect import insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from legation.authority.agents.freshness import Bounds
from legation.authority.agents.revision_times import RevisionTimes
from legation.authority.agents.standing import (
    PointFreshness,
    PointRecord,
    PointStanding,
    Standing,
)
from legation.authority.changes import Changes
from legation.authority.model import AgentRecord
from legation.authority.store import CommittedEvent, EnrolledAgent
from legation.clock import Clock
from legation.errors import LimitExceeded
from legation.pki import SpiffeID

MAX_POINTS = 4096  # behind one agent
MAX_TEXT = 512
MAX_NOTES = 32
LATE_AFTER_S: Final = 10.0  # three heartbeats: what reached nobody yet is no lag
MAX_LEFT = 64  # points that have left, for each agent
LEFT_KEPT: Final = timedelta(hours=1)
# How old the answer of `acknowledged` may be: every agent asks with each heartbeat.
_FRESH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedPoint:
    """One enforcement point in an agent's statement."""

    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at: datetime | None
    capabilities: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Agent:
    enrolled: EnrolledAgent
    session: object | None = None
    revision: int = 0
    last_contact: datetime | None = None
    version: str = ""
    points: dict[str, PointRecord] = field(default_factory=dict)
    left: dict[str, tuple[PointRecord, datetime]] = field(default_factory=dict)


class PropagationBoard:
    """Implements `legation.authority.services.PropagationService`.

    It lives in memory: agents state everything anew when they connect. What an agent said
    last stays when it leaves, marked as not connected: a point that cannot be asked is not
    a point that has the memo.
    """

    def __init__(self, clock: Clock, bounds: Bounds) -> None:
        self._clock = clock
        self._bounds = bounds
        self._agents: dict[SpiffeID, _Agent] = {}
        self._ordered: list[_Agent] = []  # by name: who waits looks at them again and again
        self._changes = Changes()
        self._acknowledged: tuple[float, int] | None = None
        self._times = RevisionTimes(0, clock.now())

    def begin(self, revision: int) -> None:
        """Say which revision the feed stands at; once, before anything is committed."""
        self._times = RevisionTimes(revision, self._clock.now())

    def listen(self, committed: CommittedEvent) -> None:
        """Note when a revision was committed; called for every event of the feed."""
        event = committed.event
        self._times.committed(event.revision, datetime.fromtimestamp(event.time_ms / 1000, UTC))

    def standings(self) -> Sequence[PointStanding]:
        """Return how every point stands, those that left lately included, by agent and id."""
        return [
            standing
            for agent in self._ordered
            for standing in sorted(self._standings_of(agent), key=lambda row: row.point.id)
        ]

    def _standings_of(self, agent: _Agent) -> Iterator[PointStanding]:
        for point in agent.points.values():
            lag, lag_s = self._times.lag(point.revision, self._clock.now)
            standing = Standing.LATE if lag_s > LATE_AFTER_S else Standing.CONNECTED
            yield PointStanding(
                point=point,
                standing=standing if point.connected else Standing.UNREACHABLE,
                lag=lag,
                lag_s=lag_s,
                last_contact=agent.last_contact,
                freshness=self._bounds.judge(point, self._age(agent, lag_s)),
            )
        for point, left_at in agent.left.values():
            if self._clock.now() - left_at < LEFT_KEPT:
                yield PointStanding(
                    point=point,
                    standing=Standing.LEFT,
                    lag=0,
                    lag_s=0.0,
                    last_contact=agent.last_contact,
                    left_at=left_at,
                )

    def freshness(self) -> Iterator[tuple[PointRecord, PointFreshness]]:
        """Yield how every point stands to the age that its data may have, in no order."""
        for agent in self._agents.values():
            for point in agent.points.values():
                _, lag_s = self._times.lag(point.revision, self._clock.now)
                found = self._bounds.judge(point, self._age(agent, lag_s))
                if found is not None:
                    yield point, found

    def _age(self, agent: _Agent, lag_s: float) -> float:
        """Return for how long a point may have missed something, in seconds.

        An agent is there as long as its stream is: gRPC asks, and ends one that is dead.
        """
        late_s = lag_s if lag_s > LATE_AFTER_S else 0.0
        if agent.session is not None or agent.last_contact is None:
            return late_s
        away_s = (self._clock.now() - agent.last_contact).total_seconds()
        return max(late_s, away_s)

    def points(self) -> Sequence[PointRecord]:
        """Return every known enforcement point, by agent and id."""
        return [point for agent in self._ordered for point in agent.points.values()]

    def agents(self) -> Sequence[AgentRecord]:
        """Return every enrolled agent, by name."""
        return [
            AgentRecord(
                spiffe_id=agent.enrolled.spiffe_id,
                enrolled_at=agent.enrolled.enrolled_at,
                connected=agent.session is not None,
                revision=agent.revision,
                last_contact=agent.last_contact,
                version=agent.version,
            )
            for agent in self._ordered
        ]

    async def wait_for_change(self, *, timeout_s: float) -> None:
        """Return when any point changed, or after `timeout_s`."""
        await self._changes.wait(timeout_s=timeout_s)

    def acknowledged(self) -> int:
        """Return the revision that every connected enforcement point has in force; at most a
        second old. 0 when no agent is connected.
        """
        now = self._clock.monotonic()
        if self._acknowledged is None or now - self._acknowledged[0] > _FRESH_S:
            self._acknowledged = now, min(self._in_force(), default=0)
        return self._acknowledged[1]

    def _in_force(self) -> Iterator[int]:
        for agent in self._agents.values():
            if agent.session is not None:
                yield agent.revision
                yield from (point.revision for point in agent.points.values())

    def all_hold(self, revision: int) -> bool:
        """Tell whether every connected agent has acknowledged `revision`."""
        return all(
            agent.revision >= revision
            for agent in self._agents.values()
            if agent.session is not None
        )

    def is_enrolled(self, agent: SpiffeID) -> bool:
        """Tell whether an agent has joined."""
        return agent in self._agents

    def enrolled(self, agent: EnrolledAgent) -> None:
        """Note an agent that joined, or joined again."""
        known = self._agents.get(agent.spiffe_id)
        if known is None:
            row = self._agents[agent.spiffe_id] = _Agent(agent)
            insort(self._ordered, row, key=lambda each: each.enrolled.spiffe_id)
        else:
            known.enrolled = agent
        self._changes.notify()

    def connected(self, agent: SpiffeID, session: object, *, version: str, revision: int) -> None:
        """Note that an agent opened its stream; `session` tells this stream from others."""
        row = self._agents[agent]
        row.session = session
        row.version = version[:MAX_TEXT]
        row.revision = revision
        row.last_contact = self._clock.now()
        row.points = _marked(row.points, connected=True)
        self._changes.notify()

    def disconnected(self, agent: SpiffeID, session: object) -> None:
        """Note that a stream ended; nothing happens if the agent has a newer one."""
        row = self._agents.get(agent)
        if row is None or row.session is not session:
            return
        row.session, row.last_contact = None, self._clock.now()
        row.points = _marked(row.points, connected=False)
        self._changes.notify()

    def heard(self, agent: SpiffeID) -> None:
        """Note a sign of life."""
        self._agents[agent].last_contact = self._clock.now()

    def state(self, agent: SpiffeID, *, revision: int, points: Iterable[StatedPoint]) -> None:
        """Take a full statement: points that are not in it are gone.

        Raises:
            LimitExceeded: more points than one agent may have.
        """
        row = self._agents[agent]
        now = self._clock.now()
        ordered = sorted(points, key=lambda point: point.id)
        stated = {point.id: _record(agent, point, now) for point in ordered}
        if len(stated) > MAX_POINTS:
            raise LimitExceeded(f"an agent has at most {MAX_POINTS} enforcement points")
        gone = {name: (point, now) for name, point in row.points.items() if name not in stated}
        if gone or row.left:
            stayed_away = {name: left for name, left in row.left.items() if name not in stated}
            newest = sorted((stayed_away | gone).items(), key=lambda left: left[1][1])[-MAX_LEFT:]
            row.left = dict(newest)
        row.points, row.revision, row.last_contact = stated, revision, now
        self._changes.notify()


def _record(agent: SpiffeID, point: StatedPoint, now: datetime) -> PointRecord:
    return PointRecord(
        agent=agent,
        id=point.id[:MAX_TEXT],
        kind=point.kind[:MAX_TEXT],
        spiffe_id=point.spiffe_id[:MAX_TEXT],
        revision=point.revision,
        applied_at=point.applied_at,
        received_at=now,
        capabilities=tuple(text[:MAX_TEXT] for text in point.capabilities[:MAX_NOTES]),
        notes=tuple(text[:MAX_TEXT] for text in point.notes[:MAX_NOTES]),
        connected=True,
    )


def _marked(points: dict[str, PointRecord], *, connected: bool) -> dict[str, PointRecord]:
    return {name: dataclasses.replace(point, connected=connected) for name, point in points.items()}
