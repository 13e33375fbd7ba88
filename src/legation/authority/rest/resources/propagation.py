"""Agents, their enforcement points, and who has reached a revision."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Annotated, Any, Final, Self

from pydantic import Field

from legation.authority.agents.reaching import Reaching
from legation.authority.agents.standing import (
    PointFreshness,
    PointRecord,
    PointStanding,
    Standing,
)
from legation.authority.model import AgentRecord, Role
from legation.authority.rest.calls import Call, Line, Reply, Route, Stream
from legation.authority.rest.fields import Moment, Request, Shown
from legation.authority.rest.paging import Page, PageQuery, page_of
from legation.authority.rest.problems import Problem, problem_of
from legation.clock import to_rfc3339
from legation.errors import LegationError, Unavailable
from legation.policy import Freshness, Then

# At least so often the caller's rights are looked at again while it waits.
RECHECK_S = 1.0
# After a revocation a thousand points arrive one by one; those of so long are told together.
_GATHERED_S: Final = 0.05
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
    reached_at: Annotated[
        Moment,
        Field(
            description="when the point was first stated to have this `revision`, by the "
            "authority's clock; `received_at` is that of its latest statement"
        ),
    ]
    capabilities: list[str]
    notes: list[str]
    connected: bool

    @staticmethod
    def of(point: PointRecord) -> "Point":
        """Translate."""
        members = dict(zip(_MEMBERS, _values(point), strict=True))
        return Point(**members | {"agent": str(point.agent)})


# The model says what a point has; nothing else lists it.
_MEMBERS: Final = tuple(Point.model_fields)
_values: Final = attrgetter(*_MEMBERS)


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
    taken away or is gone for good. `lag` is in revisions, and `lag_s` the age of the first that it
    lacks. `freshness` is null for an agent itself, and for what has left.
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
    """One line of the stream: a point that reached the revision, the summary, or a problem.

    A point is shown as it was stated when it reached the revision, or as it is if it had it
    before the wait began.
    """

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


async def _watch(call: Call, query: PropagationQuery) -> AsyncIterator[list[Line]]:
    started, left_since = call.clock.monotonic(), call.clock.now() - _LEFT_LATELY
    with call.services.propagation.reaching(query.revision) as reaching:
        while True:
            elapsed_s = call.clock.monotonic() - started
            rest_s = query.timeout_s - elapsed_s
            lines: list[Line] = [_line(point) for point in reaching.arrived()]
            # In one go with what has arrived, so that the two are of one moment.
            if ended := reaching.complete or rest_s <= 0:
                lines.append(_summary(call, query, reaching, since=left_since, after_s=elapsed_s))
            if lines:
                yield lines
            if ended:
                return
            news = reaching.news(gathered_s=_GATHERED_S)
            await _first_of(news, call.stopping.wait(), timeout_s=min(rest_s, RECHECK_S))
            if problem := _interruption(call):
                yield [PropagationLine(problem=problem)]
                return


def _line(point: PointRecord) -> dict[str, Any]:
    """Return the JSON members of `PropagationLine(point=Point.of(point))`.

    Without the models, and no moment rendered twice: a thousand are made while a thousand agents
    acknowledge.
    """
    members = dict(zip(_MEMBERS, _values(point), strict=True))
    received_at = to_rfc3339(point.received_at)
    just_now = point.reached_at is point.received_at
    members["agent"] = str(point.agent)
    members["received_at"] = received_at
    members["reached_at"] = received_at if just_now else to_rfc3339(point.reached_at)
    if point.applied_at is None:
        del members["applied_at"]
    else:
        members["applied_at"] = to_rfc3339(point.applied_at)
    return {"point": members}


def _summary(
    call: Call, query: PropagationQuery, reaching: Reaching, *, since: datetime, after_s: float
) -> PropagationLine:
    board, revision = call.services.propagation, query.revision
    points = board.points()
    behind = [point for point in points if point.revision < revision]
    left = [point for point in board.left(since=since) if point.revision < revision]
    summary = PropagationSummary(
        revision=revision,
        complete=reaching.complete,
        reached=len(points) - len(behind),
        missing=[Point.of(point) for point in behind if point.connected],
        disconnected=[Point.of(point) for point in behind if not point.connected],
        left=[Point.of(point) for point in left],
        elapsed_s=round(after_s, 6),
    )
    return PropagationLine(summary=summary)


def _interruption(call: Call) -> Problem | None:
    """Return why the stream must end early, or None."""
    if call.stopping.is_set():
        return problem_of(Unavailable("the authority is stopping", remedy="ask again"))
    try:
        call.still_permitted()
    except LegationError as error:
        return problem_of(error)
    return None


async def _first_of(*waits: Awaitable[object], timeout_s: float) -> None:
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


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
