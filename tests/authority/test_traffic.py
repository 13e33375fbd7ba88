"""Who calls whom lately: counted from agents' reports, bounded, and shown before a revocation."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from legation.authority.agents.traffic import WINDOW_S, Traffic, summed
from legation.authority.misuse.model import Sighting
from legation.authority.model import DECOY_PREFIX, ObservedTraffic
from legation.authority.revoking.consequences import SHOWN
from legation.config.misuse import Misuse
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import Stream, World, agent_id, running, settings_for

API, WEB, CRON = (f"spiffe://example.org/{name}" for name in ("api", "web", "cron"))
ONE, TWO = str(agent_id("one")), str(agent_id("two"))
NOW = datetime(2031, 3, 1, 12, tzinfo=UTC).timestamp()
SLOT_S = WINDOW_S / 12


def sighting(**fields: Any) -> Sighting:
    """One connection of the web to the API, now, unless told otherwise."""
    values = {
        "agent": ONE, "point": "envoy/api", "service": API, "peer": WEB, "serial": 7,
        "address": "192.0.2.10", "cause": "", "count": 1, "last": NOW, **fields,
    }  # fmt: skip
    return Sighting(first=values["last"], **values)


def watched(*sightings: Sighting, **bounds: int) -> Traffic:
    """Return what was counted of these sightings in the last two hours."""
    traffic = Traffic(since=NOW - 2 * WINDOW_S, **bounds)
    see(traffic, *sightings)
    return traffic


def see(traffic: Traffic, *sightings: Sighting) -> None:
    """Report each as its agent does."""
    for one in sightings:
        traffic.saw(one.agent, [one])


def rows_of(traffic: Traffic, *identities: str, at: float = NOW) -> Sequence[ObservedTraffic]:
    """Return all rows."""
    rows, total = summed(traffic.of(identities, at=at), identities, most=1000)
    assert len(rows) == total
    return rows


def callers(traffic: Traffic, *identities: str, at: float = NOW) -> dict[str, int]:
    """Return connections by caller."""
    return {row.caller: row.count for row in rows_of(traffic, *identities, at=at)}


def test_traffic_is_told_by_caller_and_by_service() -> None:
    """Points that act under one identity are one row, with who is hit and where it was last."""
    traffic = watched(
        sighting(count=3, last=NOW - 60),
        sighting(count=2, agent=TWO, point="sdk/api"),
        sighting(peer=CRON, count=9, last=NOW - 90),
        sighting(peer=API, service=CRON, count=1),
        sighting(peer=CRON, service=WEB, count=50),
    )
    first, second, third = rows_of(traffic, API)
    assert (first.caller, first.service, first.count) == (CRON, API, 9)
    assert (first.caller_hit, first.service_hit) == (False, True)
    assert (second.caller, second.count, second.points) == (WEB, 5, 2)
    assert (second.agent, second.point, second.last_seen.timestamp()) == (TWO, "sdk/api", NOW)
    assert (third.caller, third.service, third.caller_hit, third.service_hit) == (
        API, CRON, True, False,
    )  # fmt: skip
    (both,) = (row for row in rows_of(traffic, API, WEB) if row.caller == WEB)
    assert both.caller_hit
    assert both.service_hit
    assert summed(traffic.of({API}, at=NOW), {API}, most=1) == ([first], 3)


def test_what_is_no_traffic_of_theirs_is_not_told() -> None:
    """Refusals, drills, peers without a name, others' connections, and nobody's."""
    traffic = watched(
        sighting(cause="policy_denied"),
        sighting(peer=f"spiffe://example.org{DECOY_PREFIX}x"),
        sighting(peer=""),
    )
    assert len(traffic) == 0
    see(traffic, sighting())
    assert rows_of(traffic, CRON) == []
    assert rows_of(traffic) == []


def test_what_was_is_forgotten_after_an_hour() -> None:
    """Slot by slot: the counts are exactly those since the moment that is named."""
    traffic = Traffic(since=NOW - 2 * WINDOW_S)
    for slot in range(24):
        see(traffic, sighting(count=1, last=NOW - 2 * WINDOW_S + (slot + 1) * SLOT_S))
    assert callers(traffic, API) == {WEB: 12}
    assert traffic.since(NOW).timestamp() == NOW - WINDOW_S + SLOT_S
    later = NOW + 5 * SLOT_S
    assert callers(traffic, API, at=later) == {WEB: 7}
    see(traffic, sighting(count=4, last=NOW - WINDOW_S))  # an agent was away for an hour
    assert callers(traffic, API) == {WEB: 12}
    assert callers(traffic, API, at=NOW + WINDOW_S) == {}


def test_after_a_restart_it_says_since_when_it_counts() -> None:
    """Not from an hour ago, but from its beginning, until that is more than an hour ago."""
    traffic = Traffic(since=NOW)
    assert traffic.since(NOW + 60).timestamp() == NOW
    assert traffic.since(NOW + 3 * WINDOW_S).timestamp() == NOW + 2 * WINDOW_S + SLOT_S


def test_it_is_bounded_and_forgets_what_was_not_seen_for_longest() -> None:
    """Of an agent first, so that one that makes callers up displaces its own only."""
    traffic = watched(sighting(agent=TWO), most=6, most_of_agent=3)
    names = [f"spiffe://example.org/n{number}" for number in range(1000)]
    for name in names:
        see(traffic, sighting(peer=name))
        if name == names[1]:
            see(traffic, sighting(peer=names[0]))  # used again: it outlives the next one
        if name == names[3]:
            assert set(callers(traffic, API)) == {WEB, names[0], names[2], names[3]}
    assert len(traffic) == 4
    assert set(callers(traffic, API)) == {WEB, *names[-3:]}
    for number in range(10):
        see(traffic, sighting(agent=str(agent_id(f"n{number}"))))
    assert len(traffic) == 6
    assert callers(traffic, API) == {WEB: 6}  # the silent ones have made room


@given(
    st.lists(
        st.tuples(
            st.sampled_from([ONE, TWO]),
            st.sampled_from([API, WEB, CRON]),
            st.sampled_from([API, WEB, CRON]),
            st.integers(1, 5),
            st.integers(-30, 0),
        ),
        max_size=60,
    )
)
def test_counts_are_those_of_a_list(seen: list[tuple[str, str, str, int, int]]) -> None:
    """In whatever order reports come, nothing in the window is lost while there is room."""
    ordered = [
        sighting(agent=agent, peer=caller, service=service, count=count, last=NOW + ago * SLOT_S)
        for agent, caller, service, count, ago in seen
    ]
    traffic = watched(*ordered)
    expected: Counter[tuple[str, str]] = Counter()
    since = traffic.since(NOW).timestamp()
    for one in ordered:
        if one.last >= since and API in {one.peer, one.service}:
            expected[one.peer, one.service] += one.count
    rows = rows_of(traffic, API)
    assert {(row.caller, row.service): row.count for row in rows} == dict(expected)
    assert [row.count for row in rows] == sorted((row.count for row in rows), reverse=True)


# --- with an authority -------------------------------------------------------------------------


@asynccontextmanager
async def reporting(world: World, name: str = "one") -> AsyncIterator[Stream]:
    """Open the stream of a new agent."""
    agent = await world.enrol(name)
    async with agent.connected() as caller:
        yield await caller.sync()


async def report(stream: Stream, *rows: dict[str, Any]) -> None:
    """Report connections."""
    defaults = {"point": "envoy/api", "service": API, "peer": WEB, "serial": "7", "count": 1}
    sightings = [pb.Sighting(**{**defaults, **row}) for row in rows]
    await stream.send(pb.SyncRequest(sightings=pb.Sightings(sightings=sightings)))


async def preview(world: World, body: dict[str, Any], *, rows: int) -> dict[str, Any]:
    """Ask what a revocation would do, until there is so much traffic in the answer."""
    admin = world.connect(world.admin)
    async with asyncio.timeout(10):
        while True:
            answer = await admin.ask("POST", "/v1/revocations/preview", body)
            assert answer.status == 200, answer.body
            if answer.json["traffic_total"] >= rows:
                found: dict[str, Any] = answer.json
                return found
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("signals", [True, False])
async def test_a_dry_run_names_the_traffic_that_would_end(tmp_path: Path, signals: bool) -> None:
    """Of the identity as a caller and as a service, also while no signals are raised."""
    settings = settings_for(tmp_path, misuse=Misuse(enabled=signals))
    async with running(settings) as world, reporting(world) as stream:
        await report(
            stream,
            {"count": 3, "last_ms_ago": 5000},
            {"peer": API, "service": CRON, "point": "sdk/cron", "count": 7},
            {"cause": "policy_denied", "count": 90},
            {"peer": CRON, "service": WEB},
        )
        found = await preview(world, {"spiffe_id": API, "ban": True}, rows=2)
        first, second = found["traffic"]
        assert first.pop("last_seen") > second.pop("last_seen")
        assert first == {
            "caller": API, "service": CRON, "caller_hit": True, "service_hit": False,
            "count": 7, "points": 1, "agent": ONE, "point": "sdk/cron",
        }  # fmt: skip
        assert second == {
            "caller": WEB, "service": API, "caller_hit": False, "service_hit": True,
            "count": 3, "points": 1, "agent": ONE, "point": "envoy/api",
        }  # fmt: skip
        never = await preview(
            world, {"spiffe_id": "spiffe://example.org/never", "ban": True}, rows=0
        )
        assert (never["traffic"], never["traffic_total"]) == ([], 0)
        assert never["traffic_since"] == found["traffic_since"]


async def test_a_restarted_authority_counts_anew(world: World) -> None:
    """It knows of nothing then, and says since when."""
    body = {"spiffe_id": API, "ban": True}
    async with reporting(world) as stream:
        await report(stream, {})
        before = await preview(world, body, rows=1)
    await world.stop()
    await world.start()
    after = await preview(world, body, rows=0)
    assert after["traffic"] == []
    assert after["traffic_since"] > before["traffic"][0]["last_seen"]


async def test_very_much_traffic_is_cut_off(world: World) -> None:
    """The first rows are shown, most first, and how many there are."""
    callers = [f"spiffe://example.org/n{number}" for number in range(SHOWN + 5)]
    async with reporting(world) as stream:
        await report(stream, *({"peer": name, "count": n} for n, name in enumerate(callers, 1)))
        found = await preview(world, {"spiffe_id": API, "ban": True}, rows=SHOWN + 5)
    assert found["traffic_total"] == SHOWN + 5
    assert [row["count"] for row in found["traffic"]] == list(range(SHOWN + 5, 5, -1))
