"""Revocation behind real Envoys: new handshakes, open connections, streams, both sides."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from legation.agent.discovery import DRAIN, SOCKET_DESTROY
from legation.envoy import Protocol
from tests.support.echo_servers import METHOD, grpc_echo
from tests.support.envoy import (
    API,
    MOBILE,
    WEB,
    Agent,
    Authorities,
    Caller,
    Feed,
    H2Caller,
    calling,
    http_app,
    port_of,
    running_agent,
    running_proxy,
    serving,
    tcp_app,
)

pytestmark = pytest.mark.envoy

REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


async def test_http_connections(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A revoked client loses its open connections and gets no new ones; its neighbour nothing."""
    revoked, neighbour = authorities.leaf(WEB), authorities.leaf(MOBILE)
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        port = port_of(server.spec)
        bad, good = (authorities.client_context(one, short_path) for one in (revoked, neighbour))
        idle, kept = await Caller.connect(port, bad), await Caller.connect(port, good)
        h2_idle = await H2Caller.connect(port, authorities.client_context(revoked, short_path))
        assert (await idle.get()).status == (await kept.get()).status == 200
        assert await h2_idle.get() == 200

        feed.revoke(revoked)
        took = await agent.in_force()

        (point,) = agent.board.points()
        assert point.capabilities == (SOCKET_DESTROY,)
        assert point.notes == ("cut 2 connections",)
        assert await idle.ended()
        with pytest.raises(REFUSED):
            await h2_idle.get()
        with pytest.raises(REFUSED):
            await Caller.once(port, bad)
        assert (await agent.refusal("certificate_revoked")).peer == WEB
        assert (await kept.get()).status == 200
        for connection in (idle, kept, h2_idle):
            await connection.close()
    assert took < 1


