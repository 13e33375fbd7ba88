"""The stream of GET /v1/propagation/{revision}: its lines, and what stands in them."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, timedelta
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from legation.authority.agents.standing import PointRecord
from legation.authority.rest.application import _encoded
from legation.authority.rest.calls import Call
from legation.authority.rest.resources.propagation import (
    Point,
    PropagationLine,
    PropagationQuery,
    _line,
    watch_propagation,
)
from legation.authority.services import Services
from legation.authority.store import EnrolledAgent
from legation.clock import SystemClock
from legation.clock import from_rfc3339 as moment
from tests.authority.test_propagation_board import NOW, ONE, Board
from tests.support.authority import agent_id

AGENTS = [agent_id(f"a{number:03}") for number in range(200)]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MOMENTS = st.datetimes(timezones=st.just(UTC))
RECORDS = st.builds(
    PointRecord,
    agent=st.just(ONE),
    id=TEXT,
    kind=TEXT,
    spiffe_id=TEXT,
    revision=st.integers(0, 2**63 - 1),
    applied_at=st.none() | MOMENTS,
    received_at=MOMENTS,
    reached_at=MOMENTS,
    capabilities=st.lists(TEXT, max_size=3).map(tuple),
    notes=st.lists(TEXT, max_size=3).map(tuple),
    connected=st.booleans(),
)


async def encoded(*lines: Any) -> bytes:
    """Render lines as the application does."""

    async def given_lines() -> AsyncIterator[list[Any]]:
        yield list(lines)

    return b"".join([part async for part in _encoded(given_lines())])


@given(record=RECORDS, at_once=st.booleans())
async def test_a_line_is_what_its_model_would_render(record: PointRecord, at_once: bool) -> None:
    """To the byte; so what the OpenAPI document says of the model holds for the line."""
    if at_once:
        record = record._replace(reached_at=record.received_at)
    model = PropagationLine(point=Point.of(record))
    assert await encoded(_line(record), model) == 2 * await encoded(model)
    assert json.loads(await encoded(_line(record))) == json.loads(
        model.model_dump_json(exclude_none=True)
    )


def crowd() -> Board:
    """Return a board with two hundred agents of one point each, at revision 10 of 12."""
    board = Board()
    board.commit(11)
    board.commit(12)
    for agent in AGENTS:
        board.enrolled(EnrolledAgent(spiffe_id=agent, enrolled_at=NOW, evidence="x"))
        board.says(10, "agent", agent=agent)
    return board


def watch(board: Board, **query: Any) -> "asyncio.Task[list[bytes]]":
    """Read the stream to its end; return its parts as they would be sent."""
    services = cast("Services", SimpleNamespace(propagation=board))
    call = Call(
        services=services, clock=SystemClock(), caller=None, still_permitted=lambda: None,
        stopping=asyncio.Event(),
    )  # fmt: skip

    async def read() -> list[bytes]:
        stream = await watch_propagation(call, PropagationQuery(**query))
        return [part async for part in _encoded(stream.lines)]

    return asyncio.create_task(read())


def read(parts: list[bytes]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the points of a stream, and its summary, which is its last line."""
    *points, last = [json.loads(line) for line in b"".join(parts).splitlines()]
    assert [list(line) for line in points] == [["point"]] * len(points)
    return [line["point"] for line in points], last["summary"]


async def test_who_arrives_one_by_one_is_told_together_and_the_end_at_once() -> None:
    """In few parts, each point once and in the order of arrival."""
    board = crowd()
    watching = watch(board, revision=11, timeout_s=20)
    for number, agent in enumerate(reversed(AGENTS)):
        await asyncio.sleep(0.002 if number % 10 == 0 else 0)
        board.says(11 + number % 2, "agent", agent=agent)
    for _ in range(5):  # turns of the loop: nothing is gathered any more
        await asyncio.sleep(0)
    assert watching.done()
    parts = watching.result()
    points, summary = read(parts)
    assert len(parts) < len(AGENTS) / 10
    assert [point["agent"] for point in points] == [str(agent) for agent in reversed(AGENTS)]
    assert (summary["complete"], summary["reached"]) == (True, len(AGENTS))
    assert board._reaching == set()


async def test_a_point_is_told_with_the_time_at_which_it_got_there() -> None:
    """Not with that of what its agent has stated since: the list that follows a revocation."""
    board = crowd()
    board.says(11, "agent", agent=AGENTS[0])  # before anyone asks
    board.clock.pass_s(1)
    board.says(11, "agent", agent=AGENTS[0])
    watching = watch(board, revision=11, timeout_s=0.3)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    board.clock.pass_s(1)
    board.says(11, "agent", agent=AGENTS[1])
    board.clock.pass_s(1)
    board.says(12, "agent", agent=AGENTS[1])
    points, summary = read(await watching)
    assert [
        tuple(
            (moment(point[name]) - NOW) / timedelta(seconds=1)
            for name in ("reached_at", "received_at")
        )
        for point in points
    ] == [(0, 1), (2, 2)]
    assert [point["revision"] for point in points] == [11, 11]
    assert (summary["complete"], summary["reached"]) == (False, 2)
    assert len(summary["missing"]) == len(AGENTS) - 2
    assert summary["missing"][0]["reached_at"] == summary["missing"][0]["received_at"]


async def test_who_gives_up_leaves_nothing_behind() -> None:
    """The board gathers for nobody whose connection is gone."""
    board = crowd()
    watching = watch(board, revision=11, timeout_s=20)
    await asyncio.sleep(0.01)
    assert len(board._reaching) == 1
    watching.cancel()
    await asyncio.wait([watching])
    assert board._reaching == set()
