"""Who has the memo: what each enforcement point has in force, as its agent states it."""

import asyncio
from bisect import insort
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from legation.authority.agents.freshness import Bounds
from legation.authority.agents.reaching import Reaching
from legation.authority.agents.revision_times import RevisionTimes
from legation.authority.agents.standing import (
    PointFreshness,
    PointRecord,
    PointStanding,
    Standing,
)
from legation.authority.agents.stated_points import MAX_TEXT, StatedPoint, marked, record
from legation.authority.changes import Changes
from legation.authority.model import AgentRecord
from legation.authority.store import CommittedEvent, EnrolledAgent
from legation.clock import Clock
from legation.errors import LimitExceeded
from legation.pki import SpiffeID

MAX_POINTS = 4096  # behind one agent
LATE_AFTER_S: Final = 10.0  # three heartbeats: what reached nobody yet is no lag
MAX_LEFT = 64  # points that have left, for each agent
READS_LISTS: Final = "sink"  # the kind of points that are told by revocation lists alone
LEFT_KEPT: Final = timedelta(hours=1)
# How old the answer of `acknowledged` may be: every agent asks with each heartbeat.
_FRESH_S = 1.0


@dataclass(slots=True, eq=False)
class _Agent:
    enrolled: EnrolledAgent
    session: object | None = None
    revision: int = 0
    last_contact: datetime | None = None
    version: str = ""
    points: dict[str, PointRecord] = field(default_factory=dict)
    left: dict[str, tuple[PointRecord, datetime]] = field(default_factory=dict)
    stated: bool = False  # ever
    away_since: datetime | None = None  # by the board's own clock
    awaited_until: datetime | None = None  # may be out there since before this authority began

    def take_away(self, names: Iterable[str], *, at: datetime) -> None:
        """Note that these of its points have left."""
        left = self.left | {name: (self.points[name], at) for name in names}
        self.left = dict(sorted(left.items(), key=lambda item: item[1][1])[-MAX_LEFT:])

    def is_behind(self, revision: int) -> bool:
        """Tell whether it is connected and lacks `revision`, or a point of its that is pushed to.

        Points that read files have a revocation in force with the list that names it.
        """
        return self.session is not None and (
            self.revision < revision
            or any(p.revision < revision and p.kind != READS_LISTS for p in self.points.values())
        )


class _Behind:
    """Who still lacks a revision. Only the last of them is looked at, so news costs nothing."""

    def __init__(self, revision: int, agents: list[_Agent]) -> None:
        self.nobody = asyncio.get_running_loop().create_future()
        self.fewer = False  # since somebody last set it back
        self._revision = revision
        self._agents = agents
        self._look()

    def note(self, agent: _Agent) -> None:
        """Take note that an agent has stated something, or has gone."""
        if agent.session is None or agent.revision >= self._revision:
            self.fewer = True
        if self._agents and self._agents[-1] is agent:
            self._look()

    def _look(self) -> None:
        while self._agents and not self._agents[-1].is_behind(self._revision):
            self._agents.pop()
        if not self._agents and not self.nobody.done():
            self.nobody.set_result(None)