async def test_resumed_session_is_refused(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """No session can be resumed, so a revoked client cannot come back with one."""
    revoked = authorities.leaf(WEB)
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        port = port_of(server.spec)
        tls = authorities.client_context(revoked, short_path)
        before = await Caller.connect(port, tls)
        assert (await before.get()).status == 200
        session = before.writer.get_extra_info("ssl_object").session
        await before.close()
        assert session is None or not session.has_ticket
        stats = await server.admin.stats("ssl.session_reused")
        assert not any(stats.values())


@pytest.mark.parametrize("ban", [False, True], ids=["serial", "ban"])
async def test_open_tcp_connection(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path, ban: bool
) -> None:
    """An open TCP connection of a revoked client is cut; its neighbour's goes on."""
    revoked, neighbour = authorities.leaf(WEB), authorities.leaf(MOBILE)
    async with (
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        port = port_of(server.spec)
        bad, good = (authorities.client_context(one, short_path) for one in (revoked, neighbour))
        doomed, kept = await Caller.connect(port, bad), await Caller.connect(port, good)
        assert await doomed.say(b"one") == await kept.say(b"one")

        feed.ban(WEB) if ban else feed.revoke(revoked)
        await agent.in_force()

        assert await doomed.ended()
        with pytest.raises(REFUSED):
            await Caller.once(port, bad)
        assert (
            await agent.refusal("identity_banned" if ban else "certificate_revoked")
        ).peer == WEB
        assert await kept.say(b"two") == b"two"
        await doomed.close()
        await kept.close()


@pytest.mark.parametrize(
    ("serial", "cause"),
    [
        (0xABC << 64, "certificate_revoked"),
        (0xABCD << 64, "certificate_revoked"),
        (1, "certificate_revoked"),
        (None, "identity_banned"),
    ],
    ids=["odd-digits", "even-digits", "one", "ban"],
)
async def test_open_http_connection_without_a_way_to_cut(
    authorities: Authorities, feed: Feed, short_path: Path, serial: int | None, cause: str
) -> None:
    """A revoked client reads the cause in the next answer on its open connection."""
    revoked = authorities.leaf(WEB, serial=serial)
    async with (
        running_agent(feed, short_path, cut=False) as agent,
        http_app() as app,
        running_proxy(agent, serving(app), short_path) as server,
    ):
        tls = authorities.client_context(revoked, short_path)
        caller = await Caller.connect(port_of(server.spec), tls)
        assert (await caller.get()).status == 200
        feed.revoke(revoked) if serial else feed.ban(WEB)
        answer = await caller.get()
        while answer.status == 200:
            answer = await caller.get()
        assert answer.status == 403
        assert answer.headers["x-legation-cause"] == cause
        assert "x-legation-policy" not in answer.headers
        assert answer.body == f'{{"cause":"{cause}","error":"refused"}}\n'
        await caller.close()


async def test_grpc_stream_in_flight(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A gRPC stream that a revoked client's proxy holds open is cut in the middle."""
    async with grpc_echo() as app:
        server_spec = serving(app, Protocol.HTTP2)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, Protocol.HTTP2)
            async with (
                running_proxy(agent, spec, short_path),
                grpc.aio.insecure_channel(f"127.0.0.1:{port_of(spec)}") as channel,
            ):
                call = channel.stream_stream(METHOD)()
                await call.write(b"one")
                assert await call.read() == b"one"
                feed.revoke(feed.held[WEB])
                await agent.in_force()
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await call.read()
                # Which of the two, the client's library makes of the reset stream.
                ended = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
                assert refused.value.code() in ended


@pytest.mark.parametrize("protocol", [Protocol.HTTP, Protocol.TCP])
@pytest.mark.parametrize("ban", [False, True], ids=["serial", "ban"])
async def test_revoked_server_is_dropped_by_its_clients(
    agent: Agent,
    authorities: Authorities,
    feed: Feed,
    short_path: Path,
    protocol: Protocol,
    ban: bool,
) -> None:
    """A client's proxy lets go of a revoked server at once, and takes its next certificate."""
    app = http_app() if protocol is Protocol.HTTP else tcp_app()
    async with app as port:
        server_spec = serving(port, protocol)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, protocol)
            async with running_proxy(agent, spec, short_path):
                caller = await Caller.connect(port_of(spec))
                if protocol is Protocol.HTTP:
                    assert (await caller.get()).status == 200
                else:
                    assert await caller.say(b"one") == b"one"

                feed.ban(API) if ban else feed.revoke(feed.held[API])
                await agent.in_force(point="envoy/web")

                if protocol is Protocol.HTTP:
                    assert (await caller.get()).status == 503
                else:
                    assert await caller.ended()
                await caller.close()
                if ban:
                    return
                feed.hold(authorities.identity(API))
                feed.allow(WEB, name="wait-for-me")
                await agent.in_force()
                again = await Caller.connect(port_of(spec))
                if protocol is Protocol.HTTP:
                    assert (await again.get()).status == 200
                else:
                    assert await again.say(b"two") == b"two"
                await again.close()


@pytest.fixture
async def draining(feed: Feed, short_path: Path) -> AsyncIterator[Agent]:
    """An agent that may not destroy sockets."""
    async with running_agent(feed, short_path, cut=False) as agent:
        yield agent


async def test_drain_when_sockets_cannot_be_destroyed(
    draining: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """Without CAP_NET_ADMIN the chain is drained, and the point says so when it is done."""
    revoked, neighbour = authorities.leaf(WEB), authorities.leaf(MOBILE)
    async with (
        tcp_app() as app,
        running_proxy(draining, serving(app, Protocol.TCP), short_path) as server,
    ):
        port = port_of(server.spec)
        bad, good = (authorities.client_context(one, short_path) for one in (revoked, neighbour))
        doomed = await Caller.connect(port, bad)
        assert await doomed.say(b"one") == b"one"

        feed.revoke(revoked)
        await draining.in_force()

        (point,) = draining.board.points()
        assert point.capabilities == (DRAIN,)
        assert point.notes == ("drained 1 connection",)
        assert await doomed.ended()
        late = await Caller.connect(port, good)
        assert await late.say(b"two") == b"two"
        await doomed.close()
        await late.close()


async def test_unrelated_revocations_cut_nobody(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """The revocation of someone who could not call anyway is in force at once, and cuts nobody."""
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as server:
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await Caller.connect(port_of(server.spec), tls)
        assert (await caller.get()).status == 200
        feed.revoke(authorities.leaf("spiffe://example.org/elsewhere"))
        await agent.in_force()
        (point,) = agent.board.points()
        assert point.notes == ()
        assert (await caller.get()).status == 200
        await caller.close()


async def test_connection_that_was_opened_before_the_agent_came(
    feed: Feed, authorities: Authorities, short_path: Path
) -> None:
    """After a restart of the agent, connections of unknown peers are cut when anyone is revoked."""
    revoked = authorities.leaf(WEB)
    async with (
        tcp_app() as app,
        running_agent(feed, short_path) as agent,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        port = port_of(server.spec)
        tls = authorities.client_context(revoked, short_path)
        old = await Caller.connect(port, tls)
        assert await old.say(b"one") == b"one"
        await agent.stop()
        assert await old.say(b"two") == b"two"
        during = await Caller.connect(port, tls)
        assert await during.say(b"nobody is there") == b"nobody is there"
        await agent.start()
        await agent.in_force()
        assert await old.say(b"three") == b"three"
        feed.revoke(revoked)
        await agent.in_force()
        assert await old.ended()
        assert await during.ended()
        await old.close()
        await during.close()


async def test_tcp_connection_that_no_policy_allows_any_more(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """A TCP connection ends when the policy that allowed it goes; the others go on."""
    async with (
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        port = port_of(server.spec)
        web, mobile = (
            authorities.client_context(authorities.leaf(one), short_path) for one in (WEB, MOBILE)
        )
        doomed, kept = await Caller.connect(port, web), await Caller.connect(port, mobile)
        assert await doomed.say(b"one") == await kept.say(b"one")
        feed.allow(MOBILE)
        await agent.in_force()
        assert await doomed.ended()
        assert await kept.say(b"two") == b"two"
        await doomed.close()
        await kept.close()
