"""The agents' stream, over real HTTP and real TLS."""

import asyncio
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from legation.authority.agents import session
from legation.authority.events import AgentConnected, AgentDisconnected, HandshakesRefused
from legation.authority.wiring import build
from legation.errors import Conflict
from legation.pki import build_request, certificate_from_der, generate_key
from legation.wire.agent_calls import ISSUE_PATH, SYNC_PATH, SYNC_PROTOCOL
from legation.wire.feed import Kind
from legation.wire.protobuf import agent_pb2 as pb
from tests.support.authority import (
    ADMIN,
    KEK,
    Agent,
    Caller,
    Refused,
    Stream,
    World,
    running,
    settings_for,
    spiffe_id,
)

# Who is let in


async def test_without_a_certificate_nobody_is_let_in(world: World) -> None:
    """The stream is refused before it opens."""
    agent = await world.enrol()
    context = ssl.create_default_context(cadata=agent.roots.decode())
    with pytest.raises(Refused) as caught:
        await Caller(agent.port, context).sync()
    assert (caught.value.status, caught.value.code) == (401, "not_authenticated")


async def test_another_authoritys_agent_is_not_let_in(world: World, tmp_path: Path) -> None:
    """The same name, certified by another root, fails in the handshake."""
    async with running(settings_for(tmp_path / "other")) as other:
        stranger = await other.enrol()
    stranger.port = world.api.port
    stranger.roots = (await world.enrol()).roots
    async with stranger.connected() as caller:
        with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
            await caller.sync()


async def test_a_workload_is_not_an_agent(world: World) -> None:
    """It is known, and not permitted; code and remedy come with the status."""
    agent = await world.enrol()
    entry = await world.entry(agent)
    key = generate_key()
    async with agent.connected() as caller:
        (result,) = await caller.issue((entry.id, build_request(key)))
    workload = Agent(
        spiffe_id=spiffe_id("/api"),
        key=key,
        chain=tuple(result.certificate.certificates),
        feed_keys=(),
        port=agent.port,
        roots=agent.roots,
    )
    async with workload.connected() as caller:
        with pytest.raises(Refused) as caught:
            await caller.sync()
    assert (caught.value.status, caught.value.code) == (403, "not_permitted")
    assert "is not an agent's identity" in caught.value.message
    assert caught.value.remedy == "call with the certificate of an enrolled agent"


async def test_an_expired_certificate_ends_an_open_stream(tmp_path: Path) -> None:
    """A stream does not outlive the certificate that opened it."""
    async with running(settings_for(tmp_path, agent_lifetime_s=1)) as world:
        agent = await world.enrol()
        async with agent.connected() as caller:
            stream = await caller.sync()
            await stream.events()
            code, message = await stream.ended()
            assert (code, "expired at" in message) == ("not_authenticated", True)
            # OpenSSL refuses it, a moment before or after the gate does.
            with pytest.raises((Refused, ssl.SSLError), match=r"(?i)expired"):
                await caller.sync()


async def test_tls_1_2_is_refused(world: World) -> None:
    """In the handshake."""
    agent = await world.enrol()
    context = agent.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        await Caller(agent.port, context).sync()