class PropagationBoard:
    """Implements `legation.authority.services.PropagationService`.

    It lives in memory: agents state everything anew when they connect. What an agent said
    last stays when it leaves, marked as not connected: a point that cannot be asked is not
    a point that has the memo. Nor is an agent that has stated nothing yet: it stands here
    itself, with nothing in force, and so does one that was out there when the authority began
    and has not come back.
    """

    def __init__(self, clock: Clock, bounds: Bounds) -> None:
        self._clock = clock
        self._bounds = bounds
        self._agents: dict[SpiffeID, _Agent] = {}
        self._ordered: list[_Agent] = []  # by name: who waits looks at them again and again
        self._changes = Changes()
        self._waiting: set[_Behind] = set()
        self._reaching: set[Reaching] = set()
        self._acknowledged: tuple[float, int] | None = None
        self._began = clock.now(), clock.monotonic()
        self._times = RevisionTimes(0, self._steady())

    def begin(self, revision: int) -> None:
        """Say which revision the feed stands at; once, before anything is committed."""
        self._times = RevisionTimes(revision, self._steady())

    def listen(self, committed: CommittedEvent) -> None:
        """Note when a revision was committed; called for every event of the feed."""
        self._times.committed(committed.event.revision, self._steady())

    def _steady(self) -> datetime:
        """Return the time of a clock that nobody sets: no jump makes a point late, or hides one."""
        wall, monotonic = self._began
        return wall + timedelta(seconds=self._clock.monotonic() - monotonic)

    def standings(self) -> Sequence[PointStanding]:
        """Return how every point stands, those that left lately included, by agent and id."""
        return [
            standing
            for agent in self._ordered
            for standing in sorted(self._standings_of(agent), key=lambda row: row.point.id)
        ]

    def _standings_of(self, agent: _Agent) -> Iterator[PointStanding]:
        for point in self._points_of(agent):
            lag, lag_s = self._times.lag(point.revision, self._steady)
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
                _, lag_s = self._times.lag(point.revision, self._steady)
                found = self._bounds.judge(point, self._age(agent, lag_s))
                if found is not None:
                    yield point, found

    def _age(self, agent: _Agent, lag_s: float) -> float:
        """Return for how long a point may have missed something, in seconds.

        An agent is there as long as its stream is, and that ends when the agent falls silent.
        """
        late_s = lag_s if lag_s > LATE_AFTER_S else 0.0
        if agent.session is not None or agent.away_since is None:
            return late_s
        return max(late_s, (self._steady() - agent.away_since).total_seconds())

    def points(self) -> Sequence[PointRecord]:
        """Return every known enforcement point, by agent and id."""
        return [point for agent in self._ordered for point in self._points_of(agent)]

    def _points_of(self, agent: _Agent) -> Iterable[PointRecord]:
        """Return what an agent has stated; the agent itself while it has stated nothing."""
        if agent.points or agent.stated:
            return agent.points.values()
        until, connected = agent.awaited_until, agent.session is not None
        if not connected and (until is None or until < self._clock.now()):
            return ()
        name = agent.enrolled.spiffe_id
        silent = StatedPoint(
            id="agent", kind="agent", spiffe_id=str(name), revision=0, applied_at=None
        )
        since = agent.last_contact or agent.enrolled.enrolled_at
        return (record(name, silent, since, 0)._replace(connected=connected),)

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

    def left(self, *, since: datetime) -> Iterator[PointRecord]:
        """Yield the points that their agents have taken away since then, in the last hour."""
        for agent in self._ordered:
            for point, left_at in agent.left.values():
                if left_at >= since:
                    yield point

    @contextmanager
    def reaching(self, revision: int) -> Iterator[Reaching]:
        """Gather who has reached a revision, and who reaches it while the context lasts."""
        reaching = Reaching(revision)
        for agent in self._ordered:
            reaching.note(agent, self._points_of(agent))
        self._reaching.add(reaching)
        try:
            yield reaching
        finally:
            self._reaching.discard(reaching)

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

    async def everywhere(self, revision: int, *, patience_s: float | None = None) -> None:
        """Return when `revision` is in force wherever it is pushed to.

        That is at the agents that are connected now, and at their enforcement points but for
        those that read files. Who goes, or comes later, is not waited for; nor are those that
        are left, once nobody else has got there for `patience_s`.
        """
        connected = [agent for agent in self._agents.values() if agent.session is not None]
        behind = _Behind(revision, connected)
        self._waiting.add(behind)
        try:
            while patience_s is not None and not behind.nobody.done():
                behind.fewer = False
                await asyncio.wait((behind.nobody,), timeout=patience_s)
                if not behind.fewer:
                    return
            await behind.nobody
        finally:
            self._waiting.discard(behind)

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

    def expect(self, agent: SpiffeID, *, until: datetime) -> None:
        """Note an agent that may be out there: its newest certificate lasts `until`."""
        self._agents[agent].awaited_until = until

    def connected(self, agent: SpiffeID, session: object, *, version: str, revision: int) -> None:
        """Note that an agent opened its stream; `session` tells this stream from others."""
        row = self._agents[agent]
        row.session = session
        row.version = version[:MAX_TEXT]
        row.revision = self._believed(revision)
        row.last_contact = self._clock.now()
        row.points = marked(row.points, connected=True)
        self._changed(row)

    def disconnected(self, agent: SpiffeID, session: object) -> None:
        """Note that a stream ended; nothing happens if the agent has a newer one."""
        row = self._agents.get(agent)
        if row is None or row.session is not session:
            return
        row.session, row.last_contact, row.away_since = None, self._clock.now(), self._steady()
        row.points = marked(row.points, connected=False)
        self._changed(row)

    def unreachable(self) -> Sequence[SpiffeID]:
        """Return the agents that have points and are not connected."""
        return [row.enrolled.spiffe_id for row in self._ordered if row.points and not row.session]

    def take_away(self, agent: SpiffeID) -> None:
        """Take away the points of an agent that is gone for good, unless it is there again."""
        row = self._agents.get(agent)
        if row is None or row.session is not None:
            return
        row.take_away(row.points.keys(), at=self._clock.now())
        row.points, row.awaited_until = {}, None
        self._changed(row)

    def forget(self, agents: Collection[SpiffeID]) -> None:
        """Forget agents of which nothing is on record any more, unless they are connected."""
        gone = {
            name for name in agents if name in self._agents and self._agents[name].session is None
        }
        for name in gone:
            del self._agents[name]
        self._ordered = [row for row in self._ordered if row.enrolled.spiffe_id not in gone]
        self._changes.notify()

    def heard(self, agent: SpiffeID) -> None:
        """Note a sign of life."""
        self._agents[agent].last_contact = self._clock.now()

    def state(self, agent: SpiffeID, *, revision: int, points: Iterable[StatedPoint]) -> None:
        """Take a full statement: points that are not in it are gone.

        Raises:
            LimitExceeded: more points than one agent may have.
        """
        row, now = self._agents[agent], self._clock.now()
        known = row.points
        stated = {}
        for point in points:
            name = point.id
            stated[name] = record(
                agent, point, now, self._believed(point.revision), known.get(name)
            )
        if len(stated) > 1:
            stated = {name: stated[name] for name in sorted(stated)}
        if len(stated) > MAX_POINTS:
            raise LimitExceeded(f"an agent has at most {MAX_POINTS} enforcement points")
        if row.left or known.keys() != stated.keys():
            row.left = {name: left for name, left in row.left.items() if name not in stated}
            row.take_away(known.keys() - stated.keys(), at=now)
        row.points, row.revision = stated, self._believed(revision)
        row.stated, row.last_contact = True, now
        self._changed(row)

    def _changed(self, agent: _Agent) -> None:
        for behind in self._waiting:
            behind.note(agent)
        for reaching in self._reaching:
            reaching.note(agent, self._points_of(agent))
        self._changes.notify()

    def _believed(self, revision: int) -> int:
        """Return a stated revision, or 0 for one that there is not.

        Of a feed that has gone back since, or made up: it says nothing about what will get this
        number, and must not pass for an acknowledgement then.
        """
        return revision if revision <= self._times.newest else 0
