"""What a revoked issuer has signed, on connections that are open behind real Envoys."""

import asyncio
import ssl
from pathlib import Path

import pytest

from legation.agent.discovery import SOCKET_DESTROY
from legation.envoy import Protocol
from legation.wire.feed import Kind
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

COMPROMISED, SUPERSEDED = "ca_compromise", "superseded"
REFUSED = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


@pytest.fixture
def another(authorities: Authorities, feed: Feed) -> Authorities:
    """The trust domain's other issuer, whose lists are in force."""
    other = authorities.with_another_issuer()
    crl = other.crl()
    feed.put(Kind.CRL, crl.key, crl.to_value())
    return other


async def test_open_tcp_connections(
    agent: Agent, authorities: Authorities, another: Authorities, feed: Feed, short_path: Path
) -> None:
    """Those of a revoked issuer's certificates end; the same caller's of another issuer stays."""
    async with (
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        port = port_of(server.spec)
        bad = another.client_context(another.leaf(WEB), short_path)
        good = authorities.client_context(authorities.leaf(WEB), short_path)
        doomed, kept = await Caller.connect(port, bad), await Caller.connect(port, good)
        assert await doomed.say(b"one") == await kept.say(b"one")

        feed.revoke_issuer(another, COMPROMISED)
        await agent.in_force()

        (point,) = agent.board.points()
        assert point.capabilities == (SOCKET_DESTROY,)
        assert point.notes == ("cut 1 connection",)
        assert await doomed.ended()
        with pytest.raises(REFUSED):
            await Caller.once(port, bad)
        assert (await agent.refusal("certificate_revoked")).peer == WEB
        assert await kept.say(b"two") == b"two"
        await doomed.close()
        await kept.close()


async def test_streams_on_open_http_connections(
    agent: Agent, authorities: Authorities, another: Authorities, feed: Feed, short_path: Path
) -> None:
    """The connection goes, and whatever is in flight on it; the neighbour's goes on."""
    async with (
        http_app() as app,
        running_proxy(agent, serving(app), short_path) as server,
    ):
        port = port_of(server.spec)
        bad = another.client_context(another.leaf(MOBILE), short_path)
        good = authorities.client_context(authorities.leaf(MOBILE), short_path)
        doomed, kept = await H2Caller.connect(port, bad), await Caller.connect(port, good)
        assert await doomed.get() == (await kept.get()).status == 200

        feed.revoke_issuer(another, COMPROMISED)
        await agent.in_force()

        with pytest.raises(REFUSED):
            await doomed.get()
        assert (await kept.get()).status == 200
        await doomed.close()
        await kept.close()


async def test_superseded_issuer(
    agent: Agent, another: Authorities, feed: Feed, short_path: Path
) -> None:
    """One that was only replaced ends nothing that is open, and begins nothing new."""
    async with (
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        port = port_of(server.spec)
        tls = another.client_context(another.leaf(WEB), short_path)
        kept = await Caller.connect(port, tls)
        assert await kept.say(b"one") == b"one"

        feed.revoke_issuer(another, SUPERSEDED)
        await agent.in_force()

        (point,) = agent.board.points()
        assert point.notes == ()
        assert await kept.say(b"two") == b"two"
        with pytest.raises(REFUSED):
            await Caller.once(port, tls)
        await kept.close()


async def test_drain_when_sockets_cannot_be_destroyed(
    authorities: Authorities, another: Authorities, feed: Feed, short_path: Path
) -> None:
    """Without CAP_NET_ADMIN the port is drained, until the revoked issuer's is gone."""
    async with (
        running_agent(feed, short_path, cut=False) as agent,
        tcp_app() as app,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        tls = another.client_context(another.leaf(WEB), short_path)
        doomed = await Caller.connect(port_of(server.spec), tls)
        assert await doomed.say(b"one") == b"one"

        feed.revoke_issuer(another, COMPROMISED)
        await agent.in_force()

        (point,) = agent.board.points()
        assert point.notes == ("drained 1 connection",)
        assert await doomed.ended()
        await doomed.close()


@pytest.mark.parametrize("what", ["issuer", "certificate", "superseded"])
async def test_revoked_while_the_agent_was_away(
    authorities: Authorities, another: Authorities, feed: Feed, short_path: Path, what: str
) -> None:
    """Open TCP connections are cut when the agent comes back; not if nothing ends them."""
    leaf = another.leaf(WEB)
    async with (
        tcp_app() as app,
        running_agent(feed, short_path) as agent,
        running_proxy(agent, serving(app, Protocol.TCP), short_path) as server,
    ):
        tls = another.client_context(leaf, short_path)
        old = await Caller.connect(port_of(server.spec), tls)
        assert await old.say(b"one") == b"one"
        await agent.stop()
        if what == "certificate":
            feed.revoke(leaf)
        else:
            feed.revoke_issuer(another, COMPROMISED if what == "issuer" else SUPERSEDED)
        await agent.start()
        await agent.in_force()
        if what == "superseded":
            assert await old.say(b"two") == b"two"
        else:
            assert await old.ended()
        await old.close()


async def test_server_of_a_revoked_issuer(
    agent: Agent, authorities: Authorities, another: Authorities, feed: Feed, short_path: Path
) -> None:
    """A client's proxy lets go of the TCP connection to a server that it has certified."""
    feed.hold(another.identity(API))
    async with tcp_app() as app:
        server_spec = serving(app, Protocol.TCP)
        async with running_proxy(agent, server_spec, short_path):
            spec = calling(server_spec.inbound[0].listen, Protocol.TCP)
            async with running_proxy(agent, spec, short_path):
                caller = await Caller.connect(port_of(spec))
                assert await caller.say(b"one") == b"one"
                feed.revoke_issuer(another, COMPROMISED)
                await agent.in_force(point="envoy/web")
                assert await caller.ended()
                await caller.close()