async def test_a_stream_is_asked_for_by_upgrade(world: World) -> None:
    """A request for anything else is refused, and says what would be right (RFC 9110)."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        answer = await caller.post(SYNC_PATH, b"")
        assert (answer.status, answer.headers["allow"]) == (405, "GET")
        answer = await caller.post(SYNC_PATH, b"", method="GET")
        assert (answer.status, answer.headers["upgrade"]) == (426, SYNC_PROTOCOL)
        await caller.sync()


async def test_another_protocol_is_not_spoken(world: World) -> None:
    """Nor is ours on any other path: the request is answered as if it had not asked."""
    agent = await world.enrol()
    for path, version, protocol, status in (
        (SYNC_PATH, "1.1", "websocket", 426),
        (SYNC_PATH, "1.1", "legation-sync/2", 426),
        (SYNC_PATH, "1.0", SYNC_PROTOCOL, 426),
        (ISSUE_PATH, "1.1", SYNC_PROTOCOL, 405),
        ("/v1/status", "1.1", SYNC_PROTOCOL, 401),
    ):
        reader, writer = await asyncio.open_connection("localhost", agent.port, ssl=agent.context())
        writer.write(
            f"GET {path} HTTP/{version}\r\nhost: localhost\r\nconnection: upgrade\r\n"
            f"upgrade: {protocol}\r\n\r\n".encode()
        )
        line = await reader.readline()
        writer.close()
        assert int(line.split()[1]) == status, (path, protocol)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x00\x00\x00\x03\xff\xff\xff", "invalid_input"),
        (b"\xff\xff\xff\xff", "limit_exceeded"),
        (b"\x00\x00\x00\x00", "invalid_input"),
    ],
    ids=["no message", "too long", "empty"],
)
async def test_a_malformed_message_ends_the_stream(world: World, data: bytes, code: str) -> None:
    """It is told why, and nobody else notices."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.stream()
        await stream.send_body(data)
        assert (await stream.ended())[0] == code
        assert await (await caller.sync()).events()


async def test_messages_may_come_in_any_pieces(world: World) -> None:
    """Byte by byte, or several at once."""
    agent = await world.enrol()
    hello = pb.SyncRequest(hello=pb.Hello(version="slow")).SerializeToString()
    alive = pb.SyncRequest(alive=pb.Alive()).SerializeToString()
    framed = [len(each).to_bytes(4, "big") + each for each in (hello, alive, alive)]
    async with agent.connected() as caller:
        stream = await caller.stream()
        for octet in framed[0]:
            await stream.send_body(bytes([octet]))
        assert await stream.events()
        await stream.send_body(framed[1] + framed[2])
        await stream.send(pb.SyncRequest(hello=pb.Hello()))
        assert "one hello" in (await stream.ended())[1]


async def test_an_agent_that_ends_its_side_ends_the_stream(world: World) -> None:
    """In good order: the answer ends, too, without an error."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.events()
        await stream.finish()
        assert await stream.ended() == ("", "")
        async with asyncio.timeout(5):
            while not world.heard(AgentDisconnected):
                await asyncio.sleep(0.01)
    assert world.heard(AgentDisconnected)[-1].reason == "the agent closed the stream"


async def test_a_silent_agent_is_let_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection may be a dead one; one that says that it is there stays."""
    monkeypatch.setattr(session, "_SILENCE_S", 0.5)
    agent, other = await world.enrol("one"), await world.enrol("two")

    async def stay(stream: Stream) -> None:
        while True:
            await stream.send(pb.SyncRequest(alive=pb.Alive()))
            await asyncio.sleep(0.1)

    async with agent.connected() as caller, other.connected() as bystander:
        staying = await bystander.sync()
        heard = asyncio.ensure_future(stay(staying))
        code, message = await (await caller.sync()).ended()
        heard.cancel()
    assert (code, message) == ("timed_out", "the agent said nothing for 0 s")
    assert [event.agent for event in world.heard(AgentDisconnected)] == [str(agent.spiffe_id)]


# What it serves


async def test_an_agent_gets_a_snapshot_then_what_follows(world: World) -> None:
    """And nothing that is only for others."""
    agent, other = await world.enrol("one"), await world.enrol("two")
    mine = await world.entry(agent)
    await world.entry(other)
    async with agent.connected() as caller:
        stream = await caller.sync(version="1.2")
        first = await stream.events()
        assert first.snapshot
        events = stream.opened(first)
        while not first.complete:
            first = await stream.events()
            events += stream.opened(first)
        assert [e.key for e in events if e.kind is Kind.ENTRY] == [mine.id]
        assert {e.kind for e in events} == {Kind.BUNDLE, Kind.CRL, Kind.ENTRY}
        await world.services.entries.update(mine.id, {"owner": "me"}, actor=ADMIN)
        (event,) = await stream.until(first.revision + 1)
        assert (event.value or {})["owner"] == "me"
    connected = world.heard(AgentConnected)[-1]
    assert (connected.agent, connected.version, connected.snapshot) == (
        str(agent.spiffe_id),
        "1.2",
        True,
    )


