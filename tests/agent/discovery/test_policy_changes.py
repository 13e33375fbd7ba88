"""A policy change ends what runs and is no longer allowed, behind real Envoys."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from legation.agent.discovery import settling
from legation.agent.discovery.streams import REPORTED_WITHIN_S
from legation.envoy import Protocol
from tests.support.echo_servers import METHOD, grpc_echo
from tests.support.envoy import (
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
)

pytestmark = pytest.mark.envoy

ENDED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)


def allow(feed: Feed, *paths: str) -> None:
    """Let the web front end call these paths, and the mobile one anything."""
    rules = [
        {"from": [{"spiffeIDs": [WEB]}], "to": [{"paths": list(paths)}]},
        {"from": [{"spiffeIDs": [MOBILE]}]},
    ]
    feed.put_policy("callers", rules=rules)


@asynccontextmanager
async def stream_through(
    agent: Agent, listen: str, directory: Path, *, name: str = "web"
) -> AsyncIterator[Any]:
    """Open a gRPC stream that has lasted long enough to be known."""
    spec = calling(listen, Protocol.HTTP2)
    async with (
        running_proxy(agent, spec, directory / name),
        grpc.aio.insecure_channel(f"127.0.0.1:{port_of(spec)}") as channel,
    ):
        call = channel.stream_stream(METHOD)()
        await call.write(b"one")
        assert await call.read() == b"one"
        yield call
        call.cancel()


async def known_streams(agent: Agent, count: int) -> None:
    """Wait until the agent has heard of so many lasting calls."""
    assert agent.discovery is not None
    async with asyncio.timeout(10):
        while sum(len(p.streams) for p in agent.discovery._proxies.values()) != count:
            await asyncio.sleep(0.02)


async def test_grpc_stream_that_is_no_longer_allowed(
    agent: Agent, feed: Feed, short_path: Path
) -> None:
    """A stream in flight ends with the policy that allowed it, before the point says so."""
    allow(feed, METHOD)
    async with grpc_echo() as app:
        server = serving(app, Protocol.HTTP2)
        async with (
            running_proxy(agent, server, short_path),
            stream_through(agent, server.inbound[0].listen, short_path) as call,
        ):
            await known_streams(agent, 1)
            allow(feed, "/other/*")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await asyncio.wait_for(call.read(), 10)
            assert refused.value.code() in ENDED
            await agent.in_force()
            point = next(p for p in agent.board.points() if p.id == "envoy/api")
            assert point.notes == ("cut 1 connection",)
            await known_streams(agent, 0)


async def test_stream_that_is_too_young_to_be_known(
    agent: Agent, feed: Feed, short_path: Path
) -> None:
    """A stream that began just before the change ends too, and the point waits for that."""
    allow(feed, METHOD)
    async with grpc_echo() as app:
        server = serving(app, Protocol.HTTP2)
        async with (
            running_proxy(agent, server, short_path),
            stream_through(agent, server.inbound[0].listen, short_path) as call,
        ):
            await known_streams(agent, 0)
            allow(feed, "/other/*")
            took = await agent.in_force(point="envoy/api")
            with pytest.raises(grpc.aio.AioRpcError):
                await asyncio.wait_for(call.read(), 1)
            assert took >= REPORTED_WITHIN_S - 0.1


async def test_change_that_does_not_concern_a_stream(
    agent: Agent, feed: Feed, short_path: Path
) -> None:
    """A stream goes on when its caller may do something else no more, or more than before."""
    allow(feed, METHOD, "/other/*")
    async with grpc_echo() as app:
        server = serving(app, Protocol.HTTP2)
        async with (
            running_proxy(agent, server, short_path),
            stream_through(agent, server.inbound[0].listen, short_path) as call,
        ):
            await known_streams(agent, 1)
            allow(feed, METHOD)
            await agent.in_force()
            allow(feed, METHOD, "/new/*")
            await agent.in_force()
            await call.write(b"two")
            assert await asyncio.wait_for(call.read(), 5) == b"two"
            assert all(point.notes == () for point in agent.board.points())


@asynccontextmanager
async def dawdling_app(go_on: asyncio.Event) -> AsyncIterator[int]:
    """Answer each request when `go_on` is set; yield the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await go_on.wait()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        go_on.set()
        server.close()


