"""Rotation orders: what they concern, how fast they may be, and how far they are."""

import asyncio

import pytest

from legation.agent.enrolment import enrol
from legation.agent.identity import IdentityStore
from legation.agent.wiring import Agent, AgentSettings
from legation.authority.events import CertificateInForce, CertificateNotInForce
from legation.authority.model import RotationScope
from legation.clock import SystemClock
from legation.errors import Conflict, InvalidInput, NotFound
from legation.pki import build_request, generate_key
from legation.wire.agent_calls import SUPERSEDED_PATH
from legation.wire.feed import RotationOrder
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import ADMIN, World, agent_id

API = "spiffe://example.org/api"
ALL = RotationScope()


async def order(world: World, scope: RotationScope = ALL, **options):
    return await world.services.rotations.order(scope, actor=ADMIN, **options)


async def actions(world: World) -> list[str]:
    entries = await world.services.audit.read(after=0, limit=1000)
    return [entry.action for entry in entries]


async def test_a_dry_run_counts_and_orders_nothing(world: World):
    """Tried out, an order tells how many certificates it concerns, and leaves no trace."""
    one = await world.enrol("one")
    two = await world.enrol("two")
    await world.entry(one, two)
    ordered = await order(world, dry_run=True)
    assert (ordered.id, ordered.count) == (None, 4)  # two workloads, two agents
    assert (await order(world, RotationScope(identity=API), dry_run=True)).count == 2
    assert (await order(world, RotationScope(agent=str(agent_id("two"))), dry_run=True)).count == 2
    assert list(world.services.rotations.list()) == []
    assert "rotation.order" not in await actions(world)


async def test_an_order_is_an_event_and_an_audit_entry(world: World):
    """An order travels in the feed with its pace, and the audit log says who gave it, and why."""
    await world.entry(await world.enrol())
    ordered = await order(world, rate=2.0, reason="a drill", order_id="drill-1")
    assert ordered.order.spread_s == pytest.approx(2 / 2.0 * 1.25)
    assert ordered.revision == world.authority.services.status.status()["revision"]
    (entry,) = [
        each
        for each in await world.services.audit.read(after=0, limit=1000)
        if each.action == "rotation.order"
    ]
    assert entry.actor == str(ADMIN.spiffe_id)
    assert entry.detail["reason"] == "a drill"
    assert entry.detail["count"] == 2


async def test_the_same_order_again_changes_nothing(world: World):
    """An order that is given twice under one name is one order, after a restart as well."""
    await world.entry(await world.enrol())
    first = await order(world, order_id="once")
    assert (await order(world, order_id="once")).order == first.order
    await world.stop()
    await world.start()
    assert (await order(world, order_id="once")).order == first.order
    assert (await actions(world)).count("rotation.order") == 1


async def test_another_order_of_the_same_name_is_refused(world: World):
    """A name belongs to one scope."""
    await world.entry(await world.enrol())
    await order(world, order_id="once")
    with pytest.raises(Conflict, match="another rotation"):
        await order(world, RotationScope(identity=API), order_id="once")


async def test_an_order_that_concerns_nobody_is_refused(world: World):
    """An identity that no enrolled agent serves cannot be rotated."""
    with pytest.raises(NotFound, match="no identity that this concerns"):
        await order(world, RotationScope(identity=API))
    with pytest.raises(NotFound, match="no rotation"):
        world.services.rotations.get("never")


async def test_a_pace_of_weeks_is_refused(world: World):
    """A rate at which the order would outlive the certificates is refused."""
    await world.entry(await world.enrol())
    with pytest.raises(InvalidInput, match="days"):
        await order(world, rate=0.000001)


@pytest.fixture
async def running_agent(world: World, tmp_path, short_path):
    settings = AgentSettings(data_dir=tmp_path / "agent", socket=short_path / "agent.sock")
    identity, membership = await enrol(await world.invitation(), clock=SystemClock())
    IdentityStore(settings.data_dir).save_enrolment(identity, membership)
    async with await Agent.open(settings) as agent:
        yield agent


def away(world: World):
    progress = world.services.rotations.get("now")
    return progress.waiting_for + progress.disconnected


async def until(condition, *, timeout_s=15):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