async def test_an_agent_resumes_where_it_was(world: World) -> None:
    """Only what it missed is sent; of another feed it gets everything."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        first = await stream.events()
        while not first.complete:
            first = await stream.events()
        stream.close()
        entry = await world.entry(agent)
        stream = await caller.sync(revision=first.revision, feed_id=first.feed_id)
        part = await stream.events()
        assert not part.snapshot
        assert [event.key for event in stream.opened(part)] == [entry.id]
        stream.close()
        stream = await caller.sync(revision=first.revision, feed_id="another")
        assert (await stream.events()).snapshot


async def test_an_idle_stream_has_heartbeats(world: World) -> None:
    """They say the authority's time and its newest revision."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        beats: list[pb.Heartbeat] = []
        while len(beats) < 3:
            message = await stream.receive()
            assert message is not None
            if message.HasField("heartbeat"):
                beats.append(message.heartbeat)
    now_ms = world.clock.now().timestamp() * 1000
    assert all(abs(beat.now_ms - now_ms) < 5000 for beat in beats)
    assert beats[-1].revision == world.services.status.status()["revision"]


async def test_what_an_agent_states_is_on_the_board(world: World) -> None:
    """Points come with a statement, go when one lacks them, and stay, marked, when it leaves."""
    agent = await world.enrol()
    board = world.services.propagation

    def statement(*points: str, revision: int) -> pb.SyncRequest:
        return pb.SyncRequest(
            acknowledgement=pb.Acknowledgement(
                revision=revision,
                points=[
                    pb.EnforcementPoint(
                        id=point,
                        kind="envoy",
                        spiffe_id="spiffe://example.org/api",
                        revision=revision,
                        applied_at_ms=1_900_000_000_000,
                        capabilities=["rbac"],
                        notes=["2 connections cut"],
                    )
                    for point in points
                ],
            )
        )

    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.events()
        for points in (("p1", "p2"), ("p2",)):
            changed = asyncio.ensure_future(board.wait_for_change(timeout_s=5))
            await stream.send(statement(*points, revision=3))
            await changed
            assert [point.id for point in board.points()] == list(points)
        (point,) = board.points()
        assert (point.agent, point.kind, point.revision, point.connected) == (
            agent.spiffe_id,
            "envoy",
            3,
            True,
        )
        assert point.applied_at is not None
        assert (point.capabilities, point.notes) == (("rbac",), ("2 connections cut",))
        (row,) = board.agents()
        assert (row.connected, row.revision, row.version) == (True, 3, "1")
        changed = asyncio.ensure_future(board.wait_for_change(timeout_s=5))
        stream.close()
        await changed
    assert [(p.id, p.connected) for p in board.points()] == [("p2", False)]
    assert [row.connected for row in board.agents()] == [False]


async def test_too_many_points_end_the_stream(world: World) -> None:
    """What one agent may state is bounded."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.send(
            pb.SyncRequest(
                acknowledgement=pb.Acknowledgement(
                    points=[pb.EnforcementPoint(id=str(number)) for number in range(4097)]
                )
            )
        )
        code, message = await stream.ended()
    assert (code, "at most 4096" in message) == ("limit_exceeded", True)
    assert world.services.propagation.points() == []


async def test_reported_refusals_become_events(world: World) -> None:
    """With bounded texts, however long an agent writes."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.send(
            pb.SyncRequest(
                reports=pb.Reports(
                    refusals=[
                        pb.Refusal(
                            point="p",
                            cause="certificate_revoked",
                            serial="ff",
                            count=3,
                            raw="x" * 9999,
                        )
                    ]
                )
            )
        )
        async with asyncio.timeout(5):
            while not world.heard(HandshakesRefused):
                await asyncio.sleep(0.01)
    (event,) = world.heard(HandshakesRefused)
    assert (event.agent, event.point, event.cause, event.count) == (
        str(agent.spiffe_id),
        "p",
        "certificate_revoked",
        3,
    )
    assert len(event.raw) == 512