@pytest.mark.parametrize("denies", [False, True], ids=["allow-taken-back", "deny-added"])
async def test_requests_in_flight_that_are_still_allowed(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path, denies: bool
) -> None:
    """Of one caller's requests in flight only those end that are forbidden; nobody else's do."""
    allow(feed, "/good/*", "/bad/*")
    go_on = asyncio.Event()
    async with (
        dawdling_app(go_on) as app,
        running_proxy(agent, serving(app), short_path) as proxy,
    ):
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        other = authorities.client_context(authorities.leaf(MOBILE), short_path)
        callers = [await Caller.connect(port_of(proxy.spec), tls) for _ in range(2)]
        callers.append(await Caller.connect(port_of(proxy.spec), other))
        paths = ("/good/x", "/bad/x?y", "/bad/x")
        good, bad, neighbour = (
            asyncio.create_task(caller.get(path))
            for caller, path in zip(callers, paths, strict=True)
        )
        await known_streams(agent, 3)
        if denies:
            to = [{"paths": ["/bad/*"]}]
            rules = [{"from": [{"spiffeIDs": [WEB]}], "to": to}]
            feed.put_policy("not-bad", action="DENY", rules=rules)
        else:
            allow(feed, "/good/*")
        await agent.in_force()
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await bad
        go_on.set()
        assert (await good).status == (await neighbour).status == 200
        assert (await callers[0].get("/bad/x")).status == 403
        for caller in callers:
            await caller.close()


async def test_short_requests_are_not_reported(
    agent: Agent, authorities: Authorities, feed: Feed, short_path: Path
) -> None:
    """The agent hears of no request that is over within a second, so it costs nothing there."""
    go_on = asyncio.Event()
    go_on.set()
    async with (
        dawdling_app(go_on) as app,
        running_proxy(agent, serving(app), short_path) as proxy,
    ):
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await H2Caller.connect(port_of(proxy.spec), tls)
        for _ in range(20):
            assert await caller.get() == 200
        sent = "cluster.agent.upstream_rq_total"
        before = (await proxy.admin.stats(sent))[sent]
        for _ in range(20):
            assert await caller.get() == 200
        await asyncio.sleep(0.3)
        assert (await proxy.admin.stats(sent))[sent] == before
        await known_streams(agent, 0)
        await caller.close()


async def test_without_a_way_to_cut(feed: Feed, authorities: Authorities, short_path: Path) -> None:
    """Where sockets cannot be destroyed, a forbidden request ends with the drain of its port."""
    allow(feed, "/bad/*")
    go_on = asyncio.Event()
    async with (
        running_agent(feed, short_path, cut=False) as agent,
        dawdling_app(go_on) as app,
        running_proxy(agent, serving(app), short_path) as proxy,
    ):
        tls = authorities.client_context(authorities.leaf(WEB), short_path)
        caller = await Caller.connect(port_of(proxy.spec), tls)
        bad = asyncio.create_task(caller.get("/bad/x"))
        await known_streams(agent, 1)
        allow(feed, "/good/*")
        await agent.in_force()
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await bad
        (point,) = agent.board.points()
        assert point.notes == ("drained 1 connection",)
        await caller.close()


async def test_revocation_while_young_streams_are_waited_for(
    agent: Agent,
    feed: Feed,
    authorities: Authorities,
    short_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A revocation takes effect at once, also while a policy change is still settling."""
    allow(feed, "/good/*", "/bad/*")
    async with http_app() as app, running_proxy(agent, serving(app), short_path) as proxy:
        doomed = authorities.leaf(MOBILE)
        web = authorities.client_context(authorities.leaf(WEB), short_path)
        mobile = authorities.client_context(doomed, short_path)
        kept = await Caller.connect(port_of(proxy.spec), web)
        cut = await Caller.connect(port_of(proxy.spec), mobile)
        assert (await kept.get("/bad/x")).status == (await cut.get()).status == 200
        monkeypatch.setattr(settling, "REPORTED_WITHIN_S", 30.0)
        allow(feed, "/good/*")
        revision = feed.revoke(doomed)
        assert await cut.ended()
        (point,) = agent.board.points()
        assert point.revision < revision
        await kept.close()
        await cut.close()