async def test_an_agent_carries_an_order_out(world: World, running_agent):
    """Ordered, an agent replaces what it serves and its own certificate, with new keys, and the
    authority knows when it is done.
    """
    await world.services.entries.create(
        {"spiffe_id": API, "selectors": ["unix:uid:0"], "agents": [str(agent_id("one"))]},
        actor=ADMIN,
    )
    identities = running_agent.identities
    await until(lambda: identities.newest(API))
    (row,) = identities.newest(API)
    before, own = row.identity, running_agent.own.identity
    ordered = await order(world, order_id="now", rate=100.0)
    assert ordered.count == 2
    # The agent has not said anything about it yet.
    assert world.services.rotations.get("now").waiting_for == (str(agent_id("one")),)
    await until(lambda: world.services.rotations.get("now").remaining == 0 and not away(world))
    assert world.services.rotations.get("now").remaining == 0
    assert row.identity.serial != before.serial
    assert row.identity.private_key != before.private_key
    assert running_agent.own.identity.serial != own.serial
    # What came after the order is not replaced again, although the feed is read anew.
    serial = row.identity.serial
    running_agent._orders.carry_out()
    assert row.due > SystemClock().now()
    assert row.identity.serial == serial


async def test_a_disconnected_agent_is_named(world: World):
    """An agent that cannot be asked is not waited for, and is named."""
    await world.entry(await world.enrol())
    await order(world, order_id="now")
    progress = world.services.rotations.get("now")
    assert progress.waiting_for == ()
    assert progress.disconnected == (str(agent_id("one")),)


async def test_what_is_in_force_is_reported_upward(world: World):
    """An agent's statement becomes a table, and a difference an event, once, until it is mended."""
    agent = await world.enrol()
    row = pb.InForce(
        spiffe_id=API,
        point="envoy/api",
        serial_issued="1f",
        serial_in_force="1e",
        since_ms=1_900_000_000_000,
        problem="it refuses it",
    )
    async with agent.connected() as caller:
        stream = await caller.sync()
        for _ in range(2):
            await stream.send(pb.SyncRequest(rotation=pb.RotationStatement(in_force=[row])))
        await until(world.services.rotations.in_force)
        (shown,) = world.services.rotations.in_force()
        assert (shown.serial_issued, shown.serial_in_force) == (0x1F, 0x1E)
        assert shown.problem == "it refuses it"
        row.serial_in_force, row.problem = "1f", ""
        await stream.send(pb.SyncRequest(rotation=pb.RotationStatement(in_force=[row])))
        await until(lambda: world.heard(CertificateInForce))
        assert len(world.heard(CertificateNotInForce)) == 1
        await stream.send(pb.SyncRequest(rotation=pb.RotationStatement()))
        await until(lambda: not world.services.rotations.in_force())


async def test_nonsense_in_a_statement_ends_the_stream(world: World):
    """A serial number that is none is refused, like every malformed message."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        row = pb.InForce(spiffe_id=API, point="p", serial_issued="what")
        await stream.send(pb.SyncRequest(rotation=pb.RotationStatement(in_force=[row])))
        _, details = await stream.ended()
        assert "hexadecimal" in details


def superseded(*serials):
    return pb.SupersededRequest(serials=[f"{serial:x}" for serial in serials]).SerializeToString()


async def test_a_replaced_certificate_is_given_up(world: World):
    """An agent has its own old certificate revoked as superseded, once there is a newer one."""
    agent = await world.enrol()
    other = await world.enrol("two")
    async with agent.connected() as caller, other.connected() as stranger:
        alone = await caller.post(SUPERSEDED_PATH, superseded(agent.serial))
        assert (alone.status, alone.code) == (409, "conflict")
        await caller.renew(build_request(generate_key()))
        foreign = await stranger.post(SUPERSEDED_PATH, superseded(agent.serial))
        assert (foreign.status, foreign.code) == (404, "not_found")
        done = await caller.post(SUPERSEDED_PATH, superseded(agent.serial))
        assert done.status == 200
    (revocation,) = await world.services.revocations.revocations(after=None, limit=9)
    assert (revocation.serial, revocation.reason) == (agent.serial, "superseded")


async def test_an_order_survives_its_journey():
    """An order is rendered and read back the same."""
    moment = SystemClock().now().replace(microsecond=0)
    order = RotationOrder(
        identity=API, agent=None, before=moment, spread_s=1.5, reason="x", expires_at=moment
    )
    assert RotationOrder.from_value(order.to_value()) == order
    with pytest.raises(InvalidInput, match="rotation order"):
        RotationOrder.from_value({**order.to_value(), "spread_ms": -1})