@pytest.mark.parametrize("ban", [True, False], ids=["banned", "revoked"])
async def test_a_revoked_agents_stream_ends_at_once(world: World, *, ban: bool) -> None:
    """Long before the next heartbeat, and other agents' streams go on."""
    agent, other = await world.enrol("one"), await world.enrol("two")
    async with agent.connected() as caller, other.connected() as bystander:
        stream, going_on = await caller.sync(), await bystander.sync()
        await stream.events()
        await going_on.events()
        outcome = await world.services.revocations.revoke_identity(
            agent.spiffe_id, reason="keyCompromise", ban=ban, actor=ADMIN
        )
        async with asyncio.timeout(2):
            code, message = await stream.ended()
        assert code == "not_authenticated"
        assert "revoked" in message or "banned" in message
        assert await going_on.until(outcome.revision)
    assert world.heard(AgentDisconnected)[0].agent == str(agent.spiffe_id)


async def test_the_newer_stream_of_an_agent_wins(world: World) -> None:
    """The older ends with the reason; the board follows the newer."""
    agent = await world.enrol()
    async with agent.connected() as caller, agent.connected() as again:
        older = await caller.sync()
        await older.events()
        newer = await again.sync()
        await newer.events()
        code, message = await older.ended()
        assert code == "conflict"
        assert "another stream" in message
        assert [row.connected for row in world.services.propagation.agents()] == [True]


@pytest.mark.parametrize(
    "first",
    [pb.SyncRequest(), pb.SyncRequest(acknowledgement=pb.Acknowledgement(revision=1))],
    ids=["empty", "an acknowledgement"],
)
async def test_a_stream_begins_with_hello(world: World, first: pb.SyncRequest) -> None:
    """Anything else ends it; so does a second hello."""
    agent = await world.enrol()
    async with agent.connected() as caller:
        stream = await caller.stream()
        await stream.send(first)
        code, message = await stream.ended()
        assert (code, "hello" in message) == ("invalid_input", True)
        stream = await caller.sync()
        await stream.send(pb.SyncRequest(hello=pb.Hello()))
        code, message = await stream.ended()
        assert (code, "one hello" in message) == ("invalid_input", True)


async def test_stopping_ends_streams_in_good_order(tmp_path: Path) -> None:
    """Agents are told that the authority stops, and it does not wait for them."""
    settings = settings_for(tmp_path)
    async with AsyncExitStack() as outer, AsyncExitStack() as inner:
        world = await inner.enter_async_context(running(settings))
        agent = await world.enrol()
        caller = await outer.enter_async_context(agent.connected())
        stream = await caller.sync()
        await stream.events()
        begun = world.clock.monotonic()
        _, (code, message) = await asyncio.gather(inner.aclose(), stream.ended())
        assert world.clock.monotonic() - begun < 2
    assert (code, "is stopping" in message) == ("unavailable", True)


async def test_the_directory_cannot_be_shared(world: World) -> None:
    """A second authority on the same directory is refused."""
    with pytest.raises(Conflict, match="is running on"):
        async with build(world.settings, clock=world.clock, kek=KEK):
            pass


async def test_a_new_serving_certificate_is_used_by_new_connections(world: World) -> None:
    """The old connection lives on, a new one sees the new certificate."""
    agent = await world.enrol()
    before = await _served(world.api.port, agent)
    async with agent.connected() as caller:
        stream = await caller.sync()
        await stream.events()
        await world.authority.serving.renew()
        await world.entry(agent)
        assert await stream.events()
    after = await _served(world.api.port, agent)
    assert before != after == world.authority.serving.credentials.serial


async def _served(port: int, agent: Agent) -> int:
    context = ssl.create_default_context(cadata=agent.roots.decode())
    context.set_alpn_protocols(["http/1.1"])
    _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate_from_der(der).serial_number
