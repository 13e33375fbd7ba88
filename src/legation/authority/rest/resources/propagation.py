"""Agents, their enforcement points, and who has reached a revision."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import Field

from legation.authority.agents.standing import (
    PointFreshness,
    PointRecord,
    PointStanding,
    Standing,
)
from legation.authority.model import AgentRecord, Role
from legation.authority.rest.calls import Call, Reply, Route, Stream
from legation.authority.rest.fields import Moment, Request, Shown
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.authority.rest.problems import Problem, problem_of
from legation.errors import LegationError, Unavailable
from legation.pki import SpiffeID
from legation.policy import Freshness, Then

# At least so often the caller's rights are looked at again while it waits.
RECHECK_S = 1.0
# After a revocation a thousand points change one by one, and each look is at all of them: of the
# time until they have all changed, so much may go into looking.
_SHARE = 0.05
_GATHERED_S = 0.25  # at the longest
# A point that lost its agent is back within this time, or its process has ended.
_LEFT_LATELY = timedelta(minutes=1)


class Agent(Shown):
    """One enrolled agent."""

    spiffe_id: str
    enrolled_at: Moment
    connected: bool
    revision: int
    last_contact: Moment | None
    version: str

    @classmethod
    def of(cls, agent: AgentRecord) -> Self:
        """Translate."""
        return cls(
            spiffe_id=str(agent.spiffe_id),
            enrolled_at=agent.enrolled_at,
            connected=agent.connected,
            revision=agent.revision,
            last_contact=agent.last_contact,
            version=agent.version,
        )


class AgentPage(Page[Agent]):
    """Agents by SPIFFE ID."""


class Point(Shown):
    """One enforcement point, and the revision that it has in force."""

    agent: str
    id: str
    kind: str
    spiffe_id: str
    revision: int
    applied_at: Moment | None
    received_at: Moment
    capabilities: list[str]
    notes: list[str]
    connected: bool

    @staticmethod
    def of(point: PointRecord) -> "Point":
        """Translate; unchecked, for these are made while a thousand agents acknowledge."""
        return Point.model_construct(
            agent=str(point.agent),
            id=point.id,
            kind=point.kind,
            spiffe_id=point.spiffe_id,
            revision=point.revision,
            applied_at=point.applied_at,
            received_at=point.received_at,
            capabilities=list(point.capabilities),
            notes=list(point.notes),
            connected=point.connected,
        )


class FreshnessShown(Shown):
    """How old a point's revocation data may be, how old it is, and what happens then.

    `policy` is the staleness policy that governs the point, or "revocation lists".
    """

    state: Freshness
    policy: str
    bound_s: float
    then: Then
    age_s: float
    left_s: float

    @classmethod
    def of(cls, found: PointFreshness) -> Self:
        """Translate."""
        return cls(
            state=found.state,
            policy=found.bound.policy,
            bound_s=found.bound.bound_s,
            then=found.bound.then,
            age_s=round(found.age_s, 3),
            left_s=round(found.left_s, 3),
        )


class StandingPoint(Point):
    """One enforcement point, and how it stands.

    `late` is connected and behind for too long, `unreachable` is without its agent, `left` was
    taken away. `lag` is in revisions, and `lag_s` the age of the first that it lacks.
    `freshness` is null for an agent itself, and for what has left.
    """

    standing: Standing
    lag: int
    lag_s: float
    last_contact: Moment | None
    left_at: Moment | None
    freshness: FreshnessShown | None

    @classmethod
    def at(cls, standing: PointStanding) -> Self:
        """Translate."""
        return cls(
            **Point.of(standing.point).model_dump(),
            standing=standing.standing,
            lag=standing.lag,
            lag_s=round(standing.lag_s, 3),
            last_contact=standing.last_contact,
            left_at=standing.left_at,
            freshness=FreshnessShown.of(standing.freshness) if standing.freshness else None,
        )


class PointPage(Page[StandingPoint]):
    """Enforcement points by agent and id."""


class PropagationSummary(Shown):
    """How the wait ended.

    `complete` says that no connected point is missing; a disconnected one is listed apart,
    because it refuses everyone on its own once its data is too old. So is one that left during
    the wait, or within the minute before, and never had the revision: it has ended, or lives on
    and has lost its agent for a moment.
    """

    revision: int
    complete: bool
    reached: int
    missing: list[Point]
    disconnected: list[Point]
    left: list[Point]
    elapsed_s: float


class PropagationLine(Shown):
    """One line of the stream: a point that reached the revision, the summary, or a problem."""

    point: Point | None = None
    summary: PropagationSummary | None = None
    problem: Problem | None = None


class PropagationQuery(Request):
    """Which revision, and how long to wait for it."""

    revision: Annotated[int, Field(ge=0, le=2**63 - 1)]
    timeout_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 30


async def list_agents(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of agents."""
    agents = call.services.propagation.agents()
    items, after = page_of(agents, parameters, key=lambda agent: str(agent.spiffe_id))
    return Reply(value=AgentPage(items=[Agent.of(agent) for agent in items], next=after))


