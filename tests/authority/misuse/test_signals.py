"""Misuse signals of a real authority: reported by agents, kept, shown and answered."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from legation.authority.events import MisuseSuspected
from legation.authority.misuse.model import SignalState
from legation.config.misuse import Misuse
from legation.pki import build_request, certificate_from_der, generate_key
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import ADMIN, Agent, Stream, World, running, settings_for

API = "spiffe://example.org/api"
EAGER = Misuse(
    learning=timedelta(),
    settle=timedelta(),
    revoked_grace=timedelta(),
    replaced_grace=timedelta(),
    ipv4_prefix=32,
)
HOME, STRANGE = "192.0.2.10", "198.51.100.7"


@pytest.fixture
async def world(tmp_path: Any) -> AsyncIterator[World]:
    """An authority that suspects quickly."""
    async with running(settings_for(tmp_path, misuse=EAGER)) as authority:
        yield authority


class Node:
    """An enrolled agent with an open stream and one certificate."""

    agent: Agent
    stream: Stream
    serial: int

    def __init__(self, world: World, stack: AsyncExitStack) -> None:
        self.world = world
        self.stack = stack

    async def begin(self, name: str = "one", address: str = HOME) -> "Node":
        self.agent = await self.world.enrol(name)
        self.entry = await self.world.entry(self.agent)
        self.caller = await self.stack.enter_async_context(self.agent.connected())
        self.serial = await self.issue()
        self.stream = await self.caller.sync()
        await self.stream.send(pb.SyncRequest(places=pb.Places(addresses=[address])))
        return self

    async def issue(self) -> int:
        (result,) = await self.caller.issue((self.entry.id, build_request(generate_key())))
        return certificate_from_der(result.certificate.certificates[0]).serial_number

    async def see(self, serial: int | str, **fields: Any) -> None:
        """Report one sighting."""
        text = serial if isinstance(serial, str) else format(serial, "x")
        row = {
            "point": "envoy/api", "service": API, "peer": API, "serial": text,
            "address": STRANGE, "count": 1, **fields,
        }  # fmt: skip
        sightings = pb.Sightings(sightings=[pb.Sighting(**row)])
        await self.stream.send(pb.SyncRequest(sightings=sightings))

    async def hold(self, serial: int) -> None:
        """State that a point serves a certificate."""
        row = pb.InForce(
            spiffe_id=API, point="envoy/api", serial_issued=format(serial, "x"),
            serial_in_force=format(serial, "x"),
        )  # fmt: skip
        statement = pb.RotationStatement(in_force=[row])
        await self.stream.send(pb.SyncRequest(rotation=statement))


@pytest.fixture
async def node(world: World) -> AsyncIterator[Node]:
    """One node."""
    async with AsyncExitStack() as stack:
        yield await Node(world, stack).begin()


async def suspected(world: World, count: int = 1) -> list[MisuseSuspected]:
    """Wait until so many signals were raised."""
    async with asyncio.timeout(10):
        while len(world.heard(MisuseSuspected)) < count:
            await asyncio.sleep(0.02)
    return world.heard(MisuseSuspected)


async def test_a_signal_is_raised_shown_and_answered(world: World, node: Node) -> None:
    """From the report of an agent to a revoked certificate, and to the audit log."""
    await node.see(node.serial, count=3, first_ms_ago=900, last_ms_ago=100)
    (event,) = await suspected(world)
    assert (event.kind, event.spiffe_id, event.serial) == ("new_network", API, node.serial)
    admin = world.connect(world.admin)
    (brief,) = (await admin.ask("GET", "/v1/signals?state=open")).json["items"]
    shown = (await admin.ask("GET", f"/v1/signals/{event.signal}")).json
    assert {key: shown[key] for key in brief} == brief
    (row,) = shown["evidence"]
    assert (row["address"], row["outcome"], row["count"]) == (STRANGE, "accepted", 3)
    assert row["agent"] == str(node.agent.spiffe_id)
    serial = format(node.serial, "x")
    assert shown["response"]["command"] == (
        f"legation revoke --serial {serial} --reason keyCompromise --wait"
    )
    answer = await admin.ask("POST", f"/v1/signals/{event.signal}/respond", {})
    assert (answer.status, answer.json["signal"]["state"]) == (200, "responded")
    (revoked,) = answer.json["revocation"]["revoked"]
    assert (revoked["serial"], revoked["reason"]) == (serial, "keyCompromise")
    again = await admin.ask("POST", f"/v1/signals/{event.signal}/respond", {})
    assert (again.status, again.json["code"]) == (409, "conflict")
    entries = await world.services.audit.read(after=0, limit=100)
    (entry,) = [entry for entry in entries if entry.action == "signal.respond"]
    assert (entry.actor, entry.subject, entry.detail["signal"]) == (
        str(ADMIN.spiffe_id), API, event.signal,
    )  # fmt: skip
    assert (await admin.ask("GET", "/v1/signals?state=open")).json["items"] == []


async def test_signals_survive_a_restart(world: World, node: Node) -> None:
    """A signal is on record, counts on, and is not raised anew."""
    await node.see(node.serial)
    (event,) = await suspected(world)
    await node.stack.aclose()
    await world.stop()
    await world.start()
    world.events.clear()
    async with AsyncExitStack() as stack:
        again = Node(world, stack)
        again.caller = await stack.enter_async_context(node.agent.connected())
        again.stream = await again.caller.sync()
        await again.see(node.serial)
        async with asyncio.timeout(10):
            while (await world.services.signals.get(event.signal)).finding.count < 2:
                await asyncio.sleep(0.05)
    assert world.heard(MisuseSuspected) == []


async def test_a_dismissed_signal_is_learned(world: World, node: Node) -> None:
    """The network is ordinary from now on, for the next certificate, too; the note stays."""
    await node.see(node.serial)
    (event,) = await suspected(world)
    admin = world.connect(world.admin)
    body = {"note": "the new office"}
    answer = await admin.ask("POST", f"/v1/signals/{event.signal}/dismiss", body)
    assert (answer.status, answer.json["note"]) == (200, "the new office")
    other = await node.issue()
    await node.see(other)
    await node.see(other, address="203.0.113.9")  # the twin: raised after what came before it
    assert [one.signal for one in await suspected(world, 2)] == [event.signal, event.signal + 1]
    signals = await world.services.signals.list()
    assert [one.state for one in signals] == [SignalState.OPEN, SignalState.DISMISSED]
    again = await admin.ask("POST", f"/v1/signals/{event.signal}/dismiss", {})
    assert (again.status, again.json["code"]) == (409, "conflict")


async def test_a_revoked_certificate_is_answered_with_its_key(world: World, node: Node) -> None:
    """The response bans the key of the certificate that somebody still presents."""
    await world.services.revocations.revoke_serial(node.serial, reason="unspecified", actor=ADMIN)
    await node.see(node.serial, cause="certificate_revoked")
    (event,) = await suspected(world)
    assert (event.kind, event.severity) == ("revoked_certificate_seen", "warning")
    admin = world.connect(world.admin)
    answer = await admin.ask("POST", f"/v1/signals/{event.signal}/respond", {})
    assert answer.status == 200
    record = await world.services.certificates.get(node.serial)
    assert answer.json["revocation"]["key"] == record.key_fingerprint.hex()


async def test_a_replaced_certificate_is_noticed(world: World, node: Node) -> None:
    """What agents state to be in force tells which certificate has been replaced."""
    await node.hold(node.serial)
    old, node.serial = node.serial, await node.issue()
    await node.hold(node.serial)
    await node.see(old, address="")
    await node.see(node.serial, address="")
    (event,) = await suspected(world)
    assert (event.kind, event.serial) == ("replaced_certificate_seen", old)


async def test_a_copied_agent_is_noticed(world: World, node: Node) -> None:
    """Two processes take turns; the response shuts the agent out with all behind it."""
    for instance in (b"a", b"b", b"a"):
        async with node.agent.connected() as caller:
            stream = await caller.stream()
            await stream.send(pb.SyncRequest(hello=pb.Hello(instance=instance)))
            await stream.events()
    (event,) = await suspected(world)
    assert (event.kind, event.spiffe_id) == ("serial_in_two_processes", str(node.agent.spiffe_id))
    admin = world.connect(world.admin)
    answer = await admin.ask("POST", f"/v1/signals/{event.signal}/respond", {})
    assert answer.status == 200
    assert answer.json["revocation"]["banned"] == str(node.agent.spiffe_id)


async def test_a_second_operator_is_asked_as_ever(tmp_path: Any) -> None:
    """A response that needs one leaves the signal open until somebody has agreed."""
    settings = settings_for(tmp_path, misuse=EAGER, second_operator_above=0)
    async with running(settings) as world, AsyncExitStack() as stack:
        node = await Node(world, stack).begin()
        for instance in (b"a", b"b", b"a"):
            async with node.agent.connected() as caller:
                stream = await caller.stream()
                await stream.send(pb.SyncRequest(hello=pb.Hello(instance=instance)))
                await stream.events()
        (event,) = await suspected(world)
        admin = world.connect(world.admin)
        for _ in range(2):
            answer = await admin.ask("POST", f"/v1/signals/{event.signal}/respond", {})
            assert (answer.status, answer.json["signal"]["state"]) == (202, "open")
            assert answer.json["revocation"]["request"]["state"] == "pending"
        assert len(await world.services.revocations.requests()) == 1


async def test_a_viewer_sees_and_does_not_act(world: World, node: Node) -> None:
    """Evidence is for everybody who may look; deciding takes an operator."""
    await node.see(node.serial)
    (event,) = await suspected(world)
    viewer = world.connect(await world.enlist(world.connect(world.admin), "eve", "viewer"))
    assert (await viewer.ask("GET", f"/v1/signals/{event.signal}")).status == 200
    for act in ("dismiss", "respond"):
        answer = await viewer.ask("POST", f"/v1/signals/{event.signal}/{act}", {})
        assert (answer.status, answer.json["code"]) == (403, "not_permitted")
    assert (await viewer.ask("GET", "/v1/signals/99")).json["code"] == "not_found"


async def test_nonsense_raises_nothing(world: World, node: Node) -> None:
    """What cannot be read, what is unknown and what nobody verified is passed over."""
    await node.see("not a number")
    await node.see(0x1234)
    await node.see(node.serial, cause="unknown_authority")
    await node.see(node.serial, count=0)
    await node.see(node.serial, address="x" * 5000, point="y" * 5000)
    await node.stream.send(pb.SyncRequest(sightings=pb.Sightings(overflow=2**63)))
    other = await node.issue()
    await node.see(other)
    (event,) = await suspected(world)
    assert event.serial == other


async def test_switched_off_nothing_is_raised(tmp_path: Any) -> None:
    """Reports are taken in and forgotten."""
    settings = settings_for(tmp_path, misuse=EAGER.model_copy(update={"enabled": False}))
    async with running(settings) as world, AsyncExitStack() as stack:
        node = await Node(world, stack).begin()
        await node.see(node.serial)
        await asyncio.sleep(1.5)
        assert await world.services.signals.list() == []
