"""Entries for agents that have no name yet: delegated by the beginning of it."""

import pytest

from legation.authority.model import RotationScope
from legation.errors import InvalidInput
from legation.pki import build_request, generate_key
from legation.wire.feed import Kind
from tests.support.authority import ADMIN, World, agent_id

ROBOTS = f"{agent_id('ci__octo-org_2fapp__')}*"


async def test_an_agent_that_joins_later_is_served(world: World) -> None:
    """It finds the entry in its snapshot and gets a certificate; a stranger gets neither."""
    entry = await world.entry(agents=[ROBOTS])
    robot = await world.enrol("ci__octo-org_2fapp__7")
    stranger = await world.enrol("ci__octo-org_2fapp-of-a-stranger__7")
    csr = build_request(generate_key())
    async with robot.connected() as caller:
        stream = await caller.sync()
        events = await stream.until(1)
        assert [event.key for event in events if event.kind is Kind.ENTRY] == [entry.id]
        (result,) = await caller.issue((entry.id, csr))
        assert result.HasField("certificate")
    async with stranger.connected() as caller:
        stream = await caller.sync()
        events = await stream.until(1)
        assert [event.key for event in events if event.kind is Kind.ENTRY] == []
        (result,) = await caller.issue((entry.id, csr))
        assert not result.HasField("certificate")
        assert result.problem.code == "not_found"
        assert result.problem.message == (
            f"no entry {entry.id!r} is delegated to {stranger.spiffe_id}"
        )


async def test_rotation_counts_every_agent_that_is_meant(world: World) -> None:
    """An order for the identity concerns each enrolled agent that the pattern means, once."""
    entry = await world.entry(agents=[ROBOTS, str(agent_id("node-1"))])
    for name in ("ci__octo-org_2fapp__1", "ci__octo-org_2fapp__2", "ci__other__1", "node-1"):
        await world.enrol(name)
    scope = RotationScope(identity=entry.spiffe_id)
    found = await world.services.rotations.order(scope, dry_run=True, actor=ADMIN)
    assert found.count == 3


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (f"{agent_id('x')}*".replace("/x*", "/*"), "in the middle of a part"),
        ("spiffe://other.example/legation/agent/ci__*", "is not an agent's identity"),
        ("spiffe://example.org/elsewhere/ci__*", "is not an agent's identity"),
        ("spiffe://example.org/legation/agent/ci/app__*", "is not an agent's identity"),
    ],
)
async def test_a_pattern_for_others_than_agents_is_refused(
    world: World, agent: str, words: str
) -> None:
    """What is not below the agents' path, or means all of them, delegates nothing."""
    with pytest.raises(InvalidInput, match=words):
        await world.entry(agents=[agent])


async def test_entries_are_found_by_an_agent_that_a_pattern_means(world: World) -> None:
    """REST takes patterns, refuses what is none, and lists by the agent that is served."""
    admin = world.connect(world.admin)
    body = {
        "id": "app",
        "spiffe_id": "spiffe://example.org/app",
        "selectors": ["unix:uid:1"],
        "agents": [ROBOTS],
    }
    answer = await admin.ask("POST", "/v1/entries", body)
    assert (answer.status, answer.json["agents"]) == (201, [ROBOTS])
    too_many = {**body, "id": "all", "agents": [f"{agent_id('ci')}*"]}
    assert (await admin.ask("POST", "/v1/entries", too_many)).status == 400
    for name, expected in (("ci__octo-org_2fapp__9", ["app"]), ("ci__octo-org_2fap__9", [])):
        found = await admin.ask("GET", f"/v1/entries?agent={agent_id(name)}")
        assert [entry["id"] for entry in found.json["items"]] == expected


async def test_an_entry_that_was_narrowed_is_taken_away(world: World) -> None:
    """Who was meant before and is not any more hears of it, and gets no certificate."""
    entry = await world.entry(agents=[ROBOTS])
    robot = await world.enrol("ci__octo-org_2fapp__7")
    async with robot.connected() as caller:
        stream = await caller.sync()
        await stream.until(1)
        narrowed = {"agents": [str(agent_id("node-1"))]}
        await world.services.entries.update(entry.id, narrowed, actor=ADMIN)
        events = await stream.until(2)
        (event,) = (event for event in events if event.kind is Kind.ENTRY)
        assert set(event.audience or ()) == {ROBOTS, str(agent_id("node-1"))}
        (result,) = await caller.issue((entry.id, build_request(generate_key())))
        assert result.problem.code == "not_found"