async def list_points(call: Call, parameters: PageQuery) -> Reply:
    """Return a page of enforcement points."""
    standings = call.services.propagation.standings()
    items, after = page_of(standings, parameters, key=lambda row: _key(row.point))
    return Reply(value=PointPage(items=[StandingPoint.at(row) for row in items], next=after))


async def watch_propagation(call: Call, parameters: PropagationQuery) -> Stream:
    """Tell of each point that reaches the revision; end when all live ones have."""
    return Stream(lines=_watch(call, parameters))


async def _watch(call: Call, query: PropagationQuery) -> AsyncIterator[list[PropagationLine]]:
    started, left_since = call.clock.monotonic(), call.clock.now() - _LEFT_LATELY
    reached: set[tuple[SpiffeID, str]] = set()
    while True:
        looked = call.clock.monotonic()
        rest = max(0.0, query.timeout_s - (looked - started))
        # The wait begins before the look, so that no change falls between the two.
        change = asyncio.create_task(
            call.services.propagation.wait_for_change(timeout_s=min(rest, RECHECK_S))
        )
        await asyncio.sleep(0)
        try:
            points = call.services.propagation.points()
            if arrived := list(_arrived(points, query.revision, reached)):
                yield arrived
            behind = [point for point in points if point.revision < query.revision]
            waiting = any(point.connected for point in behind)
            if not waiting or rest <= 0:
                break
            took = call.clock.monotonic() - looked
            await _first_of(change, call.stopping)
            await asyncio.sleep(min(took / _SHARE, _GATHERED_S))
        finally:
            change.cancel()
        if problem := _interruption(call):
            yield [PropagationLine(problem=problem)]
            return
    summary = PropagationSummary(
        revision=query.revision,
        complete=not waiting,
        reached=len(points) - len(behind),
        missing=[Point.of(point) for point in behind if point.connected],
        disconnected=[Point.of(point) for point in behind if not point.connected],
        left=list(_left(call, query.revision, since=left_since)),
        elapsed_s=round(call.clock.monotonic() - started, 6),
    )
    yield [PropagationLine(summary=summary)]


def _arrived(
    points: Sequence[PointRecord], revision: int, reached: set[tuple[SpiffeID, str]]
) -> Iterator[PropagationLine]:
    """Yield the points that have reached `revision` since the last look."""
    for point in points:
        place = point.agent, point.id
        if point.revision >= revision and place not in reached:
            reached.add(place)
            yield PropagationLine.model_construct(point=Point.of(point))


def _left(call: Call, revision: int, *, since: datetime) -> Iterator[Point]:
    """Yield the points that were taken away since then and never had `revision`."""
    for row in call.services.propagation.standings():
        if row.left_at is not None and row.left_at >= since and row.point.revision < revision:
            yield Point.of(row.point)


def _interruption(call: Call) -> Problem | None:
    """Return why the stream must end early, or None."""
    if call.stopping.is_set():
        return problem_of(Unavailable("the authority is stopping", remedy="ask again"))
    try:
        call.still_permitted()
    except LegationError as error:
        return problem_of(error)
    return None


async def _first_of(change: asyncio.Task[None], stopping: asyncio.Event) -> None:
    stop = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({change, stop}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()


def _key(point: PointRecord) -> str:
    # "#" has no place in a SPIFFE ID, so no two points share a key.
    return f"{point.agent}#{point.id}"


ROUTES = (
    Route(
        method="GET",
        path="/v1/agents",
        operation="listAgents",
        summary="List enrolled agents.",
        role=Role.VIEWER,
        handler=list_agents,
        parameters=PageQuery,
        returns=AgentPage,
    ),
    Route(
        method="GET",
        path="/v1/propagation",
        operation="listPoints",
        summary="List enforcement points, the revision that each has in force, and how it stands.",
        role=Role.VIEWER,
        handler=list_points,
        parameters=PageQuery,
        returns=PointPage,
    ),
    Route(
        method="GET",
        path="/v1/propagation/{revision}",
        operation="watchPropagation",
        summary="Wait until every connected enforcement point has a revision in force.",
        role=Role.VIEWER,
        handler=watch_propagation,
        parameters=PropagationQuery,
        returns=PropagationLine,
        stream=True,
    ),
)
